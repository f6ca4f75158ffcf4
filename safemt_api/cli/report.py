"""``safemt-api report``: tables in the terminal, a page beside the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safemt_api.cli import options
from safemt_api.errors import UsageError


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="One run, several side by side, or a study.")],
    *,
    results: options.Results = options.RESULTS,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="Where report.html goes. Default: beside the run or study; for several: the results folder."
        ),
    ] = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Whether the page holds small pictures (blurred until clicked).")
    ] = True,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Where the pictures are now, if the data folder was moved.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="Labels by hand, or calibration.json: scores corrected for the judge's errors beside the raw ones.",
        ),
    ] = None,
    figures: Annotated[Path | None, typer.Option("--figures", metavar="DIR", help="Write the charts as SVG and PDF for papers.")] = None,
    anyway: options.Anyway = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summaries as a JSON list instead of tables.")] = False,
) -> None:
    """Print the tables of finished or unfinished runs, or of a study, and write report.html."""
    if data is not None and not images:
        raise UsageError("--data says where the pictures are, and --no-images leaves them out; give one of the two")
    from safemt_api.cli.reporting import show_report  # noqa: PLC0415 (imports polars and rich, which --help must not)

    show_report(
        runs,
        results=results,
        output=output,
        images=images,
        data=data,
        calibration=calibration,
        figures=figures,
        anyway=anyway,
        as_json=as_json,
    )
