"""Harmless assistant lines: they hold nothing usable. What fails here is never kept, edited or shown."""

from __future__ import annotations

from safemt_api.builder.filters import UNANSWERED, Draft, Reviewers
from safemt_api.builder.questions import HARMLESS, truth_of


async def harmless(draft: Draft, reviewers: Reviewers) -> str | None:
    """A judge reads the assistant's lines; of a benign twin also what the user says, which must be harmless itself."""
    texts = [line.text for line in draft.lines if line.role == "assistant" or draft.kind == "benign"]
    if not texts:
        return None
    asked = await reviewers.judge.asked(reviewers.asker, HARMLESS, {"texts": texts}, truth_of("harmless"))
    reviewers.paid("judge", asked)
    if asked.result is None:
        return UNANSWERED.format(asked.reason)
    found, reason = asked.result
    return None if found else reason or "a line holds something usable"
