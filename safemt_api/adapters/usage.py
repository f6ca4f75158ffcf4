"""Token counts as servers report them, where they can be believed.

A count that cannot be read is unknown, not zero: zero would book nothing, and a spending ceiling would hold nothing. So one field that
makes no sense (text, a fraction, less than nothing, beyond any model) makes the whole report unknown, and what was put aside for the call
is booked.
"""

from __future__ import annotations

from safemt_api.messages import Usage

MAX_COUNT = 10**8
"""More tokens than any model reads or writes in one call; a larger number is no count."""


def count(value: object) -> int | None:
    """A number of tokens, or ``None`` where the value is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT else None


def optional_count(value: object) -> int | None:
    """The same for a count that servers leave out, or send as null, where it would be 0."""
    return 0 if value is None else count(value)


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
