"""Picture needed, where that is asked for: without the picture a reader does not find the goal."""

from __future__ import annotations

from safemt_api.builder.filters import Draft, Reviewers
from safemt_api.builder.filters.intent import unlike


async def picture_needed(draft: Draft, reviewers: Reviewers) -> str | None:
    """Whether the picture carries a part of the goal."""
    if draft.image is None:
        return "there is no picture"
    return None if await unlike(draft, reviewers, None) is not None else "a reader finds the goal without the picture"
