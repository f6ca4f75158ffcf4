"""Defaults of one's own: ``safemt.toml`` in the working folder, one option a line, named as on the command line with ``_`` for ``-``.

data = "data/safemt"
judge = ["openai:gpt-6-luna"]
max_usd = 20

The command line stands over it. A run that goes on, and new verdicts over one, keep what the run was made with, so there the file only
says where things are (``results``, ``providers``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safemt_api.errors import UsageError, did_you_mean
from safemt_api.files import read_toml
from safemt_api.foreign_text import printable
from safemt_api.runs.options import OptionField
from safemt_api.runs.settings import options

FILE = Path("safemt.toml")
MAX_FILE_BYTES = 100_000
PLACES = ("results", "providers")
OF_A_RUN = ("resume", "canary", "run", "label", "calibrate")
"""Commands whose runs have their settings already."""


def defaults_for(command: str | None, wanted: frozenset[str]) -> dict[str, Any]:
    """What the file says for the parameters of a command that were not typed, as if they had been; said on standard error where it is any.

    Raises:
        UsageError: Names the file and the key, and says what would be right.
    """
    found = _read() if FILE.is_file() else {}
    used = {key: one for key, one in found.items() if one[0].name in wanted and (command not in OF_A_RUN or key in PLACES)}
    if used:
        sys.stderr.write(printable(f"from {FILE}: {', '.join(used)}") + "\n")
    return {option.name: _typed(key, option, value) for key, (option, value) in used.items()}


def _read() -> Mapping[str, tuple[OptionField, object]]:
    """The option and the value that each key of the file stands for."""
    written = read_toml(FILE, most_bytes=MAX_FILE_BYTES, cure="defaults are a few lines of text").tables
    known = {flag.removeprefix("--").replace("-", "_"): one for one in options() for flag in one.flags if flag.startswith("--")}
    for key in written:
        if key not in known:
            raise UsageError(f"{FILE}: no such option: {key}{did_you_mean(key, tuple(known))}")
    return {key: (known[key], value) for key, value in written.items()}


def _typed(key: str, option: OptionField, value: object) -> object:
    """The value as click would have it from the command line: text, a list of text, or a flag."""
    if option.plain_type is bool:
        if not isinstance(value, bool):
            raise UsageError(f"{FILE}: {key} {value!r}: give true or false")
        return value
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, (str, int, float)) and not isinstance(one, bool) for one in values):
        raise UsageError(f"{FILE}: {key} {value!r}: give text or a number{', or a list of them' if option.several else ''}")
    if option.several:
        return [str(one) for one in values]
    return ",".join(str(one) for one in values)
