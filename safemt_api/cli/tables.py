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
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs in the order of the rows, or one study; by name or path.")],
    *,
    to: Annotated[MarkupName, typer.Option("--to", help="Markdown, LaTeX (booktabs) or CSV.")] = MarkupName.MD,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Default: standard output.")] = None,
    results: options.Results = options.RESULTS,
    anyway: options.Anyway = False,
) -> None:
    """Print the paper's tables: ASR by turn and SI, by scenario, by method, and before and after a defence."""
    from safemt_api.cli.finding import run_folder, study_folder  # noqa: PLC0415 (imports what --help must not)
    from safemt_api.cli.printing import say  # noqa: PLC0415 (imports rich)
    from safemt_api.files import write_bytes  # noqa: PLC0415 (the same)
    from safemt_api.report.comparability import all_differences, arm_groups, refuse_incomparable  # noqa: PLC0415 (imports polars, late)
    from safemt_api.report.paper_tables import paper_tables, rendered  # noqa: PLC0415 (the same)
    from safemt_api.report.study_record import counted_arms  # noqa: PLC0415 (the same)
    from safemt_api.runs.record import read_run  # noqa: PLC0415 (the same)

    study = study_folder(runs[0], results) if len(runs) == 1 else None
    if study is not None:
        arms = counted_arms(study)
        for sentence in arms.left_out:
            say(sentence)
        made = paper_tables(arms.runs, arms.references, arm_groups(arms.runs))
    else:
        found = [read_run(run_folder(name, results)) for name in runs]
        if not anyway:
            refuse_incomparable(all_differences(found), found[0].name)
        made = paper_tables(found)
    text = rendered(made, to.value)
    if output is None:
        sys.stdout.write(printable(text))
    else:
        write_bytes(output, text.encode("utf-8"))
