"""Intervals: Wilson's and Newcombe's where an id gives one observation, bootstraps over ids where it gives several; sums' distributions.

Every score here is a function of sums over ids. A resample gives each id a random weight, so all resamples of all columns are one matrix
product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from safemt_api.errors import UsageError
from safemt_api.metrics.frames import Floats, checked_level

Counts = NDArray[np.generic]

DEFAULT_RESAMPLES = 10_000
DEFAULT_LEVEL = 0.95
MANY_OBSERVATIONS, FEW = 50, 3
"""Where Wilson's bounds are mended: for up to ``FEW`` successes or failures of more than ``MANY_OBSERVATIONS``."""
MAX_CHUNK_CELLS = 500_000
"""Counts held at once; bounds memory at about 10 MB whatever the number of ids and resamples."""
MAX_KEPT_CELLS = 24_000_000
"""Counts kept for the next call, a byte each. All effects of a study resample the same ids, and drawing takes longer than all else."""


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


def proportion_interval(successes: int, n: int, *, level: float = DEFAULT_LEVEL) -> tuple[float, float]:
    """The interval (low, high) of a proportion of ``n`` independent observations: Wilson's, mended where it covers too seldom.

    Wilson's lower bound for one to three successes is too high where the true rate is about 1 / n (it covers 92.1 % for n = 100 and
    p = .01), so that of the Poisson distribution stands in, as Brown, Cai and DasGupta (2001, Statist. Sci. 16, section 4.1.1) propose
    for more than 50 observations; likewise the upper one for one to three failures.
    """
    low, high = wilson(successes, n, level=level)
    if n > MANY_OBSERVATIONS:
        low = min(low, _poisson_lower(successes, level) / n) if 1 <= successes <= FEW else low
        high = max(high, 1 - _poisson_lower(n - successes, level) / n) if 1 <= n - successes <= FEW else high
    return low, high


@cache
def _poisson_lower(count: int, level: float) -> float:
    """The mean of a Poisson variable that stays below ``count`` with chance ``level``, by bisection."""
    low, high = 0.0, float(count)
    for _ in range(60):
        middle = (low + high) / 2
        below = sum(math.exp(-middle) * middle**i / math.factorial(i) for i in range(count))
        low, high = (middle, high) if below > level else (low, middle)
    return low


def paired_difference_interval(both: int, only_a: int, only_b: int, pairs: int, *, level: float = DEFAULT_LEVEL) -> tuple[float, float]:
    """Newcombe's interval (low, high) of the difference B minus A of two proportions on the same ids (1998, Stat. Med. 17, method 10).

    Wilson's intervals of both proportions, combined with the pairs' correlation; its count is corrected for continuity where it is
    positive, as there. ``only_a`` pairs are successes in A alone; NaNs without a pair.

    Raises:
        UsageError: Counts that are negative or exceed ``pairs``.
    """
    neither = pairs - both - only_a - only_b
    if min(both, only_a, only_b, neither) < 0:
        raise UsageError(f"counts of pairs must not be negative: {both} both, {only_a} and {only_b} in one, {neither} in neither")
    if not pairs:
        return math.nan, math.nan
    a, b = (both + only_a) / pairs, (both + only_b) / pairs
    (low_a, high_a), (low_b, high_b) = (wilson(both + only, pairs, level=level) for only in (only_a, only_b))
    margins = (both + only_a) * (both + only_b) * (only_a + neither) * (only_b + neither)
    product: float = both * neither - only_a * only_b
    product = max(0.0, product - pairs / 2) if product > 0 else product
    phi = product / math.sqrt(margins) if margins else 0.0
    below = (b - low_b) ** 2 - 2 * phi * (b - low_b) * (high_a - a) + (high_a - a) ** 2
    above = (high_b - b) ** 2 - 2 * phi * (high_b - b) * (a - low_a) + (a - low_a) ** 2
    return b - a - math.sqrt(max(0.0, below)), b - a + math.sqrt(max(0.0, above))


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
    ids = len(values)
    kept = _kept_counts(ids, resamples, seed) if ids * resamples <= MAX_KEPT_CELLS else None
    chunks = _resample_counts(ids, resamples, seed) if kept is None else kept
    return np.concatenate([counts.astype(np.float64) @ values for counts in chunks])


@lru_cache(maxsize=1)
def _kept_counts(ids: int, resamples: int, seed: int) -> tuple[NDArray[np.uint8], ...] | None:
    """All counts, where each fits a byte (an id that is drawn 256 times is as good as never)."""
    kept = []
    for counts in _resample_counts(ids, resamples, seed):
        if counts.size and counts.max() > 255:
            return None
        kept.append(counts.astype(np.uint8))
    return tuple(kept)


