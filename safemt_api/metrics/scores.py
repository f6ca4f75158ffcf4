"""ASR by turn and SI of several runs with their intervals: what a leaderboard needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from safemt_api.metrics.asr import matrix_asr_with_intervals
from safemt_api.metrics.frames import VerdictMatrix, encode
from safemt_api.metrics.safety_index import SafetyIndex, scored_index
from safemt_api.metrics.uncertainty import DEFAULT_LEVEL, DEFAULT_RESAMPLES


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Both scores of one run: ``asr_by_turn`` as ``asr_by_turn_with_intervals`` gives it, and SI with all that stands beside it."""

    asr_by_turn: pl.DataFrame
    safety_index: SafetyIndex


def scores_with_intervals(
    frames: Sequence[pl.DataFrame], *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, level: float = DEFAULT_LEVEL
) -> list[Scores]:
    """The scores of each run, in order.

    Raises:
        UsageError: A frame breaks the contract of ``asr_by_turn``.
    """
    return scores_of_matrices([encode(frame) for frame in frames], resamples=resamples, seed=seed, level=level)


def scores_of_matrices(
    matrices: Sequence[VerdictMatrix], *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, level: float = DEFAULT_LEVEL
) -> list[Scores]:
    """``scores_with_intervals`` of verdicts that are encoded already."""
    again: dict[str, Any] = {"resamples": resamples, "seed": seed, "level": level}
    return [Scores(matrix_asr_with_intervals(matrix, **again), scored_index(matrix, **again)) for matrix in matrices]
