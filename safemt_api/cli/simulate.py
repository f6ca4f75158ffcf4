"""``safemt-api simulate``: the simulator as a server on loopback."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import typer

from safemt_api.cli.on_use import imported_on_use
from safemt_api.runs.settings import MOST

with imported_on_use():
    from safemt_api import simulator
    from safemt_api.cli import terminal


def simulate(
    *,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 takes a free one.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=-MOST, max=MOST, help="Decides every reply.")] = 0,
    latency_seconds: Annotated[
        float, typer.Option("--latency-seconds", metavar="S", min=0, max=MOST, help="How long each reply takes.")
    ] = 0.0,
    fault: Annotated[
        str, typer.Option("--fault", metavar="SPEC", help="KIND:SHARE or KIND:first=N, with commas between (error_500:0.1,reset:0.05).")
    ] = "",
    rpm: Annotated[
        float | None, typer.Option("--rpm", "--requests-per-minute", metavar="N", min=1, max=MOST, help="Quota that it holds.")
    ] = None,
    tpm: Annotated[
        float | None, typer.Option("--tpm", "--tokens-per-minute", metavar="N", min=1, max=MOST, help="The same for tokens.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--change",
            metavar="SPEC",
            help="From a call on another model answers under the name: CALL[@MODEL]:served=NAME,fingerprint=NAME/NAME,persona=NAME.",
        ),
    ] = None,
    prompt_cache: Annotated[bool, typer.Option("--prompt-cache", help="Report repeated prefixes as cached input.")] = False,
    max_seconds: Annotated[
        float | None, typer.Option("--max-seconds", metavar="S", min=0, max=MOST, help="End by itself after so long.")
    ] = None,
) -> None:
    """Run the simulator as a server on this machine until Ctrl-C: three wire formats, personas, judges, moderators, faults on demand."""
    played = simulator.SimulatorSettings(
        seed=seed,
        latency_seconds=latency_seconds,
        faults=simulator.FaultPlan.parse(fault),
        requests_per_minute=None if rpm is None else int(rpm),
        tokens_per_minute=None if tpm is None else int(tpm),
        changes=tuple(map(simulator.Change.parse, change or ())),
        prompt_cache=prompt_cache,
    )
    terminal.run_loop(partial(simulator.serve, played, port=port, max_seconds=max_seconds, announce=_announce))


def _announce(port: int) -> None:
    openai, anthropic, google = (
        simulator.base_url(port, "openai_chat"),
        simulator.base_url(port, "anthropic_messages"),
        simulator.base_url(port, "google_genai"),
    )
    terminal.put("The simulator listens on loopback; Ctrl-C ends it.")
    terminal.put(f"  {openai:32} openai_chat          safemt-api eval --provider simulator --base-url {openai}")
    terminal.put(f"  {anthropic:32} anthropic_messages   safemt-api eval --provider simulator-anthropic --base-url {anthropic}")
    terminal.put(f"  {google:32} google_genai         safemt-api eval --provider simulator-google --base-url {google}")
    terminal.put(f"Models: {', '.join(simulator.MODELS)}")
    sys.stdout.flush()
