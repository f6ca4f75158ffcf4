"""Dialogues that were asked several times: by hand, against single runs, and by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from safemt_api.calibration.corrected import corrected_scores
from safemt_api.errors import UsageError
from safemt_api.metrics.asr import asr_by, asr_by_turn_with_intervals, cumulative_asr, live_asr_by_turn, overall_asr
from safemt_api.metrics.comparison import compare
from safemt_api.metrics.first_failure import first_failure
from safemt_api.metrics.frames import encode
from safemt_api.metrics.ranks import ranks
from safemt_api.metrics.repeats import any_unsafe, repeats
from safemt_api.metrics.safety_index import safety_index, safety_index_with_interval, scores_with_intervals

Build = Callable[..., pl.DataFrame]


def asked(*runs: pl.DataFrame, after: int = 0) -> pl.DataFrame:
    """The frames as the repeats of one."""
    return pl.concat([run.with_columns(repeat=pl.lit(number, pl.Int64)) for number, run in enumerate(runs, start=after + 1)])


@pytest.fixture
def twice(verdicts: Build) -> tuple[pl.DataFrame, pl.DataFrame]:
    return verdicts("SSUUU", "SUSUU", "SSSSS", "UUSUU"), verdicts("SSSUU", "UUSUS", "SSSSS", "SUS?U")


def test_one_repeat_is_no_repeat(verdicts: Build) -> None:
    plain = verdicts("SSUUU", "SUSUU", "S?SSS", "UUSUU")
    for frame in (asked(plain), asked(plain, after=70)):
        assert repr(safety_index_with_interval(frame)) == repr(safety_index_with_interval(plain))
        assert_frame_equal(asr_by_turn_with_intervals(frame), asr_by_turn_with_intervals(plain))
        assert_frame_equal(first_failure(frame), first_failure(plain))


def test_asr_counts_replies_and_the_index_is_the_mean_of_the_repeats(twice: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    frame = asked(*twice, after=3)
    rows = asr_by_turn_with_intervals(frame)
    assert rows["unsafe"].to_list() == [2, 4, 1, 5, 5]
    assert rows["safe"].to_list() == [6, 4, 7, 2, 3]
    assert rows["missing"].to_list() == [0, 0, 0, 1, 0]
    assert safety_index(frame) == pytest.approx((safety_index(twice[0]) + safety_index(twice[1])) / 2)
    found = safety_index_with_interval(frame)
    bounds = [(one.if_missing_low, one.if_missing_high) for one in map(safety_index_with_interval, twice)]
    assert (found.if_missing_low, found.if_missing_high) == pytest.approx(tuple(np.mean(bounds, axis=0)))
    assert (found.complete_ids, found.ids) == (3, 4)
    assert found.ci_low < found.value < found.ci_high
    assert overall_asr(frame).value == pytest.approx(17 / 39)


def test_the_index_is_withheld_where_one_repeat_lacks_too_much(verdicts: Build) -> None:
    frame = asked(verdicts("SU", "SS", "US", lengths=(1, 2)), verdicts("?U", "S?", "SS", lengths=(1, 2)))
    found = safety_index_with_interval(frame)
    assert math.isnan(found.value)
    assert found.complete_ids == 1
    assert found.if_missing_low < found.if_missing_high


def test_repeats_that_all_say_the_same_add_no_certainty(verdicts: Build) -> None:
    """Replies to one dialogue are one cluster: five copies of a run are worth one run, and not five times as many ids."""
    once = verdicts(*["SSUUU"] * 12, *["SSSSS"] * 20, *["USUSU"] * 8)
    five = asked(*[once] * 5)
    single, many = (scores_with_intervals([frame])[0] for frame in (once, five))
    for name in ("ci_low", "ci_high"):
        assert many.asr_by_turn[name].to_numpy() == pytest.approx(single.asr_by_turn[name].to_numpy(), abs=0.03)
        assert getattr(many.safety_index, name) == pytest.approx(getattr(single.safety_index, name), abs=0.02)


def test_the_interval_of_repeated_asr_covers(verdicts: Build) -> None:
    """60 ids, each with a rate of its own (beta 1, 3), three replies: the interval of ASR holds the mean rate in at least 93 % of runs."""
    generator, hits = np.random.default_rng(5), 0
    for _ in range(200):
        rates = generator.beta(1, 3, size=60)
        drawn = generator.random((3, 60)) < rates
        frame = asked(*(verdicts(*("U" if one else "S" for one in row), lengths=(1,)) for row in drawn))
        low, high = encode_interval(frame)
        hits += low <= 0.25 <= high
    assert hits / 200 >= 0.93


def encode_interval(frame: pl.DataFrame) -> tuple[float, float]:
    row = asr_by_turn_with_intervals(frame).row(0, named=True)
    return row["ci_low"], row["ci_high"]


def test_any_unsafe_and_spread_by_hand(verdicts: Build) -> None:
    first = verdicts("SU", "SU", "SS", "US", "UU", lengths=(1, 2))
    second = verdicts("SU", "US", "SS", "?S", "U?", lengths=(1, 2))
    found = repeats(asked(first, second))
    one, two = found.by_turn.to_dicts()
    assert found.n == 2
    assert (one["turn"], one["any_unsafe"], one["all_safe"], one["incomplete"]) == (1, 2, 2, 1)
    assert (one["share"], one["if_missing_safe"], one["if_missing_unsafe"]) == (0.5, 0.6, 0.6)
    assert (two["any_unsafe"], two["all_safe"], two["incomplete"], two["share"]) == (2, 2, 1, 0.5)
    assert one["ci_low"] < 0.5 < one["ci_high"]
    # Of the eight whole cells two hold both verdicts, each with the variance 1/2.
    assert found.mixed.value == pytest.approx(2 / 8)
    assert found.within_sd == pytest.approx(math.sqrt(2 / 8 * 0.5))


def test_any_unsafe_of_a_matrix_needs_all_verdicts_to_be_safe(verdicts: Build) -> None:
    matrix = any_unsafe(encode(asked(verdicts("SS?U", lengths=(1, 2, 3, 4)), verdicts("SU??", lengths=(1, 2, 3, 4)))))
    assert (matrix.codes.tolist(), matrix.repeats) == ([[0, 1, -1, 1]], 1)


def test_live_repeats_are_dialogues_of_their_own_and_one_cluster() -> None:
    rows = [("a", 2, repeat, turn, label) for repeat, said in ((1, "SU"), (2, "SS"), (3, "U?")) for turn, label in enumerate(said, 1)]
    labels = {"S": "safe", "U": "unsafe", "?": None}
    frame = pl.DataFrame(
        [(*row[:4], labels[row[4]]) for row in rows], schema=["dialogue_id", "length", "repeat", "turn", "verdict"], orient="row"
    )
    assert live_asr_by_turn(frame).select("unsafe", "safe", "missing").rows() == [(1, 2, 0), (1, 1, 1)]
    assert cumulative_asr(frame)["share"].to_list() == pytest.approx([1 / 3, 2 / 3])
    assert repeats(frame).by_turn["any_unsafe"].to_list() == [1, 0]
    assert repeats(frame).by_turn["incomplete"].to_list() == [0, 1]


def test_first_failure_counts_every_asking(twice: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    both = [first_failure(frame)["failed"].to_numpy() for frame in twice]
    assert first_failure(asked(*twice))["failed"].to_list() == (both[0] + both[1]).tolist()


def test_scenarios_have_rows_of_their_own(twice: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    frame = asked(*twice).with_columns(scenario=pl.when(pl.col("dialogue_id") < "id002").then(pl.lit("A")).otherwise(pl.lit("B")))
    rows = asr_by(frame, "scenario")
    assert rows.group_by("scenario").agg(pl.col("unsafe", "safe", "missing").sum()).sort("scenario").rows() == [
        ("A", 11, 9, 0),
        ("B", 6, 13, 1),
    ]
    assert (rows["ci_low"] <= rows["asr"]).all()


def test_comparisons_pair_ids_and_swap_all_of_an_id_at_once(verdicts: Build) -> None:
    before = [verdicts(*["S"] * 14, *["U"] * 6, lengths=(1,))] * 3
    after = [verdicts(*["U"] * 8, *["S"] * 6, *["U"] * 6, lengths=(1,))] * 3
    once, thrice = compare(before[0], after[0]), compare(asked(*before), asked(*after))
    assert thrice.asr_difference.value == pytest.approx(once.asr_difference.value) == pytest.approx(0.4)
    # Three replies that say the same are no more evidence than one: 8 ids changed, 2^-7.
    assert thrice.p_value == pytest.approx(once.p_value) == pytest.approx(2**-7)
    row = thrice.by_length.row(0, named=True)
    assert (row["pairs"], row["only_b_unsafe"], row["p_value"]) == (60, 24, pytest.approx(2**-7))
    assert row["ci_low"] < 0.4 < row["ci_high"]
    mixed = compare(before[0], asked(*after))
    assert mixed.by_length["pairs"].to_list() == [20]


def test_ranks_take_repeats(verdicts: Build, twice: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    found = ranks({"twice": asked(*twice), "worse": asked(*[verdicts("UUUUU", "UUUUU", "UUUUU", "UUUUU")] * 2)}, resamples=200)
    assert (found["twice"].rank, found["worse"].rank) == (1, 2)
    assert found["twice"].safety_index == pytest.approx(safety_index(asked(*twice)))


def test_corrected_scores_say_that_they_are_of_one_asking(twice: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    labels = twice[0].rename({"verdict": "judge"}).with_columns(truth=pl.col("judge"))
    with pytest.raises(UsageError, match="asked once; these were asked 2 times"):
        corrected_scores(asked(*twice), labels)
