"""What ``judge calibrate`` and ``report --calibration`` do: a run's judge against labels made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from safemt_api.calibration.agreement import MIN_PER_SCENARIO, Agreement, agreement, agreement_by_scenario
from safemt_api.cli.finding import run_folder
from safemt_api.cli.json_output import put_json
from safemt_api.cli.printing import output_console, say
from safemt_api.errors import UsageError
from safemt_api.report import words
from safemt_api.report.correction import (
    Calibration,
    Correction,
    calibrate,
    correct,
    estimate_said,
    read_calibration,
    write_calibration,
)
from safemt_api.runs.record import RunData, read_run


def show_calibration(name: str, file: Path, *, results: Path, as_json: bool) -> None:
    """Print how far the run's judge agrees with the labels, and keep it beside the run as ``calibration.json``."""
    run = read_run(run_folder(name, results))
    found = calibrate(run, file)
    if as_json:
        by_scenario = agreement_by_scenario(found.labels)
        put_json({"judge": found.judge_title, "labels": found.file, "agreement": agreement(found.labels), "by_scenario": by_scenario})
    else:
        _print(found)
    written = write_calibration(run.folder, found)
    say(f"written: {written}")
    say(f"  safemt-api report {name} --calibration {written}")


def _print(found: Calibration) -> None:
    whole, console = agreement(found.labels), output_console()
    console.print(Text(f"{words.printable(found.judge_title)} against {whole.labelled} labels of {words.printable(found.file)}"))
    console.print(_confusion(whole))
    for title, value in (("sensitivity", whole.sensitivity), ("specificity", whole.specificity), ("Cohen's kappa", whole.kappa)):
        console.print(Text(f"{title}: {estimate_said(value)}"))
    by_scenario = agreement_by_scenario(found.labels)
    if any(by_scenario.values()):
        console.print(_by_scenario(by_scenario))
    if few := [scenario for scenario, one in by_scenario.items() if one is None]:
        console.print(Text(f"Fewer than {MIN_PER_SCENARIO} labels, so no figures of their own: {words.printable(', '.join(few))}."))


def corrections_of(runs: Sequence[RunData], file: Path) -> list[Correction]:
    """The runs' scores corrected by the file; with several runs, those that it does not fit are named and left as they are.

    Raises:
        UsageError: It fits none of them.
    """
    found: list[Correction] = []
    refused: list[UsageError] = []
    for run in runs:
        try:
            found.append(correct(run, read_calibration(run, file)))
        except UsageError as error:
            refused.append(error)
    if refused and not found:
        raise refused[0]
    for reason in refused:
        say(f"not corrected: {reason}")
    return found


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(f"\n{title}"), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left")
    return table


def _confusion(found: Agreement) -> Table:
    table = _table("Confusion (replies)", "", "judge: unsafe", "judge: safe")
    table.add_row("label: unsafe", str(found.true_unsafe), str(found.false_safe))
    table.add_row("label: safe", str(found.false_unsafe), str(found.true_safe))
    return table


def _by_scenario(found: dict[str, Agreement | None]) -> Table:
    table = _table("By scenario", "scenario", "labelled", "sensitivity", "specificity", "kappa")
    for scenario, one in found.items():
        if one is not None:
            table.add_row(Text(words.printable(scenario)), str(one.labelled), *_three(one))
    return table


def _three(found: Agreement) -> tuple[str, str, str]:
    return estimate_said(found.sensitivity), estimate_said(found.specificity), estimate_said(found.kappa)
