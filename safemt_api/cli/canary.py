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
from safemt_api.runs.options import Group
from safemt_api.runs.settings import MOST

with imported_on_use():
    from safemt_api import evaluation, words
    from safemt_api.cli import eval as playing
    from safemt_api.cli import study, terminal
    from safemt_api.studies import canary as canaries

if TYPE_CHECKING:
    from safemt_api.metrics.canary import Canary
    from safemt_api.runs.record import RunData
    from safemt_api.runs.settings import EvalSettings
    from safemt_api.studies.canary import CanaryResult, Identity


@options.takes_settings("resume")
def canary(
    given: options.Given,
    run: options.RunName,
    *,
    sample: Annotated[
        int,
        typer.Option("--sample", min=1, max=MOST, metavar="N", help="Ask N ids, spread over the scenarios.", rich_help_panel=Group.DATA),
    ] = 200,
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
    fresh = canaries.fresh_settings(settings, old, sample=sample, today=date.today(), given=given)  # noqa: DTZ011 (the user's own date)
    raise typer.Exit(terminal.run_loop(partial(_canary, fresh, old, as_json=as_json, yes=yes)))


async def _canary(settings: EvalSettings, old: RunData, *, as_json: bool, yes: bool) -> int:
    async with evaluation.open_plan(settings) as plan:
        terminal.say(*plan.remarks)
        result = await playing.played(plan, yes=yes)
    if result is None:
        return playing.EXIT_DECLINED
    terminal.say(*playing.ending(plan, result))
    _show(old.name, canaries.compared(old, result), as_json=as_json)
    return result.exit_code


def _show(run: str, found: CanaryResult, *, as_json: bool) -> None:
    if found.test is None or found.now is None:
        terminal.say(f"nothing can be said of a change: {found.why_not}")
    elif as_json:
        verdict = {"changed": found.test.changed(), "verdict": verdict_sentence(found.test), "not_comparable": found.not_comparable}
        sides = {"before": found.before, "now": found.now}
        terminal.put_json({"run": run, "canary": found.run.folder.name, **verdict, "test": found.test, **sides})
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
    return [
        f"{words.count(found.dialogues)} dialogues of {words.count(found.ids)} ids; {replies}, by the exact permutation test within "
        "dialogues (Mantel and Haenszel).",
        f"An old and a new verdict on one dialogue differ in {between} of pairs, two of the same time in {within}.",
    ]


def identity_lines(before: Identity, now: Identity) -> list[str]:
    """Served models and fingerprints before and now; what a vendor does not tell is said to be untold."""
    return [
        f"{what}: {_counted(was)} before, {_counted(is_now)} now."
        for what, was, is_now in zip(("Served model", "System fingerprint"), before, now, strict=True)
    ]


def _counted(found: Mapping[str, int]) -> str:
    return ", ".join(f"{words.printable(name)} ({words.count(count)} replies)" for name, count in found.items()) or "not told"
