"""Text from outside (data, models, vendors, folders), made fit for whoever takes it: a terminal, a chart, a spreadsheet.

Everything of the kind stands here, so that there is one answer to what may pass. None of it changes what is stored or sent.
"""

from __future__ import annotations

import re
from typing import Final

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]|[\ud800-\udfff]")
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])")

_NO_CHARACTER = "".join(f"{chr(plane | 0xFFFE)}{chr(plane | 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)) + "\ufdd0-\ufdef"
_UNFIT_IN_NAME = re.compile(f"{_CONTROL.pattern}|[\t\n{_NO_CHARACTER}]")

MAX_NAME_CHARACTERS: Final = 200
"""Longest name of a scenario or method that data may hold, and longest text in a chart."""

FORMULA: Final = r"^[\s\ufeff]*[=+\-@;＝＋－＠；']|^[\t\r\n]"
"""Cells that start so may be run as formulas by spreadsheets (OWASP, "CSV Injection"; ``;`` separates cells in many countries), or start
like our own escape. Written for Python and for polars alike."""


def printable(text: str, *, limit: int | None = None) -> str:
    """Text from outside, safe to print: no escape sequences, control characters or signs that turn the writing direction.

    Args:
        text: Anything a model, vendor or data file said. Line breaks and tabs stay.
        limit: Longest result in characters; what is beyond is cut and marked with an ellipsis.
    """
    clean = _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", text.replace("\r\n", "\n")))
    return clean if limit is None or len(clean) <= limit else clean[: max(0, limit - 1)] + "…"


def unfit_in_name(text: str) -> str | None:
    """What keeps a text from being a name, in words: a sign that is none, or too many of them; ``None`` where it is a fine name."""
    found = _UNFIT_IN_NAME.search(text)
    if found is not None:
        return f"holds U+{ord(found[0]):04X}, which has no place in a name"
    if len(text) > MAX_NAME_CHARACTERS:
        return f"has {len(text):,} characters; a name has {MAX_NAME_CHARACTERS} at most"
    return None


def drawable(text: str) -> str:
    """The text as a chart may hold it.

    The renderer is native code: it ends the whole process on signs that XML does not know (NUL, ESC, U+FFFE), and cuts long labels
    between the two halves of a sign beyond U+FFFF (emoji) and then refuses them; these become a box. Vega reads some names as parts of an
    expression, where a backslash begins an escape such as ``\\x00``: it becomes a set minus, which looks like it.
    """
    plain = _UNFIT_IN_NAME.sub(" ", _ESCAPE_SEQUENCE.sub("", text))
    short = plain if len(plain) <= MAX_NAME_CHARACTERS else plain[: MAX_NAME_CHARACTERS - 1] + "…"
    return "".join(sign if ord(sign) <= 0xFFFF else "□" for sign in short).replace("\\", "∖")


def harmless_cell(text: str) -> str:
    """The text with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if re.match(FORMULA, text) else text


def plain_cell(text: str) -> str:
    """What ``harmless_cell`` was given."""
    return text[1:] if text.startswith("'") and harmless_cell(text[1:]) == text else text
