"""Figures as JSON on standard output, for ``--json``: exactly one value, with nothing before or after it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from safemt_api.foreign_text import printable


def put_json(value: object) -> None:
    """Write the value; a frame becomes a list of its rows, a record a mapping, and a number that is none (NaN) null."""
    sys.stdout.write(printable(json.dumps(plain(value), indent=2, allow_nan=False)) + "\n")


def plain(value: Any) -> Any:
    """The value in terms of JSON."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        value = {one.name: getattr(value, one.name) for one in fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif hasattr(value, "to_dicts"):
        value = value.to_dicts()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, Iterable) else str(value)
