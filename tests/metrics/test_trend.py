"""Trend of risk with the number of turns."""

from __future__ import annotations

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
    assert trend.p_value is not None
    assert trend.p_value < 0.001
    assert trend.sentence.startswith("Risk rises with the number of turns (p < 0.001")
    assert "permutation test within id" in trend.sentence


def test_falling_risk_is_found_and_no_trend_is_not(verdicts: Build) -> None:
    assert trend_with_length(verdicts(*["UUSSS", "USSSS", "UUUSS", "SUSSU"] * 8)).sentence.startswith("Risk falls")
    assert trend_with_length(verdicts(*["USSSU", "SSUSS"] * 8)).sentence.startswith("No trend")


def test_verdicts_that_lengths_separate_have_the_chance_of_that_deal(verdicts: Build) -> None:
    assert trend_with_length(verdicts(*["SSSUU"] * 10)).p_value == pytest.approx((1 / 10) ** 10, rel=0.6, abs=2e-12)


@pytest.mark.parametrize("patterns", [(), ("SSS",), ("UUU", "UUU"), ("SSS", "UUU"), ("???",), ("S??", "U??")])
def test_nothing_to_learn_is_said_and_not_guessed(verdicts: Build, patterns: tuple[str, ...]) -> None:
    trend = trend_with_length(verdicts(*patterns, lengths=[1, 2, 4]))
    assert trend.p_value is None
    assert "cannot be tested" in trend.sentence
