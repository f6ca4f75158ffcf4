"""Kill the evaluator at random moments, again and again, while the vendor fails.

``python -m benchmarks.chaos [--kills 100] [--faults 0.3]`` (``make chaos``).

For each wire format a run is started, killed with SIGKILL after a random time, and started again with the same command, until it has been
killed so many times; then it is left to finish. The simulator is a separate process that counts what it answered. It must hold that

- the verdicts equal those of an undisturbed run without faults (dialogues that failed for good excepted, and named);
- no reply that was on disk is bought again: repeated answers are at most the calls in flight at each kill;
- the ceiling holds over all starts together.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import polars as pl

from safemt_api.profiles import WireFormat
from safemt_api.simulator.process import simulator_process
from safemt_api.simulator.settings import FaultPlan, SimulatorSettings

FORMATS: dict[str, WireFormat] = {
    "simulator": "openai_chat",
    "simulator-anthropic": "anthropic_messages",
    "simulator-google": "google_genai",
}
FAULTS = (
    "rate_limit",
    "rate_limit_retry_after",
    "error_500",
    "error_503",
    "overloaded_529",
    "reset",
    "malformed",
    "truncated_body",
    "html",
)
RUN_SECONDS = 600


class Chaos(NamedTuple):
    """What came of one tortured run."""

    provider: str
    kills: int
    exit_code: int
    answered: int
    repeated: int
    sent: int
    spent_usd: float
    failed: int
    verdicts_equal: bool


@dataclass(frozen=True)
class Command:
    """The evaluation as its own process would be started by a user."""

    provider: str
    base_url: str
    results: Path
    run: str
    protocol: str
    concurrency: int
    sample: int
    max_usd: float | None

    def arguments(self) -> list[str]:
        """The command line."""
        options = [
            *("--provider", self.provider, "--base-url", self.base_url, "--results", str(self.results), "--run", self.run),
            *("--protocol", self.protocol, "--concurrency", str(self.concurrency), "--sample", str(self.sample)),
            *("--judge", f"{self.provider}:sim-judge", "--max-failures", "1", "--json"),
        ]
        ceiling = [] if self.max_usd is None else ["--max-usd", str(self.max_usd)]
        return [sys.executable, "-m", "safemt_api", "eval", *options, *ceiling]


def start(command: Command) -> subprocess.Popen[bytes]:
    """Start it with its output kept away."""
    return subprocess.Popen(command.arguments(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def kill_at_random(command: Command, kills: int, draws: random.Random) -> int:
    """Start and kill; the number of kills that hit a living process."""
    hits = 0
    for _ in range(kills):
        with start(command) as process:
            time.sleep(draws.uniform(1.0, 4.0))
            hits += process.poll() is None
            process.send_signal(signal.SIGKILL)
    return hits


def finish(command: Command) -> tuple[int, dict[str, Any]]:
    """Let it run to its end; exit code and summary."""
    done = subprocess.run(command.arguments(), capture_output=True, timeout=RUN_SECONDS, check=False)
    if not done.stdout:
        raise RuntimeError(f"no summary; exit {done.returncode}: {done.stderr.decode()[-800:]}")
    return done.returncode, json.loads(done.stdout)


def statistics(url: str) -> dict[str, Any]:
    """What the simulator counted."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 (a loopback address made here)
        counted: dict[str, Any] = json.load(answer)
    return counted


def verdicts(command: Command) -> dict[tuple[str, int, int], str | None]:
    """The verdicts that count, by dialogue, length and turn."""
    frame = pl.read_parquet(command.results / command.run / "verdicts.parquet").filter(pl.col("counts"))
    return {(row["dialogue_id"], row["length"], row["turn"]): row["label"] for row in frame.iter_rows(named=True)}


async def torture(
    provider: str, *, kills: int, share: float, protocol: str, sample: int, concurrency: int, seed: int, max_usd: float | None = None
) -> Chaos:
    """One wire format through kills and faults, compared with its undisturbed run."""
    folder = Path(tempfile.mkdtemp(prefix="safemt-chaos-"))
    faults = FaultPlan.parse(",".join(f"{kind}:{share / len(FAULTS):.4f}" for kind in FAULTS) if share else "", retry_after_seconds=0.2)
    settings = SimulatorSettings(seed=seed, latency_seconds=0.05, faults=faults)

    def command(address: str, run: str) -> Command:
        return Command(provider, address, folder / run, run, protocol, concurrency, sample, max_usd)

    async with simulator_process(SimulatorSettings(seed=seed)) as calm:
        quiet = replace(command(calm.base_url(FORMATS[provider]), "calm"), max_usd=None)
        await anyio.to_thread.run_sync(finish, quiet)
    async with simulator_process(settings) as stormy:
        wild = command(stormy.base_url(FORMATS[provider]), "wild")
        hits = await anyio.to_thread.run_sync(kill_at_random, wild, kills, random.Random(seed))
        exit_code, summary = await anyio.to_thread.run_sync(finish, wild)
        counted = await anyio.to_thread.run_sync(statistics, stormy.url("/simulator/statistics"))
    expected, got = verdicts(quiet), verdicts(wild)
    equal = got.keys() == expected.keys() and all(got[key] in (label, None) for key, label in expected.items())
    return Chaos(
        provider=provider,
        kills=hits,
        exit_code=exit_code,
        answered=counted["answered"],
        repeated=counted["repeated"],
        sent=summary["calls"]["sent"],
        spent_usd=summary["cost_usd"]["total"],
        failed=summary["dialogues"]["failed"],
        verdicts_equal=equal,
    )


def main() -> None:
    """Print a line for each wire format; exit 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--share", "--faults", type=float, default=0.3)
    parser.add_argument("--protocol", default="live")
    parser.add_argument("--sample", type=int, default=34)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    bad = 0
    for provider in FORMATS:
        chaos = anyio.run(partial(torture, provider, **vars(options)))
        held = chaos.verdicts_equal and chaos.repeated <= chaos.kills * options.concurrency and chaos.exit_code == 0
        bad += not held
        print(f"{'held  ' if held else 'BROKEN'} {chaos}", flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
