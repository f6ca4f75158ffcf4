"""What every moderator offers, and what happens when one fails: the dialogue fails, goes on unguarded or is refused, never silently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from safemt_api.errors import ModeratorError
from safemt_api.judges.base import Asked, digest_of, first_sample, material, spoken_lines
from safemt_api.markers import FIXED_REFUSAL
from safemt_api.messages import Asker, Dialogue, FailurePolicy, Guidance, Line
from safemt_api.routes import Resolve
from safemt_api.specs import Kind, Spec

LAYOUT_VERSION = "2"
"""Enters every digest; raise it when the conversation is shown to moderators differently."""


class Moderator(Protocol):
    """Whoever looks at a dialogue before each target call."""

    @property
    def name(self) -> str:
        """What ``--moderator`` was given."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides what the moderator says and what is made of it."""
        ...

    async def review(self, *, dialogue: Dialogue, history: tuple[Line, ...]) -> Guidance:
        """Look at all that was said so far, ending with the user's pending message, and decide what stands before the target.

        Raises:
            DialogueError: The moderator failed, and a failing moderator is to fail the dialogue.
            StopRunError: The run cannot go on.
        """
        ...


class ModeratorFailedError(Exception):
    """A moderator came to no decision; never leaves ``moderators``. What it cost and took is kept."""

    def __init__(self, reason: str, asked: Asked) -> None:
        self.reason, self.asked = reason, asked
        super().__init__(reason)


class Reviewer(Protocol):
    """A moderator that does not decide what its own failure means."""

    @property
    def name(self) -> str:
        """What ``--moderator`` was given."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides its guidance."""
        ...

    async def guide(self, history: tuple[Line, ...], sample_index: int = 0) -> Guidance:
        """Decide; each repeat of a dialogue is asked about from a ``sample_index`` of its own.

        Raises:
            ModeratorFailedError: There is no decision.
            StopRunError: The run cannot go on.
        """
        ...


@dataclass(frozen=True, slots=True)
class Means:
    """What a moderator is made with: whom its calls go through, the way to its model, and the folder of a policy library of one's own."""

    asker: Asker
    resolve: Resolve
    policies: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeratorKind(Kind):
    """A kind of moderator.

    Args:
        open: Makes the reviewer of a spec; raises ``UsageError`` where its model cannot be one. ``None``: there is no moderator.
        reads_policies: It hands over policies from the library.
        writes_guidance: It may put words before the target, and not only open or shut.
    """

    open: Callable[[Spec, Means], Reviewer] | None
    reads_policies: bool = False
    writes_guidance: bool = False


@dataclass(frozen=True, slots=True)
class WithFailurePolicy:
    """A reviewer together with what its failure means (``--moderator-failure``)."""

    reviewer: Reviewer
    failure: FailurePolicy = "fail"

    @property
    def name(self) -> str:
        """The reviewer's."""
        return self.reviewer.name

    @property
    def digest(self) -> str:
        """Over the reviewer's and the policy."""
        return digest_of("moderator", LAYOUT_VERSION, self.reviewer.digest, self.failure, FIXED_REFUSAL)

    async def review(self, *, dialogue: Dialogue, history: tuple[Line, ...]) -> Guidance:
        """Ask the reviewer; see ``Moderator.review``. It is not told the dialogue's scenario or question: it must find out by itself."""
        try:
            return await self.reviewer.guide(history, first_sample(dialogue))
        except ModeratorFailedError as failed:
            if self.failure == "fail":
                raise ModeratorError(self.name, dialogue.id, failed.reason) from failed
            return self._without_decision(failed)

    def _without_decision(self, failed: ModeratorFailedError) -> Guidance:
        refused = self.failure == "closed"
        consequence = "answered with the fixed refusal" if refused else "went on unguarded"
        return Guidance(
            self.name,
            None,
            refusal=FIXED_REFUSAL if refused else None,
            text=f"The moderator failed ({failed.reason}); the dialogue {consequence}.",
            latency_seconds=failed.asked.latency_seconds,
            cost_usd=failed.asked.cost_usd,
            failure=failed.reason,
            reply_keys=failed.asked.reply_keys,
        )


def dialogue_material(history: tuple[Line, ...]) -> str:
    """The conversation as one JSON object that nothing in it can break out of."""
    return material({"dialogue": spoken_lines(history)})
