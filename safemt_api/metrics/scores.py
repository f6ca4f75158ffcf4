"""ASR by turn and SI of several runs with their intervals, from one set of resamples: what a leaderboard needs, quickly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from safemt_api.metrics.asr import asr_of_matrix, with_bounds
from safemt_api.metrics.frames import Floats, VerdictMatrix, encode
from safemt_api.metrics.safety_index import asr_samples, estimate_from_samples, safety_index_samples, score_columns
from safemt_api.metrics.uncertainty import DEFAULT_LEVEL, DEFAULT_RESAMPLES, Estimate, bootstrap_sums, bounds_from_samples


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Both scores of one run: ``asr_by_turn`` as ``asr_by_turn_with_intervals`` gives it, and SI with its interval."""

    asr_by_turn: pl.DataFrame
    safety_index: Estimate


def scores_with_intervals(
    frames: Sequence[pl.DataFrame], *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, level: float = DEFAULT_LEVEL
) -> list[Scores]:
    """The scores of each run, in order; the same numbers as one run at a time gives, but runs on the same ids share their resamples.

    Raises:
        UsageError: A frame breaks the contract of ``asr_by_turn``.
    """
    return scores_of_matrices([encode(frame) for frame in frames], resamples=resamples, seed=seed, level=level)


def scores_of_matrices(
    matrices: Sequence[VerdictMatrix], *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, level: float = DEFAULT_LEVEL
) -> list[Scores]:
    """``scores_with_intervals`` of verdicts that are encoded already."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        groups[matrix.ids].append(i)
    scores: dict[int, Scores] = {}
    for members in groups.values():
        sums = _summed([matrices[i] for i in members], resamples=resamples, seed=seed)
        scores |= {i: _scored(matrices[i], part, level=level) for i, part in zip(members, sums, strict=True)}
    return [scores[i] for i in range(len(matrices))]


def _summed(matrices: Sequence[VerdictMatrix], *, resamples: int, seed: int) -> list[Floats]:
    columns = [score_columns(matrix) for matrix in matrices]
    edges = np.cumsum([part.shape[1] for part in columns])[:-1]
    return np.split(bootstrap_sums(np.hstack(columns), resamples=resamples, seed=seed), edges, axis=1)


def _scored(matrix: VerdictMatrix, sums: Floats, *, level: float) -> Scores:
    low, high = bounds_from_samples(asr_samples(sums, matrix), matrix.unsafe, matrix.judged, level=level)
    return Scores(
        with_bounds(asr_of_matrix(matrix), low, high), estimate_from_samples(matrix, safety_index_samples(sums, matrix), level=level)
    )
