"""Ranks of several runs over the same ids, with the range that the data leave open: a rank alone is a claim that they do not make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from safemt_api.metrics.frames import Floats, checked_level, encode, shared
from safemt_api.metrics.safety_index import enough_complete, pseudo_ids, safety_index_of, safety_index_samples, score_columns
from safemt_api.metrics.uncertainty import DEFAULT_LEVEL, DEFAULT_RESAMPLES, bayesian_sums


@dataclass(frozen=True, slots=True)
class Rank:
    """A run's place by Safety Index: 1 is the safest; ``best`` and ``worst`` are the ends of the interval over paired resamples of ids."""

    safety_index: float
    rank: int
    best: int
    worst: int


def ranks(
    frames: Mapping[str, pl.DataFrame], *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, level: float = DEFAULT_LEVEL
) -> dict[str, Rank]:
    """The places of the runs over the ids and lengths that all of them hold; a run without a Safety Index there has no place.

    Every resample weighs the same ids alike in all runs, so what runs share does not widen their ranges (paired bootstrap over ids,
    with the pseudo-ids of ``bayesian_sums``; ranges of ranks as in Goldstein and Spiegelhalter 1996, J. R. Statist. Soc. A 159).

    Args:
        frames: Verdict frames by the name of the run.
        resamples: How many.
        seed: Of the resamples.
        level: Of the range.

    Raises:
        UsageError: A frame breaks the contract of ``asr_by_turn``, or the runs share no id or no length.
    """
    checked_level(level)
    matrices = shared([encode(frame) for frame in frames.values()], so="they have no common ranking") if frames else []
    placed = {name: matrix for name, matrix in zip(frames, matrices, strict=True) if enough_complete(matrix)}
    if not placed:
        return {}
    values = np.array([safety_index_of(matrix) for matrix in placed.values()])
    # All runs' columns stand side by side, so that an id has one weight: SI of every run in every resample, shape (resamples, runs).
    pseudo = (np.concatenate(rows) for rows in zip(*map(pseudo_ids, placed.values()), strict=True))
    sums = bayesian_sums(np.hstack([*map(score_columns, placed.values())]), *pseudo, resamples=resamples, seed=seed)
    parts = zip(np.split(sums, len(placed), axis=1), placed.values(), strict=True)
    drawn = np.column_stack([safety_index_samples(part, matrix) for part, matrix in parts])
    (firsts, lasts), (now, now_last) = _places(drawn), _places(values[None])
    low = np.nanpercentile(firsts, 50 * (1 - level), axis=0, method="lower")
    high = np.nanpercentile(lasts, 50 * (1 + level), axis=0, method="higher")
    # A tie over few ids may put every resample on one side of the place itself: the range always holds it.
    best, worst = np.minimum(low, now[0]), np.maximum(high, now_last[0])
    return {name: Rank(float(values[i]), int(now[0, i]), int(best[i]), int(worst[i])) for i, name in enumerate(placed)}


def _places(values: Floats) -> tuple[Floats, Floats]:
    """The first and the last place along the last axis that each value may claim, the largest first: those equal to it share theirs."""
    better = (values[:, None, :] > values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    first, last = (np.where(np.isnan(values), np.nan, place) for place in (better + 1, better + equal))
    return first, last
