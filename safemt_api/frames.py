"""The columns of ``transcripts.parquet`` and ``verdicts.parquet``: written by a run, read by reports, exports and re-judging.

Imports polars, so whoever starts fast (the command line) imports this late.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import polars as pl

FRAME_SCHEMA_VERSION = 1
"""Raised whenever a column changes its meaning; columns may be added without raising it."""

TRANSCRIPT_SCHEMA: dict[str, type[pl.DataType]] = {
    "run": pl.String,
    "dialogue_id": pl.String,
    "scenario": pl.String,
    "kind": pl.String,
    "method": pl.String,
    "length": pl.Int64,
    "protocol": pl.String,
    "turn": pl.Int64,
    "messages": pl.String,
    "user_text": pl.String,
    "reply_text": pl.String,
    "outcome": pl.String,
    "detail": pl.String,
    "finish_reason": pl.String,
    "provider": pl.String,
    "model": pl.String,
    "served_model": pl.String,
    "input_tokens": pl.Int64,
    "cached_input_tokens": pl.Int64,
    "cache_write_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "reasoning_tokens": pl.Int64,
    "cost_usd": pl.Float64,
    "latency_seconds": pl.Float64,
    "from_store": pl.Boolean,
    "request_id": pl.String,
    "image_path": pl.String,
    "image_digest": pl.String,
    "images": pl.String,
    "note": pl.String,
    "moderator": pl.String,
    "moderator_flagged": pl.Boolean,
    "moderator_policy": pl.String,
    "moderator_text": pl.String,
    "moderator_latency_seconds": pl.Float64,
    "moderator_cost_usd": pl.Float64,
    "moderator_failure": pl.String,
    "failure": pl.String,
    "repeat": pl.Int64,
    "system_fingerprint": pl.String,
    "reply_key": pl.String,
    "moderator_reply_keys": pl.String,
    "data_source": pl.String,
    "language": pl.String,
    "pair": pl.String,
    "received_utc": pl.String,
}
"""One row a turn, counted by user messages from 1; ``messages`` is JSON text: a list of ``{"role", "content"}`` up to and including it.

``images`` is JSON text too, a list of ``{"turn", "path", "digest"}``: empty where ``image_path`` and ``image_digest`` say it all, which is
where a dialogue has at most one picture, with its first message. ``pair`` is the id of the harmful or benign twin. ``served_model`` and
``system_fingerprint`` are the vendor's words on who answered, ``received_utc`` (ISO 8601) is when.
"""

ADDED_COLUMNS = frozenset(
    {
        "moderator_failure",
        "repeat",
        "system_fingerprint",
        "received_utc",
        "served_model",
        "reply_key",
        "moderator_reply_keys",
        "reply_keys",
        "images",
        "method",
        "data_source",
        "language",
        "pair",
    }
)
"""Columns that files of earlier versions lack; they are read as if they were empty, ``repeat`` as if it were 1."""

VERDICT_SCHEMA: dict[str, type[pl.DataType]] = {
    "run": pl.String,
    "dialogue_id": pl.String,
    "scenario": pl.String,
    "kind": pl.String,
    "length": pl.Int64,
    "turn": pl.Int64,
    "judge": pl.String,
    "counts": pl.Boolean,
    "label": pl.String,
    "source": pl.String,
    "reason": pl.String,
    "probability_unsafe": pl.Float64,
    "raw": pl.String,
    "cost_usd": pl.Float64,
    "repeat": pl.Int64,
    "reply_keys": pl.String,
    "method": pl.String,
    "data_source": pl.String,
    "language": pl.String,
    "pair": pl.String,
    "served_model": pl.String,
    "system_fingerprint": pl.String,
    "received_utc": pl.String,
}
"""One row a verdict. Scores use the rows with ``counts``; the members of a panel stand beside it with ``counts`` false.

``served_model``, ``system_fingerprint`` and ``received_utc`` are those of the judge's last reply: a panel's stand with its members.
"""


def with_repeat(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with a column ``repeat`` (the how-manieth asking of a dialogue a row is about), which is 1 where nothing says otherwise."""
    known = pl.col("repeat").cast(pl.Int64).fill_null(1) if "repeat" in frame.columns else pl.lit(1, dtype=pl.Int64)
    return frame.with_columns(repeat=known)


def read_frame(file: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read one parquet file. The name is taken as it stands: polars would take ``*``, ``?`` and ``[`` in it for a pattern.

    Raises:
        OSError: There is no such file, or it cannot be read.
        polars.exceptions.PolarsError: It holds something else.
    """
    return pl.read_parquet(file, columns=None if columns is None else list(columns), glob=False)


def columns_of(file: Path) -> Collection[str]:
    """The names of a parquet file's columns. Raises as ``read_frame``."""
    return pl.scan_parquet(file, glob=False).collect_schema().names()


def read_known(file: Path, columns: Sequence[str], schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """These columns of a parquet file; those that an earlier version did not write are empty, ``repeat`` is 1. Raises as ``read_frame``."""
    there = columns_of(file)
    frame = read_frame(file, [name for name in columns if name in there])
    return with_repeat(frame.with_columns(pl.lit(None, schema[name]).alias(name) for name in columns if name not in {*there, "repeat"}))
