"""``safemt-api canary``: ask a part of a finished run afresh, and say whether the model changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from safemt_api.cli import options
from safemt_api.cli.options import imported_on_use
from safemt_api.errors import NothingPlayedError, UsageError
from safemt_api.runs.options import Group
from safemt_api.runs.settings import MOST, EvalSettings

with imported_on_use():
    from safemt_api import evaluation, words
    from safemt_api.cli import eval as playing
    from safemt_api.cli import terminal
    from safemt_api.metrics import canary as metrics
    from safemt_api.metrics import frames
    from safemt_api.runs import folder as run_folder
    from safemt_api.runs import record
    from safemt_api.studies import comparability

if TYPE_CHECKING:
    from safemt_api.metrics.canary import Canary
    from safemt_api.runs.play import RunResult
    from safemt_api.runs.record import RunData

REPEATS_A_DAY = 1000
"""More than ``--repeats`` may be, so that no two days share a reply."""

ENDED = ("complete", "partial")
EXPECTED = frozenset({"repeats", "dialogues"})
"""In what a canary differs from its run by design."""


class Identity(NamedTuple):
    """Who answered by the vendor's own words: served models and fingerprints, with how many replies each."""

    served_models: Mapping[str, int]
    fingerprints: Mapping[str, int]


@options.takes_settings("resume")
def canary(
    given: options.Given,
    run: options.RunName,
    *,
    sample: Annotated[
        int,
        typer.Option("--sample", min=1, max=MOST, metavar="N", help="Ask N ids, spread over the scenarios.", rich_help_panel=Group.DATA),
    ] = 200,
    results: options.Results = options.RESULTS,
    as_json: options.FiguresAsJson = False,
    yes: options.Yes = False,
) -> None:
    """Ask a part of a finished run afresh, and test the change against the noise that repeated replies show.

    The new run is called RUN-canary-DATE; the same command goes on with it, and on another day asks again.
    """
    settings = run_folder.settings_of(run, results)
    old = _ended(settings)
    fresh = canary_settings(settings, old, sample=sample, today=date.today(), given=given)  # noqa: DTZ011 (the user's own date)
    raise typer.Exit(terminal.run_loop(partial(_canary, fresh, old, as_json=as_json, yes=yes)))


def _ended(settings: EvalSettings) -> RunData:
    folder = settings.results / str(settings.run)
    old = record.read_run(folder)
    if old.summary.unfinished is not None or old.summary.status not in ENDED:
        raise UsageError(
            f"{old.name} has not come to its end: `safemt-api resume {settings.run}` goes on with it, and a canary comes after"
        )
    if settings.until_ci is not None:
        raise UsageError(f"{old.name} is a spot check (--until-ci), whose ids no other run would choose; take a run of a fixed sample")
    return old


def canary_settings(settings: EvalSettings, old: RunData, *, sample: int, today: date, given: Mapping[str, Any]) -> EvalSettings:
    """What the canary plays: the run's settings on some of its ids, with repeats that no run of another day has.

    A run whose dialogues were asked once tells nothing of its noise, so that the new ones are asked twice.
    """
    return EvalSettings(
        **{
            **{name: getattr(settings, name) for name in EvalSettings.__dataclass_fields__},
            "max_usd": None,
            **given,
            "run": f"{settings.run}-canary-{today.isoformat()}",
            "sample": sample if settings.sample is None else min(sample, settings.sample),
            "repeats": 2 if old.summary.repeats is None else 1,
            "repeats_from": REPEATS_A_DAY * today.toordinal(),
        }
    )


async def _canary(settings: EvalSettings, old: RunData, *, as_json: bool, yes: bool) -> int:
    async with evaluation.open_plan(settings) as plan:
        terminal.say(*plan.remarks)
        result = await playing.played(plan, yes=yes)
    if result is None:
        return playing.EXIT_DECLINED
    terminal.say(*playing.ending(plan, result))
    _show(old, result, as_json=as_json)
    return result.exit_code


def _show(old: RunData, result: RunResult, *, as_json: bool) -> None:
    try:
        new = record.read_run(result.folder)
        found = metrics.canary(frames.score_frame(old.verdicts), frames.score_frame(new.verdicts))
    except (NothingPlayedError, UsageError) as error:
        terminal.say(f"nothing can be said of a change: {error}")
        return
    apart = [str(one) for one in comparability.differences(old, new) if one.what not in EXPECTED]
    before, now = identity_of(old), identity_of(new)
    if as_json:
        verdict = {"changed": found.changed(), "verdict": verdict_sentence(found), "not_comparable": apart}
        terminal.put_json({"run": old.name, "canary": new.name, **verdict, "test": found, "before": before, "now": now})
        return
    for line in (verdict_sentence(found), *evidence(found), *identity_lines(before, now), *(f"Not comparable: {one}" for one in apart)):
        terminal.put(line)


def identity_of(run: RunData) -> Identity:
    """Whom the vendor says that the run's replies are from."""
    counts = (
        dict(run.transcripts[name].drop_nulls().value_counts(sort=True).iter_rows()) for name in ("served_model", "system_fingerprint")
    )
    return Identity(*counts)


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
