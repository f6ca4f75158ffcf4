"""Reading what servers send: any JSON value may be of any kind, so every look inside is tolerant and nothing here raises."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from safemt_api.adapters.secrets import may_hold, scrub, scrub_value

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Body:
    """A response's body: its text, and the JSON value in it (``None`` where there is none); the API key is in neither."""

    text: str
    value: object

    @property
    def fields(self) -> Mapping[str, Any]:
        """The value if it is an object, else an empty one."""
        return mapping(self.value)


def read_body(content: bytes, secret: str | None) -> Body:
    """The one door through which a server's words come in; ``secret`` is the API key, which is blanked however it is spelt."""
    told = content.decode("utf-8", "replace")
    if not may_hold(told, secret):
        return Body(told, parse(told))
    text = scrub(told, secret)
    value = parse(text)
    try:
        clean = scrub_value(value, secret)
        return Body(text if clean == value else json.dumps(clean), clean)
    except RecursionError:
        return Body(text, None)


def parse(text: str) -> object:
    """The JSON value, or ``None`` where there is none.

    What orjson refuses although the rest of it can be read gets a second look: a lone half of a surrogate pair, NaN and Infinity, as some
    servers' JSON writers let them through.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
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


def one_line(text: str, limit: int) -> str:
    """Printable words on one line, cut to ``limit`` characters (a vendor's text may hold terminal escapes)."""
    clean = " ".join("".join(sign if sign.isprintable() else " " for sign in text[: limit * 4]).split())
    return clean if len(clean) <= limit else clean[: limit - 1].rstrip() + "…"


def names(text: str) -> frozenset[str]:
    """The names that stand in a text, separated by blanks."""
    return frozenset(text.split())
