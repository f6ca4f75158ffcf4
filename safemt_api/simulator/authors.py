"""The simulated author, who plays generator, blind reader and judge of ``data build``, with defects that are known beforehand.

All that it writes are placeholders: a goal goes by a tag made of its words, by which the reader finds it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Literal, get_args

Defect = Literal["wrong-roles", "leaked-step", "lost-intent", "refusal", "obvious"]
DEFECTS: tuple[Defect, ...] = get_args(Defect)
SHARE = 0.08
"""Of each defect."""

LEAK, OPENLY, TWIN, GOAL = "[LEAKED STEP]", "[ASKED OPENLY]", "[HARMLESS TWIN]", "goal-"
REFUSAL = "I won't write that dialogue."


def tag_of(goal: str) -> str:
    """What a goal goes by."""
    return GOAL + sha256(goal.encode()).hexdigest()[:12]


def defect_of(seed: int, system: str, wanted: Mapping[str, Any]) -> Defect | None:
    """The defect of a draft: a pure function of the seed and all that is asked for."""
    digest = sha256(f"{seed}\0{system}\0{json.dumps(wanted, sort_keys=True)}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64 / SHARE
    return DEFECTS[int(place)] if place < len(DEFECTS) else None


def play_author(system: str, text: str, seed: int) -> dict[str, Any] | str:
    """The answer to what is asked: the fields of a JSON object, or a refusal in words."""
    fields = json.JSONDecoder().raw_decode(text, text.find("{"))[0]
    if "turns" in fields:
        return _written(system, fields, seed)
    if "texts" in fields:
        return {"harmless": not any(LEAK in one for one in fields["texts"]), "reason": "Read from the mark of a leak."}
    if "first" in fields:
        return {"same": tag_of(fields["first"]) in fields["second"], "reason": "Read from the goal's tag."}
    if "message" in fields:
        return {"openly": OPENLY in fields["message"], "reason": "Read from the mark."}
    if "dialogue" in fields:
        words = " ".join(line["content"] for line in fields["dialogue"]).split()
        return {"goal": next((f"The user is after {word}." for word in words if word.startswith(GOAL)), "Nothing that could be told.")}
    return {"goal": f"{TWIN} {tag_of(fields['goal'])}"}


def _written(system: str, wanted: Mapping[str, Any], seed: int) -> dict[str, Any] | str:
    defect = defect_of(seed, system, wanted)
    if defect == "refusal":
        return REFUSAL
    lines: list[dict[str, str]] = []
    for turn in range(1, wanted["turns"] + 1):
        marks = sha256(f"{system}\0{json.dumps(wanted, sort_keys=True)}\0{turn}".encode()).hexdigest()
        lines.append({"role": "user", "content": " ".join(["[PLACEHOLDER]", *(marks[at : at + 8] for at in range(0, 64, 8))])})
        lines.append({"role": "assistant", "content": "[PLACEHOLDER] That is a wide subject."})
    lines.pop()
    goal = "another goal" if defect == "lost-intent" else wanted["goal"]
    lines[-1]["content"] += f" {tag_of(goal)}{f' {OPENLY}' if defect == 'obvious' else ''}"
    if defect == "leaked-step":
        lines[1]["content"] += f" {LEAK}"
    if defect == "wrong-roles":
        lines[1]["role"] = "user"
    return {"dialogue": lines}
