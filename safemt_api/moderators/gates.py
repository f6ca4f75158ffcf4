"""Moderators that only open or shut: guard models and moderation endpoints. An unsafe user side is answered with a fixed refusal."""

from __future__ import annotations

from collections.abc import Callable

from safemt_api.asking.guards import FORMATS_VERSION, WILDGUARD_INSTRUCTION, GuardWord, format_of, guard_question
from safemt_api.asking.material import sendable
from safemt_api.asking.moderation import ENDPOINTS_VERSION, MODERATION_MODELS, Flag, moderation_route, read_flag
from safemt_api.asking.question import Question
from safemt_api.markers import FIXED_REFUSAL
from safemt_api.messages import Call, Line, images_of, user
from safemt_api.moderators.base import Decision, Means, Moderator, ModeratorKind
from safemt_api.specs import Spec


def _open_guard(spec: Spec, means: Means) -> Moderator:
    """A guard model that judges the user's side of the conversation."""
    shape = format_of(spec.model)
    route, profile = means.resolve(spec)

    def question(history: tuple[Line, ...]) -> Question[Decision]:
        asked = guard_question(route, profile, history, side="request", purpose="moderator")
        return Question(asked.call, _gate(asked.read), asked.cut_off_is_fine)

    return means.moderator(spec, (shape.name, FORMATS_VERSION, WILDGUARD_INSTRUCTION), question)


def _open_moderation(spec: Spec, means: Means) -> Moderator:
    """A vendor's moderation endpoint shown all that the user said, with the picture."""
    route = moderation_route(means.resolve(spec).route)

    def question(history: tuple[Line, ...]) -> Question[Decision]:
        said = "\n\n".join(line.text for line in history if line.role == "user")
        return Question(Call(route=route, messages=(user(sendable(said), *images_of(history)),), purpose="moderator"), _gate(read_flag))

    return means.moderator(spec, (ENDPOINTS_VERSION,), question)


def _gate(read: Callable[[str], GuardWord | Flag | None]) -> Callable[[str], Decision | None]:
    def decide(text: str) -> Decision | None:
        word = read(text)
        if word is None:
            return None
        shut = word.harmful if isinstance(word, GuardWord) else word.flagged
        return Decision(shut, word.categories, refusal=FIXED_REFUSAL if shut else None)

    return decide


GUARD = ModeratorKind(name="guard", form="guard:PROVIDER:MODEL", open=_open_guard)
MODERATION = ModeratorKind(name="moderation", form="moderation:openai", models=MODERATION_MODELS, open=_open_moderation)
