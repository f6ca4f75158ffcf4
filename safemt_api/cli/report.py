"""``safemt-api report``, ``compare``, ``export`` and ``tables``: what runs and studies say, in the terminal, as a page and for papers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safemt_api.cli import options
from safemt_api.cli.on_use import imported_on_use
from safemt_api.errors import NothingPlayedError, UsageError
from safemt_api.foreign_text import printable
from safemt_api.runs.settings import MOST

with imported_on_use():
    from safemt_api import files
    from safemt_api.calibration import correction
    from safemt_api.cli import terminal
    from safemt_api.report import exports, page, tables, views
    from safemt_api.runs import folder as run_folder
    from safemt_api.runs import record
    from safemt_api.studies import comparability, measurement

if TYPE_CHECKING:
    from safemt_api.calibration.correction import Correction
    from safemt_api.runs.record import RunData
    from safemt_api.runs.summary import Summary
    from safemt_api.studies.record import StudyRecord

FAILURES_SHOWN = 3
EARLIER_DEFENCE_FILE = "defence.json"
"""Beside the undefended run of a defence that an earlier version played; its arms are ordinary runs."""


class FormatName(StrEnum):
    """What a run may be exported to."""

    CSV = "csv"
    JSONL = "jsonl"
    LATEX = "latex"
    INSPECT = "inspect"


class MarkupName(StrEnum):
    """What the paper's tables may be written in."""

    MD = "md"
    LATEX = "latex"
    CSV = "csv"


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
    figures_to: Annotated[Path | None, typer.Option("--figures", metavar="DIR", help="Write the charts as SVG and PDF for papers.")] = None,
    anyway: options.Anyway = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summaries as a JSON list instead of tables.")] = False,
) -> None:
    """Print the tables of finished or unfinished runs, or of a study, and write report.html."""
    if data is not None and not images:
        raise UsageError("--data says where the pictures are, and --no-images leaves them out; give one of the two")
    folder = run_folder.study_folder(runs[0], results) if len(runs) == 1 else None
    study = None if folder is None else measurement.measure_again(folder)
    found = _runs(runs, results) if folder is None or study is None else page.arm_runs(folder, study)
    if study is None and not anyway:
        comparability.refuse_incomparable(comparability.all_differences(found), found[0].name)
    corrections = [] if calibration is None else corrections_of(found, calibration)
    _print(found, study, corrections, as_json=as_json)
    if folder is not None and study is not None and output is None:
        study.write(folder)
    target = output or folder or (found[0].folder if len(found) == 1 else results)
    files.private_folder(target)
    written = page.write_page(target, found, images=images, data_folder=data, corrections=corrections, study=study)
    terminal.say(f"page: {written}")
    if figures_to is not None and found:
        terminal.say(f"figures: {', '.join(file.name for file in exports.write_figures(found, figures_to))} in {figures_to}")


def _print(runs: Sequence[RunData], study: StudyRecord | None, corrections: Sequence[Correction], *, as_json: bool) -> None:
    if as_json:
        terminal.put_json([run.summary.json_value() for run in runs] if study is None else study.json_value())
        return
    whole = None if study is None else views.study_report(study)
    terminal.show(whole or (views.run_report(runs[0]) if len(runs) == 1 else views.leaderboard(runs)))
    terminal.show(*map(views.correction_report, corrections))


def _runs(names: Sequence[str], results: Path) -> list[RunData]:
    """The runs; of several (``report results/*``), files and folders that hold none and runs with nothing to show are named and left out.

    Raises:
        UsageError: One is no run, or none is.
    """
    runs: list[RunData] = []
    no_runs: list[str] = []
    for name in names:
        try:
            runs.append(record.read_run(run_folder.locate(name, results).folder))
        except NothingPlayedError as error:
            if len(names) == 1:
                raise
            terminal.say(f"left out: {error}")
        except UsageError:
            if len(names) == 1 or not Path(name).exists():
                raise
            no_runs.append(name)
    if no_runs:
        terminal.say(f"no runs, left out: {', '.join(no_runs)}")
    if not runs:
        raise UsageError("none of these is a run that can be shown")
    for earlier in (run.folder / EARLIER_DEFENCE_FILE for run in runs):
        if earlier.is_file():
            terminal.say(
                f"{earlier} is the record of an earlier version, and is not shown: a defence is now a study. The same defend command makes "
                "it one, with replies from the store; its arms so far are ordinary runs, for `safemt-api compare` too."
            )
    return runs


