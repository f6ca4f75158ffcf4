"""``safemt-api judge``: new verdicts over a run, and the judge measured against people."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer._click.core import Context  # typer's own base of its Context; the signature must match
from typer.core import TyperGroup

from safemt_api.cli import options
from safemt_api.cli.on_use import imported_on_use
from safemt_api.cli.options import GroupedCommand
from safemt_api.errors import UsageError, did_you_mean
from safemt_api.foreign_text import harmless_cell
from safemt_api.runs.options import Group
from safemt_api.runs.settings import MOST, EvalSettings
from safemt_api.runs.settings import options as settings_options

with imported_on_use():
    from safemt_api import errors, evaluation, words
    from safemt_api.calibration import agreement, correction, sheet
    from safemt_api.cli import eval as playing
    from safemt_api.cli import report, terminal
    from safemt_api.runs import folder as run_folder
    from safemt_api.runs import record, rejudge

if TYPE_CHECKING:
    from safemt_api.calibration.agreement import Agreement
    from safemt_api.calibration.correction import Calibration
    from safemt_api.calibration.sheet import SheetRow

DEFAULT_COMMAND = "run"
ANSWERS = {"s": "safe", "u": "unsafe", "": ""}


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
    if "judges" not in given:
        raise UsageError("say who is to judge with --judge: rules, PROVIDER:MODEL, guard:PROVIDER:MODEL, …")
    usual = {one.name: one.default for one in settings_options() if one.option.group is Group.JUDGE}
    settings = replace(run_folder.settings_of(run, results), **{**usual, **given})
    raise typer.Exit(terminal.run_loop(partial(_judge, settings, as_json=as_json)))


async def _judge(settings: EvalSettings, *, as_json: bool) -> int:
    async with evaluation.open_plan(settings, judging_only=True) as plan:
        terminal.say(*plan.remarks, f"judging {plan.run} with {plan.bench.name}; the target is not called")
        result = await rejudge.rejudge(plan, watch=playing.watcher(), signals=terminal.ENDING_SIGNALS)
    if result.exit_code in (errors.EXIT_DONE, errors.EXIT_FAILURES):
        report.show_run(result.folder, as_json=as_json, summary=result.summary)
        terminal.say(*playing.missing_verdicts(result.summary))
        if result.exit_code == errors.EXIT_FAILURES:
            over = f"more than --max-failures {settings.max_failures:g} allows"
            terminal.say(f"{playing.shortfall(result.summary)}, {over}; the same command asks again for what is missing")
        return result.exit_code
    reason = "interrupted" if result.exit_code == errors.EXIT_INTERRUPTED else str(result.stopped_by)
    kept = "The run's verdicts are as they were; the same command goes on, and what was judged is not bought again."
    terminal.say(f"stopped: {reason}. {kept}")
    return result.exit_code


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
    found = record.read_run(run_folder.locate(run, results).folder)
    target = output or found.folder / "labels.csv"
    rows = correction.sheet_of(found, n=n, seed=seed)
    if not here:
        sheet.write_sheet(target, rows)
        terminal.say(f"{len(rows)} replies to label in {target}: write safe or unsafe into the last column, then")
        terminal.say(f"  safemt-api judge calibrate {run} {target}")
        return
    if target.exists():
        raise UsageError(f"{target}: exists already and may hold labels; choose another --output or move it away")
    terminal.say(f"{_written(target, _asked(rows))} rows written to {target}; safemt-api judge calibrate {run} {target} reads them")


def _asked(rows: Sequence[SheetRow]) -> Iterator[tuple[SheetRow, str]]:
    for number, row in enumerate(rows, start=1):
        answer = _answer(row, f"{number} of {len(rows)}: {row.scenario}, length {row.length}, turn {row.turn}")
        if answer is None:
            return
        yield row, answer


def _answer(row: SheetRow, title: str) -> str | None:
    """The label, empty when undecided, ``None`` to end."""
    while True:
        sys.stderr.write(f"{words.printable(title)}\n  [v]iew, [s]afe, [u]nsafe, Enter to skip, [q]uit > ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        typed = line.strip().casefold()[:1]
        if not line or typed == "q":
            return None
        if typed == "v":
            sys.stderr.write(f"{words.printable(row.dialogue)}\n\nThe reply to label:\n{words.printable(row.reply)}\n")
        elif typed in ANSWERS:
            return ANSWERS[typed]


def _written(target: Path, labelled: Iterator[tuple[SheetRow, str]]) -> int:
    """How many rows; each is on disk before the next is asked for, so that Ctrl-C loses none."""
    count = 0
    try:
        with target.open("x", encoding="utf-8-sig", errors="replace", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(sheet.SHEET_COLUMNS)
            for row, label in labelled:
                place = (row.id, str(row.length), str(row.turn), row.scenario, row.dialogue, row.reply)
                writer.writerow([*map(harmless_cell, place), label])
                stream.flush()
                count += 1
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror})") from error
    return count


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
    found = record.read_run(run_folder.locate(run, results).folder)
    measured = correction.calibrate(found, labels)
    if as_json:
        whole, by_scenario = agreement.agreement(measured.labels), agreement.agreement_by_scenario(measured.labels)
        terminal.put_json({"judge": measured.judge_title, "labels": measured.file, "agreement": whole, "by_scenario": by_scenario})
    else:
        _show(measured)
    written = correction.write_calibration(found.folder, measured)
    terminal.say(f"written: {written}", f"  safemt-api report {run} --calibration {written}")


def _show(found: Calibration) -> None:
    whole, by_scenario = agreement.agreement(found.labels), agreement.agreement_by_scenario(found.labels)
    terminal.show(f"{found.judge_title} against {whole.labelled} labels of {found.file}")
    cells = [("label: unsafe", whole.true_unsafe, whole.false_safe), ("label: safe", whole.false_unsafe, whole.true_safe)]
    confusion = [(name, str(unsafe), str(safe)) for name, unsafe, safe in cells]
    terminal.show(terminal.table("\nConfusion (replies)", ("", "judge: unsafe", "judge: safe"), confusion))
    for title, said in zip(("sensitivity", "specificity", "Cohen's kappa"), _three(whole), strict=True):
        terminal.show(f"{title}: {said}")
    if (stages := agreement.two_stages(found.labels)) is not None:
        asked = (("the first, on all replies", stages.first), ("the second, where it was asked", stages.second), ("both", whole))
        terminal.show(f"The second judge was asked about {words.percent(stages.asked_again)} of the replies.")
        by_stage = [(name, str(one.labelled), *_three(one)) for name, one in asked]
        terminal.show(terminal.table("\nJudges in turn", ("", "labelled", "sensitivity", "specificity", "kappa"), by_stage))
    rows = [(words.printable(scenario), str(one.labelled), *_three(one)) for scenario, one in by_scenario.items() if one is not None]
    if rows:
        terminal.show(terminal.table("\nBy scenario", ("scenario", "labelled", "sensitivity", "specificity", "kappa"), rows))
    if few := [scenario for scenario, one in by_scenario.items() if one is None]:
        terminal.show(f"Fewer than {agreement.MIN_PER_SCENARIO} labels, so no figures of their own: {', '.join(few)}.")


def _three(found: Agreement) -> tuple[str, str, str]:
    said = correction.estimate_said
    return said(found.sensitivity), said(found.specificity), said(found.kappa)
