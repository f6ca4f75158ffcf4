"""The arms of a measured defence: one evaluation without a moderator and with each, as runs over one store and one ceiling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safemt_api.errors import UsageError
from safemt_api.limits.budget import Ledger
from safemt_api.messages import Kind
from safemt_api.moderators.opening import NO_MODERATOR
from safemt_api.runs.claim import run_id_of
from safemt_api.runs.effects import idle_moderation
from safemt_api.runs.names import slug
from safemt_api.runs.settings import EvalSettings, options
from safemt_api.store.turns import STORE_FILE, open_store

DEFENCE_FILE = "defence.json"
DEFENCE_SCHEMA = 1
BOTH_KINDS: tuple[Kind, ...] = ("harmful", "benign")
SAME_ADDRESS = "-"
"""Stands for "the provider's own address" in a list of ``--moderator-base-url``."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One run of a defence; ``moderator`` is ``None`` in the undefended arm."""

    run: str
    moderator: str | None = None
    base_url: str | None = None

    @property
    def title(self) -> str:
        """The moderator as tables name it."""
        return self.moderator or NO_MODERATOR


def plan_arms(name: str, moderators: Sequence[str], base_urls: Sequence[str] = ()) -> tuple[Arm, ...]:
    """The undefended arm and one for each moderator, in order; their runs are called ``NAME-none`` and ``NAME-<moderator>``.

    Args:
        name: What ``--run`` was given.
        moderators: What each ``--moderator`` was given.
        base_urls: No address, one for all moderators, or one for each in order (``-``: the provider's own).

    Raises:
        UsageError: No moderator is given, one is given twice or is ``none``, or the addresses do not fit.
    """
    given = [spec.strip() for spec in moderators]
    if not given:
        raise UsageError("say what to measure with --moderator; it may be given several times, and the undefended arm runs by itself")
    if NO_MODERATOR in given or not all(given):
        raise UsageError("--moderator none is the undefended arm, which runs by itself; name a moderator")
    twice = next((spec for spec, count in Counter(given).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"--moderator {twice} was given twice")
    names = _run_names(name, given)
    arms = zip(names, given, _addresses(given, base_urls), strict=True)
    return (Arm(f"{name}-{NO_MODERATOR}"), *(Arm(run, spec, url) for run, spec, url in arms))


def _run_names(name: str, moderators: Sequence[str]) -> list[str]:
    slugs = [slug(spec) for spec in moderators]
    return [f"{name}-{one}" + (f"-{at + 1}" if slugs.count(one) > 1 else "") for at, one in enumerate(slugs)]


def _addresses(moderators: Sequence[str], base_urls: Sequence[str]) -> list[str | None]:
    if len(base_urls) > 1 and len(base_urls) != len(moderators):
        raise UsageError(
            f"--moderator-base-url was given {len(base_urls)} times for {len(moderators)} moderators; give it once for all, "
            f"or once for each in their order ({SAME_ADDRESS} for the provider's own address)"
        )
    urls = list(base_urls) * len(moderators) if len(base_urls) == 1 else list(base_urls) or [SAME_ADDRESS] * len(moderators)
    return [None if url == SAME_ADDRESS else url for url in urls]


def arm_settings(settings: EvalSettings, arm: Arm) -> EvalSettings:
    """What the arm runs: the same for all but the moderator and what is about it; harmful and benign dialogues both."""
    usual: dict[str, Any] = {one.name: one.default for one in options()}
    idle = {name: usual[name] for name, _ in idle_moderation((arm.moderator,) if arm.moderator else ())}
    return replace(settings, **{"moderator_base_url": arm.base_url, **idle}, run=arm.run, moderator=arm.moderator, kinds=BOTH_KINDS)


async def ceiling_of(arm: Arm, arms: Iterable[Arm], *, results: Path, max_usd: float) -> float:
    """The arm's own ceiling under one ceiling over all arms: what it has spent so far, and what no arm has spent yet.

    A ledger belongs to one run, so the ceiling is handed on from arm to arm; arms of one defence must not run at the same time.
    """
    async with open_store(results / STORE_FILE) as store:
        books = {one.run: run_id_of(results / one.run) or one.run for one in arms}
        committed = {run: Ledger(store, run=run_id, ceiling_usd=None).committed_usd() for run, run_id in books.items()}
    return ceiling_left(committed, run=arm.run, max_usd=max_usd)


def ceiling_left(committed_usd: Mapping[str, float], *, run: str, max_usd: float) -> float:
    """The ceiling of one run when all runs together may spend ``max_usd``, and each has spent so much."""
    return committed_usd[run] + max(max_usd - sum(committed_usd.values()), 0.0)
