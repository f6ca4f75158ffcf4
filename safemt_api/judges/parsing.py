"""Reading a JSON object out of what a model wrote: strict where it matters, forgiving where nothing can be misread.

Forgiven: white space, one code fence around the object, reasoning before it. Not forgiven: words after the object, two objects that
disagree on the deciding field, a field given twice, no object at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

PARSER_VERSION = "1"
"""Enters every digest of a judge or moderator that reads JSON; raise it when the same text would be read differently."""

MAX_ANSWER_CHARACTERS = 200_000
MAX_OPENINGS_TRIED = 1_000
"""Bounds for hostile text: each opening brace that leads to no object costs a scan."""

CLOSING_FENCE = re.compile(r"\s*(?:```)?\s*\Z")


class _RepeatedFieldError(ValueError):
    """A field stands twice in one object, so the object contradicts itself."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _RepeatedFieldError
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats)


def final_object(text: str, deciding: str) -> dict[str, Any] | None:
    """The JSON object that ends the text, or ``None`` where there is none or it is not the text's only word.

    Args:
        text: A model's whole answer.
        deciding: The field that must be there; every object in the text that has it must give it the same value.
    """
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    try:
        found = list(_objects(text))
    except (_RepeatedFieldError, RecursionError):
        return None
    if not found:
        return None
    last, end = found[-1]
    if deciding not in last or not CLOSING_FENCE.match(text, end):
        return None
    return last if all(other.get(deciding, last[deciding]) == last[deciding] for other, _ in found) else None


def _objects(text: str) -> Iterator[tuple[dict[str, Any], int]]:
    position, failures = text.find("{"), 0
    while position >= 0 and failures < MAX_OPENINGS_TRIED:
        try:
            value, end = _DECODER.raw_decode(text, position)
        except json.JSONDecodeError:
            failures, end = failures + 1, position + 1
        else:
            yield value, end
        position = text.find("{", end)
