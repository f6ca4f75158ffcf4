"""Frames as users have them: polars, pandas or Arrow; verdicts of their own, or a run's ``verdicts.parquet`` as it stands."""

from __future__ import annotations

from typing import Any, NamedTuple

import narwhals as nw
import polars as pl
from narwhals.typing import IntoDataFrame

from safemt_api.errors import UsageError
from safemt_api.frames import with_repeat

RUN_COLUMNS = ("dialogue_id", "length", "turn", "counts", "kind", "label")
"""What tells a run's verdicts from a frame of one's own: there are a column ``label`` and none that is called ``verdict``."""


class GivenVerdicts(NamedTuple):
    """A verdict frame (``safemt_api.metrics.frames``); ``live`` if it is of a live run, which has one row a turn."""

    frame: pl.DataFrame
    live: bool = False


def given_verdicts(frame: IntoDataFrame) -> GivenVerdicts:
    """The verdicts that scores read: of a run's file the rows that count, on harmful dialogues.

    Args:
        frame: A verdict frame, or a run's ``verdicts.parquet``, in polars, pandas, or any other form that narwhals reads.

    Raises:
        UsageError: It is no frame, or a run's verdicts without any on harmful dialogues.
    """
    own = _as_polars(frame)
    if "verdict" in own.columns or not set(RUN_COLUMNS) <= set(own.columns):
        return GivenVerdicts(own)
    own = with_repeat(own)
    counting = own.filter(pl.col("counts") & (pl.col("kind") == "harmful"))
    if own.height and not counting.height:
        raise UsageError("the run's verdicts hold none that counts on a harmful dialogue, and benign ones have no ASR and no Safety Index")
    verdicts = counting.select("dialogue_id", "scenario", "length", "repeat", "turn", verdict="label")
    if verdicts.filter(pl.col("turn") < pl.col("length")).height:
        return GivenVerdicts(verdicts, live=True)
    return GivenVerdicts(verdicts.drop("turn"))


def _as_polars(frame: IntoDataFrame) -> pl.DataFrame:
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        raise UsageError("the verdicts are a LazyFrame; give its .collect()")
    try:
        given = nw.from_native(frame, eager_only=True)
    except TypeError:
        raise UsageError(f"verdicts come as a frame of polars or pandas, not as {type(frame).__name__}") from None
    # By lists: polars would need pyarrow to take a pandas frame, and an empty cell may be None, NaN or NA there.
    return pl.DataFrame({name: _values(given[name]) for name in given.columns}, strict=False)


def _values(column: nw.Series[Any]) -> list[object]:
    empty = column.is_null().to_list()
    return [None if gone else value for value, gone in zip(column.to_list(), empty, strict=True)]
