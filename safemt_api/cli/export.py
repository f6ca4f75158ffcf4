"""``safemt-api export``: a run in the formats of other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from safemt_api.cli import options


class FormatName(StrEnum):
    """The formats."""

    CSV = "csv"
    JSONL = "jsonl"
    LATEX = "latex"
    INSPECT = "inspect"


def export(
    run: options.RunName,
    to: Annotated[FormatName, typer.Option("--to", help="csv and jsonl: a row a turn; latex: a table; inspect: a log for `inspect view`.")],
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Default: beside the run.")] = None,
    results: options.Results = options.RESULTS,
) -> None:
    """Write a run in the format of another tool."""
    from safemt_api.cli.reporting import export_to  # noqa: PLC0415 (imports polars, which --help must not)

    export_to(run, to.value, results=results, output=output)
