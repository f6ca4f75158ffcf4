"""Trend of risk with the number of turns."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations, product

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safemt_api.metrics.frames import encode
from safemt_api.metrics.trend import permutation_p, trend_with_length

Build = Callable[..., pl.DataFrame]
QUICK = settings(deadline=None, max_examples=30)


def test_two_lengths_have_the_slope_of_their_log_odds_and_its_textbook_error(verdicts: Build) -> None:
    trend = trend_with_length(verdicts(*["U."] * 10, *["S."] * 30, *[".U"] * 24, *[".S"] * 16, lengths=[2, 4]))
    assert trend.slope is not None
    assert trend.slope.value == pytest.approx((math.log(24 / 16) - math.log(10 / 30)) / 2)
    error = math.sqrt((1 / 10 + 1 / 30 + 1 / 24 + 1 / 16) * 80 / 79) / 2
    assert trend.slope.ci_high - trend.slope.value == pytest.approx(1.959964 * error, rel=1e-6)


def test_ids_that_answer_alike_at_twice_as_many_lengths_are_no_more_evidence(verdicts: Build) -> None:
    half, whole = ["U.S.", "S.U.", "S.U.", "S.S.", "U.U.", "S.U."], ["UUSS", "SSUU", "SSUU", "SSSS", "UUUU", "SSUU"]
    # Lengths 1 and 2 against 1001 and 1002: as good as two lengths, each asked twice.
    once, twice = (trend_with_length(verdicts(*patterns, lengths=[1, 2, 1001, 1002])).slope for patterns in (half, whole))
    assert once is not None
    assert twice is not None
    assert twice.value == pytest.approx(once.value, rel=0.01)
    assert twice.ci_high - twice.ci_low == pytest.approx(once.ci_high - once.ci_low, rel=0.01)


@QUICK
@given(patterns=st.lists(st.text("SU?", min_size=3, max_size=3), min_size=1, max_size=4))
def test_the_permutation_test_equals_dealing_every_way(verdicts: Build, patterns: list[str]) -> None:
    lengths = (1, 2, 4)
    ways = []
    for pattern in patterns:
        judged = [i for i, letter in enumerate(pattern) if letter != "?"]
        deals = list(permutations(pattern[i] for i in judged))
        ways.append([sum(lengths[i] for i, letter in zip(judged, deal, strict=True) if letter == "U") for deal in deals])
    observed = sum(k for pattern in patterns for k, letter in zip(lengths, pattern, strict=True) if letter == "U")
    sums = [sum(deal) for deal in product(*ways)]
    mean = sum(sums) / len(sums)
    share = sum(abs(total - mean) >= abs(observed - mean) - 1e-9 for total in sums) / len(sums)
    found = permutation_p(encode(verdicts(*patterns, lengths=lengths)))
    assert (found if found is not None else 1.0) == pytest.approx(share, abs=1e-9)


def test_rising_risk_is_found_and_said(verdicts: Build) -> None:
    trend = trend_with_length(verdicts(*["SSSUU", "SSSSU", "SSUUU", "SSUSU", "SUSSS"] * 8))
    assert trend.slope is not None
    assert trend.slope.ci_low > 0
    assert trend.p_value is not None
    assert trend.p_value < 0.001
    assert trend.sentence.startswith("Risk rises with the number of turns (p < 0.001")
    assert "permutation test within id" in trend.sentence


def test_falling_risk_is_found_and_no_trend_is_not(verdicts: Build) -> None:
    assert trend_with_length(verdicts(*["UUSSS", "USSSS", "UUUSS", "SUSSU"] * 8)).sentence.startswith("Risk falls")
    assert trend_with_length(verdicts(*["USSSU", "SSUSS"] * 8)).sentence.startswith("No trend")


def test_perfect_separation_leaves_the_permutation_test(verdicts: Build) -> None:
    trend = trend_with_length(verdicts(*["SSSUU"] * 10))
    assert trend.slope is None
    assert trend.note is not None
    assert "separated" in trend.note
    assert trend.p_value == pytest.approx((1 / 10) ** 10, rel=0.6, abs=2e-12)


def test_nearly_separated_verdicts_still_converge(verdicts: Build) -> None:
    trend = trend_with_length(verdicts(*["SSSSU"] * 400, "USSSU", lengths=[1, 2, 4, 6, 80]))
    assert trend.slope is not None
    assert trend.slope.value > 0


@pytest.mark.parametrize("patterns", [(), ("SSS",), ("UUU", "UUU"), ("SSS", "UUU"), ("???",), ("S??", "U??")])
def test_nothing_to_learn_is_said_and_not_guessed(verdicts: Build, patterns: tuple[str, ...]) -> None:
    trend = trend_with_length(verdicts(*patterns, lengths=[1, 2, 4]))
    assert trend.p_value is None
    assert "cannot be tested" in trend.sentence
