"""``defend``: one model without a moderator and with each of several, harmful and benign dialogues both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from safemt_api.errors import UsageError
from safemt_api.moderators.opening import read_moderator
from safemt_api.runs.effects import idle_moderation, refuse_idle
from safemt_api.runs.names import slug
from safemt_api.runs.settings import settings_from
from safemt_api.specs import NONE, Spec
from safemt_api.studies.arms import MODERATION, Arm, Given, Study, made_study

SAME_ADDRESS = "-"
"""Stands for "the provider's own address" in a list of addresses."""


def defend(
    moderators: Sequence[str], shared: Given, *, base_urls: Sequence[str] = (), name: str | None = None, max_usd: float | None = None
) -> Study:
    """The study of what moderators do to a model's safety, and of what they cost its harmless dialogues.

    Args:
        moderators: What each ``--moderator`` was given; the arm without one stands beside them as their reference.
        shared: The options of all arms, the target among them.
        base_urls: Of the moderators' servers: none, one for all, or one for each in order (``-``: the provider's own address).
        name: The study's.
        max_usd: Its ceiling.

    Raises:
        UsageError: No moderator, one twice or ``none``; addresses that do not fit; or an option of ``shared`` that no moderator heeds.
    """
    if not moderators:
        raise UsageError("say what to measure with --moderator; it may be given several times, and the undefended arm runs by itself")
    given = [spec for spec in map(read_moderator, moderators) if spec is not None]
    if len(given) < len(moderators):
        raise UsageError("--moderator none is the undefended arm, which runs by itself; name a moderator")
    twice = next((spec for place, spec in enumerate(given) if spec in given[:place]), None)
    if twice is not None:
        raise UsageError(f"--moderator {twice} was given twice")
    if "moderator" in shared:
        raise UsageError("moderator is what the arms of a defence differ in; leave it out of the shared options")
    if len(base_urls) > 1 and len(base_urls) != len(given):
        raise UsageError(
            f"--moderator-base-url was given {len(base_urls)} times for {len(given)} moderators; give it once for all, "
            f"or once for each in their order ({SAME_ADDRESS} for the provider's own address)"
        )
    urls = base_urls if len(base_urls) > 1 else (list(base_urls) or [SAME_ADDRESS]) * len(given)
    refuse_idle(settings_from(shared), idle_moderation(given))
    about = {key: value for key, value in shared.items() if key in MODERATION}
    rest = {key: value for key, value in shared.items() if key not in MODERATION}
    slugs = [slug(str(spec)) for spec in given]
    names = [one + (f"-{place}" if slugs.count(one) > 1 else "") for place, one in enumerate(slugs, start=1)]
    guarded = (Arm(arm, MappingProxyType(_moderation(spec, url, about)), NONE) for arm, spec, url in zip(names, given, urls, strict=True))
    arms = (Arm(NONE, MappingProxyType({"moderator": NONE})), *guarded)
    return made_study("defend", arms, {**rest, "kinds": "both"}, name=name, max_usd=max_usd)


def _moderation(spec: Spec, url: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an arm: a moderator that heeds an option gets it, so that none is refused as idle in another's arm."""
    idle = {one.name for one in idle_moderation((spec,))}
    own = {} if url == SAME_ADDRESS else {"moderator_base_url": url}
    return {"moderator": str(spec), **own, **{key: value for key, value in about.items() if key not in idle}}
