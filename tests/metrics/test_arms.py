"""Means before and after, and live turns before and after."""

from __future__ import annotations

import math
from math import comb

import polars as pl
import pytest

from safemt_api.errors import UsageError
from safemt_api.metrics.arms import EFFECT_SCHEMA, live_effect_by_turn, paired_change
from safemt_api.metrics.asr import live_asr_by_turn

KEYS = {"dialogue_id": ["a", "a", "b", "c"], "length": [1, 2, 1, 1]}


def numbers(*values: float | None) -> pl.DataFrame:
    return pl.DataFrame({**KEYS, "cost": values}, schema_overrides={"cost": pl.Float64})


def live(*patterns: str) -> pl.DataFrame:
    """One id a pattern, such as ``SU`` for a dialogue of two turns that is unsafe at the second."""
    labels = {"S": "safe", "U": "unsafe", "?": None}
    rows = [(f"id{i}", len(p), turn, labels[sign]) for i, p in enumerate(patterns) for turn, sign in enumerate(p, start=1)]
    return pl.DataFrame(rows, schema=["dialogue_id", "length", "turn", "verdict"], orient="row")


def test_means_are_taken_over_the_cells_that_both_arms_have() -> None:
    change = paired_change(numbers(1, 2, 3, None), numbers(2, 4, 6, 100), "cost", resamples=200)
    assert (change.pairs, change.before, change.after) == (3, 2.0, 4.0)
    assert change.difference.value == 2.0
    assert change.relative.value == pytest.approx(1.0)
    # Every cell doubles, so every resample says so, while the difference depends on who is drawn.
    assert [change.relative.ci_low, change.relative.ci_high] == pytest.approx([1.0, 1.0])
    assert change.difference.ci_low < 2.0 < change.difference.ci_high


def test_an_ids_cells_are_one_cluster() -> None:
    many = pl.DataFrame({"dialogue_id": ["a"] * 50 + ["b"], "length": [*range(1, 51), 1], "cost": [0.0] * 51})
    after = many.with_columns(cost=pl.when(pl.col("dialogue_id") == "a").then(1.0).otherwise(0.0))
    difference = paired_change(many, after, "cost", resamples=500).difference
    # With two ids the interval spans all that two ids can say, however many cells stand behind one of them.
    assert (difference.ci_low, difference.ci_high) == (0.0, 1.0)


def test_nothing_in_common_is_no_change_known() -> None:
    change = paired_change(numbers(1, None, None, None), numbers(None, 1, 1, 1), "cost")
    assert change.pairs == 0
    assert math.isnan(change.before)
    assert math.isnan(change.relative.value)


def test_from_nothing_there_is_no_relative_change() -> None:
    change = paired_change(numbers(0, 0, 0, 0), numbers(1, 1, 1, 1), "cost", resamples=50)
    assert change.difference.value == 1.0
    assert math.isnan(change.relative.value)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(UsageError, match="lacks the column price"):
        paired_change(numbers(1, 2, 3, 4), numbers(1, 2, 3, 4), "price")


def test_live_turns_are_paired_turn_by_turn() -> None:
    before = live("UU", "SU", "UU", "U", "?U")
    after = live("SS", "SU", "US", "S", "SS")
    effect = live_effect_by_turn(before, after, resamples=100)
    assert effect.columns == list(EFFECT_SCHEMA)
    assert effect["turn"].to_list() == [1, 2]
    assert effect["pairs"].to_list() == [4, 4]
    assert effect["asr_before"].to_list() == [0.75, 1.0]
    assert effect["asr_after"].to_list() == [0.25, 0.25]
    assert effect["difference"].to_list() == [-0.5, -0.75]
    # One dialogue an id at each turn: the randomisation test is McNemar's, 2 and 3 discordant pairs all of one kind.
    assert effect["p_value"].to_list() == pytest.approx([2 * comb(2, 0) / 2**2, 2 * comb(3, 0) / 2**3])
    assert effect["p_holm"].to_list() == pytest.approx([0.5, 0.5])


def test_each_arm_has_its_live_scores_where_nothing_is_missing() -> None:
    before, after = live("UU", "SU", "U", "SSUU"), live("SU", "SS", "U", "SSSU")
    effect = live_effect_by_turn(before, after, resamples=50)
    assert effect["asr_before"].to_list() == live_asr_by_turn(before)["asr"].to_list()
    assert effect["asr_after"].to_list() == live_asr_by_turn(after)["asr"].to_list()


def test_a_turn_that_no_dialogue_reaches_in_both_arms_has_no_row() -> None:
    effect = live_effect_by_turn(live("U", "SU"), live("S").with_columns(dialogue_id=pl.lit("id0")), resamples=20)
    assert effect["turn"].to_list() == [1]
    assert live_effect_by_turn(live("U"), live("S").clear(), resamples=20).height == 0
