"""First failure: the share that has failed by each length or turn, by the discrete Kaplan–Meier estimator.

The hazard at k is the share unsafe at k among those with every earlier verdict safe and a verdict at k (Kaplan and Meier 1958, JASA 53);
the share failed by k is 1 minus the product of 1 minus the hazards up to k. With nothing missing this is the plain share. With verdicts
missing at random it stays unbiased, while "seen to fail, of those that are known" rises: whoever failed is known in spite of a later gap,
whoever did not is not.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from safemt_api.metrics.frames import ABSENT, SAFE, UNSAFE, Codes, Floats, encode
from safemt_api.metrics.uncertainty import DEFAULT_LEVEL, DEFAULT_RESAMPLES, bayesian_sums, bounds_of_shares, ratio


def first_failure(frame: pl.DataFrame, *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, level: float = DEFAULT_LEVEL) -> pl.DataFrame:
    """One row a length k: length, and the columns of ``failure_curve`` with every id as a unit, in each repeat if there are several.

    Raises:
        UsageError: The frame breaks the contract of ``asr_by_turn``.
    """
    matrix = encode(frame)
    codes, clusters = np.vstack([part.codes for part in matrix.parts]), np.tile(np.arange(len(matrix.ids)), matrix.repeats)
    # An id that was never asked in a repeat is no unit of it.
    asked = (codes != ABSENT).any(axis=1) | (matrix.repeats == 1)
    curve = failure_curve(codes[asked], clusters[asked], resamples=resamples, seed=seed, level=level)
    return curve.select(pl.Series("length", matrix.lengths, dtype=pl.Int64), pl.all())


def failure_curve(
    codes: Codes, clusters: NDArray[np.int64], *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, level: float = DEFAULT_LEVEL
) -> pl.DataFrame:
    """One row a position: failed, not_failed, missing, share, if_missing_safe, if_missing_unsafe, ci_low, ci_high.

    ``codes`` has shape (units, positions), as in a ``VerdictMatrix``; ``clusters`` numbers each unit's dialogue id, and intervals resample
    those. ``failed`` units were seen to be unsafe at or before the position; ``not_failed`` ones have all verdicts so far, all safe;
    ``missing`` ones were not seen to fail and lack a verdict so far. ``share`` is the Kaplan–Meier estimate, null once nobody is left at
    risk; the bounds are the shares if every missing verdict were safe, and if every one were unsafe.
    """
    failed = np.logical_or.accumulate(codes == UNSAFE, axis=1)
    missing = np.logical_or.accumulate(codes < SAFE, axis=1) & ~failed
    units, failed, missing = len(codes), failed.sum(axis=0), missing.sum(axis=0)
    by_id = np.zeros((int(clusters.max(initial=-1)) + 1, 2 * codes.shape[1]))
    # At risk are units with every earlier verdict safe and a verdict here; those of them fail that are unsafe.
    safe_before = np.hstack([np.ones((units, 1), dtype=bool), np.logical_and.accumulate(codes == SAFE, axis=1)[:, :-1]])
    at_risk = safe_before & (codes >= SAFE)
    np.add.at(by_id, clusters, np.hstack([at_risk & (codes == UNSAFE), at_risk]).astype(np.float64))
    share = _kaplan_meier(by_id.sum(axis=0, keepdims=True))[0]
    low, high = bounds_of_shares(share, _share_samples(by_id, units, resamples=resamples, seed=seed), level=level)
    columns = {
        "failed": failed,
        "not_failed": units - failed - missing,
        "missing": missing,
        "share": share,
        "if_missing_safe": ratio(failed, np.full_like(failed, units)),
        "if_missing_unsafe": ratio(failed + missing, np.full_like(failed, units)),
        "ci_low": low,
        "ci_high": high,
    }
    return pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))


def _share_samples(columns: Floats, units: int, *, resamples: int, seed: int) -> Floats:
    """Draws of the share failed by each position. The pseudo-id is at risk up to there and fails just there, or never does.

    So few ids may be left at risk at the end that none fails: a pseudo-id that failed before would not widen that part.
    """
    # Two columns more carry the pseudo-id's weight; it has as many dialogues as an id has on average.
    weight = units / max(len(columns), 1)
    never, just_now = np.zeros((2, columns.shape[1] + 2))
    never[-2], just_now[-1] = weight, weight
    sums = bayesian_sums(np.pad(columns, ((0, 0), (0, 2))), never, just_now, resamples=resamples, seed=seed)
    (failing, at_risk), extra = np.hsplit(sums[:, :-2], 2), sums[:, -2:]
    at_risk = at_risk + extra.sum(axis=1, keepdims=True)
    surviving_before = np.cumprod(np.hstack([np.ones((len(sums), 1)), 1 - (failing / at_risk)[:, :-1]]), axis=1)
    return np.asarray(1 - surviving_before * (1 - (failing + extra[:, 1:]) / at_risk), dtype=np.float64)


def _kaplan_meier(sums: Floats) -> Floats:
    """The share failed by each position from summed failures and numbers at risk; NaN once nobody is at risk, unless all have failed."""
    failing, at_risk = np.hsplit(sums, 2)
    surviving = np.cumprod(1 - ratio(failing, at_risk), axis=1)
    all_failed = np.logical_or.accumulate((failing == at_risk) & (at_risk > 0), axis=1)
    return np.where(all_failed, 1.0, 1 - surviving)
