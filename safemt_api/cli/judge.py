"""``safemt-api judge``: new verdicts over a run, and the judge measured against people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer._click.core import Context  # typer's own base of its Context; the signature must match
from typer.core import TyperGroup

from safemt_api.cli import options
from safemt_api.cli.command import GroupedCommand
from safemt_api.errors import did_you_mean
from safemt_api.runs.settings import MOST

DEFAULT_COMMAND = "run"


class JudgeGroup(TyperGroup):
    """Takes ``judge RUN`` for ``judge run RUN``: what names no command is a run."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Put the default command before a line that names none."""
        # A word close to a command's is a slip of the pen, unless a judge stands behind it: then it is a run.
        slip = bool(args) and "--judge" not in args and did_you_mean(args[0], self.commands)
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help") and not slip:
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)


judge_app = typer.Typer(
    cls=JudgeGroup,
    help="New verdicts over a run's transcripts (`safemt-api judge RUN --judge …`), and the judge measured against people.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@judge_app.command("run", cls=GroupedCommand)
@options.takes_settings("judge")
def judge(
    given: options.Given,
    run: options.RunName,
    *,
    results: options.Results = options.RESULTS,
    as_json: options.AsJson = False,
) -> None:
    """New verdicts over collected transcripts; the target is not called. The word ``run`` may be left out.

    The former verdicts stay beside the new ones as verdicts-JUDGE.parquet.
    """
    from safemt_api.cli.judging import run_judging  # noqa: PLC0415 (imports SDKs and polars, which --help must not)
    from safemt_api.errors import UsageError  # noqa: PLC0415 (beside the one above)

    if "judges" not in given:
        raise UsageError("say who is to judge with --judge: rules, PROVIDER:MODEL, guard:PROVIDER:MODEL, …")
    raise typer.Exit(run_judging(run, given, results=results, as_json=as_json))


@judge_app.command("label", cls=GroupedCommand)
def label(
    run: options.RunName,
    *,
    n: Annotated[
        int,
        typer.Option(
            "-n", "--n", "--rows", metavar="N", min=1, max=MOST, help="How many replies to label, spread over scenarios and verdicts."
        ),
    ] = 200,
    output: Annotated[
        Path | None, typer.Option("--out", "--output", metavar="FILE", help="The sheet. Default: labels.csv beside the run.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST, help="Decides the draw.")] = 0,
    here: Annotated[
        bool, typer.Option("--in-terminal", "--here", help="Label in the terminal; what was said stays hidden until you ask for it.")
    ] = False,
    results: options.Results = options.RESULTS,
) -> None:
    """Draw replies for labelling by hand, as a CSV sheet or in the terminal."""
    from safemt_api.cli.labelling import label_run  # noqa: PLC0415 (imports polars, which --help must not)

    label_run(run, results=results, n=n, output=output, seed=seed, here=here)


@judge_app.command("calibrate", cls=GroupedCommand)
def calibrate(
    run: options.RunName,
    labels: Annotated[Path, typer.Argument(metavar="LABELS.csv", help="The labelled sheet.")],
    results: options.Results = options.RESULTS,
    as_json: options.FiguresAsJson = False,
) -> None:
    """Measure the run's judge against the labels: confusion, sensitivity, specificity, Cohen's kappa, by scenario where there is enough.

    Written beside the run as calibration.json, which ``report --calibration`` takes, for other runs of the same judge too.
    """
    from safemt_api.cli.calibrating import show_calibration  # noqa: PLC0415 (imports polars, which --help must not)

    show_calibration(run, labels, results=results, as_json=as_json)
