"""The confidence sequence holds at every look, and closes."""

from __future__ import annotations

import numpy as np
import pytest

from safemt_api.errors import UsageError
from safemt_api.metrics.sequential import ConfidenceSequence


@pytest.mark.parametrize("rate", [0.03, 0.4])
def test_it_holds_at_every_look_in_at_least_95_percent_of_runs(rate: float) -> None:
    generator, missed = np.random.default_rng(17), 0
    for _ in range(80):
        sequence, held = ConfidenceSequence(), True
        for value in generator.binomial(5, rate, size=150) / 5:
            low, high = sequence.update(float(value))
            held = held and low <= rate <= high
        missed += not held
    assert missed <= 9  # 80 runs at 5 % miss 4 on average; 10 or more has a chance below 1 %


def test_stopping_when_it_looks_best_does_not_spoil_it() -> None:
    generator, missed, rate = np.random.default_rng(23), 0, 0.25
    for _ in range(100):
        sequence = ConfidenceSequence(population=300)
        values = generator.permutation(np.repeat([1.0, 0.0], [75, 225]))
        for value in values:
            low, high = sequence.update(float(value))
            if high - low < 0.15 or low > rate or high < rate:
                break
        missed += not low <= rate <= high
    assert missed <= 11


def test_without_replacement_it_closes_on_the_populations_own_mean() -> None:
    values = np.random.default_rng(1).permutation(np.repeat([0.0, 0.2, 1.0], [300, 80, 20]))
    finite, endless = ConfidenceSequence(population=400), ConfidenceSequence()
    for value in values:
        finite.update(float(value))
        endless.update(float(value))
    assert finite.low <= values.mean() <= finite.high
    assert finite.half_width < 0.01 < endless.half_width


def test_few_failures_make_it_narrow_soon() -> None:
    sequence = ConfidenceSequence()
    for value in np.random.default_rng(2).binomial(5, 0.05, size=200) / 5:
        sequence.update(float(value))
    assert sequence.half_width < 0.05


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_value_only_is_no_certainty_but_closes_in(value: float) -> None:
    sequence = ConfidenceSequence()
    widths = [high - low for low, high in (sequence.update(value) for _ in range(200))]
    assert widths[0] == pytest.approx(1, abs=0.3)
    assert widths == sorted(widths, reverse=True)
    assert 0 < widths[-1] < 0.06
    assert sequence.low <= value <= sequence.high


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_values_outside_the_unit_interval_are_refused(value: float) -> None:
    with pytest.raises(UsageError, match=r"takes values in \[0, 1\]"):
        ConfidenceSequence().update(value)


def test_more_values_than_the_population_are_refused() -> None:
    sequence = ConfidenceSequence(population=1)
    sequence.update(1.0)
    with pytest.raises(UsageError, match="all 1 of the population"):
        sequence.update(1.0)
    with pytest.raises(UsageError, match="population must be at least 1"):
        ConfidenceSequence(population=0)
    with pytest.raises(UsageError, match="level must lie between"):
        ConfidenceSequence(level=95)
