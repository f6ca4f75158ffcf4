"""What ``eval`` and ``resume`` do: say what will happen, ask if it is dear, run, show."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
from rich.console import Console

from safemt_api.cli.estimates import estimate_table
from safemt_api.cli.loop import BACKEND_OPTIONS, ENDING_SIGNALS
from safemt_api.cli.printing import agrees, error_console, output_console, say
from safemt_api.cli.progress import Watched, watch_lines, watch_live
from safemt_api.cli.reporting import show_run
from safemt_api.errors import BudgetExhaustedError
from safemt_api.evaluation import open_plan
from safemt_api.judges.base import NO_REPLY, NOT_SENT
from safemt_api.report import words
from safemt_api.runs.estimating import Estimate, estimate
from safemt_api.runs.execution import EXIT_BUDGET, EXIT_DONE, EXIT_FAILURES, EXIT_INTERRUPTED, RunResult, execute
from safemt_api.runs.planning import Plan
from safemt_api.runs.settings import EvalSettings
from safemt_api.runs.summary import Summary

ASK_ABOVE_USD = 5.0
MAX_REASONS_SHOWN = 5
UNSAID_REASONS = frozenset({NO_REPLY, NOT_SENT})
"""Said already: the dialogue failed."""
EXIT_DECLINED = 2


def run_evaluation(settings: EvalSettings, *, dry_run: bool, as_json: bool, yes: bool) -> int:
    """Run it and return the exit code."""
    running = partial(_evaluate, settings, dry_run=dry_run, as_json=as_json, yes=yes)
    return anyio.run(running, backend_options=BACKEND_OPTIONS)


async def _evaluate(settings: EvalSettings, *, dry_run: bool, as_json: bool, yes: bool) -> int:
    async with open_plan(settings, dry_run=dry_run) as plan:
        for remark in plan.remarks:
            say(remark)
        if dry_run:
            await _show_estimate(plan, as_json=as_json)
            return 0
        if not yes and not await agreed(plan):
            say("not started")
            return EXIT_DECLINED
        say(opening(plan))
        result = await execute(plan, watch=watcher(), signals=ENDING_SIGNALS)
    if as_json or result.summary.played:
        show_run(result.folder, as_json=as_json, summary=result.summary)
    for sentence in ending(plan, result):
        say(sentence)
    return result.exit_code


def watcher() -> Callable[[Watched], Coroutine[Any, Any, None]]:
    """The progress display that suits standard error."""
    console: Console = error_console()
    return partial(watch_live, console=console) if console.is_terminal else watch_lines


def opening(plan: Plan) -> str:
    """What is about to be played."""
    target = plan.target.route
    verb = "going on with" if plan.resumed else "run"
    guarded = f", moderator {plan.moderator}" if plan.moderator else ""
    what = f"{len(plan.entries):,} dialogues of lengths {', '.join(map(str, plan.dataset.lengths))} from {plan.dataset.name}"
    return f"{verb} {plan.run}: {target.profile}:{target.model}, {plan.settings.protocol}, {what}, judge {plan.bench.name}{guarded}"


async def _show_estimate(plan: Plan, *, as_json: bool) -> None:
    found = await estimate(plan)
    if as_json:
        output_console().out(json.dumps(found.record(), indent=2), highlight=False)
    else:
        output_console().print(estimate_table(found))


async def agreed(plan: Plan) -> bool:
    """Whether the run may start: a dear one on a terminal asks first, unless it has a ceiling."""
    if plan.settings.max_usd is not None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    found = await estimate(plan)
    return found.expected_usd <= ASK_ABOVE_USD or agrees(f"{cost_sentence(found)} Start?")


def cost_sentence(found: Estimate) -> str:
    """What is to be expected, said before it is spent."""
    unknown = " (and calls whose price is not known)" if found.unpriced else ""
    amounts = f"{words.dollars(found.expected_usd)}{unknown}, at most {words.dollars(found.most_usd)}"
    return f"This is expected to cost {amounts}; --max-usd sets a ceiling."


def ending(plan: Plan, result: RunResult) -> list[str]:
    """Which dialogues failed, why the run ended early, and the exact command to go on; nothing after a good end."""
    return [*failures(result.summary), *missing_verdicts(result.summary), *undecided(result.summary), *_stopping(plan, result)]


def failures(summary: Summary) -> list[str]:
    """The dialogues that failed, grouped by their reason, the commonest first."""
    reasons = Counter(failure.why for failure in summary.failures)
    first = {why: next(one for one in summary.failures if one.why == why) for why in reasons}
    return [
        f"failed: {count:,} dialogue{'s' if count > 1 else ''} (such as {first[why].dialogue_id}, length {first[why].length}): {why}"
        for why, count in reasons.most_common(MAX_REASONS_SHOWN)
    ]


def missing_verdicts(summary: Summary) -> list[str]:
    """How many replies have no verdict though there was something to judge, and why, the commonest reason first."""
    reasons = summary.verdicts.missing_reasons
    shown = [(why, count) for why, count in reasons.items() if why not in UNSAID_REASONS][:MAX_REASONS_SHOWN]
    return [f"no verdict: {count:,} repl{'ies' if count > 1 else 'y'}: {why}" for why, count in shown]


def undecided(summary: Summary) -> list[str]:
    """How often the moderator came to no decision, and why, the commonest reason first."""
    reasons = {} if summary.moderation is None else summary.moderation.failure_reasons
    shown = list(reasons.items())[:MAX_REASONS_SHOWN]
    return [f"no decision of the moderator: {count:,} time{'s' if count > 1 else ''}: {why}" for why, count in shown]


def _stopping(plan: Plan, result: RunResult) -> list[str]:
    summary, settings = result.summary, plan.settings
    if result.exit_code == EXIT_DONE:
        return []
    if result.exit_code == EXIT_FAILURES:
        over = f"more than --max-failures {settings.max_failures:g} allows" if settings.max_failures < 1 else "so nothing was measured"
        return [f"{shortfall(summary)}, {over}; go on with: {resume_command(plan)}"]
    reasons = {EXIT_INTERRUPTED: "interrupted; everything so far is kept.", EXIT_BUDGET: _budget_sentence(plan, result)}
    reason = f"{result.stopped_by}." if result.stopped_by else reasons.get(result.exit_code, "ended early.")
    extra = " --max-usd X" if result.exit_code == EXIT_BUDGET else ""
    return [f"stopped: {reason}", f"go on with: {resume_command(plan)}{extra}"]


def shortfall(summary: Summary) -> str:
    """How many dialogues cannot count, in words."""
    counts = summary.dialogues
    silent = summary.verdicts.dialogues_without - counts.failed
    parts = [f"{counts.failed:,} failed", *([f"{silent:,} have no verdict"] if silent else [])]
    unguarded = 0 if summary.moderation is None else summary.moderation.dialogues_without
    parts += [f"{unguarded:,} went without their moderator"] if unguarded else []
    return f"of {counts.planned:,} dialogues {' and '.join(parts)}"


def _budget_sentence(plan: Plan, result: RunResult) -> str:
    if isinstance(result.stopped_by, BudgetExhaustedError):
        return f"{result.stopped_by}."
    left, spent = result.summary.dialogues.planned - result.summary.played, result.summary.cost_usd.total
    ceiling = words.dollars(plan.settings.max_usd)
    return (
        f"the ceiling of {ceiling} leaves no room for the {left:,} dialogues that are left ({words.dollars(spent)} spent); raise --max-usd."
    )


def resume_command(plan: Plan) -> str:
    """What to type to go on."""
    elsewhere = "" if str(plan.settings.results) == "results" else f" --results {shlex.quote(str(plan.settings.results))}"
    return f"safemt-api resume {shlex.quote(plan.run)}{elsewhere}"
