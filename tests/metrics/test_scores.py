"""Several runs at once give the numbers that each gives alone."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
from polars.testing import assert_frame_equal

from safemt_api.metrics.asr import asr_by_turn_with_intervals
from safemt_api.metrics.safety_index import safety_index_with_interval, scores_with_intervals

Build = Callable[..., pl.DataFrame]


def test_runs_together_equal_runs_alone_whatever_their_ids(verdicts: Build) -> None:
    frames = [
        verdicts("SSUUU", "SUSUU", "SSSSS", "UUSUU", "S?U.U"),
        verdicts("SSU", "SSS", lengths=(1, 2, 4), ids=["x", "y"]),
        verdicts("SUSUS", "USSSS", "SSSSS", "SSSSS", "?????"),
        verdicts(),
    ]
    for frame, scores in zip(frames, scores_with_intervals(frames, resamples=300, seed=5), strict=True):
        alone = safety_index_with_interval(frame, resamples=300, seed=5)
        # repr takes one NaN for another.
        assert repr(scores.safety_index) == repr(alone)
        assert_frame_equal(scores.asr_by_turn, asr_by_turn_with_intervals(frame))
