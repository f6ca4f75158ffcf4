"""Options that would have no effect beside the others: whoever gave one believes that it has, so it is an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from safemt_api.errors import UsageError
from safemt_api.judges.rules import RULES_NAME
from safemt_api.moderators.opening import NO_MODERATOR
from safemt_api.runs.options import Group
from safemt_api.runs.settings import EvalSettings, options

WITHOUT_RUBRIC = frozenset({RULES_NAME, "guard", "moderation"})
"""Kinds of judge that bring their own criteria."""

WITHOUT_MODEL = frozenset({RULES_NAME, "moderation"})
"""Kinds of judge that look at the reply's words alone and take no parameters."""

WITHOUT_POLICIES = frozenset({"raw", "guard", "moderation"})
"""Kinds of moderator that read no policy."""


class Idle(NamedTuple):
    """An option and why it would do nothing."""

    name: str
    why: str


def refuse_idle(settings: EvalSettings, idle: Iterable[Idle]) -> None:
    """Refuse the options that are given and could not change anything.

    Raises:
        UsageError: One is given; the sentence says why it has no effect.
    """
    by_name = {one.name: one for one in options()}
    for name, why in idle:
        if getattr(settings, name) != by_name[name].default:
            raise UsageError(f"{by_name[name].flags[0]} has no effect here: {why}; leave it out")


def idle_options(settings: EvalSettings, *, judges: Sequence[str], built_in_simulator: bool) -> Iterator[Idle]:
    """The options that do nothing beside these settings.

    Args:
        settings: What was given.
        judges: Who judges, the vendor's default included; none: the rules.
        built_in_simulator: The run starts the built-in simulator.
    """
    if not built_in_simulator:
        for one in options():
            if one.option.group is Group.SIMULATOR:
                yield Idle(one.name, "the built-in simulator is not started for this run (a server at --base-url plays by itself)")
    if "harmful" not in settings.kinds:
        yield Idle("until_ci", "it watches the ASR of harmful dialogues, and --kinds leaves them out")
    yield from _idle_judging(settings, judges)
    yield from idle_moderation(() if settings.moderator in (None, NO_MODERATOR) else (str(settings.moderator),))


def idle_moderation(moderators: Sequence[str]) -> Iterator[Idle]:
    """The options of moderation that do nothing for these moderators."""
    if not moderators:
        for name in ("moderator_base_url", "moderator_failure", "policies"):
            yield Idle(name, "there is no --moderator")
    elif {kind_of(spec) for spec in moderators} <= WITHOUT_POLICIES:
        yield Idle("policies", f"{', '.join(moderators)} uses no policy library")


def kind_of(spec: str) -> str:
    """The first word of a judge's or moderator's spec."""
    return spec.strip().partition(":")[0]


def _idle_judging(settings: EvalSettings, judges: Sequence[str]) -> Iterator[Idle]:
    kinds = {kind_of(spec) for spec in judges}
    if kinds <= WITHOUT_MODEL:
        for name in ("judge_temperature", "judge_sees"):
            yield Idle(name, f"{', '.join(sorted(kinds)) or RULES_NAME} is no model that is shown a conversation")
    if kinds <= {RULES_NAME}:
        yield Idle("judge_base_url", "the judge 'rules' asks nobody")
        yield Idle("judge_fallback", "the judge 'rules' always gives a verdict")
    with_fallback = kinds | ({kind_of(settings.judge_fallback)} if settings.judge_fallback else set())
    if with_fallback <= WITHOUT_RUBRIC:
        yield Idle("rubric", f"{', '.join(sorted(with_fallback))} judges by criteria of its own")
