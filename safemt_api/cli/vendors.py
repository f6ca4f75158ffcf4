"""What ``providers list`` and ``providers show`` print; without typer, so that the list comes at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from safemt_api.foreign_text import printable
from safemt_api.profiles import find_profile, load_profiles, replacements

COLUMNS = ("name", "title", "wire format", "key", "default model", "default judge")


def provider_lines(folder: Path | None) -> list[str]:
    """The table of vendors.

    Raises:
        ProfileError: A file of the user's is wrong.
        UsageError: There is no such folder.
    """
    rows = [_row(name, facts) for name, facts in _facts(folder).items()]
    return [*columns([COLUMNS, *rows]), "", "safemt-api providers show NAME tells more; safemt-api providers check NAME tries one."]


def provider_records(folder: Path | None) -> list[dict[str, Any]]:
    """The same facts as values."""
    names = ("name", "title", "wire_format", "key", "default_model", "default_judge")
    return [dict(zip(names, _row(name, facts), strict=True)) for name, facts in _facts(folder).items()]


def columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Cells in aligned columns."""
    listed = list(rows)
    widths = [max(len(row[place]) for row in listed) for place in range(len(listed[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in listed]


def _facts(folder: Path | None) -> Mapping[str, Mapping[str, Any]]:
    for sentence in replacements(folder):
        sys.stderr.write(printable(sentence) + "\n")
    return {name: profile.model_dump() for name, profile in load_profiles(folder).items()}


def _row(name: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    judge = facts.get("default_judge") or "rules (baseline)"
    return name, facts["title"], facts["wire_format"], key_state(facts), facts.get("default_model") or "give --model", judge


def key_state(facts: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> str:
    """Which variable holds the key, or which would; never the key."""
    environ = os.environ if environ is None else environ
    names = tuple(facts.get("key_variables") or ())
    found = next((name for name in names if environ.get(name, "").strip()), None)
    if found is not None:
        return f"{found} is set"
    if not names:
        return "none needed"
    return f"{' or '.join(names)} {'not set' if facts.get('key_required', True) else 'optional'}"


def profile_lines(name: str, folder: Path | None) -> list[str]:
    """All facts of a vendor.

    Raises:
        ProfileError: A file of the user's is wrong.
        UsageError: There is no such vendor or folder.
    """
    facts = profile_record(name, folder)
    lines = [f"{facts['title']} ({name})", f"  key: {facts.pop('key')}"]
    return [*lines, *_listed(facts, "  ", skip=("name", "title"))]


def profile_record(name: str, folder: Path | None) -> dict[str, Any]:
    """The same facts as values, with the state of the key.

    Raises:
        ProfileError: A file of the user's is wrong.
        UsageError: There is no such vendor or folder.
    """
    for sentence in replacements(folder):
        sys.stderr.write(printable(sentence) + "\n")
    profile = find_profile(load_profiles(folder), name)
    return {**profile.model_dump(exclude_defaults=True), "key": key_state(profile.model_dump())}


def _listed(facts: Mapping[str, Any], indent: str, skip: tuple[str, ...] = ()) -> Iterator[str]:
    for key, value in facts.items():
        tables = any(isinstance(part, dict) for part in (value if isinstance(value, (list, tuple)) else [value]))
        if key not in (*skip, "source", "checked") and not tables:
            yield f"{indent}{key}: {_shown(value)}"
    if "source" in facts:
        yield f"{indent}from {facts['source']} (checked {facts.get('checked', 'never')})"
    for key, value in facts.items():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, dict) and part:
                title = f"{key} {part['match']}" if "match" in part else key
                yield f"{indent}{title}"
                yield from _listed(part, f"{indent}  ", skip=("match",))


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    return value.isoformat() if isinstance(value, date) else str(value)
