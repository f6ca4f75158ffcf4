"""An undefended and a defended arm side by side, beyond ASR by length: live turns, and what is counted in seconds or dollars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from safemt_api.errors import UsageError
from safemt_api.frames import with_repeat
from safemt_api.metrics.comparison import compare, holm, paired
from safemt_api.metrics.frames import KEY, VerdictMatrix, encode
from safemt_api.metrics.uncertainty import (
    DEFAULT_LEVEL,
    DEFAULT_RESAMPLES,
    NOTHING,
    Estimate,
    bootstrap_sums,
    percentile_estimate,
    proportion_intervals,
    ratio,
)

EFFECT_SCHEMA: dict[str, type[pl.DataType]] = {
    "turn": pl.Int64,
    "pairs": pl.Int64,
    **dict.fromkeys(("asr_before", "before_low", "before_high", "asr_after", "after_low", "after_high"), pl.Float64),
    **dict.fromkeys(("difference", "ci_low", "ci_high", "p_value", "p_holm"), pl.Float64),
}


@dataclass(frozen=True, slots=True)
class Change:
    """A mean before and after over the cells that hold a number in both arms; intervals are bootstraps over ids.

    ``difference`` is after minus before, in the column's unit; ``relative`` is after over before, minus 1.
    """

    pairs: int
    before: float
    after: float
    difference: Estimate
    relative: Estimate


NO_CHANGE_KNOWN = Change(0, NOTHING.value, NOTHING.value, NOTHING, NOTHING)


def paired_change(
    before: pl.DataFrame,
    after: pl.DataFrame,
    column: str,
    *,
    key: Sequence[str] = KEY,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    level: float = DEFAULT_LEVEL,
) -> Change:
    """How the mean of a column changes; cells are paired by ``key``, and all cells of an id are one cluster.

    Raises:
        UsageError: The column or a part of the key is missing.
    """
    before, after = with_repeat(before), with_repeat(after)
    names = (*key, column)
    for frame in (before, after):
        absent = [name for name in names if name not in frame.columns]
        if absent:
            raise UsageError(f"the frame lacks the column {', '.join(absent)}")
    cells = before.select(names).join(after.select(names), on=key, suffix="_after").drop_nulls().sort(key)
    if not cells.height:
        return NO_CHANGE_KNOWN
    totals = cells.group_by("dialogue_id").agg(pl.len().alias("cells"), pl.col(column, f"{column}_after").sum()).sort("dialogue_id")
    columns = totals.select("cells", column, f"{column}_after").to_numpy().astype(np.float64)
    (n, first, second), sums = columns.sum(axis=0), bootstrap_sums(columns, resamples=resamples, seed=seed)
    shares = ratio(sums[:, 2], sums[:, 1]) - 1
    return Change(
        pairs=cells.height,
        before=float(first / n),
        after=float(second / n),
        difference=percentile_estimate(float((second - first) / n), (sums[:, 2] - sums[:, 1]) / sums[:, 0], level=level),
        relative=percentile_estimate(float(second / first - 1), shares, level=level) if first else NOTHING,
    )


def live_effect_by_turn(
    undefended: pl.DataFrame, defended: pl.DataFrame, *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, level: float = DEFAULT_LEVEL
) -> pl.DataFrame:
    """One row a turn position of live dialogues, with the columns of ``EFFECT_SCHEMA``, over cells judged in both arms.

    A position is reached by several dialogues of an id, so its p value is that of the exact randomisation test within ids, which is
    McNemar's where an id stands there once; p_holm is over the turns.

    Raises:
        UsageError: A frame breaks the contract of ``live_asr_by_turn``.
    """
    rows = []
    undefended, defended = with_repeat(undefended), with_repeat(defended)
    for turn in sorted(set(undefended["turn"].to_list()) & set(defended["turn"].to_list())):
        arms = [frame.filter(pl.col("turn") == turn).select(*KEY, "verdict") for frame in (undefended, defended)]
        if not set(arms[0]["dialogue_id"]) & set(arms[1]["dialogue_id"]):
            continue
        rows.append({"turn": turn, **_effect(*arms, resamples=resamples, seed=seed, level=level)})
    adjusted = holm([row["p_value"] for row in rows])
    whole = [row | {"p_holm": p} for row, p in zip(rows, adjusted, strict=True)]
    return pl.DataFrame(whole, schema=EFFECT_SCHEMA, orient="row").fill_nan(None)


def _effect(undefended: pl.DataFrame, defended: pl.DataFrame, *, resamples: int, seed: int, level: float) -> dict[str, float]:
    compared = compare(undefended, defended, resamples=resamples, seed=seed, level=level)
    before, after = paired(encode(undefended), encode(defended))
    row: dict[str, float] = {"pairs": int(before.judged.sum())}
    for name, matrix in (("before", before), ("after", after)):
        low, high = _bounds(matrix, resamples=resamples, seed=seed, level=level)
        row |= {f"asr_{name}": compared.asr_a if name == "before" else compared.asr_b, f"{name}_low": low, f"{name}_high": high}
    difference = compared.asr_difference
    row |= {"difference": difference.value, "ci_low": difference.ci_low, "ci_high": difference.ci_high}
    return row | {"p_value": compared.p_value}


def _bounds(matrix: VerdictMatrix, *, resamples: int, seed: int, level: float) -> tuple[float, float]:
    unsafe, judged = (np.sum(cells, axis=1, keepdims=True) for cells in (matrix.unsafe, matrix.judged))
    low, high = proportion_intervals(unsafe, judged, resamples=resamples, seed=seed, level=level)
    return float(low[0]), float(high[0])
