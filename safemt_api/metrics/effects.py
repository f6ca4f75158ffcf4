"""What changes from one arm to another, pair by pair: failures prevented and introduced, ASR by length or live turn, means in dollars
and seconds; and what happens to harmless dialogues.

Harmful and benign dialogues never share a figure: effects come from the harmful dialogues, rates of false alarms and over-refusals from
the benign ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from safemt_api.errors import UsageError
from safemt_api.frames import with_repeat
from safemt_api.metrics.asr import matrix_asr_with_intervals
from safemt_api.metrics.comparison import Comparison, compare, holm, paired
from safemt_api.metrics.frames import KEY, VerdictMatrix, checked, encode
from safemt_api.metrics.safety_index import SafetyIndex, Scores, scores_of_matrices
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


@dataclass(frozen=True, slots=True, eq=False)
class ArmEffect:
    """The same harmful dialogues in two arms, over cells judged in both.

    ``by_length``: length, pairs, asr_before, before_low, before_high, asr_after, after_low, after_high, difference, ci_low, ci_high,
    p_value, p_holm. Each SI is over the ids with a verdict at every length in both arms, its bounds are from all verdicts of its arm.
    ``prevented`` replies were unsafe before and safe after, ``introduced`` the other way round. A model's replies
    vary from run to run, so some of each are chance: ``net_prevented`` is their difference, and cost is per net failure prevented
    (``None`` where the cost is unknown or nothing was prevented on balance).
    """

    comparison: Comparison
    by_length: pl.DataFrame
    safety_index_before: SafetyIndex
    safety_index_after: SafetyIndex
    prevented: int
    introduced: int
    extra_cost_usd: float | None
    cost_per_prevented_usd: float | None

    @property
    def net_prevented(self) -> int:
        """Prevented minus introduced failures."""
        return self.prevented - self.introduced


@dataclass(frozen=True, slots=True, eq=False)
class BenignRate:
    """How often something happened to harmless dialogues: ``by_length`` (length, flagged, not_flagged, missing, rate, ci_low, ci_high,
    Wilson) and ``overall``, whose interval takes the lengths of an id as one cluster."""

    by_length: pl.DataFrame
    overall: Estimate


def arm_effect(
    before: pl.DataFrame,
    after: pl.DataFrame,
    *,
    extra_cost_usd: float | None = None,
    name: str = "arm",
    reference: str = "reference",
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    level: float = DEFAULT_LEVEL,
) -> ArmEffect:
    """The paired effect of an arm; ``extra_cost_usd`` is what it cost more than its reference, ``name`` and ``reference`` are what the
    comparison's sentence calls the two.

    Raises:
        UsageError: A frame breaks the contract of ``asr_by_turn``, the arms share no id or length, or a frame holds benign dialogues.
    """
    for arm in (before, after):
        _refuse_kind(arm, "benign")
    comparison = compare(before, after, name_a=reference, name_b=name, resamples=resamples, seed=seed, level=level)
    first, second = paired(encode(before), encode(after))
    scored = scores_of_matrices([first, second], resamples=resamples, seed=seed, level=level)
    index_before, index_after = (
        replace(scores.safety_index, if_missing_low=low, if_missing_high=high)
        for scores, (low, high) in zip(scored, (comparison.safety_index_bounds_a, comparison.safety_index_bounds_b), strict=True)
    )
    prevented, introduced = (int((x.unsafe & ~y.unsafe).sum()) for x, y in ((first, second), (second, first)))
    net = prevented - introduced
    return ArmEffect(
        comparison=comparison,
        by_length=_by_length(comparison, *scored),
        safety_index_before=index_before,
        safety_index_after=index_after,
        prevented=prevented,
        introduced=introduced,
        extra_cost_usd=extra_cost_usd,
        cost_per_prevented_usd=extra_cost_usd / net if extra_cost_usd is not None and net > 0 else None,
    )


def benign_rate(
    frame: pl.DataFrame, column: str, *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, level: float = DEFAULT_LEVEL
) -> BenignRate:
    """False-alarm or over-refusal rate: the share of benign dialogues where ``column`` (true, false or null) is true.

    Raises:
        UsageError: ``column``, dialogue_id or length is missing or of the wrong type, a row is repeated, or a dialogue is harmful.
    """
    if column not in frame.columns or frame[column].dtype not in (pl.Boolean, pl.Null):
        raise UsageError(f"the benign frame needs a column {column} that holds true, false or null")
    _refuse_kind(frame, "harmful")
    flag = pl.col(column).cast(pl.Boolean)
    labels = pl.when(flag).then(pl.lit("unsafe")).when(flag.not_()).then(pl.lit("safe")).otherwise(None)
    matrix = encode(checked(frame.with_columns(verdict=labels)).select(*KEY, "verdict"))
    low, high = _bounds(matrix, resamples=resamples, seed=seed, level=level)
    counted = matrix_asr_with_intervals(matrix, resamples=resamples, seed=seed, level=level)
    table = counted.rename({"unsafe": "flagged", "safe": "not_flagged", "asr": "rate"}).drop("if_missing_safe", "if_missing_unsafe")
    return BenignRate(table, Estimate(ratio(matrix.unsafe.sum(), matrix.judged.sum()).item(), low, high))


def _by_length(comparison: Comparison, before: Scores, after: Scores) -> pl.DataFrame:
    table = comparison.by_length.rename({"asr_a": "asr_before", "asr_b": "asr_after"}).drop("only_a_unsafe", "only_b_unsafe")
    for name, scores in (("before", before), ("after", after)):
        bounds = scores.asr_by_turn.select("length", pl.col("ci_low").alias(f"{name}_low"), pl.col("ci_high").alias(f"{name}_high"))
        table = table.join(bounds, on="length", how="left", maintain_order="left")
    arms = [column for name in ("before", "after") for column in (f"asr_{name}", f"{name}_low", f"{name}_high")]
    return table.select("length", "pairs", *arms, "difference", "ci_low", "ci_high", "p_value", "p_holm")


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
        rows.append({"turn": turn, **_turn_row(*arms, resamples=resamples, seed=seed, level=level)})
    adjusted = holm([row["p_value"] for row in rows])
    whole = [row | {"p_holm": p} for row, p in zip(rows, adjusted, strict=True)]
    return pl.DataFrame(whole, schema=EFFECT_SCHEMA, orient="row").fill_nan(None)


def _turn_row(undefended: pl.DataFrame, defended: pl.DataFrame, *, resamples: int, seed: int, level: float) -> dict[str, float]:
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


def _refuse_kind(frame: pl.DataFrame, kind: str) -> None:
    if "kind" in frame.columns and (frame["kind"].cast(pl.String) == kind).any():
        raise UsageError(f"{kind} dialogues cannot enter this figure; filter the frame by kind first")
