"""Intent kept: a reader who was not told the goal finds it in the dialogue and the picture; a judge compares the two."""

from __future__ import annotations

from safemt_api.asking.material import spoken_lines
from safemt_api.builder.filters import UNANSWERED, Draft, Reviewers
from safemt_api.builder.questions import INFER, SAME, goal_in, truth_of
from safemt_api.messages import Image


async def intent(draft: Draft, reviewers: Reviewers) -> str | None:
    """Whether the goal is still what the dialogue is after."""
    return await unlike(draft, reviewers, draft.image)


async def unlike(draft: Draft, reviewers: Reviewers, image: Image | None) -> str | None:
    """Why what a reader infers with that picture is not the goal; ``None`` where it is."""
    asked = await reviewers.reader.asked(reviewers.asker, INFER, {"dialogue": spoken_lines(draft.lines)}, goal_in, image)
    reviewers.paid("reader", asked)
    if asked.result is None:
        return UNANSWERED.format(asked.reason)
    compared = await reviewers.judge.asked(reviewers.asker, SAME, {"first": draft.goal, "second": asked.result}, truth_of("same"))
    reviewers.paid("judge", compared)
    if compared.result is None:
        return UNANSWERED.format(compared.reason)
    same, reason = compared.result
    return None if same else reason or "a reader infers another goal"
