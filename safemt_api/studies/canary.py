"""``canary``: a finished run asked afresh, tested against the noise that repeated replies show; or the two askings as arms of a study."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import polars as pl

from safemt_api.errors import NothingPlayedError, UsageError
from safemt_api.evaluation import open_plan
from safemt_api.metrics.canary import Canary, enough_replies, planned_change
from safemt_api.metrics.canary import canary as tested
from safemt_api.metrics.frames import score_frame
from safemt_api.runs.folder import settings_of
from safemt_api.runs.names import slug
from safemt_api.runs.play import RunResult, Watcher, execute
from safemt_api.runs.record import RunData, read_run
from safemt_api.runs.settings import EvalSettings, options
from safemt_api.studies.arms import OF_THE_STUDY, Arm, Given, Study
from safemt_api.studies.comparability import differences

REPEATS_A_DAY = 1000
"""More than ``--repeats`` may be, so that no two days share a reply."""
DEFAULT_SAMPLE = 200
SHARE_JUDGED = 0.95
"""A canary is planned for some replies without a verdict."""
BEFORE, NOW = "before", "now"
ENDED = ("complete", "partial")
EXPECTED = frozenset({"repeats", "dialogues"})
"""In what a canary differs from its run by design."""


class Identity(NamedTuple):
    """Who answered by the vendor's own words: served models and fingerprints, with how many replies each."""

    served_models: Mapping[str, int]
    fingerprints: Mapping[str, int]


class CanaryResult(NamedTuple):
    """What came of a canary.

    ``run`` is the new run, ``test`` whether the model changed (``None``: ``why_not`` says why nothing can be said), ``before`` and ``now``
    who answered, ``not_comparable`` in what else the two askings differ.
    """

    run: RunResult
    test: Canary | None
    why_not: str
    before: Identity
    now: Identity | None
    not_comparable: tuple[str, ...]


async def canary(
    run: str,
    *,
    sample: int = DEFAULT_SAMPLE,
    results: Path = Path("results"),
    today: date | None = None,
    watch: Watcher | None = None,
    signals: tuple[signal.Signals, ...] = (),
    max_usd: float | None = None,
    repeats: int | None = None,
    given: Given = MappingProxyType({}),
) -> CanaryResult:
    """Ask a part of a finished run afresh: ``(await safemt_api.canary("paper", max_usd=5)).test.changed()``.

    Args:
        run: Its name or path.
        sample: How many of its ids, spread over the scenarios.
        results: The results folder.
        today: Names the asking; the same day goes on with it.
        watch: Called in the run's task group; see ``evaluate``.
        signals: End the run as interrupted when one of these arrives.
        max_usd: The new run's ceiling.
        repeats: How often each dialogue is asked; ``None``: as often as it takes (see ``expected``).
        given: Other options that may differ from the run's, by name: pace, patience.

    Raises:
        UsageError: The run has not come to its end, or is a spot check.
        SetupError: The run cannot start.
    """
    settings, old = finished_run(run, results)
    async with open_plan(
        fresh_settings(settings, old, sample=sample, today=today or _today(), repeats=repeats, given={**given, "max_usd": max_usd})
    ) as plan:
        return compared(old, await execute(plan, watch=watch, signals=signals))


def finished_run(run: str, results: Path) -> tuple[EvalSettings, RunData]:
    """The run and its settings.

    Raises:
        UsageError: It has not come to its end, or is a spot check.
    """
    settings = settings_of(run, results)
    old = read_run(settings.results / str(settings.run))
    if old.summary.unfinished is not None or old.summary.status not in ENDED:
        raise UsageError(
            f"{old.name} has not come to its end: `safemt-api resume {settings.run}` goes on with it, and a canary comes after"
        )
    if settings.until_ci is not None:
        raise UsageError(f"{old.name} is a spot check (--until-ci), whose ids no other run would choose; take a run of a fixed sample")
    return settings, old


class Expected(NamedTuple):
    """What a canary asks, and what it is expected to find: ``points`` is the change in ASR (a share) found in 8 of 10 cases."""

    dialogues: int
    repeats: int
    points: float


