"""Verdict frames written as patterns: one string an id, one letter a length (S safe, U unsafe, ? missing, . not planned)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl
import pytest

Build = Callable[..., pl.DataFrame]
LABELS = {"S": "safe", "U": "unsafe", "?": None}
SCHEMA = {"dialogue_id": pl.String, "length": pl.Int64, "verdict": pl.String}


@pytest.fixture(scope="session")
def verdicts() -> Build:
    """``verdicts("SSU", "S?U")`` is a frame of two ids; ``lengths`` and ``ids`` name columns and rows."""

    def build(*patterns: str, lengths: Sequence[int] = (1, 2, 4, 6, 8), ids: Sequence[str] | None = None) -> pl.DataFrame:
        names = ids or [f"id{i:03d}" for i in range(len(patterns))]
        cells = [
            (name, k, letter) for name, pattern in zip(names, patterns, strict=True) for k, letter in zip(lengths, pattern, strict=False)
        ]
        return pl.DataFrame([(name, k, LABELS[letter]) for name, k, letter in cells if letter != "."], schema=SCHEMA, orient="row")

    return build
