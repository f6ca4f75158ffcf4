"""What a model is shown of others' words, and how the one JSON object that it was asked for is read: the whole answer, or no answer.

Forgiven: white space, and one Markdown code fence around the whole object, which some models write whatever they are told; a fence holds
nothing but the object, so nothing can be misread through it. Not forgiven: a word before or after the object, a second object, a field
given twice at any depth, and an object without the code of the very question: what a model quotes or echoes out of the material under
review cannot hold it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from safemt_api.markers import CODE_OF_QUESTION
from safemt_api.messages import Image, Line, images_of

PARSER_VERSION = "2"
"""Enters every digest of a judge or moderator that reads JSON; raise it when the same text would be read differently."""

MAX_ANSWER_CHARACTERS = 200_000
CODE_FIELD = "code"
CODE_CHARACTERS = 12
"""48 bits in hexadecimal: few enough for a small model to copy without a slip."""

FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL | re.IGNORECASE)
TEMPLATE_BRACKET = re.compile(r"\[(?=/|[A-Z]|[gs]MASK\])")


def digest_of(*parts: str) -> str:
    """SHA-256 over texts, each kept apart from the next."""
    return sha256(json.dumps(parts).encode()).hexdigest()


def sendable(text: str) -> str:
    """The text as UTF-8 can carry it: half of a surrogate pair, which some replies hold and no request can, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def material(fields: Mapping[str, Any]) -> str:
    """The fields as one JSON object in one text: quotes and line ends of what others wrote are escaped, so no text can end its field.

    The marks of chat templates are escaped too, ``<`` of ``<|im_start|>`` or ``</s>`` and ``[`` of ``[INST]``: a server's tokenizer takes
    them for the ends of messages wherever in a text they stand. JSON's own brackets are never followed by what follows those.
    """
    written = json.dumps(fields, ensure_ascii=False).replace("<", "\\u003c")
    return sendable(TEMPLATE_BRACKET.sub("\\\\u005b", written))


def spoken_lines(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """A history as JSON will hold it; where it has other pictures than one with its first message, how many come with each."""
    told = [{"role": line.role, "content": line.text} for line in lines]
    if len(images_of(lines[:1])) == len(images_of(lines)) < 2:
        return told
    return [{**one, "pictures": len(line.images)} if line.images else one for one, line in zip(told, lines, strict=True)]


def coded(material: str, *, system: str, images: Sequence[Image]) -> tuple[str, str]:
    """The material with the code of this question behind it, and the code, which the answer must repeat (``whole_object``).

    So an answer that only quotes or echoes what is under review is none. The code is the beginning of a SHA-256 over all that the model is
    shown, the reply under review in it: the reply was written before there was a code, and to hold its own it would have to contain its
    own hash, some 10^14 tries away for whoever writes it. Being no secret and no random number it is the same when a run goes on, so an
    answer that is paid for is found again. It stands last: what comes before stays the same from question to question for prompt caches.
    """
    code = digest_of(CODE_OF_QUESTION, system, material, " ".join(image.digest for image in images))[:CODE_CHARACTERS]
    return f"{material}\n\n{CODE_OF_QUESTION}{code}", code


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
