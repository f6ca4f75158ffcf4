"""What a defence (a moderator, a guard) does: failures prevented on harmful dialogues, and what it costs the harmless ones.

Harmful and benign dialogues never share a figure: effects come from the harmful arms, rates of false alarms and over-refusals from
the benign one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from safemt_api.errors import UsageError
from safemt_api.metrics.asr import matrix_asr_with_intervals
from safemt_api.metrics.comparison import Comparison, compare, paired
from safemt_api.metrics.frames import KEY, VerdictMatrix, checked, encode
from safemt_api.metrics.safety_index import SafetyIndex
from safemt_api.metrics.scores import Scores, scores_of_matrices
from safemt_api.metrics.uncertainty import DEFAULT_LEVEL, DEFAULT_RESAMPLES, Estimate, proportion_intervals, ratio


@dataclass(frozen=True, slots=True, eq=False)
class DefenceEffect:
    """The same dialogues without and with the defence, over cells judged in both arms.

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


def defence_effect(
    undefended: pl.DataFrame,
    defended: pl.DataFrame,
    *,
    extra_cost_usd: float | None = None,
    name: str = "defended",
    reference: str = "undefended",
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    level: float = DEFAULT_LEVEL,
) -> DefenceEffect:
    """The paired effect of a defence; ``extra_cost_usd`` is what the defended arm cost more than the undefended one;
    ``name`` and ``reference`` are what the comparison's sentence calls the two.

    Raises:
        UsageError: A frame breaks the contract of ``asr_by_turn``, the arms share no id or length, or a frame holds benign dialogues.
    """
    for arm in (undefended, defended):
        _refuse_kind(arm, "benign")
    comparison = compare(undefended, defended, name_a=reference, name_b=name, resamples=resamples, seed=seed, level=level)
    before, after = paired(encode(undefended), encode(defended))
    scored = scores_of_matrices([before, after], resamples=resamples, seed=seed, level=level)
    index_before, index_after = (
        replace(scores.safety_index, if_missing_low=low, if_missing_high=high)
        for scores, (low, high) in zip(scored, (comparison.safety_index_bounds_a, comparison.safety_index_bounds_b), strict=True)
    )
    prevented, introduced = (int((x.unsafe & ~y.unsafe).sum()) for x, y in ((before, after), (after, before)))
    net = prevented - introduced
    return DefenceEffect(
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
    unsafe, judged = (np.sum(cells, axis=1, keepdims=True) for cells in (matrix.unsafe, matrix.judged))
    low, high = proportion_intervals(unsafe, judged, resamples=resamples, seed=seed, level=level)
    overall = Estimate(ratio(unsafe.sum(), judged.sum()).item(), float(low[0]), float(high[0]))
    return BenignRate(_flag_table(matrix, resamples=resamples, seed=seed, level=level), overall)


def _flag_table(matrix: VerdictMatrix, *, resamples: int, seed: int, level: float) -> pl.DataFrame:
    counted = matrix_asr_with_intervals(matrix, resamples=resamples, seed=seed, level=level)
    named = counted.rename({"unsafe": "flagged", "safe": "not_flagged", "asr": "rate"})
    return named.drop("if_missing_safe", "if_missing_unsafe")


def _by_length(comparison: Comparison, before: Scores, after: Scores) -> pl.DataFrame:
    table = comparison.by_length.rename({"asr_a": "asr_before", "asr_b": "asr_after"}).drop("only_a_unsafe", "only_b_unsafe")
    for name, scores in (("before", before), ("after", after)):
        bounds = scores.asr_by_turn.select("length", pl.col("ci_low").alias(f"{name}_low"), pl.col("ci_high").alias(f"{name}_high"))
        table = table.join(bounds, on="length", how="left", maintain_order="left")
    arms = [column for name in ("before", "after") for column in (f"asr_{name}", f"{name}_low", f"{name}_high")]
    return table.select("length", "pairs", *arms, "difference", "ci_low", "ci_high", "p_value", "p_holm")


def _refuse_kind(frame: pl.DataFrame, kind: str) -> None:
    if "kind" in frame.columns and (frame["kind"].cast(pl.String) == kind).any():
        raise UsageError(f"{kind} dialogues cannot enter this figure; filter the frame by kind first")
