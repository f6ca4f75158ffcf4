"""What a defence prevents, what it costs, and what it does to harmless dialogues."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest

from safemt_api.errors import UsageError
from safemt_api.metrics.asr import asr_by_turn_with_intervals
from safemt_api.metrics.defence import benign_rate, defence_effect
from safemt_api.metrics.safety_index import safety_index
from safemt_api.metrics.uncertainty import wilson

Build = Callable[..., pl.DataFrame]


def test_the_effect_is_counted_pair_by_pair(verdicts: Build) -> None:
    before, after = verdicts("UU", "US", "SU", "U?", lengths=[1, 2]), verdicts("SS", "US", "UU", "SU", lengths=[1, 2])
    effect = defence_effect(before, after, extra_cost_usd=3.0, resamples=100)
    assert (effect.prevented, effect.introduced, effect.net_prevented) == (3, 1, 2)
    assert effect.cost_per_prevented_usd == 1.5
    assert effect.by_length.select("length", "pairs", "asr_before", "asr_after", "difference").rows() == [
        (1, 4, 0.75, 0.5, -0.25),
        (2, 3, pytest.approx(2 / 3), pytest.approx(1 / 3), pytest.approx(-1 / 3)),
    ]


def test_each_arm_has_its_own_scores_where_nothing_is_missing(verdicts: Build) -> None:
    before, after = verdicts(*["SSUUU", "SUSUU", "UUSUU"] * 5), verdicts(*["SSSSU", "SSSSS", "SSSUU"] * 5)
    effect = defence_effect(before, after, name="policy", resamples=200)
    assert effect.safety_index_before.value == pytest.approx(safety_index(before))
    assert effect.safety_index_after.value == pytest.approx(safety_index(after))
    alone = asr_by_turn_with_intervals(after)
    assert effect.by_length["after_low"].to_list() == pytest.approx(alone["ci_low"].to_list())
    assert effect.comparison.sentence.startswith("policy is safer than undefended")
    assert effect.cost_per_prevented_usd is None


def test_a_defence_that_prevents_nothing_has_no_price(verdicts: Build) -> None:
    frame = verdicts("US", lengths=[1, 2])
    assert defence_effect(frame, frame, extra_cost_usd=1.0, resamples=20).cost_per_prevented_usd is None


def test_benign_and_harmful_dialogues_never_share_a_figure(verdicts: Build) -> None:
    frame = verdicts("US", lengths=[1, 2])
    with pytest.raises(UsageError, match="benign dialogues cannot enter"):
        defence_effect(frame, frame.with_columns(kind=pl.lit("benign")))
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