def _resample_counts(ids: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each id is drawn, some resamples at a time."""
    generator = np.random.Generator(np.random.PCG64(seed))
    chunk = max(1, MAX_CHUNK_CELLS // max(ids, 1))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(0, ids, size=(rows, ids), dtype=np.int32) if ids else np.empty((rows, 0), dtype=np.int32)
        drawn += np.arange(rows, dtype=np.int32)[:, None] * ids
        yield np.bincount(drawn.ravel(), minlength=rows * ids).reshape(rows, ids)


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


def bayesian_sums(columns: Counts, low: Counts, high: Counts, *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0) -> Floats:
    """Randomly weighted sums of each column over ids and a pseudo-id, shape (resamples, columns): draws for ratios of sums.

    The Bayesian bootstrap (Rubin 1981, Ann. Statist. 9) weighs every id by an exponential draw where the ordinary one counts how often
    it was drawn. Here the draws have the shape 1 - 2 / ids, which gives a mean its unbiased variance. A pseudo-id stands for ids that were
    not seen but might be (the proper Bayesian bootstrap of Muliere and Secchi 1996, Ann. Inst. Statist. Math. 48): an exponential draw
    times the row ``low`` or ``high``, by the toss of a coin. For one proportion that is the mid-p version of Clopper and Pearson's
    interval (as Fay and Brittain 2016, Stat. Med. 35, do for survival). So draws differ even where all ids are alike, and rates near 0
    and 1 keep their coverage; benchmarks/intervals.py shows how well.

    Ids with equal rows are drawn as one, since a sum of gamma draws is one gamma draw: the cost grows with the patterns that ids show,
    hardly with the ids. The same seed gives the same weights to ids that stand in the same order with the same rows alike.
    """
    if resamples < 1:
        raise UsageError(f"resamples must be at least 1, not {resamples}")
    rows, counts = _distinct(np.ascontiguousarray(columns, dtype=np.float64))
    shapes = counts * max(0.5, 1 - 2 / max(float(counts @ rows.any(axis=1)), 1.0))
    generator = np.random.Generator(np.random.PCG64(seed))
    chunk = max(1, MAX_CHUNK_CELLS // max(len(shapes), 1))
    sums = np.empty((resamples, rows.shape[1]))
    for start in range(0, resamples, chunk):
        stop = min(start + chunk, resamples)
        sums[start:stop] = generator.standard_gamma(shapes, size=(stop - start, len(shapes))) @ rows
    weights, tossed = generator.standard_exponential((resamples, 1)), generator.random((resamples, 1)) < 0.5
    return sums + weights * np.where(tossed, high, low)


def _distinct(rows: Floats) -> tuple[Floats, Floats]:
    """The distinct rows in the order in which they first stand, and how often each does."""
    if not rows.size:
        return rows[:0], np.empty(0)
    _, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    return rows[first[order]], counts[order].astype(np.float64)


def bounds_of_shares(values: Floats, samples: Floats, *, level: float = DEFAULT_LEVEL) -> tuple[Floats, Floats]:
    """Percentile bounds (low, high) of shares that hold the shares themselves: a share of 0 or 1 is the end of its own interval."""
    low, high = percentile_interval(samples, level=level)
    known = np.where(np.isnan(values), np.nan, 1.0)
    low, high = np.minimum(low, values) * known, np.maximum(high, values) * known
    return np.where(values == 0, 0.0, low), np.where(values == 1, 1.0, high)


def proportion_intervals(
    unsafe: Counts,
    judged: Counts,
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    level: float = DEFAULT_LEVEL,
) -> tuple[Floats, Floats]:
    """Bounds of each column's proportion; inputs are counts of shape (ids, columns).

    ``proportion_interval`` where an id has one verdict at most in a column; where some have several, ids are clusters: Bayesian bootstrap.
    """
    totals, successes = np.sum(judged, axis=0), np.sum(unsafe, axis=0)
    single = np.max(judged, axis=0, initial=0) <= 1
    low, high = np.empty(len(totals)), np.empty(len(totals))
    for i in np.flatnonzero(single):
        low[i], high[i] = proportion_interval(int(successes[i]), int(totals[i]), level=level)
    if not single.all():
        at = np.flatnonzero(~single)
        own_unsafe, own_judged = np.asarray(unsafe)[:, at], np.asarray(judged)[:, at]
        # The pseudo-id has as many verdicts as an id has on average: all unsafe, or none.
        average = np.nan_to_num(ratio(totals[at], np.count_nonzero(own_judged, axis=0)))
        pseudo = np.hstack([0 * average, average]), np.hstack([average, average])
        sums = bayesian_sums(np.hstack([own_unsafe, own_judged]), *pseudo, resamples=resamples, seed=seed)
        low[at], high[at] = bounds_of_shares(ratio(successes[at], totals[at]), ratio(*np.hsplit(sums, 2)), level=level)
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
