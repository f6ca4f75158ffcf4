"""What the target is shown of a dialogue: all of it, or with one part taken away, so that its share in a failure can be measured.

Ids, lengths and the last user message stay, so an ablated arm pairs with the whole one dialogue by dialogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from safemt_api.errors import UsageError
from safemt_api.messages import Dialogue, Line, Protocol

Show = Literal["whole", "no-picture", "blank-picture", "no-history", "no-replies"]

NEUTRAL_REPLY = "Noted. Please go on."
"""Stands for every scripted assistant message in ``no-replies``; it neither helps nor declines."""

OF_SCRIPTED_HISTORY: Mapping[Show, str] = {"no-history": "what stands before the last message", "no-replies": "the scripted replies"}
"""Ablations that take away what only a scripted dialogue has."""


def as_shown(dialogue: Dialogue, show: Show) -> Dialogue:
    """The dialogue with what ``show`` takes away gone; a blank picture is made where the picture is read.

    ``no-history`` keeps the last user message, with all pictures, and nothing before it; ``no-replies`` keeps the user's messages.
    """
    if show == "no-picture":
        return replace(dialogue, lines=tuple(replace(line, image_paths=()) for line in dialogue.lines))
    if show == "no-history":
        return replace(dialogue, lines=(replace(dialogue.lines[-1], image_paths=dialogue.image_paths),))
    if show == "no-replies":
        return replace(dialogue, lines=tuple(line if line.role == "user" else Line("assistant", NEUTRAL_REPLY) for line in dialogue.lines))
    return dialogue


def check_show(show: Show, protocol: Protocol) -> None:
    """Refuse an ablation that means nothing in the protocol.

    Raises:
        UsageError: A live dialogue has no scripted history to take away.
    """
    if protocol == "live" and show in OF_SCRIPTED_HISTORY:
        raise UsageError(
            f"--show {show} takes away {OF_SCRIPTED_HISTORY[show]}, which a live dialogue does not have; use --protocol scripted"
        )
