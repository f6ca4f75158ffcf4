"""The frame contract: what is accepted, and what a wrong frame is told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from safemt_api.errors import UsageError
from safemt_api.metrics.frames import ABSENT, MISSING, SAFE, UNSAFE, checked, encode

Build = Callable[..., pl.DataFrame]


def test_a_matrix_has_sorted_ids_and_lengths_and_tells_missing_from_not_planned(verdicts: Build) -> None:
    matrix = encode(verdicts("US?", "S.U", ids=["b", "a"], lengths=[4, 1, 2]))
    assert matrix.ids == ("a", "b")
    assert matrix.lengths == (1, 2, 4)
    assert matrix.codes.tolist() == [[ABSENT, UNSAFE, SAFE], [SAFE, MISSING, UNSAFE]]


def test_row_order_does_not_change_the_matrix(verdicts: Build) -> None:
    frame = verdicts("SUS?U", "UUSSS", "?SSSU")
    assert np.array_equal(encode(frame).codes, encode(frame.sample(fraction=1, shuffle=True, seed=3)).codes)


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["safe", "unsafe"]), pl.String])
def test_labels_may_be_categories(verdicts: Build, dtype: pl.DataType) -> None:
    frame = verdicts("SU?", lengths=[1, 2, 4])
    assert encode(frame.cast({"verdict": dtype})).codes.tolist() == [[SAFE, UNSAFE, MISSING]]


def test_a_run_without_any_verdict_has_a_column_of_nulls() -> None:
    frame = pl.DataFrame({"dialogue_id": ["a"], "length": [1], "verdict": [None]})
    assert encode(frame).codes.tolist() == [[MISSING]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.drop("verdict"), "lacks the column verdict"),
        (lambda f: f.drop("verdict", "length"), "lacks the columns length, verdict"),
        (lambda f: f.with_columns(verdict=pl.lit("Unsafe")), "also holds 'Unsafe'"),
        (lambda f: f.with_columns(verdict=pl.lit(1)), "verdict must hold text"),
        (lambda f: f.with_columns(length=pl.lit("1")), "length must hold whole numbers"),
        (lambda f: f.with_columns(length=pl.lit(1.0)), "length must hold whole numbers"),
        (lambda f: f.with_columns(length=pl.lit(0)), "starts at 1; it holds 0"),
        (lambda f: f.with_columns(dialogue_id=pl.lit(None, dtype=pl.String)), "dialogue_id has 2 empty cells"),
        (lambda f: pl.concat([f, f.head(1)]), "more than one row for dialogue_id id000, length 1"),
        (lambda f: f.with_columns(kind=pl.Series(["harmful", "benign"])), "mixes harmful and benign"),
        (lambda f: pl.concat([f, f]).with_columns(turn=pl.lit(1)), "use the live scores"),
    ],
)
def test_a_wrong_frame_is_refused_with_place_and_cure(
    verdicts: Build, change: Callable[[pl.DataFrame], pl.DataFrame], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        checked(change(verdicts("SU", lengths=[1, 2])))


def test_extra_columns_are_carried_along(verdicts: Build) -> None:
    frame = verdicts("SU", lengths=[1, 2]).with_columns(scenario=pl.lit("Fraud"), turn=pl.lit(1), kind=pl.lit("harmful"))
    assert checked(frame).columns == [*frame.columns, "repeat"]
