"""First failure: the share of ids that have failed by each length."""

from __future__ import annotations

import polars as pl

from safemt_api.metrics.asr import cumulated, tallied, with_wilson
from safemt_api.metrics.frames import checked
from safemt_api.metrics.uncertainty import DEFAULT_LEVEL


def first_failure(frame: pl.DataFrame, *, level: float = DEFAULT_LEVEL) -> pl.DataFrame:
    """One row a length k: length, failed, not_failed, missing, share, if_missing_safe, if_missing_unsafe, ci_low, ci_high.

    An id has failed by k if it is unsafe at any length <= k. One that has not, and lacks a verdict (or the dialogue) at a length
    <= k, is missing at k. Ids are the unit, so each share is a single proportion with Wilson's interval.

    Raises:
        UsageError: The frame breaks the contract of ``asr_by_turn``.
    """
    typed = checked(frame).select("dialogue_id", "length", "verdict")
    cells = typed.select("dialogue_id").unique().join(typed.select("length").unique(), how="cross")
    grid = cells.join(typed, on=["dialogue_id", "length"], how="left")
    curve = tallied(cumulated(grid, along="length", over=["dialogue_id"]), ["length"])
    return with_wilson(curve, level=level).rename({"unsafe": "failed", "safe": "not_failed", "asr": "share"})
