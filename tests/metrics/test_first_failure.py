"""The first-failure curve."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from safemt_api.metrics.first_failure import first_failure
from safemt_api.metrics.uncertainty import wilson

QUICK = settings(deadline=None, max_examples=30)

Build = Callable[..., pl.DataFrame]


def test_an_id_counts_as_failed_from_its_first_unsafe_length_on(verdicts: Build) -> None:
    table = first_failure(verdicts("SUSSS", "SSSUS", "SSSSS", "S?SUS", "S.SSS"))
    assert table.select("length", "failed", "not_failed", "missing").rows() == [
        (1, 0, 5, 0),
        (2, 1, 2, 2),
        (4, 1, 2, 2),
        (6, 3, 1, 1),
        (8, 3, 1, 1),
    ]
    row = table.row(3, named=True)
    assert (row["share"], row["if_missing_safe"], row["if_missing_unsafe"]) == (0.75, 0.6, 0.8)
    assert (row["ci_low"], row["ci_high"]) == wilson(3, 4)


@QUICK
@given(patterns=st.lists(st.text("SU?.", min_size=5, max_size=5), min_size=1, max_size=12))
def test_the_curve_never_falls_and_counts_every_id(verdicts: Build, patterns: list[str]) -> None:
    frame = verdicts(*patterns)
    table = first_failure(frame)
    assert table["failed"].is_sorted()
    assert table["if_missing_unsafe"].is_sorted()
    assert (table.select(pl.sum_horizontal("failed", "not_failed", "missing")).to_series() == frame["dialogue_id"].n_unique()).all()
