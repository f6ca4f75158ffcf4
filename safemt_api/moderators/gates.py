"""Moderators that only open or shut: guard models and moderation endpoints. An unsafe user side is answered with a fixed refusal."""

from __future__ import annotations

from dataclasses import dataclass

from safemt_api.judges.base import Asked, ask_until_read, digest_of, sendable
from safemt_api.judges.endpoints import ENDPOINTS_VERSION, MODERATION_MODELS, Flag, moderation_route, read_flag
from safemt_api.judges.guards import FORMATS_VERSION, WILDGUARD_INSTRUCTION, GuardWord, format_of, guard_call
from safemt_api.markers import FIXED_REFUSAL
from safemt_api.messages import Asker, Call, Guidance, Line, Route, images_of, user
from safemt_api.moderators.base import Means, ModeratorFailedError, ModeratorKind
from safemt_api.profiles import Profile
from safemt_api.specs import Spec


@dataclass(frozen=True, slots=True)
class GuardModerator:
    """A guard model that judges the user's side of the conversation."""

    name: str
    route: Route
    profile: Profile
    asker: Asker

    @property
    def digest(self) -> str:
        """Over the name, the format and the version of the formats."""
        return digest_of("guard", self.name, format_of(self.route.model).name, FORMATS_VERSION, WILDGUARD_INSTRUCTION)

    async def guide(self, history: tuple[Line, ...], sample_index: int = 0) -> Guidance:
        """See ``Reviewer.guide``."""
        shape = format_of(self.route.model)
        call = guard_call(self.route, self.profile, history, purpose="moderator", sample_index=sample_index)
        asked = await ask_until_read(self.asker, call, lambda text: shape.read(text, "request"), cut_off_is_fine=shape.first_word_decides)
        if not isinstance(asked.result, GuardWord):
            raise ModeratorFailedError(asked.reason, asked)
        return _gate(self.name, asked, shut=asked.result.harmful, why=asked.result.categories)


@dataclass(frozen=True, slots=True)
class ModerationModerator:
    """A vendor's moderation endpoint shown all that the user said, with the picture."""

    name: str
    route: Route
    asker: Asker

    @property
    def digest(self) -> str:
        """Over the name and the way its answer is read."""
        return digest_of("moderation", self.name, ENDPOINTS_VERSION)

    async def guide(self, history: tuple[Line, ...], sample_index: int = 0) -> Guidance:
        """See ``Reviewer.guide``."""
        said = "\n\n".join(line.text for line in history if line.role == "user")
        call = Call(route=self.route, messages=(user(sendable(said), *images_of(history)),), purpose="moderator", sample_index=sample_index)
        asked = await ask_until_read(self.asker, call, read_flag)
        if not isinstance(asked.result, Flag):
            raise ModeratorFailedError(asked.reason, asked)
        return _gate(self.name, asked, shut=asked.result.flagged, why=asked.result.categories)


def _gate(name: str, asked: Asked, *, shut: bool, why: str) -> Guidance:
    return Guidance(
        name,
        shut,
        intent=why,
        refusal=FIXED_REFUSAL if shut else None,
        text=asked.last_text or "",
        latency_seconds=asked.latency_seconds,
        cost_usd=asked.cost_usd,
        reply_keys=asked.reply_keys,
    )


def _open_guard(spec: Spec, means: Means) -> GuardModerator:
    format_of(spec.model)
    return GuardModerator(spec.text, *means.resolve(spec), means.asker)


def _open_moderation(spec: Spec, means: Means) -> ModerationModerator:
    return ModerationModerator(spec.text, moderation_route(means.resolve(spec).route), means.asker)


GUARD = ModeratorKind(name="guard", form="guard:PROVIDER:MODEL", open=_open_guard)
MODERATION = ModeratorKind(name="moderation", form="moderation:openai", models=MODERATION_MODELS, open=_open_moderation)
