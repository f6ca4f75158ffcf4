"""A moderator: a model asked once before each target call, and what its failure means: the dialogue fails, goes on unguarded or is refused,
never silently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safemt_api.asking.material import digest_of
from safemt_api.asking.question import Asked, Question, ask_until_read, first_sample
from safemt_api.errors import ModeratorError
from safemt_api.markers import FIXED_REFUSAL
from safemt_api.messages import Asker, Dialogue, FailurePolicy, Guidance, Line
from safemt_api.routes import Resolve
from safemt_api.specs import Kind, Spec

LAYOUT_VERSION = "2"
"""Enters every digest; raise it when the conversation is shown to moderators differently."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a moderator's answer comes to; see the fields of ``Guidance`` by the same names."""

    flagged: bool | None
    intent: str = ""
    scenarios: tuple[str, ...] = ()
    policy: str | None = None
    refusal: str | None = None


class Moderator(Protocol):
    """Whoever looks at a dialogue before each target call."""

    @property
    def name(self) -> str:
        """What ``--moderator`` was given."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides what it says and what is made of it."""
        ...

    async def review(self, *, dialogue: Dialogue, history: tuple[Line, ...]) -> Guidance:
        """Look at all that was said so far, ending with the user's pending message, and decide what stands before the target.

        Raises:
            DialogueError: The moderator failed, and a failing moderator is to fail the dialogue.
            StopRunError: The run cannot go on.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelModerator:
    """A moderator that puts one question to a model.

    Args:
        name: See ``Moderator``.
        digest: See ``Moderator``.
        asker: The gateway.
        question: What its model is asked about a history.
        failure: What it means for the dialogue when there is no decision.
    """

    name: str
    digest: str
    asker: Asker
    question: Callable[[tuple[Line, ...]], Question[Decision]]
    failure: FailurePolicy = "fail"

    async def review(self, *, dialogue: Dialogue, history: tuple[Line, ...]) -> Guidance:
        """See ``Moderator.review``. The model is not told the dialogue's scenario or question: it must find out by itself."""
        asked = await ask_until_read(self.asker, self.question(history), first=first_sample(dialogue))
        decided = asked.result
        if decided is not None:
            return self._guidance(decided, asked, text=asked.last_text or "")
        if self.failure == "fail":
            raise ModeratorError(self.name, dialogue.id, asked.reason)
        refused = self.failure == "closed"
        consequence = "answered with the fixed refusal" if refused else "went on unguarded"
        text = f"The moderator failed ({asked.reason}); the dialogue {consequence}."
        return self._guidance(Decision(None, refusal=FIXED_REFUSAL if refused else None), asked, text=text, failure=asked.reason)

    def _guidance(self, decided: Decision, asked: Asked[Any], *, text: str, failure: str | None = None) -> Guidance:
        return Guidance(
            self.name,
            decided.flagged,
            intent=decided.intent,
            scenarios=decided.scenarios,
            policy=decided.policy,
            refusal=decided.refusal,
            text=text,
            latency_seconds=asked.latency_seconds,
            cost_usd=asked.cost_usd,
            reply_keys=asked.reply_keys,
            failure=failure,
        )


@dataclass(frozen=True, slots=True)
class Means:
    """What a moderator is made with: whom its calls go through, the way to its model, the folder of a policy library of one's own, and
    what its failure means."""

    asker: Asker
    resolve: Resolve
    policies: Path | None = None
    failure: FailurePolicy = "fail"

    def moderator(self, spec: Spec, digest: tuple[str, ...], question: Callable[[tuple[Line, ...]], Question[Decision]]) -> Moderator:
        """The moderator that asks the question; ``digest``: what decides its guidance beside its name."""
        whole = digest_of("moderator", LAYOUT_VERSION, spec.kind, spec.text, *digest, self.failure, FIXED_REFUSAL)
        return ModelModerator(spec.text, whole, self.asker, question, self.failure)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeratorKind(Kind):
    """A kind of moderator.

    Args:
        open: Makes the moderator of a spec; raises ``UsageError`` where its model cannot be one. ``None``: there is to be none.
        reads_policies: It hands over policies from the library.
        writes_guidance: It may put words before the target, and not only open or shut.
    """

    open: Callable[[Spec, Means], Moderator] | None
    reads_policies: bool = False
    writes_guidance: bool = False