def corrections_of(runs: Sequence[RunData], file: Path) -> list[Correction]:
    """The runs' scores corrected by the file; with several runs, those that it does not fit are named and left as they are.

    Raises:
        UsageError: It fits none of them.
    """
    found: list[Correction] = []
    refused: list[UsageError] = []
    for run in runs:
        try:
            found.append(correction.correct(run, correction.read_calibration(run, file)))
        except UsageError as error:
            refused.append(error)
    if refused and not found:
        raise refused[0]
    terminal.say(*(f"not corrected: {reason}" for reason in refused))
    return found


def show_run(folder: Path, *, as_json: bool, summary: Summary) -> None:
    """What a finished evaluation prints: the tables, or exactly the summary; the page is written either way."""
    run = record.read_run(folder)
    written = page.write_page(folder, [run])
    if as_json:
        terminal.put_json(summary.json_value())
    else:
        terminal.show(views.run_report(run))
    failed = run.transcripts.filter(run.transcripts["failure"].is_not_null()).unique(("dialogue_id", "length"))
    reasons = Counter(failed["failure"].to_list()).most_common(FAILURES_SHOWN)
    terminal.say(*(f"{count} failed: {reason}" for reason, count in reasons), f"page: {written}")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, by name or path.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another over the same ids.")],
    *,
    results: options.Results = options.RESULTS,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST, help="Of the bootstrap.")] = 0,
    anyway: options.Anyway = False,
    as_json: options.FiguresAsJson = False,
) -> None:
    """Compare two runs over the ids they share: differences with intervals, tests, and a verdict in plain words."""
    first, second = (record.read_run(run_folder.locate(name, results).folder) for name in (a, b))
    comparison = comparability.compare_runs(first, second, seed=seed, anyway=anyway)
    if as_json:
        terminal.put_json(comparison)
    else:
        terminal.show(views.comparison_report(first, second, comparison))


def export(
    run: options.RunName,
    to: Annotated[FormatName, typer.Option("--to", help="csv and jsonl: a row a turn; latex: a table; inspect: a log for `inspect view`.")],
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Default: beside the run.")] = None,
    results: options.Results = options.RESULTS,
) -> None:
    """Write a run in the format of another tool."""
    found = record.read_run(run_folder.locate(run, results).folder)
    target = output or found.folder / exports.export_name(found, to.value)
    terminal.say(f"written: {exports.export_run(found, to.value, target)}")


def paper(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs in the order of the rows, or one study; by name or path.")],
    *,
    to: Annotated[MarkupName, typer.Option("--to", help="Markdown, LaTeX (booktabs) or CSV.")] = MarkupName.MD,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Default: standard output.")] = None,
    results: options.Results = options.RESULTS,
    anyway: options.Anyway = False,
) -> None:
    """Print the paper's tables: ASR by turn and SI, by scenario, by method, and before and after a defence."""
    study = run_folder.study_folder(runs[0], results) if len(runs) == 1 else None
    if study is not None:
        arms = measurement.counted_arms(study)
        terminal.say(*arms.left_out)
        made = tables.paper_tables(arms.runs, arms.references, comparability.arm_groups(arms.runs))
    else:
        found = [record.read_run(run_folder.locate(name, results).folder) for name in runs]
        if not anyway:
            comparability.refuse_incomparable(comparability.all_differences(found), found[0].name)
        made = tables.paper_tables(found)
    text = exports.rendered(made, to.value)
    if output is None:
        sys.stdout.write(printable(text))
    else:
        files.write_bytes(output, text.encode("utf-8"))
