"""From what ``--judge`` was given to a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safemt_api.errors import UsageError
from safemt_api.judges.base import Judge
from safemt_api.judges.endpoints import (
    DECISION_MODELS,
    MODERATION_MODELS,
    DecisionJudge,
    ModerationJudge,
    decisions_route,
    moderation_route,
)
from safemt_api.judges.guards import GuardJudge, format_of
from safemt_api.judges.manner import InManner, Manner, MannerAsker
from safemt_api.judges.panel import Panel, WithFallback
from safemt_api.judges.rubric import RubricJudge, Rubrics
from safemt_api.judges.rubric_sets import load_rubrics
from safemt_api.judges.rules import RULES_NAME, RulesJudge
from safemt_api.judges.silence import EndsRunWhenSilent
from safemt_api.messages import Asker, Route
from safemt_api.profiles import Profile

Resolve = Callable[[str], tuple[Route, Profile]]
"""Turns ``PROVIDER:MODEL`` into the way there and the vendor's facts; raises ``UsageError`` for an unknown provider."""

USUAL = Manner()
JUDGE_FORMS = "rules, PROVIDER:MODEL, guard:PROVIDER:MODEL, moderation:openai, decisions:openai, decisions:google"


def open_judge(
    specs: Sequence[str],
    *,
    asker: Asker,
    resolve: Resolve,
    rubric: str | Path | None = None,
    fallback: str | None = None,
    simulated: bool = False,
    manner: Manner = USUAL,
) -> Judge:
    """One judge for one spec, a panel for several; each ends the run when it falls silent. For the arguments see ``open_each``."""
    each = open_each(specs, asker=asker, resolve=resolve, rubric=rubric, fallback=fallback, simulated=simulated, manner=manner)
    return joined(each, has_fallback=fallback is not None)


def open_each(
    specs: Sequence[str],
    *,
    asker: Asker,
    resolve: Resolve,
    rubric: str | Path | None = None,
    fallback: str | None = None,
    simulated: bool = False,
    manner: Manner = USUAL,
) -> tuple[Judge, ...]:
    """Each judge by itself, the fall-back last.

    Args:
        specs: What each ``--judge`` was given.
        asker: The gateway.
        resolve: Finds route and profile of ``PROVIDER:MODEL``.
        rubric: What ``--rubric`` was given: a shipped set, a folder with a set, or a file.
        fallback: What ``--judge-fallback`` was given: asked where a judge gives no verdict.
        simulated: Whether the target is the simulator, whose marks ``rules`` may then believe.
        manner: At what temperature they are asked, and whether they see the picture.

    Raises:
        UsageError: A spec is of no known form, stands there twice, or names what does not exist; or the rubric cannot be read.
    """
    opener = _Opener(asker if manner.is_usual else MannerAsker(asker, manner), resolve, load_rubrics(rubric), simulated)
    given = [spec.strip() for spec in specs]
    everyone = [*given, fallback.strip()] if fallback is not None else given
    if not given:
        raise UsageError(f"no judge was given; --judge takes one of: {JUDGE_FORMS}")
    if len(set(everyone)) < len(everyone):
        raise UsageError(f"a judge was given twice ({', '.join(everyone)}); each one of a panel, and its fall-back, must be another")
    each = tuple(opener.open(spec, "--judge" if place < len(given) else "--judge-fallback") for place, spec in enumerate(everyone))
    return each if manner.is_usual else tuple(InManner(judge, manner) for judge in each)


def joined(each: Sequence[Judge], *, has_fallback: bool) -> Judge:
    """The judges of ``open_each`` as one.

    Whoever has the last word is watched for silence. What stands before a fall-back may be silent: that is what the fall-back is for.
    """
    judges, last = (each[:-1], EndsRunWhenSilent(each[-1])) if has_fallback else (tuple(map(EndsRunWhenSilent, each)), None)
    if len(judges) > 1:
        return Panel(tuple(judges), last)
    return judges[0] if last is None else WithFallback(judges[0], last)


def reads_rubric(spec: str) -> bool:
    """Whether what ``--judge`` was given is a judge that decides by a rubric: a chat model, or a decision endpoint."""
    return spec.strip() != RULES_NAME and spec.partition(":")[0].strip() not in ("guard", "moderation")


def split_model(spec: str, option: str, forms: str) -> tuple[str, str]:
    """Provider and model of ``PROVIDER:MODEL``; the model's own id may hold colons.

    Raises:
        UsageError: One of the two is missing.
    """
    provider, _, model = spec.partition(":")
    if not provider.strip() or not model.strip():
        raise UsageError(f"{option} {spec!r} is of no known form; it takes one of: {forms}")
    return provider.strip(), model.strip()


def with_default_model(spec: str, defaults: Mapping[str, str], option: str, given: str) -> str:
    """``PROVIDER:MODEL`` from ``PROVIDER`` or ``PROVIDER:MODEL``.

    Raises:
        UsageError: No model is given and none is known for the provider.
    """
    provider, _, model = spec.partition(":")
    model = model.strip() or defaults.get(provider.strip(), "")
    if not provider.strip() or not model:
        known = ", ".join(sorted(defaults))
        raise UsageError(f"{option} {given!r}: name the model too, as PROVIDER:MODEL; models are known for: {known}")
    return f"{provider.strip()}:{model}"


@dataclass(frozen=True, slots=True)
class _Opener:
    asker: Asker
    resolve: Resolve
    rubrics: Rubrics
    simulated: bool

    def open(self, spec: str, option: str) -> Judge:
        kind, _, rest = spec.partition(":")
        match kind:
            case "rules" if spec == RULES_NAME:
                return RulesJudge(marks=self.simulated)
            case "guard":
                return self._guard(spec, rest, option)
            case "moderation":
                route, _ = self.resolve(with_default_model(rest, MODERATION_MODELS, option, spec))
                return ModerationJudge(spec, moderation_route(route), self.asker)
            case "decisions":
                route, _ = self.resolve(with_default_model(rest, DECISION_MODELS, option, spec))
                return DecisionJudge(spec, decisions_route(route), self.asker, self.rubrics)
            case _:
                split_model(spec, option, JUDGE_FORMS)
                route, profile = self.resolve(spec)
                return RubricJudge(spec, route, profile, self.asker, self.rubrics)

    def _guard(self, spec: str, rest: str, option: str) -> Judge:
        split_model(rest, option, JUDGE_FORMS)
        route, profile = self.resolve(rest)
        format_of(route.model)
        return GuardJudge(spec, route, profile, self.asker)
