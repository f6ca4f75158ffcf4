"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safemt_api.errors import UsageError

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run under the results folder, or its path.")]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of all runs and of the turn store.")]
Providers = Annotated[Path | None, typer.Option("--providers", metavar="DIR", help="Folder with vendor files of your own (TOML).")]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", metavar="N", help="Most calls in flight; less is used while a vendor slows down.")
]
MaxUsd = Annotated[
    float | None, typer.Option("--max-usd", metavar="X", help="Ceiling on all that the run spends, judge and retries included.")
]
Rpm = Annotated[
    float | None,
    typer.Option("--rpm", "--requests-per-minute", metavar="N", help="Quota of the target's account; else learnt from replies."),
]
Tpm = Annotated[float | None, typer.Option("--tpm", "--tokens-per-minute", metavar="N", help="The same for tokens.")]
MaxFailures = Annotated[
    float | None, typer.Option("--max-failures", metavar="SHARE", help="Share of dialogues that may fail before the exit code is 4.")
]
StallSeconds = Annotated[
    float | None, typer.Option("--stall-seconds", metavar="S", help="End the run when no call has succeeded for so long.")
]
ConnectSeconds = Annotated[float | None, typer.Option("--connect-seconds", metavar="S", help="Longest wait for a connection.")]
IdleSeconds = Annotated[float | None, typer.Option("--idle-seconds", metavar="S", help="Longest silence on a connection.")]
TotalSeconds = Annotated[float | None, typer.Option("--total-seconds", metavar="S", help="Longest time for one attempt at a call.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly the summary as JSON on standard output.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a run that is expected to cost more than 5 USD.")]
Judges = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        metavar="SPEC",
        help="rules, PROVIDER:MODEL, guard:PROVIDER:MODEL, moderation:openai, decisions:openai or decisions:google; several: a panel.",
    ),
]
JudgeFallback = Annotated[str | None, typer.Option("--judge-fallback", metavar="SPEC", help="Asked where a judge gives no verdict.")]
JudgeBaseUrl = Annotated[str | None, typer.Option("--judge-base-url", metavar="URL", help="Address of the judge's server.")]
Rubric = Annotated[
    Path | None, typer.Option("--rubric", metavar="FILE", help="Your own criteria for harmful dialogues, instead of the shipped ones.")
]

Provider = Annotated[
    str | None,
    typer.Option("--provider", metavar="NAME", help="Vendor (`safemt-api providers list`). Default: the built-in simulator."),
]
BaseUrl = Annotated[
    list[str] | None, typer.Option("--base-url", metavar="URL", help="Address of the server; repeat for several with the same model.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder in the official layout. Default: SAFEMT_DATA, else the demonstration set."),
]
Lengths = Annotated[str | None, typer.Option("--lengths", metavar="1,2,4,6,8", help="Dialogue lengths to take. Default: all there are.")]
Scenario = Annotated[list[str] | None, typer.Option("--scenario", metavar="NAME", help="Take only this scenario; may be repeated.")]
SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", help="Leave invalid dialogues out instead of refusing to start.")]
Seed = Annotated[int, typer.Option("--seed", help="Decides the sample and the order.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", metavar="T", help="Sent only when given, and only to models that take it.")
]
TopP = Annotated[float | None, typer.Option("--top-p", metavar="P", help="The same.")]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt for the target.")]
Policies = Annotated[Path | None, typer.Option("--policies", metavar="DIR", help="Your own policy library (one Markdown file a scenario).")]
Fault = Annotated[
    str | None,
    typer.Option("--fault", metavar="SPEC", help="Faults of the built-in simulator: KIND:SHARE or KIND:first=N, with commas between."),
]
SimSeed = Annotated[int | None, typer.Option("--sim-seed", metavar="N", help="Seed of the built-in simulator. Default: --seed.")]
SimLatencySeconds = Annotated[
    float | None, typer.Option("--sim-latency-seconds", metavar="S", help="How long the built-in simulator takes for a reply.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the calls, tokens and cost to expect, and send nothing.")]

RESULTS = Path("results")
GATHERED = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute"}


def given(**options: object) -> dict[str, object]:
    """The options that were really given, by the names of ``EvalSettings``."""
    return {GATHERED.get(name, name): value for name, value in options.items() if value is not None}


def many(values: list[str] | None) -> tuple[str, ...] | None:
    """A repeated option, or ``None`` if it was not given."""
    return tuple(values) if values else None


def numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """``1,2,4`` as numbers.

    Raises:
        UsageError: Something in it is no whole number.
    """
    if text is None:
        return None
    try:
        return tuple(sorted({int(part) for part in text.split(",") if part.strip()}))
    except ValueError:
        raise UsageError(f"{option} {text!r}: give whole numbers with commas between, such as 1,2,4,6,8") from None
