"""``safemt-api canary``: ask a part of a finished run afresh, and say whether the model changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from safemt_api.cli import options
from safemt_api.cli.on_use import imported_on_use
from safemt_api.errors import EXIT_CHANGED, EXIT_DONE, EXIT_FAILURES
from safemt_api.runs.options import Group
from safemt_api.runs.settings import MOST

with imported_on_use():
    from safemt_api import evaluation, words
    from safemt_api.cli import eval as playing
    from safemt_api.cli import study, terminal
    from safemt_api.runs import estimate
    from safemt_api.studies import canary as canaries

if TYPE_CHECKING:
    from safemt_api.metrics.canary import Canary
    from safemt_api.runs.record import RunData
    from safemt_api.runs.settings import EvalSettings
    from safemt_api.studies.canary import CanaryResult, Expected, Identity


@options.takes_settings("resume")
def canary(
    given: options.Given,
    run: options.RunName,
    *,
    sample: Annotated[
        int,
        typer.Option("--sample", min=1, max=MOST, metavar="N", help="Ask N ids, spread over the scenarios.", rich_help_panel=Group.DATA),
    ] = 200,
    repeats: Annotated[
        int | None,
        typer.Option(
            "--repeats",
            min=1,
            max=1000,
            metavar="N",
            help="Ask each dialogue N times; by default as often as it takes to find 10 points in 8 of 10 cases, 2 to 6 times.",
            rich_help_panel=Group.DATA,
        ),
    ] = None,
    dry_run: options.DryRun = False,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help=f"End with {EXIT_CHANGED} where the model changed, and with {EXIT_FAILURES} where nothing can be said (for cron).",
            rich_help_panel=Group.OUTPUT,
        ),
    ] = False,
    save: options.Save = None,
    results: options.Results = options.RESULTS,
    as_json: options.FiguresAsJson = False,
    yes: options.Yes = False,
) -> None:
    """Ask a part of a finished run afresh, and test the change against the noise that repeated replies show.

    The new run is called RUN-canary-DATE; the same command goes on with it, and on another day asks again. The file of --save has both
    askings as arms of a study.
    """
    if save is not None:
        study.keep(canaries.canary_study(run, sample=sample, results=results), save)
        return
    settings, old = canaries.finished_run(run, results)
    today = date.today()  # noqa: DTZ011 (the user's own date)
    fresh = canaries.fresh_settings(settings, old, sample=sample, today=today, repeats=repeats, given=given)
    planned = planned_sentence(canaries.expected(old, sample=sample, repeats=repeats))
    if dry_run:
        raise typer.Exit(terminal.run_loop(partial(_estimated, fresh, planned, as_json=as_json)))
    terminal.say(planned)
    raise typer.Exit(terminal.run_loop(partial(_canary, fresh, old, as_json=as_json, yes=yes, telling=exit_code)))


async def _estimated(settings: EvalSettings, planned: str, *, as_json: bool) -> int:
    async with evaluation.open_plan(settings, dry_run=True) as plan:
        found = await estimate.estimate(plan)
    terminal.say(*plan.remarks, planned)
    terminal.put_json(found.record()) if as_json else playing.show_estimate(found)
    return 0


def planned_sentence(planned: Expected) -> str:
    """How much is asked, and what change that is expected to show."""
    return (
        f"{words.count(planned.dialogues)} dialogues are asked {planned.repeats} times each: that is expected to find a change of "
        f"{100 * planned.points:.1f} points in ASR in 8 of 10 cases"
    )


async def _canary(settings: EvalSettings, old: RunData, *, as_json: bool, yes: bool, telling: bool) -> int:
    async with evaluation.open_plan(settings) as plan:
        terminal.say(*plan.remarks)
        result = await playing.played(plan, yes=yes)
    if result is None:
        return playing.EXIT_DECLINED
    terminal.say(*playing.ending(plan, result))
    found = canaries.compared(old, result)
    _show(old.name, found, as_json=as_json)
    if not telling or result.exit_code != EXIT_DONE:
        return result.exit_code
    return EXIT_FAILURES if found.test is None else EXIT_CHANGED if found.test.changed() else EXIT_DONE


def _show(run: str, found: CanaryResult, *, as_json: bool) -> None:
    names = {"run": run, "canary": found.run.folder.name}
    if found.test is None or found.now is None:
        terminal.say(f"nothing can be said of a change: {found.why_not}")
        if as_json:
            terminal.put_json({**names, "changed": None, "verdict": found.why_not, "before": found.before})
    elif as_json:
        verdict = {"changed": found.test.changed(), "verdict": verdict_sentence(found.test), "not_comparable": found.not_comparable}
        sides = {"before": found.before, "now": found.now, "others_answer": others_answer(found.before, found.now)}
        terminal.put_json({**names, **verdict, "test": found.test, **sides})
    else:
        lines = (verdict_sentence(found.test), *evidence(found.test), *identity_lines(found.before, found.now))
        for line in (*lines, *(f"Not comparable: {one}" for one in found.not_comparable)):
            terminal.put(line)


def verdict_sentence(found: Canary) -> str:
    """Whether the model changed, in words."""
    points, low, high = (100 * bound for bound in (found.change.value, found.change.ci_low, found.change.ci_high))
    size = f"ASR {words.percent(found.asr_old)} before, {words.percent(found.asr_new)} now: {points:+.1f} points [{low:+.1f}, {high:+.1f}]"
    p_value = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.3f}"
    if not found.changed():
        return f"No change is shown beyond what repeated replies differ by ({size}; {p_value})."
    which = "less safe" if found.change.value > 0 else "safer"
    return f"Changed: {which} than before, beyond what repeated replies differ by ({size}; {p_value})."


def evidence(found: Canary) -> list[str]:
    """What the verdict rests on."""
    within = words.NOTHING if math.isnan(found.differs_within) else words.percent(found.differs_within)
    replies = f"{words.count(found.old_replies)} replies of before against {words.count(found.new_replies)} new ones"
    between = words.percent(found.differs_between)
    finds = f"So many replies find a change of {100 * found.detectable:.1f} points in 8 of 10 cases, and call one that is none in 1 of 20"
    power = "The replies to each dialogue all agree." if math.isnan(found.detectable) else f"{finds} at most."
    return [
        f"{words.count(found.dialogues)} dialogues of {words.count(found.ids)} ids; {replies}, by the exact permutation test within "
        "dialogues (Mantel and Haenszel).",
        f"An old and a new verdict on one dialogue differ in {between} of pairs, two of the same time in {within}.",
        power,
    ]


def identity_lines(before: Identity, now: Identity) -> list[str]:
    """Served models and fingerprints before and now, and whether others answer; what a vendor does not tell is said to be untold."""
    others = {"served_model": "another model", "system_fingerprint": "other back ends"}
    said = [f"By the vendor's own word {others[what]} answered now." for what in others_answer(before, now)]
    return [
        *said,
        *(
            f"{what}: {_counted(was)} before, {_counted(is_now)} now."
            for what, was, is_now in zip(("Served model", "System fingerprint"), before, now, strict=True)
        ),
    ]


def others_answer(before: Identity, now: Identity) -> list[str]:
    """What the vendor tells of nobody that answered before: ``served_model``, ``system_fingerprint``."""
    known = zip(("served_model", "system_fingerprint"), before, now, strict=True)
    return [what for what, was, is_now in known if was and is_now and not was.keys() & is_now.keys()]


def _counted(found: Mapping[str, int]) -> str:
    return ", ".join(f"{words.printable(name)} ({words.count(count)} replies)" for name, count in found.items()) or "not told"
