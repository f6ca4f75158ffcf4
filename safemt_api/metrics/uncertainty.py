"""Intervals: the bootstrap over ids that all scores share, Wilson's interval, and exact distributions of sums.

Every score here is a function of sums over ids. One resample of n ids with replacement is a row of n multinomial counts, so all
resamples of all columns are one matrix product, and runs on the same ids share the counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from safemt_api.errors import UsageError
from safemt_api.metrics.frames import Floats, checked_level

Counts = NDArray[np.generic]

DEFAULT_RESAMPLES = 10_000
DEFAULT_LEVEL = 0.95
MAX_CHUNK_CELLS = 500_000
"""Counts held at once; bounds memory at about 10 MB whatever the number of ids and resamples."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval; all three are NaN where nothing was observed."""

    value: float
    ci_low: float
    ci_high: float


NOTHING = Estimate(math.nan, math.nan, math.nan)


def wilson(successes: float, n: float, *, level: float = DEFAULT_LEVEL) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a proportion (Wilson 1927, JASA 22); NaNs for ``n`` 0.

    Raises:
        UsageError: Counts that are negative or exceed ``n``, or a level outside (0, 1).
    """
    if not 0 <= successes <= n:
        raise UsageError(f"successes must lie between 0 and n: {successes} of {n}")
    z = normal_quantile(level)
    if n == 0:
        return math.nan, math.nan
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return (0.0 if successes == 0 else max(0.0, middle - half)), (1.0 if successes == n else min(1.0, middle + half))


def normal_quantile(level: float) -> float:
    """The two-sided standard normal quantile of a confidence level (1.96 for 0.95)."""
    return NormalDist().inv_cdf((1 + checked_level(level)) / 2)


def bootstrap_sums(columns: Counts, *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0) -> Floats:
    """Sums of each column over resampled ids: shape (resamples, columns) from ``columns`` of shape (ids, columns).

    The same seed and number of ids give the same resamples, so two calls on the same ids are paired.
    """
    if resamples < 1:
        raise UsageError(f"resamples must be at least 1, not {resamples}")
    values = np.ascontiguousarray(columns, dtype=np.float64)
    sums = np.empty((resamples, values.shape[1]))
    for start, counts in _resample_counts(len(values), resamples=resamples, seed=seed):
        sums[start : start + len(counts)] = counts @ values
    return sums


def _resample_counts(ids: int, *, resamples: int, seed: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    generator = np.random.Generator(np.random.PCG64(seed))
    chunk = max(1, MAX_CHUNK_CELLS // max(ids, 1))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(0, ids, size=(rows, ids), dtype=np.int32) if ids else np.empty((rows, 0), dtype=np.int32)
        drawn += np.arange(rows, dtype=np.int32)[:, None] * ids
        yield start, np.bincount(drawn.ravel(), minlength=rows * ids).astype(np.float64).reshape(rows, ids)


def percentile_interval(samples: Floats, *, level: float = DEFAULT_LEVEL) -> tuple[Floats, Floats]:
    """Percentile bounds (low, high) of each column of ``samples``; NaN resamples are left out, a column of NaNs gives NaN."""
    tails = [(1 - checked_level(level)) / 2, (1 + level) / 2]
    columns = np.ascontiguousarray(samples.T)
    if not np.isnan(columns).any():
        low, high = np.quantile(columns, tails, axis=1)
        return low, high
    bounds = [np.quantile(kept, tails) if (kept := column[~np.isnan(column)]).size else np.full(2, np.nan) for column in columns]
    pairs = np.array(bounds).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def percentile_estimate(value: float, samples: Floats, *, level: float = DEFAULT_LEVEL) -> Estimate:
    """``value`` with the percentile bounds of its resamples (a vector)."""
    low, high = percentile_interval(samples[:, None], level=level)
    return Estimate(float(value), float(low[0]), float(high[0]))


def ratio(numerator: Counts, denominator: Counts) -> Floats:
    """Element-wise quotient; NaN where the denominator is 0."""
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    shape = np.broadcast_shapes(top.shape, bottom.shape)
    return np.asarray(np.divide(top, bottom, out=np.full(shape, np.nan), where=bottom != 0))


def proportion_intervals(
    unsafe: Counts,
    judged: Counts,
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    level: float = DEFAULT_LEVEL,
) -> tuple[Floats, Floats]:
    """Bounds of each column's proportion, with ids (rows) as clusters; inputs are counts of shape (ids, columns)."""
    width = unsafe.shape[1]
    sums = bootstrap_sums(np.hstack([unsafe, judged]), resamples=resamples, seed=seed)
    return bounds_from_samples(ratio(sums[:, :width], sums[:, width:]), unsafe, judged, level=level)


def bounds_from_samples(samples: Floats, unsafe: Counts, judged: Counts, *, level: float = DEFAULT_LEVEL) -> tuple[Floats, Floats]:
    """Percentile bounds of proportions, with Wilson's where all verdicts of a column agree.

    Then every resample is the same and the percentile interval has no width, although 0 of 20 is far from certain to be 0:
    Wilson's interval stands in, with the ids (not the replies) as its sample size.
    """
    low, high = percentile_interval(samples, level=level)
    totals, successes = np.asarray(judged).sum(axis=0), np.asarray(unsafe).sum(axis=0)
    for i in np.flatnonzero((totals > 0) & ((successes == 0) | (successes == totals))):
        clusters = int(np.count_nonzero(judged[:, i]))
        low[i], high[i] = wilson(clusters if successes[i] else 0, clusters, level=level)
    return low, high


@dataclass(frozen=True, slots=True, eq=False)
class IntegerVariable:
    """``count`` independent copies of a whole-number variable; ``probabilities[j]`` belongs to the value ``lowest + j``."""

    lowest: int
    probabilities: Floats
    count: int


SMALLEST_P = 1e-12
"""Below this the Fourier sums are rounding noise, so a smaller p value is given as this one."""


def exact_two_sided_p(variables: Iterable[IntegerVariable], observed: float) -> float:
    """The chance that a sum of independent whole-number variables lies at least as far from its mean as ``observed``.

    Exact up to rounding: the distribution of the sum is the product of the parts' discrete Fourier transforms.
    """
    parts = list(variables)
    lowest = sum(part.lowest * part.count for part in parts)
    span = sum((len(part.probabilities) - 1) * part.count for part in parts) + 1
    size = 1 << (span - 1).bit_length()
    transform = np.ones(size // 2 + 1, dtype=np.complex128)
    for part in parts:
        transform *= np.fft.rfft(part.probabilities, size) ** part.count
    chances = np.fft.irfft(transform, size)[:span] if size > 1 else np.ones(1)
    mean = sum(float(part.probabilities @ np.arange(len(part.probabilities)) + part.lowest) * part.count for part in parts)
    extreme = np.abs(np.arange(span) + lowest - mean) >= abs(observed - mean) - 1e-6
    return float(min(1.0, max(SMALLEST_P, chances[extreme].sum())))
