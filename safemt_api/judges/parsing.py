"""Reading the one JSON object that a model was asked for: the whole answer, or no answer.

Forgiven: white space, and one Markdown code fence around the whole object, which some models write whatever they are told; a fence holds
nothing but the object, so nothing can be misread through it. Not forgiven: a word before or after the object, a second object, a field
given twice at any depth, and an object without the code of the very question (``judges.base.coded``): what a model quotes or echoes out
of the material under review cannot hold it.
"""

from __future__ import annotations

import json
import re
from typing import Any

PARSER_VERSION = "2"
"""Enters every digest of a judge or moderator that reads JSON; raise it when the same text would be read differently."""

MAX_ANSWER_CHARACTERS = 200_000
CODE_FIELD = "code"
FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL | re.IGNORECASE)


class _RepeatedFieldError(ValueError):
    """A field stands twice in one object, so the object contradicts itself."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _RepeatedFieldError
    return fields


def whole_object(text: str, code: str) -> dict[str, Any] | None:
    """The fields of the JSON object that is the whole text and bears the code, without the code; ``None`` for every other text.

    Args:
        text: A model's whole answer.
        code: What the field ``code`` must hold, to the letter.
    """
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    fenced = FENCED.fullmatch(text.strip())
    try:
        found = json.loads(text if fenced is None else fenced[1], object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.pop(CODE_FIELD, None) != code:
        return None
    return found
