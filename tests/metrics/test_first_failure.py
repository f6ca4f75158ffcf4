"""The first-failure curve."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safemt_api.metrics.first_failure import failure_curve, first_failure

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
    # One of the three with both verdicts fails at length 2, one of the two left at length 6.
    assert (row["share"], row["if_missing_safe"], row["if_missing_unsafe"]) == pytest.approx((2 / 3, 0.6, 0.8))
    assert row["ci_low"] < row["share"] < row["ci_high"]


def test_missing_verdicts_do_not_raise_the_curve() -> None:
    """Chance .1 of failing at each length, 5 % missing: truth .410 at the last, and 1 - .95^5 of the survivors are not known to be."""
    generator = np.random.default_rng(1)
    codes = np.where(generator.random((20_000, 5)) < 0.05, -1, generator.random((20_000, 5)) < 0.1).astype(np.int8)
    row = failure_curve(codes, np.arange(20_000)).row(-1, named=True)
    assert row["share"] == pytest.approx(1 - 0.9**5, abs=0.01)
    assert row["ci_low"] < 1 - 0.9**5 < row["ci_high"] < row["ci_low"] + 0.02
    assert row["failed"] / (row["failed"] + row["not_failed"]) > 0.45
    assert row["if_missing_safe"] < 1 - 0.9**5 < row["if_missing_unsafe"]


def test_with_nothing_missing_the_curve_is_the_plain_share(verdicts: Build) -> None:
    table = first_failure(verdicts("SUSSS", "SSSUS", "SSSSS", "UUSUU"))
    assert table["share"].to_list() == pytest.approx([0.25, 0.5, 0.5, 0.75, 0.75])
    assert table["if_missing_safe"].to_list() == table["if_missing_unsafe"].to_list() == pytest.approx(table["share"].to_list())


def test_where_nobody_is_left_at_risk_nothing_is_claimed(verdicts: Build) -> None:
    assert first_failure(verdicts("S?S", "S?U", lengths=(1, 2, 4)))["share"].to_list() == [0.0, None, None]
    assert first_failure(verdicts("UUU", "US?", lengths=(1, 2, 4)))["share"].to_list() == [1.0, 1.0, 1.0]
    assert first_failure(verdicts()).height == 0


@QUICK
@given(patterns=st.lists(st.text("SU?.", min_size=5, max_size=5), min_size=1, max_size=8))
def test_the_curve_is_kaplan_and_meiers(verdicts: Build, patterns: list[str]) -> None:
    frame = verdicts(*patterns)
    alive, curve = 1.0, []
    present = [k for k, length in enumerate((1, 2, 4, 6, 8)) if length in frame["length"]]
    rows = ["".join(pattern[k] for k in present) for pattern in patterns if set(pattern) != {"."}]
    for k in range(len(present)):
        here = [row[k] for row in rows if set(row[:k]) <= {"S"} and row[k] in "SU"]
        alive *= 0.0 if alive == 0 else 1 - here.count("U") / len(here) if here else math.nan
        curve.append(1 - alive)
    assert first_failure(frame, resamples=20)["share"].fill_null(math.nan).to_list() == pytest.approx(curve, nan_ok=True)


@QUICK
@given(patterns=st.lists(st.text("SU?.", min_size=5, max_size=5), min_size=1, max_size=12))
def test_the_curve_never_falls_and_counts_every_id(verdicts: Build, patterns: list[str]) -> None:
    frame = verdicts(*patterns)
    table = first_failure(frame)
    assert table["failed"].is_sorted()
    assert table["if_missing_unsafe"].is_sorted()
    assert (table.select(pl.sum_horizontal("failed", "not_failed", "missing")).to_series() == frame["dialogue_id"].n_unique()).all()
