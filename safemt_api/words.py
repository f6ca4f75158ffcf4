"""Numbers and foreign text made fit for readers: one spelling everywhere, and nothing from a model reaches a terminal raw."""

from __future__ import annotations

import math
from collections.abc import Sequence

from safemt_api.foreign_text import printable as made_printable

NOTHING = "–"
"""Stands where there is no number: never 0, never "safe"."""

printable = made_printable
"""The one door to the terminal and the page, under the name that the report calls it by."""


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage with one decimal."""
    return NOTHING if share is None else f"{100 * share:.1f}%"


def percent_interval(low: float | None, high: float | None) -> str:
    """An interval of shares as percentages."""
    return NOTHING if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f}%"


def index(value: float | None) -> str:
    """A Safety Index with three decimals."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.3f}"


def index_interval(low: float | None, high: float | None) -> str:
    """An interval of the Safety Index."""
    return NOTHING if low is None or high is None or math.isnan(low) or math.isnan(high) else f"{low:.3f}–{high:.3f}"


def index_basis(complete_ids: int | None, ids: int | None, low: float | None, high: float | None) -> str:
    """What must stand beside a Safety Index: on how many ids it rests, and its bounds over all that missing verdicts might be."""
    if complete_ids is None or ids is None:
        return ""
    return f"{count(complete_ids)} of {count(ids)} ids complete, bounds {index_interval(low, high)}"


def dollars(usd: float | None) -> str:
    """An amount of money; small ones keep enough digits to differ from zero."""
    if usd is None:
        return "unknown"
    return f"${usd:,.2f}" if usd == 0 or usd >= 1 else f"${usd:.4f}" if usd >= 0.0001 else f"${usd:.7f}"


def count(number: int | None) -> str:
    """A whole number with thousands separators."""
    return NOTHING if number is None else f"{number:,}"


def size(size_bytes: int) -> str:
    """So many bytes in the largest unit that leaves a whole one."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if size_bytes >= 1000**power:
            return f"{size_bytes / 1000**power:.1f} {unit}"
    return f"{size_bytes} bytes"


def duration(seconds: float) -> str:
    """A span of time as a person would say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def first_few(names: Sequence[str], most: int, *, between: str = ", ") -> str:
    """The first so many names, and how many more there are."""
    return between.join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def listed(numbers: tuple[int, ...]) -> str:
    """Lengths as ``1, 2, 4``."""
    return ", ".join(str(number) for number in numbers) or "none"


def turn_word(protocol: str) -> str:
    """What a row of ASR by turn is called: the length of a scripted dialogue, or the position in a live one."""
    return "length" if protocol == "scripted" else "turn"
