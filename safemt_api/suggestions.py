"""Did you mean …? For names that a user typed."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` to stand in a sentence after the name that nobody knows, or nothing where no known one is close."""
    names = {name.casefold(): name for name in known}
    found = get_close_matches(given.casefold(), names, n=1)
    return f" (did you mean {names[found[0]]!r}?)" if found else ""
