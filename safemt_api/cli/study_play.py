"""What ``study`` and its kin do: say what will happen, ask if it is dear, play, show."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from safemt_api.cli.json_output import put_json
from safemt_api.cli.loop import BACKEND_OPTIONS, ENDING_SIGNALS
from safemt_api.cli.printing import agrees, error_console, output_console, say
from safemt_api.report import words
from safemt_api.report.page import REPORT_FILE
from safemt_api.report.study_tables import study_report
from safemt_api.runs.estimating import Estimate, estimate
from safemt_api.runs.execution import EXIT_BUDGET, EXIT_DONE, EXIT_FAILURES, EXIT_INTERRUPTED, RunStatistics
from safemt_api.runs.overview import STUDY_FILE
from safemt_api.runs.planning import Plan
from safemt_api.studies.arms import Study
from safemt_api.study import StudyExecution, StudyResult, open_study, play_study

ASK_ABOVE_USD = 5.0
REFRESH_SECONDS = 0.5
LINE_SECONDS = 10.0
EXIT_DECLINED = 2


def run_study(study: Study, *, results: Path, dry_run: bool, as_json: bool, yes: bool) -> int:
    """Play it and return the exit code."""
    playing = partial(_play, study, results=results, dry_run=dry_run, as_json=as_json, yes=yes)
    return anyio.run(playing, backend_options=BACKEND_OPTIONS)


async def _play(study: Study, *, results: Path, dry_run: bool, as_json: bool, yes: bool) -> int:
    ask = study.max_usd is None and not yes and sys.stdin.isatty() and sys.stderr.isatty()
    if dry_run or ask:
        async with open_study(study, results=results, dry_run=dry_run) as plans:
            found = {name: await estimate(plan) for name, plan in plans.items()}
        if dry_run:
            _show_estimates(found, as_json=as_json)
            return EXIT_DONE
        expected = sum(one.expected_usd for one in found.values())
        question = f"This study is expected to cost {words.dollars(expected)}; --max-usd sets a ceiling. Start?"
        if expected > ASK_ABOVE_USD and not agrees(question):
            say("not started")
            return EXIT_DECLINED
    result = await play_study(study, results=results, watch=_watcher(), signals=ENDING_SIGNALS, opening=_say_opening)
    if as_json:
        put_json(result.record.json_value())
    else:
        output_console().print(study_report(result.record))
    for sentence in _ending(study, result, results):
        say(sentence)
    return result.exit_code


def _say_opening(plans: Mapping[str, Plan]) -> None:
    first = next(iter(plans.values()))
    for remark in dict.fromkeys(remark for plan in plans.values() for remark in plan.remarks):
        say(remark)
    what = f"{len(first.entries):,} dialogues each, lengths {', '.join(map(str, first.dataset.lengths))}, from {first.dataset.name}"
    going_on = sum(plan.resumed for plan in plans.values())
    say(f"{len(plans)} arms ({', '.join(plans)}) over {what}" + (f"; {going_on} go on" if going_on else ""))


def _show_estimates(found: Mapping[str, Estimate], *, as_json: bool) -> None:
    if as_json:
        put_json({name: one.record() for name, one in found.items()})
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("arm", header_style="dim", overflow="fold")
    for name in ("expected", "at most"):
        table.add_column(name, justify="right", header_style="dim")
    for name, one in found.items():
        table.add_row(name, words.dollars(one.expected_usd), words.dollars(one.most_usd))
    expected, most = (sum(amounts) for amounts in zip(*((one.expected_usd, one.most_usd) for one in found.values()), strict=True))
    table.add_row("all", words.dollars(expected), words.dollars(most))
    output_console().print(table)
    say("each arm by itself; a call that two arms share is bought once")


def _watcher() -> Callable[[StudyExecution], Coroutine[Any, Any, None]]:
    console: Console = error_console()
    return partial(_watch_live, console=console) if console.is_terminal else _watch_lines


async def _watch_live(execution: StudyExecution, *, console: Console) -> None:
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        try:
            while True:
                live.update(_progress(execution), refresh=True)
                await anyio.sleep(REFRESH_SECONDS)
        finally:
            live.update(_progress(execution), refresh=True)


async def _watch_lines(execution: StudyExecution) -> None:
    while True:
        await anyio.sleep(LINE_SECONDS)
        say(_line(execution.statistics(), arms=len(execution.study.arms)))


def _line(found: Mapping[str, RunStatistics], *, arms: int) -> str:
    """How far all arms are in one line: a study of 17 of them has no room for each."""
    if not found:
        return f"{arms} arms are about to begin"
    slowest = min(found, key=lambda name: found[name].finished)
    done, planned = (sum(getattr(one, name) for one in found.values()) for name in ("finished", "planned"))
    missing = sum(one.without_verdict for one in found.values())
    parts = [f"{len(found)} of {arms} arms: {done:,} of {planned:,} dialogues", f"slowest {slowest} {_done(found[slowest])}"]
    parts += [f"{missing:,} without verdict"] if missing else []
    return " · ".join([*parts, words.dollars(sum(one.spent_usd for one in found.values()))])


def _progress(execution: StudyExecution) -> RenderableType:
    found = execution.statistics()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("arm", header_style="dim", overflow="fold")
    for name in ("done", "failed", "no verdict", "ASR so far", "in flight", "cost"):
        table.add_column(name, justify="right", header_style="dim")
    for arm in execution.study.arms:
        one = found.get(arm.name)
        if one is None:
            table.add_row(arm.name, words.NOTHING)
            continue
        ended = " (left out)" if arm.name in execution.left_out else ""
        silent = max(0, one.without_verdict - one.failed)
        counts = (_done(one), str(one.failed), str(silent), words.percent(one.asr_so_far), str(one.gateway.in_flight))
        table.add_row(arm.name + ended, *counts, words.dollars(one.spent_usd))
    return table


def _done(one: RunStatistics) -> str:
    return f"{one.finished:,} of {one.planned:,}"


def _ending(study: Study, result: StudyResult, results: Path) -> list[str]:
    """Which arms were left out and why, where the study is, and how to go on."""
    said = [f"arm {name} was left out: {why}" for name, why in result.left_out.items()]
    said.append(f"study: {result.folder / STUDY_FILE}, page: {result.folder / REPORT_FILE}")
    reasons = {
        EXIT_INTERRUPTED: "interrupted; everything so far is kept",
        EXIT_BUDGET: f"the ceiling of {words.dollars(study.max_usd)} is reached; raise --max-usd",
        EXIT_FAILURES: "more dialogues failed or lack a verdict than --max-failures allows",
    }
    if result.exit_code != EXIT_DONE:
        reason = reasons.get(result.exit_code, "an arm could not go on")
        elsewhere = "" if str(results) == "results" else f" (--results {shlex.quote(str(results))})"
        said.append(f"stopped: {reason}. The same command goes on where it stopped{elsewhere}.")
    return said
