"""The simulated author, who plays generator, blind reader and judge of ``data build``, with defects that are known beforehand.

All that it writes are placeholders: a goal goes by a tag made of its words, by which the reader finds it again. Where there is a picture,
the words only point at it, and the tag is found by a reader who sees it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Literal, get_args

Defect = Literal["wrong-roles", "leaked-step", "lost-intent", "refusal", "obvious", "told-in-words", "near-copy"]
DEFECTS: tuple[Defect, ...] = get_args(Defect)[:-1]
"""Of the author; ``told-in-words`` is none where there is no picture, or where that may not be needed. The copying author has ``near-copy``
alone: it says the same in each of them, but for the goal's tag."""

SHARE, COPIED_SHARE = 0.08, 0.3
"""Of each defect, and of near-copies."""

LEAK, OPENLY, TWIN, GOAL, SHOWN = "[LEAKED STEP]", "[ASKED OPENLY]", "[HARMLESS TWIN]", "goal-", "shown-"
REFUSAL = "I won't write that dialogue."


def tag_of(goal: str) -> str:
    """What a goal goes by."""
    return GOAL + sha256(goal.encode()).hexdigest()[:12]


def defect_of(seed: int, system: str, wanted: Mapping[str, Any], *, copying: bool = False) -> Defect | None:
    """The defect of a draft: a pure function of the seed and all that is asked for."""
    digest = sha256(f"{seed}\0{system}\0{json.dumps(wanted, sort_keys=True)}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if copying:
        return "near-copy" if place < COPIED_SHARE else None
    return DEFECTS[int(place / SHARE)] if place < SHARE * len(DEFECTS) else None


def play_author(system: str, text: str, seed: int, *, seen: bool, copying: bool) -> dict[str, Any] | str:
    """The answer to what is asked: the fields of a JSON object, or a refusal in words.

    Args:
        system: The instructions.
        text: The question, which holds a JSON object.
        seed: Of the simulator.
        seen: Whether a picture came with it.
        copying: Whether the copying author is asked.
    """
    fields = json.JSONDecoder().raw_decode(text, text.find("{"))[0]
    if "turns" in fields:
        return _written(system, fields, defect_of(seed, system, fields, copying=copying), seen=seen)
    if "texts" in fields:
        return {"harmless": not any(LEAK in one for one in fields["texts"]), "reason": "Read from the mark of a leak."}
    if "first" in fields:
        return {"same": tag_of(fields["first"]) in fields["second"], "reason": "Read from the goal's tag."}
    if "message" in fields:
        return {"openly": OPENLY in fields["message"], "reason": "Read from the mark."}
    if "dialogue" in fields:
        words = " ".join(line["content"] for line in fields["dialogue"]).split()
        found = (word.replace(SHOWN, GOAL) for word in words if word.startswith((GOAL, SHOWN) if seen else GOAL))
        return {"goal": next((f"The user is after {word}." for word in found), "Nothing that could be told.")}
    return {"goal": f"{TWIN} {tag_of(fields['goal'])}"}


def _written(system: str, wanted: Mapping[str, Any], defect: Defect | None, *, seen: bool) -> dict[str, Any] | str:
    if defect == "refusal":
        return REFUSAL
    about = f"{wanted['kind']}\0{wanted['turns']}" if defect == "near-copy" else f"{system}\0{json.dumps(wanted, sort_keys=True)}"
    lines: list[dict[str, str]] = []
    for turn in range(1, wanted["turns"] + 1):
        marks = sha256(f"{about}\0{turn}".encode()).hexdigest() + sha256(f"{about}\0{turn}\0more".encode()).hexdigest()
        lines.append({"role": "user", "content": " ".join(["[PLACEHOLDER]", *(marks[at : at + 8] for at in range(0, len(marks), 8))])})
        lines.append({"role": "assistant", "content": "[PLACEHOLDER] That is a wide subject."})
    lines.pop()
    tag = tag_of("another goal" if defect == "lost-intent" else wanted["goal"])
    told = tag.replace(GOAL, SHOWN) if seen and defect != "told-in-words" else tag
    lines[-1]["content"] += f" {told}{f' {OPENLY}' if defect == 'obvious' else ''}"
    if defect == "leaked-step":
        lines[1]["content"] += f" {LEAK}"
    if defect == "wrong-roles":
        lines[1]["role"] = "user"
    return {"dialogue": lines}
