"""What ``report``, ``compare`` and ``export`` do, and what ``eval`` prints at its end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from safemt_api.cli.calibrating import corrections_of
from safemt_api.cli.finding import run_folder, study_folder
from safemt_api.cli.json_output import put_json
from safemt_api.cli.printing import output_console, say
from safemt_api.errors import NothingPlayedError, UsageError
from safemt_api.files import private_folder
from safemt_api.report.comparability import all_differences, refuse_incomparable
from safemt_api.report.exporting import FORMATS, Format, export_name, export_run
from safemt_api.report.figures import write_figures
from safemt_api.report.page import write_page
from safemt_api.report.study_page import arm_runs
from safemt_api.report.study_record import measure_again
from safemt_api.report.study_tables import study_report
from safemt_api.report.tables import compare_runs, comparison_report, correction_report, leaderboard, run_report
from safemt_api.runs.record import RunData, read_run
from safemt_api.runs.summary import Summary

FAILURES_SHOWN = 3
EARLIER_DEFENCE_FILE = "defence.json"
"""Beside the undefended run of a defence that an earlier version played; its arms are ordinary runs."""


def show_report(
    names: Sequence[str],
    *,
    results: Path,
    output: Path | None,
    images: bool,
    data: Path | None,
    calibration: Path | None,
    figures: Path | None,
    anyway: bool,
    as_json: bool,
) -> None:
    """Print and write the report of one run, of several side by side, or of a study.

    Raises:
        UsageError: The runs' scores do not compare and ``anyway`` is not set.
    """
    study = study_folder(names[0], results) if len(names) == 1 else None
    if study is not None:
        _show_study(study, output=output, images=images, data=data, calibration=calibration, figures=figures, as_json=as_json)
        return
    runs = _runs(names, results)
    for earlier in (run.folder / EARLIER_DEFENCE_FILE for run in runs):
        if earlier.is_file():
            say(
                f"{earlier} is the record of an earlier version, and is not shown: a defence is now a study. The same defend command makes "
                "it one, with replies from the store; its arms so far are ordinary runs, for `safemt-api compare` too."
            )
    if not anyway:
        refuse_incomparable(all_differences(runs), runs[0].name)
    corrections = [] if calibration is None else corrections_of(runs, calibration)
    if as_json:
        output_console().print_json(json.dumps([run.summary.json_value() for run in runs]))
    else:
        output_console().print(run_report(runs[0]) if len(runs) == 1 else leaderboard(runs))
        for correction in corrections:
            output_console().print(correction_report(correction))
    folder = output or (runs[0].folder if len(runs) == 1 else results)
    private_folder(folder)
    say(f"page: {write_page(folder, runs, images=images, data_folder=data, corrections=corrections)}")
    if figures is not None:
        say(f"figures: {', '.join(file.name for file in write_figures(runs, figures))} in {figures}")


def _show_study(
    folder: Path, *, output: Path | None, images: bool, data: Path | None, calibration: Path | None, figures: Path | None, as_json: bool
) -> None:
    """Measure the study as its arms are now, print it, and write its page and ``study.json`` anew."""
    record = measure_again(folder)
    runs = arm_runs(folder, record)
    corrections = [] if calibration is None else corrections_of(runs, calibration)
    if as_json:
        put_json(record.json_value())
    else:
        output_console().print(study_report(record))
        for correction in corrections:
            output_console().print(correction_report(correction))
    if output is None:
        record.write(folder)
    target = output or folder
    private_folder(target)
    say(f"page: {write_page(target, runs, images=images, data_folder=data, corrections=corrections, study=record)}")
    if figures is not None and runs:
        say(f"figures: {', '.join(file.name for file in write_figures(runs, figures))} in {figures}")


def _runs(names: Sequence[str], results: Path) -> list[RunData]:
    """The runs; of several (``report results/*``), files and folders that hold none and runs with nothing to show are named and left out.

    Raises:
        UsageError: One is no run, or none is.
    """
    runs: list[RunData] = []
    no_runs: list[str] = []
    for name in names:
        try:
            runs.append(read_run(run_folder(name, results)))
        except NothingPlayedError as error:
            if len(names) == 1:
                raise
            say(f"left out: {error}")
        except UsageError:
            if len(names) == 1 or not Path(name).exists():
                raise
            no_runs.append(name)
    if no_runs:
        say(f"no runs, left out: {', '.join(no_runs)}")
    if not runs:
        raise UsageError("none of these is a run that can be shown")
    return runs


def show_run(folder: Path, *, as_json: bool, summary: Summary) -> None:
    """What a finished evaluation prints: the tables, or exactly the summary; the page is written either way."""
    run = read_run(folder)
    page = write_page(folder, [run])
    if as_json:
        output_console().out(json.dumps(summary.json_value(), indent=2), highlight=False)
    else:
        output_console().print(run_report(run))
    for sentence in failures_said(run):
        say(sentence)
    say(f"page: {page}")


def failures_said(run: RunData) -> list[str]:
    """The commonest reasons why dialogues failed."""
    failed = run.transcripts.filter(pl.col("failure").is_not_null()).unique(("dialogue_id", "length"))
    reasons = Counter(failed["failure"].to_list()).most_common(FAILURES_SHOWN)
    return [f"{count} failed: {reason}" for reason, count in reasons]


def show_comparison(a: str, b: str, *, results: Path, seed: int, anyway: bool, as_json: bool = False) -> None:
    """Print the paired comparison of two runs.

    Raises:
        UsageError: Their scores do not compare and ``anyway`` is not set.
    """
    first, second = (read_run(run_folder(name, results)) for name in (a, b))
    comparison = compare_runs(first, second, seed=seed, anyway=anyway)
    if as_json:
        put_json(comparison)
    else:
        output_console().print(comparison_report(first, second, comparison))


def export_to(name: str, to: str, *, results: Path, output: Path | None) -> None:
    """Write a run in another format and say where."""
    formats: dict[str, Format] = {one: one for one in FORMATS}
    if to not in formats:
        raise UsageError(f"--to {to!r}: choose one of {', '.join(FORMATS)}")
    run = read_run(run_folder(name, results))
    target = output or run.folder / export_name(run, formats[to])
    say(f"written: {export_run(run, formats[to], target)}")
