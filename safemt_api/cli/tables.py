"""``safemt-api tables``: the paper's tables of any runs."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from safemt_api.cli import options
from safemt_api.foreign_text import printable


class MarkupName(StrEnum):
    """The forms."""

    MD = "md"
    LATEX = "latex"
    CSV = "csv"


def tables(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, by name or path, in the order of the rows.")],
    *,
    to: Annotated[MarkupName, typer.Option("--to", help="Markdown, LaTeX (booktabs) or CSV.")] = MarkupName.MD,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Default: standard output.")] = None,
    results: options.Results = options.RESULTS,
    anyway: options.Anyway = False,
) -> None:
    """Print the paper's tables: ASR by turn and SI, by scenario, by method, and before and after a defence."""
    from safemt_api.cli.finding import run_folder  # noqa: PLC0415 (imports what --help must not)
    from safemt_api.report.comparability import all_differences, refuse_incomparable  # noqa: PLC0415 (imports polars, late)
    from safemt_api.report.page import write_atomically  # noqa: PLC0415 (the same)
    from safemt_api.report.paper_tables import paper_tables, rendered  # noqa: PLC0415 (the same)
    from safemt_api.report.reading import read_run  # noqa: PLC0415 (the same)

    found = [read_run(run_folder(name, results)) for name in runs]
    if not anyway:
        refuse_incomparable(all_differences(found), found[0].name)
    text = rendered(paper_tables(found), to.value)
    if output is None:
        sys.stdout.write(printable(text))
    else:
        write_atomically(output, text.encode("utf-8"))
