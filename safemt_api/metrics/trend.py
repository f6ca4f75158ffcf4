"""Does risk rise with the number of turns? A logistic slope with ids as clusters, and an exact permutation test within id.

The slope says how fast the odds of an unsafe reply grow per turn; its standard error is the cluster-robust sandwich (Liang and
Zeger 1986, Biometrika 73). The permutation test asks whether unsafe verdicts stand at longer lengths than chance would put them
when each id's verdicts are dealt out anew over its own lengths; it needs no model and holds for any number of ids.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np
import polars as pl
from numpy.typing import NDArray

from safemt_api.metrics.frames import Floats, VerdictMatrix, encode
from safemt_api.metrics.repeats import any_unsafe
from safemt_api.metrics.uncertainty import DEFAULT_LEVEL, Estimate, IntegerVariable, exact_two_sided_p, normal_quantile

MAX_STEPS = 100
MAX_LOGIT_STEP = 3.0
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Trend:
    """``slope`` is the change in log odds per turn, ``None`` where no finite slope fits (separation, one length, too few ids).

    ``p_value`` comes from ``test``: always the permutation test within id; ``p_slope`` is the Wald test of the slope.
    """

    slope: Estimate | None
    p_slope: float | None
    p_value: float | None
    test: str
    note: str | None
    sentence: str


def trend_with_length(frame: pl.DataFrame, *, level: float = DEFAULT_LEVEL) -> Trend:
    """Slope and tests of ASR against length; raises ``UsageError`` for a frame that breaks the contract of ``asr_by_turn``.

    Of dialogues that were asked several times the verdict is whether any reply was unsafe (``repeats.any_unsafe``): the replies of one cell
    depend on each other, so that they must not be dealt out apart.
    """
    matrix = any_unsafe(encode(frame))
    slope, p_slope, note = _slope(matrix, level=level)
    p_value = permutation_p(matrix)
    return Trend(slope, p_slope, p_value, "exact permutation test within id", note, _sentence(matrix, slope, p_value, level=level))


def permutation_p(matrix: VerdictMatrix) -> float | None:
    """Exact two-sided p value of the sum of lengths at which ids are unsafe; ``None`` where no id has both verdicts at two lengths."""
    dealt = Counter((tuple(judged), int(unsafe.sum())) for judged, unsafe in zip(matrix.judged.tolist(), matrix.unsafe, strict=True))
    variables, observed = [], 0.0
    for (judged, failures), count in dealt.items():
        lengths = [k for k, has in zip(matrix.lengths, judged, strict=True) if has]
        if 0 < failures < len(lengths):
            variables.append(_dealt(lengths, failures, count))
    if not variables:
        return None
    mixed = matrix.unsafe.any(axis=1) & (matrix.judged & ~matrix.unsafe).any(axis=1)
    observed = float((matrix.unsafe[mixed] * np.array(matrix.lengths)).sum())
    return exact_two_sided_p(variables, observed)


def _dealt(lengths: list[int], failures: int, count: int) -> IntegerVariable:
    sums = [sum(chosen) for chosen in combinations(lengths, failures)]
    return IntegerVariable(min(sums), np.bincount(np.array(sums) - min(sums)) / len(sums), count)


def _slope(matrix: VerdictMatrix, *, level: float) -> tuple[Estimate | None, float | None, str | None]:
    rows, columns = np.nonzero(matrix.judged)
    failed = matrix.unsafe[rows, columns].astype(np.float64)
    turns = np.array(matrix.lengths, dtype=np.float64)[columns]
    if len(np.unique(rows)) < 2 or len(np.unique(turns)) < 2:
        return None, None, "too few ids or lengths for a slope"
    if _separated(turns, failed):
        return None, None, "verdicts are perfectly separated by length, so no finite slope fits"
    coefficients = _fitted(turns, failed)
    if coefficients is None:
        return None, None, "the slope did not converge"
    error = _robust_error(turns, failed, rows, coefficients)
    if not error > 0:
        return None, None, "too few ids for a standard error of the slope"
    value, half = float(coefficients[1]), normal_quantile(level) * error
    return Estimate(value, value - half, value + half), 2 * NormalDist().cdf(-abs(value) / error), None


def _separated(turns: Floats, failed: Floats) -> bool:
    unsafe, safe = turns[failed == 1], turns[failed == 0]
    return not (unsafe.size and safe.size) or unsafe.min() >= safe.max() or unsafe.max() <= safe.min()


def _design(turns: Floats) -> Floats:
    return np.column_stack([np.ones_like(turns), turns])


def _fitted(turns: Floats, failed: Floats) -> Floats | None:
    """Intercept and slope by Newton's method (iteratively reweighted least squares)."""
    design = _design(turns)
    coefficients: Floats = np.zeros(2)
    for _ in range(MAX_STEPS):
        chance = 1 / (1 + np.exp(-(design @ coefficients)))
        step = np.linalg.solve(_information(design, chance), design.T @ (failed - chance))
        # Full Newton steps can overshoot for ever on nearly separated verdicts; small ones reach the same optimum.
        coefficients += step * min(1.0, MAX_LOGIT_STEP / max(np.abs(design @ step).max(), TOLERANCE))
        if np.abs(step).max() < TOLERANCE:
            return coefficients
    return None


def _information(design: Floats, chance: Floats) -> Floats:
    return np.asarray((design * (chance * (1 - chance))[:, None]).T @ design, dtype=np.float64)


def _robust_error(turns: Floats, failed: Floats, clusters: NDArray[np.int64], coefficients: Floats) -> float:
    design = _design(turns)
    chance = 1 / (1 + np.exp(-(design @ coefficients)))
    scores = np.zeros((int(clusters.max()) + 1, 2))
    np.add.at(scores, clusters, design * (failed - chance)[:, None])
    bread, ids = np.linalg.inv(_information(design, chance)), len(np.unique(clusters))
    # G / (G - 1) is the usual small-sample factor for G clusters.
    covariance = bread @ (scores.T @ scores) @ bread * ids / (ids - 1)
    return math.sqrt(max(0.0, float(covariance[1, 1])))


def _sentence(matrix: VerdictMatrix, slope: Estimate | None, p_value: float | None, *, level: float) -> str:
    if p_value is None:
        return "No id has both safe and unsafe verdicts at different lengths, so a trend with turns cannot be tested within ids."
    p_said = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"
    shown, p_text = p_value < 1 - level, f"{p_said}, exact permutation test within id"
    if not shown:
        return f"No trend with the number of turns is shown ({p_text})."
    odds = f"; the odds change by a factor of {math.exp(slope.value):.2f} per turn" if slope else ""
    return f"Risk {'rises' if _rises(matrix) else 'falls'} with the number of turns ({p_text}{odds})."


def _rises(matrix: VerdictMatrix) -> bool:
    """Whether ids are unsafe at longer lengths than the mean of their own judged lengths."""
    turns = np.array(matrix.lengths, dtype=np.float64)
    means = (matrix.judged * turns).sum(axis=1) / np.maximum(matrix.judged.sum(axis=1), 1)
    return float((matrix.unsafe * (turns - means[:, None])).sum()) > 0
