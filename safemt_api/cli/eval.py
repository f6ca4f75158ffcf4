"""``safemt-api eval`` and ``resume``: say what will happen, ask if it is dear, run, show."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from safemt_api.cli import options
from safemt_api.cli.on_use import imported_on_use
from safemt_api.runs.settings import EvalSettings, settings_from

with imported_on_use():
    from safemt_api import errors, evaluation, words
    from safemt_api.cli import progress, report, terminal
    from safemt_api.judges import base as judging
    from safemt_api.runs import estimate, overview
    from safemt_api.runs import folder as run_folder

if TYPE_CHECKING:
    from safemt_api.cli.progress import Watched
    from safemt_api.runs.estimate import Estimate
    from safemt_api.runs.plan import Plan
    from safemt_api.runs.play import RunResult
    from safemt_api.runs.summary import Summary

MAX_REASONS_SHOWN = 5
EXIT_DECLINED = 2


@options.takes_settings("eval")
def evaluate(given: options.Given, *, dry_run: options.DryRun = False, as_json: options.AsJson = False, yes: options.Yes = False) -> None:
    """Evaluate a model: play the dialogues, judge the replies, print and write the scores.

    Without any option the demonstration set runs against the built-in simulator: no key, no network, no bill.
    """
    running = partial(_evaluate, settings_from(given), dry_run=dry_run, as_json=as_json, yes=yes)
    raise typer.Exit(terminal.run_loop(running))


@options.takes_settings("resume")
def resume(
    given: options.Given,
    run: options.RunName,
    *,
    results: options.Results = options.RESULTS,
    as_json: options.AsJson = False,
    yes: options.Yes = False,
) -> None:
    """Let a run go on where it stopped; replies that are in the store are not bought again.

    The settings are those of the run; pace and money may be given anew.
    """
    settings = replace(run_folder.settings_of(run, results), **given)
    raise typer.Exit(terminal.run_loop(partial(_evaluate, settings, dry_run=False, as_json=as_json, yes=yes)))


async def _evaluate(settings: EvalSettings, *, dry_run: bool, as_json: bool, yes: bool) -> int:
    async with evaluation.open_plan(settings, dry_run=dry_run) as plan:
        terminal.say(*plan.remarks)
        if dry_run:
            found = await estimate.estimate(plan)
            terminal.put_json(found.record()) if as_json else show_estimate(found)
            return 0
        result = await played(plan, yes=yes)
    if result is None:
        return EXIT_DECLINED
    if result.standing is not None and not result.standing.all_over:
        if as_json:
            terminal.put_json(result.summary.json_value())
        terminal.say(*ending(plan, result), shard_sentence(plan, result))
        return result.exit_code
    if as_json or result.summary.played:
        report.show_run(result.folder, as_json=as_json, summary=result.summary)
    terminal.say(*ending(plan, result))
    return result.exit_code


async def played(plan: Plan, *, yes: bool) -> RunResult | None:
    """Play a plan with its progress shown; ``None`` where it is dear and the user does not want it."""
    if terminal.should_ask(yes=yes, max_usd=plan.settings.max_usd):
        found = await estimate.estimate(plan)
        if found.expected_usd > terminal.ASK_ABOVE_USD and not terminal.agrees(f"{cost_sentence(found)} Start?"):
            terminal.say("not started")
            return None
    terminal.say(opening(plan))
    return await evaluation.played(plan, watch=watcher(), signals=terminal.ENDING_SIGNALS)


def shard_sentence(plan: Plan, result: RunResult) -> str:
    """How far the shard is, and the whole run."""
    counts, standing = result.summary.dialogues, result.standing
    over = "" if standing is None else f"; {standing.over} of {standing.parts} shards are over"
    spent = words.dollars(result.summary.cost_usd.total)
    elsewhere = "" if str(plan.settings.results) == "results" else f" --results {shlex.quote(str(plan.settings.results))}"
    return (
        f"shard {plan.shard} of {plan.run}: {result.summary.played:,} of {counts.planned:,} dialogues, {spent}{over}. "
        f"`safemt-api report {shlex.quote(plan.run)}{elsewhere}` shows what there is of the whole run."
    )


def watcher() -> Callable[[Watched], Coroutine[Any, Any, None]]:
    """The progress display that suits standard error."""
    console = terminal.error_console()
    return partial(progress.watch_live, console=console) if console.is_terminal else progress.watch_lines


def opening(plan: Plan) -> str:
    """What is about to be played."""
    target = plan.target.route
    verb = "going on with" if plan.resumed else "run"
    guarded = f", moderator {plan.moderator}" if plan.moderator else ""
    part = "" if plan.shard is None else f"shard {plan.shard}, "
    what = f"{part}{len(plan.entries):,} dialogues of lengths {words.listed(plan.dataset.lengths)} from {plan.dataset.name}"
    return f"{verb} {plan.run}: {target.profile}:{target.model}, {plan.settings.protocol}, {what}, judge {plan.bench.name}{guarded}"


def show_estimate(found: Estimate) -> None:
    """Calls, tokens and dollars by model, expected and at most."""
    columns = ("who", "model", "calls", "in store", "input tokens", "output tokens", "expected", "at most")
    rows = [
        (
            share.purpose,
            words.printable(share.model),
            *map(words.count, (share.calls, share.paid_calls, share.input_tokens, share.output_tokens)),
            *map(words.dollars, (share.expected_usd, share.most_usd)),
        )
        for share in found.shares
    ]
    title = words.printable(f"{found.run}: {found.dialogues:,} dialogues, nothing sent")
    terminal.show(terminal.table(title, columns, rows, left=2), "")
    cheaper = found.expected_usd < 0.995 * found.list_usd
    listed = f" ({words.dollars(found.list_usd)} at list price, in the usual tier and with nothing in a cache)" if cheaper else ""
    terminal.show(f"Expected cost {words.dollars(found.expected_usd)}{listed}, at most {words.dollars(found.most_usd)} without retries.")
    if found.unpriced:
        terminal.show(words.printable(f"No price is known for {', '.join(found.unpriced)}: not in these sums."))
    terminal.show("What is in the store is not bought again, and not in these figures; --max-usd holds a ceiling whatever happens.")


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
    # Where there is no reply to judge it is said already: the dialogue failed.
    said = (judging.NO_REPLY, judging.NOT_SENT)
    shown = [(why, count) for why, count in summary.verdicts.missing_reasons.items() if why not in said][:MAX_REASONS_SHOWN]
    return [f"no verdict: {count:,} repl{'ies' if count > 1 else 'y'}: {why}" for why, count in shown]


def undecided(summary: Summary) -> list[str]:
    """How often the moderator came to no decision, and why, the commonest reason first."""
    reasons = {} if summary.moderation is None else summary.moderation.failure_reasons
    shown = list(reasons.items())[:MAX_REASONS_SHOWN]
    return [f"no decision of the moderator: {count:,} time{'s' if count > 1 else ''}: {why}" for why, count in shown]


def _stopping(plan: Plan, result: RunResult) -> list[str]:
    summary, settings = result.summary, plan.settings
    if result.exit_code == errors.EXIT_DONE:
        return []
    elsewhere = "" if str(settings.results) == "results" else f" --results {shlex.quote(str(settings.results))}"
    folder = plan.run if plan.shard is None else f"{plan.run}/{plan.shard.folder_name}"
    resuming = f"go on with: safemt-api resume {shlex.quote(folder)}{elsewhere}"
    if settings.ray is not None:
        resuming = "the same command goes on"
    if result.exit_code == errors.EXIT_FAILURES:
        over = f"more than --max-failures {settings.max_failures:g} allows" if settings.max_failures < 1 else "so nothing was measured"
        return [f"{shortfall(summary)}, {over}; {resuming}"]
    left = summary.dialogues.planned - summary.played
    reasons = {
        errors.EXIT_INTERRUPTED: "interrupted; everything so far is kept.",
        errors.EXIT_BUDGET: f"the ceiling of {words.dollars(settings.max_usd)} leaves no room for the {left:,} dialogues that are left "
        f"({words.dollars(summary.cost_usd.total)} spent); raise --max-usd.",
    }
    reason = f"{result.stopped_by}." if result.stopped_by else reasons.get(result.exit_code, "ended early.")
    out = overview.in_batches(overview.batches_of(plan.folder, run_folder.read_manifest(plan.folder) or {}))
    if out is not None:
        reason += f" {out[0].upper()}{out[1:]} go on without us; the same command collects them."
    return [f"stopped: {reason}", resuming + (" --max-usd X" if result.exit_code == errors.EXIT_BUDGET else "")]


def shortfall(summary: Summary) -> str:
    """How many dialogues cannot count, in words."""
    counts = summary.dialogues
    silent = summary.verdicts.dialogues_without - counts.failed
    parts = [f"{counts.failed:,} failed", *([f"{silent:,} have no verdict"] if silent else [])]
    unguarded = 0 if summary.moderation is None else summary.moderation.dialogues_without
    parts += [f"{unguarded:,} went without their moderator"] if unguarded else []
    return f"of {counts.planned:,} dialogues {' and '.join(parts)}"
