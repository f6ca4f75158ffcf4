"""Form: so many turns as asked, roles that take turns, words in every message, and the last one the user's."""

from __future__ import annotations

from safemt_api.builder.filters import Draft, Reviewers
from safemt_api.dataset.elements import parse_dialogue

MAX_CHARACTERS = 20_000


async def form(draft: Draft, _reviewers: Reviewers) -> str | None:
    """The same check that data go through when they are loaded."""
    element = {"id": "draft", "scenario": "draft", "image_path": None, "dialogue": draft.written}
    dialogue, problems = parse_dialogue(element, length=draft.length)
    if dialogue is None:
        return "; ".join(problems)
    if dialogue.user_only:
        return "the assistant says nothing"
    if any(not line.text.strip() for line in dialogue.lines):
        return "a message has no words"
    return "a message is longer than a message is" if any(len(line.text) > MAX_CHARACTERS for line in dialogue.lines) else None
