"""What ``defend`` does: say what will happen, ask if it is dear, run every arm, show the effect."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import anyio
from rich.console import Group

from safemt_api.cli.estimates import estimate_table
from safemt_api.cli.loop import BACKEND_OPTIONS, ENDING_SIGNALS
from safemt_api.cli.printing import agrees, output_console, say
from safemt_api.cli.running import ASK_ABOVE_USD, EXIT_DECLINED, missing_verdicts, shortfall, undecided, watcher
from safemt_api.defence import DefenceResult, defence_name, defend, open_arms
from safemt_api.moderators.opening import NO_MODERATOR
from safemt_api.report import words
from safemt_api.report.arm_tables import defence_report
from safemt_api.report.page import write_page
from safemt_api.report.reading import read_run
from safemt_api.runs.defending import Arm, plan_arms
from safemt_api.runs.estimating import Estimate, estimate
from safemt_api.runs.execution import EXIT_DONE, EXIT_FAILURES, EXIT_INTERRUPTED, Execution, RunStatistics
from safemt_api.runs.planning import Plan
from safemt_api.runs.settings import EvalSettings


def run_defence(
    settings: EvalSettings, moderators: Sequence[str], base_urls: Sequence[str], *, dry_run: bool, as_json: bool, yes: bool
) -> int:
    """Run it and return the exit code."""
    running = partial(_defend, settings, moderators, base_urls, dry_run=dry_run, as_json=as_json, yes=yes)
    return anyio.run(running, backend_options=BACKEND_OPTIONS)


async def _defend(
    settings: EvalSettings, moderators: Sequence[str], base_urls: Sequence[str], *, dry_run: bool, as_json: bool, yes: bool
) -> int:
    named = replace(settings, run=settings.run or defence_name(settings))
    arms = plan_arms(named.run or "", moderators, base_urls)
    if dry_run or _may_be_dear(named, yes=yes):
        estimates = await _estimates(named, arms, dry_run=dry_run)
        if dry_run:
            _show_estimates(estimates, as_json=as_json)
            return 0
        if not _agreed(estimates):
            say("not started")
            return EXIT_DECLINED
    remarked: set[str] = set()
    result = await defend(
        named,
        moderators=moderators,
        moderator_base_urls=base_urls,
        watch=partial(_watch_arm, [arm.run for arm in arms]),
        signals=ENDING_SIGNALS,
        opening=partial(_announce, remarked),
    )
    _show(result, as_json=as_json)
    for sentence in _ending(named, arms, result):
        say(sentence)
    return result.exit_code


@dataclass(frozen=True, slots=True)
class _WatchedArm:
    """An arm under way, with its name for the display."""

    execution: Execution
    name: str

    def statistics(self) -> RunStatistics:
        """See ``Execution.statistics``."""
        return self.execution.statistics()._replace(arm=self.name)


async def _watch_arm(runs: Sequence[str], execution: Execution) -> None:
    plan = execution.plan
    await watcher()(_WatchedArm(execution, f"{runs.index(plan.run) + 1} of {len(runs)}: {plan.moderator or NO_MODERATOR}"))


def _announce(remarked: set[str], plan: Plan) -> None:
    for remark in plan.remarks:
        if remark not in remarked:
            remarked.add(remark)
            say(remark)
    verb = "going on with" if plan.resumed else "run"
    ceiling = "" if plan.settings.max_usd is None else f", at most {words.dollars(plan.settings.max_usd)} in all its sessions"
    target = plan.target.route
    say(
        f"{verb} {plan.run}: {target.profile}:{target.model}, {plan.settings.protocol}, {len(plan.entries):,} dialogues, "
        f"judge {plan.judge_name}, moderator {plan.moderator or 'none'}{ceiling}"
    )


async def _estimates(settings: EvalSettings, arms: Sequence[Arm], *, dry_run: bool) -> list[Estimate]:
    """What each arm has still to buy."""
    async with open_arms(settings, arms, dry_run=dry_run) as plans:
        return [await estimate(plan) for plan in plans]


def _may_be_dear(settings: EvalSettings, *, yes: bool) -> bool:
    return not yes and settings.max_usd is None and sys.stdin.isatty() and sys.stderr.isatty()


def _show_estimates(estimates: Sequence[Estimate], *, as_json: bool) -> None:
    if as_json:
        output_console().out(json.dumps([found.record() for found in estimates], indent=2), highlight=False)
        return
    total = sum(found.expected_usd for found in estimates)
    output_console().print(Group(*(estimate_table(found) for found in estimates)))
    say(f"All arms together: {words.dollars(total)} expected; less, where target calls are the same in two arms and so are bought once.")


def _agreed(estimates: Sequence[Estimate]) -> bool:
    expected = sum(found.expected_usd for found in estimates)
    if expected <= ASK_ABOVE_USD:
        return True
    most = sum(found.most_usd for found in estimates)
    return agrees(
        f"All arms together are expected to cost {words.dollars(expected)}, at most {words.dollars(most)}; --max-usd sets a ceiling. Start?"
    )


def _show(result: DefenceResult, *, as_json: bool) -> None:
    if as_json:
        output_console().out(json.dumps(result.record, indent=2, ensure_ascii=False), highlight=False)
    elif result.record is not None:
        output_console().print(defence_report(result.record))
    if result.record is not None:
        page = write_page(result.file.parent, [read_run(arm.folder) for arm in result.arms])
        say(f"record: {result.file}, page: {page}")
        if not result.record["dialogues"]["benign"]:
            say('the data hold no dialogue marked "kind": "benign", so false alarms and over-refusal were not measured')


def _ending(settings: EvalSettings, arms: Sequence[Arm], result: DefenceResult) -> list[str]:
    """What came out other than hoped, and how to go on."""
    sentences = []
    last, run = result.arms[-1], arms[len(result.arms) - 1].run
    if last.exit_code not in (EXIT_DONE, EXIT_FAILURES):
        left = len(arms) - len(result.arms)
        waiting = f" {left} more arm{'s' if left > 1 else ''} did not begin." if left else ""
        sentences.append(f"stopped in {run}: {_reason(settings, result)}.{waiting} All that was bought is kept.")
        sentences.append(f"go on with the same command and --run {settings.run}{_more_money(last.summary['status'])}")
    for arm, finished in zip(arms, result.arms, strict=False):
        if finished.exit_code == EXIT_FAILURES:
            sentences.append(f"{arm.run}: {shortfall(finished.summary)}; the same command tries them again")
            sentences += [*missing_verdicts(finished.summary), *undecided(finished.summary)]
    if len(result.arms) == 1 and last.exit_code == EXIT_FAILURES:
        sentences.append("nothing can be measured against that, so no other arm began")
    return sentences


def _reason(settings: EvalSettings, result: DefenceResult) -> str:
    if result.stopped_by is not None:
        return str(result.stopped_by).rstrip(".")
    if result.exit_code == EXIT_INTERRUPTED:
        return "interrupted"
    return f"the ceiling of {words.dollars(settings.max_usd)} over all arms leaves no room for the rest"


def _more_money(status: str) -> str:
    return " and a higher --max-usd" if status == "budget_exhausted" else ""
