"""What servers send: text and JSON without the API key in it, and token counts where they can be believed.

Any JSON value may be of any kind, so every look inside is tolerant and nothing here raises.

A server, or a proxy before it, may echo the request with its key: plainly, with JSON escapes (``\\/``, ``\\u0073``), inside a URL
(``%73``), as an HTML entity or as base64 of the header. Text is searched for all of these, and a JSON value is searched again after it has
been decoded, because escapes may be nested.

A token count that cannot be read is unknown, not zero: zero would book nothing, and a spending ceiling would hold nothing. So one field
that makes no sense (text, a fraction, less than nothing, beyond any model) makes the whole report unknown, and what was put aside for the
call is booked.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from safemt_api.messages import Usage

NOTHING: Mapping[str, Any] = {}

MIN_SECRET_LENGTH = 8
"""Shorter keys are placeholders ("EMPTY", "none"); blanking those would spoil ordinary words."""

SECRET_STAND_IN = "[key]"  # noqa: S105 (what stands in a key's place is no key)
MIN_BASE64_CHARACTERS = 12
_ESCAPES = ("\\u00", "\\U00", "\\x", "\\X", "\\/", "%", "&#")
_PARTIAL_SIGNS = (0, 2, 3)
"""How many base64 signs also hold bits of what stands before the key, by the number of bytes there are before it in its group of three."""

MAX_COUNT = 10**8
"""More tokens than any model reads or writes in one call; a larger number is no count."""

MAX_IDENTITY_CHARACTERS = 200
"""Of a served model's name or a fingerprint, which stand in tables and sentences."""


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


def identity(value: object) -> str | None:
    """A vendor's word on who answered (the served model, a fingerprint): printable, on one line, of bounded length; ``None`` for none."""
    return one_line(words(value), MAX_IDENTITY_CHARACTERS) or None


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
    # Each sign as it is or escaped. Every repetition is bounded, so that no text makes the search slow.
    signs = []
    for sign in secret:
        number = ord(sign)
        slashes = r"\\{0,4}" if sign == "/" else ""
        signs.append(
            rf"(?:{slashes}{re.escape(sign)}|(?i:\\{{1,4}}u{number:04x}|\\{{1,4}}x{number:02x}"
            rf"|%(?:25){{0,3}}{number:02x}|&#0{{0,6}}{number};|&#x0{{0,6}}{number:x};))"
        )
    # The part of its base64 that is the same whatever stands before and behind it, by its place in a group of three bytes.
    cores = set()
    for before, partial in enumerate(_PARTIAL_SIGNS):
        whole = b64encode(bytes(before) + secret.encode()).decode()
        core = whole[partial : (before + len(secret.encode())) // 3 * 4]
        if len(core) >= MIN_BASE64_CHARACTERS:
            cores |= {core, core.replace("+", "-").replace("/", "_")}
    plain = (secret, *cores)
    return re.compile("|".join(("".join(signs), *map(re.escape, plain)))), plain


def count(value: object) -> int | None:
    """A number of tokens, or ``None`` where the value is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT else None


def optional_count(value: object) -> int | None:
    """The same for a count that servers leave out, or send as null, where it would be 0."""
    return 0 if value is None else count(value)


def is_probability(value: object) -> bool:
    """Whether the value is a number between 0 and 1."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def served_tier(value: object) -> str | None:
    """The tier that served a call, in our words: vendors call the standard one ``default``, or ``on_demand``."""
    tier = label(value).lower()[:40]
    return {"default": "standard", "on_demand": "standard", "unspecified": "standard"}.get(tier, tier) or None


def known_usage(
    *, input_tokens: int | None, cached: int | None, written: int | None = 0, output_tokens: int | None, reasoning: int | None
) -> Usage | None:
    """The usage, or ``None`` as soon as one count is unknown, or where nothing at all was read (every call has a prompt)."""
    if input_tokens is None or cached is None or written is None or output_tokens is None or reasoning is None or not input_tokens:
        return None
    return Usage(
        input_tokens=input_tokens,
        cached_input_tokens=min(cached, input_tokens),
        cache_write_tokens=min(written, input_tokens),
        output_tokens=output_tokens,
        reasoning_tokens=min(reasoning, output_tokens),
    )


def total(*counts: int | None) -> int | None:
    """The sum of counts; unknown as soon as one is."""
    known = [one for one in counts if one is not None]
    return sum(known) if len(known) == len(counts) else None


def usage_for(text: str, usage: Usage | None) -> Usage | None:
    """The usage of a reply in words; words that cost no token were not counted, so how many there were is unknown."""
    return None if usage is not None and text and not usage.output_tokens else usage
