"""Blanks an API key in whatever a server sends, however it is spelt there.

A server, or a proxy before it, may echo the request with its key: plainly, with JSON escapes (``\\/``, ``\\u0073``), inside a URL
(``%73``), as an HTML entity or as base64 of the header. Text is searched for all of these, and a JSON value is searched again after it has
been decoded, because escapes may be nested.
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import lru_cache
from typing import Any

MIN_SECRET_LENGTH = 8
"""Shorter keys are placeholders ("EMPTY", "none"); blanking those would spoil ordinary words."""

SECRET_STAND_IN = "[key]"  # noqa: S105 (what stands in a key's place is no key)
MIN_BASE64_CHARACTERS = 12
_ESCAPES = ("\\u00", "\\U00", "\\x", "\\X", "\\/", "%", "&#")
_PARTIAL_SIGNS = (0, 2, 3)
"""How many base64 signs also hold bits of what stands before the key, by the number of bytes there are before it in its group of three."""


def scrub(text: str, secret: str | None) -> str:
    """The text without the key."""
    # The pattern takes a millisecond for thirty thousand characters: it is for texts that escape something or hold the key as it is.
    return _spellings(secret)[0].sub(SECRET_STAND_IN, text) if secret is not None and may_hold(text, secret) else text


def may_hold(text: str, secret: str | None) -> bool:
    """Whether the text could hold the key in some spelling, also of what it says once it is decoded; quick, and seldom true."""
    if secret is None or len(secret) < MIN_SECRET_LENGTH:
        return False
    return any(one in text for one in (*_spellings(secret)[1], *_ESCAPES))


def scrub_value(value: Any, secret: str | None) -> Any:
    """A decoded JSON value without the key in any of its strings and names.

    Raises:
        RecursionError: It is nested too deeply.
    """
    if isinstance(value, str):
        return scrub(value, secret)
    if isinstance(value, list):
        return [scrub_value(one, secret) for one in value]
    if isinstance(value, dict):
        return {scrub(name, secret): scrub_value(one, secret) for name, one in value.items()}
    return value


@lru_cache(maxsize=16)
def _spellings(secret: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """A pattern of all spellings, and those that can be found without it."""
    plain = (secret, *_base64_cores(secret))
    return re.compile("|".join(("".join(map(_sign, secret)), *map(re.escape, plain)))), plain


def _sign(sign: str) -> str:
    # Every repetition is bounded, so that no text makes the search slow.
    number = ord(sign)
    slashes = r"\\{0,4}" if sign == "/" else ""
    return (
        rf"(?:{slashes}{re.escape(sign)}|(?i:\\{{1,4}}u{number:04x}|\\{{1,4}}x{number:02x}"
        rf"|%(?:25){{0,3}}{number:02x}|&#0{{0,6}}{number};|&#x0{{0,6}}{number:x};))"
    )


def _base64_cores(secret: str) -> set[str]:
    """The part of the key's base64 that is the same whatever stands before and behind it, by its place in a group of three bytes."""
    cores = set()
    for before, partial in enumerate(_PARTIAL_SIGNS):
        whole = b64encode(bytes(before) + secret.encode()).decode()
        core = whole[partial : (before + len(secret.encode())) // 3 * 4]
        if len(core) >= MIN_BASE64_CHARACTERS:
            cores |= {core, core.replace("+", "-").replace("/", "_")}
    return cores
