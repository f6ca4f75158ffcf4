"""What an arm changes pair by pair: failures, live turns, means; and what happens to harmless dialogues."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import comb

import polars as pl
import pytest

from safemt_api.errors import UsageError
from safemt_api.metrics.asr import asr_by_turn_with_intervals, live_asr_by_turn
from safemt_api.metrics.effects import EFFECT_SCHEMA, arm_effect, benign_rate, live_effect_by_turn, paired_change
from safemt_api.metrics.safety_index import safety_index
from safemt_api.metrics.uncertainty import wilson

Build = Callable[..., pl.DataFrame]
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


def test_the_effect_is_counted_pair_by_pair(verdicts: Build) -> None:
    before, after = verdicts("UU", "US", "SU", "U?", lengths=[1, 2]), verdicts("SS", "US", "UU", "SU", lengths=[1, 2])
    effect = arm_effect(before, after, extra_cost_usd=3.0, resamples=100)
    assert (effect.prevented, effect.introduced, effect.net_prevented) == (3, 1, 2)
    assert effect.cost_per_prevented_usd == 1.5
    assert effect.by_length.select("length", "pairs", "asr_before", "asr_after", "difference").rows() == [
        (1, 4, 0.75, 0.5, -0.25),
        (2, 3, pytest.approx(2 / 3), pytest.approx(1 / 3), pytest.approx(-1 / 3)),
    ]


def test_each_arm_has_its_own_scores_where_nothing_is_missing(verdicts: Build) -> None:
    before, after = verdicts(*["SSUUU", "SUSUU", "UUSUU"] * 5), verdicts(*["SSSSU", "SSSSS", "SSSUU"] * 5)
    effect = arm_effect(before, after, name="policy", resamples=200)
    assert effect.safety_index_before.value == pytest.approx(safety_index(before))
    assert effect.safety_index_after.value == pytest.approx(safety_index(after))
    alone = asr_by_turn_with_intervals(after)
    assert effect.by_length["after_low"].to_list() == pytest.approx(alone["ci_low"].to_list())
    assert effect.comparison.sentence.startswith("policy is safer than reference")
    assert effect.cost_per_prevented_usd is None


def test_a_defence_that_prevents_nothing_has_no_price(verdicts: Build) -> None:
    frame = verdicts("US", lengths=[1, 2])
    assert arm_effect(frame, frame, extra_cost_usd=1.0, resamples=20).cost_per_prevented_usd is None


def test_benign_and_harmful_dialogues_never_share_a_figure(verdicts: Build) -> None:
    frame = verdicts("US", lengths=[1, 2])
    with pytest.raises(UsageError, match="benign dialogues cannot enter"):
        arm_effect(frame, frame.with_columns(kind=pl.lit("benign")))
    with pytest.raises(UsageError, match="harmful dialogues cannot enter"):
        benign_rate(frame.with_columns(kind=pl.lit("harmful"), alarm=pl.lit(value=True)), "alarm")


def test_false_alarms_by_length_and_overall() -> None:
    frame = pl.DataFrame(
        {
            "dialogue_id": ["a", "b", "c", "d"] * 2,
            "length": [1] * 4 + [2] * 4,
            "alarm": [True, False, False, None, True, True, False, False],
        }
    )  # fmt: skip (two lengths of four ids)
    rate = benign_rate(frame, "alarm", resamples=200)
    assert rate.by_length.select("length", "flagged", "not_flagged", "missing", "rate").rows() == [
        (1, 1, 2, 1, pytest.approx(1 / 3)),
        (2, 2, 2, 0, 0.5),
    ]
    assert rate.by_length.select("ci_low", "ci_high").row(1) == wilson(2, 4)
    assert rate.overall.value == pytest.approx(3 / 7)
    assert rate.overall.ci_low < 3 / 7 < rate.overall.ci_high


def test_one_length_has_wilsons_interval_overall() -> None:
    frame = pl.DataFrame({"dialogue_id": ["a", "b", "c"], "length": [1, 1, 1], "alarm": [True, False, False]})
    overall = benign_rate(frame, "alarm", resamples=50).overall
    assert (overall.ci_low, overall.ci_high) == wilson(1, 3)


def test_a_column_that_holds_no_flags_is_refused(verdicts: Build) -> None:
    with pytest.raises(UsageError, match="column verdict that holds true, false or null"):
        benign_rate(verdicts("S", lengths=[1]), "verdict")
