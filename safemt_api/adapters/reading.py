"""Reading what servers send: any JSON value may be of any kind, so every look inside is tolerant and nothing here raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

MIN_SECRET_LENGTH = 8
"""Shorter keys are placeholders ("EMPTY", "none"); blanking those would spoil ordinary words."""
SECRET_STAND_IN = "[key]"  # noqa: S105 (what stands in a key's place is no key)
MAX_COUNT = 10**12
NOTHING: Mapping[str, Any] = {}


def scrub(text: str, secret: str | None) -> str:
    """The text without the API key, should a server have echoed it."""
    if secret is None or len(secret) < MIN_SECRET_LENGTH or secret not in text:
        return text
    return text.replace(secret, SECRET_STAND_IN)


def parse(text: str) -> object:
    """The JSON value, or ``None`` where there is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else NOTHING


def sequence(value: object) -> Sequence[Any]:
    """The value if it is an array, else an empty one."""
    return value if isinstance(value, list) else ()


def first(value: object) -> Mapping[str, Any]:
    """The first object of an array, else an empty one."""
    items = sequence(value)
    return mapping(items[0]) if items else NOTHING


def words(value: object) -> str:
    """The value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def label(value: object) -> str:
    """A machine-readable name as text, also where a server writes it as a number."""
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def count(value: object) -> int:
    """A number of tokens; 0 where the value is no sensible count."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_COUNT:
        return 0
    return int(value)


def one_line(text: str, limit: int) -> str:
    """Printable words on one line, cut to ``limit`` characters (a vendor's text may hold terminal escapes)."""
    clean = " ".join("".join(sign if sign.isprintable() else " " for sign in text[: limit * 4]).split())
    return clean if len(clean) <= limit else clean[: limit - 1].rstrip() + "…"


def names(text: str) -> frozenset[str]:
    """The names that stand in a text, separated by blanks."""
    return frozenset(text.split())
