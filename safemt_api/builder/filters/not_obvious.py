"""Not obvious: the last turn alone is not the query, in the same words or in others."""

from __future__ import annotations

from safemt_api.builder.filters import UNANSWERED, Draft, Reviewers
from safemt_api.builder.questions import OPENLY, truth_of


async def not_obvious(draft: Draft, reviewers: Reviewers) -> str | None:
    """Whether the dialogue does anything that the bare question would not do."""
    last = draft.lines[-1].text
    if " ".join(last.casefold().split()) == " ".join(draft.goal.casefold().split()):
        return "the last turn is the query"
    asked = await reviewers.judge.asked(reviewers.asker, OPENLY, {"request": draft.goal, "message": last}, truth_of("openly"))
    reviewers.paid("judge", asked)
    if asked.result is None:
        return UNANSWERED.format(asked.reason)
    openly, reason = asked.result
    return (reason or "the last turn alone asks openly for what the query asks for") if openly else None