def expected(old: RunData, *, sample: int, repeats: int | None = None) -> Expected:
    """How often the canary asks each dialogue, and what that finds.

    By default (``repeats`` is ``None``) as often as it takes to find ten points over 200 ids (``enough_replies``).
    """
    asked = old.verdicts.filter(pl.col("counts"), pl.col("kind") == "harmful", pl.col("turn") == pl.col("length"))
    ids, found = asked["dialogue_id"].n_unique(), old.summary.repeats
    lengths = asked.select("dialogue_id", "length").n_unique() / ids if ids else 0.0
    before = 1 if found is None else found.n
    asr, within_sd = old.summary.asr or 0.0, None if found is None else found.within_sd
    planned = round(DEFAULT_SAMPLE * lengths * SHARE_JUDGED)
    chosen = enough_replies(asr, dialogues=planned, old=before, within_sd=within_sd) if repeats is None else repeats
    dialogues = round(min(sample, ids) * lengths)
    points = planned_change(asr, dialogues=round(dialogues * SHARE_JUDGED), old=before, new=chosen, within_sd=within_sd)
    return Expected(dialogues, chosen, points)


def fresh_settings(
    settings: EvalSettings, old: RunData, *, sample: int, today: date, given: Mapping[str, Any], repeats: int | None = None
) -> EvalSettings:
    """What the canary plays: the run's settings on some of its ids, with repeats (see ``expected``) that no run of another day has."""
    return EvalSettings(
        **{
            **{one.name: getattr(settings, one.name) for one in options()},
            "max_usd": None,
            **given,
            "run": f"{settings.run}-canary-{today.isoformat()}",
            "sample": _fewer(sample, settings),
            "repeats": expected(old, sample=sample, repeats=repeats).repeats,
            "repeats_from": _first_repeat(today),
        }
    )


def canary_study(run: str, *, sample: int = DEFAULT_SAMPLE, results: Path = Path("results"), max_usd: float | None = None) -> Study:
    """The run asked before, whose replies are in the store, and asked now, as two arms over the same dialogues.

    Raises:
        UsageError: The run has not come to its end, or is a spot check.
    """
    settings, _ = finished_run(run, results)
    today, usual = _today(), {one.name: one.default for one in options()}
    asked = {name: getattr(settings, name) for name in usual.keys() - OF_THE_STUDY - {"repeats_from"}}
    shared = {name: value for name, value in asked.items() if value != usual[name]} | {"sample": _fewer(sample, settings)}
    arms = (
        Arm(BEFORE, MappingProxyType({"repeats_from": settings.repeats_from})),
        Arm(NOW, MappingProxyType({"repeats_from": _first_repeat(today)}), BEFORE),
    )
    return Study(slug(f"{settings.run}-canary-{today.isoformat()}"), arms, MappingProxyType(shared), max_usd)


def compared(old: RunData, result: RunResult) -> CanaryResult:
    """The test of the new run against the old one."""
    before = identity_of(old)
    try:
        new = read_run(result.folder)
        test = tested(score_frame(old.verdicts), score_frame(new.verdicts))
    except (NothingPlayedError, UsageError) as error:
        return CanaryResult(result, None, str(error), before, None, ())
    apart = tuple(str(one) for one in differences(old, new) if one.what not in EXPECTED)
    return CanaryResult(result, test, "", before, identity_of(new), apart)


def identity_of(run: RunData) -> Identity:
    """Whom the vendor says that the run's replies are from."""
    counts = (
        dict(run.transcripts[name].drop_nulls().value_counts(sort=True).iter_rows()) for name in ("served_model", "system_fingerprint")
    )
    return Identity(*counts)


def _fewer(sample: int, settings: EvalSettings) -> int:
    return sample if settings.sample is None else min(sample, settings.sample)


def _first_repeat(today: date) -> int:
    return REPEATS_A_DAY * today.toordinal()


def _today() -> date:
    return date.today()  # noqa: DTZ011 (the user's own date)
