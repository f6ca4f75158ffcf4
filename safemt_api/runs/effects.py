"""Options that would have no effect beside the others: whoever gave one believes that it has, so it is an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from safemt_api.errors import UsageError
from safemt_api.judges.bench import JUDGES, Bench
from safemt_api.moderators.opening import MODERATORS
from safemt_api.runs.options import Group
from safemt_api.runs.settings import EvalSettings, options
from safemt_api.specs import Spec


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


def idle_options(settings: EvalSettings, *, bench: Bench, moderator: Spec | None, built_in_simulator: bool) -> Iterator[Idle]:
    """The options that do nothing beside these settings.

    Args:
        settings: What was given.
        bench: Who judges, the vendor's default included.
        moderator: Who moderates.
        built_in_simulator: The run starts the built-in simulator.
    """
    if not built_in_simulator:
        for one in options():
            if one.option.group is Group.SIMULATOR:
                yield Idle(one.name, "the built-in simulator is not started for this run (a server at --base-url plays by itself)")
    if settings.ray is None:
        yield Idle("workers", "there is no --ray")
    if settings.protocol != "live":
        yield Idle("judge_turns", "a scripted dialogue has one reply")
    if "harmful" not in settings.kinds:
        yield Idle("until_ci", "it watches the ASR of harmful dialogues, and --kinds leaves them out")
    yield from _idle_judging(bench)
    yield from idle_moderation(() if moderator is None else (moderator,))


def idle_moderation(moderators: Sequence[Spec]) -> Iterator[Idle]:
    """The options of moderation that do nothing for these moderators."""
    if not moderators:
        for name in ("moderator_base_url", "moderator_failure", "policies"):
            yield Idle(name, "there is no --moderator")
    elif not any(MODERATORS.kind(spec).reads_policies for spec in moderators):
        yield Idle("policies", f"{', '.join(map(str, moderators))} uses no policy library")


def _idle_judging(bench: Bench) -> Iterator[Idle]:
    if not any(JUDGES.kind(spec).shown_dialogue for spec in bench.everyone):
        for name in ("judge_temperature", "judge_sees"):
            yield Idle(name, f"{_kinds(bench.everyone)} is no model that is shown a conversation")
    if bench.second is None:
        yield Idle("escalate_when", "there is no --escalate")
    if not any(spec.provider for spec in bench.judges):
        yield Idle("judge_base_url", "the judge 'rules' asks nobody")
        yield Idle("judge_fallback", "the judge 'rules' always gives a verdict")
    if not bench.reads_rubric:
        yield Idle("rubric", f"{_kinds(bench.everyone)} judges by criteria of its own")


def _kinds(judges: Sequence[Spec]) -> str:
    return ", ".join(sorted({spec.kind for spec in judges}))
