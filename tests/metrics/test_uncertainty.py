"""Wilson's interval, the bootstrap's engine, and exact distributions of sums."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safemt_api.errors import UsageError
from safemt_api.metrics import uncertainty
from safemt_api.metrics.uncertainty import IntegerVariable, bootstrap_sums, exact_two_sided_p, percentile_interval, ratio, wilson

QUICK = settings(deadline=None, max_examples=30)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718), (29, 29, 0.8830, 1.0)],
)
def test_wilson_matches_newcombes_published_examples(successes: int, n: int, low: float, high: float) -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_nothing_is_unknown() -> None:
    assert all(math.isnan(bound) for bound in wilson(0, 0))


@pytest.mark.parametrize(("successes", "n", "level"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 0.0), (1, 2, 1.0), (1, 2, 95)])
def test_wilson_refuses_impossible_counts_and_levels(successes: int, n: int, level: float) -> None:
    with pytest.raises(UsageError):
        wilson(successes, n, level=level)


@QUICK
@given(n=st.integers(1, 5000), share=st.floats(0, 1), level=st.floats(0.5, 0.999))
def test_wilson_holds_the_share_and_mirrors(n: int, share: float, level: float) -> None:
    successes = round(n * share)
    low, high = wilson(successes, n, level=level)
    assert 0 <= low <= successes / n <= high <= 1
    assert wilson(n - successes, n, level=level) == pytest.approx((1 - high, 1 - low))


def test_resamples_do_not_depend_on_the_columns_beside() -> None:
    values = np.random.default_rng(0).random((37, 4))
    together, alone = bootstrap_sums(values, resamples=200, seed=9), bootstrap_sums(values[:, 1:2], resamples=200, seed=9)
    assert together[:, 1:2] == pytest.approx(alone)


def test_every_resample_draws_as_many_ids_as_there_are() -> None:
    assert (bootstrap_sums(np.ones((23, 1)), resamples=300) == 23).all()


def test_chunks_do_not_change_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.eye(11)
    whole = bootstrap_sums(values, resamples=101, seed=4)
    monkeypatch.setattr(uncertainty, "MAX_CHUNK_CELLS", 80)
    assert np.array_equal(whole, bootstrap_sums(values, resamples=101, seed=4))


def test_resampled_counts_are_multinomial() -> None:
    counts = bootstrap_sums(np.eye(10), resamples=20_000, seed=2)
    assert counts.mean(axis=0) == pytest.approx(np.ones(10), abs=0.04)
    assert counts.var(axis=0) == pytest.approx(np.full(10, 0.9), abs=0.05)
    assert np.cov(counts.T)[0, 1:] == pytest.approx(np.full(9, -0.1), abs=0.05)


def test_no_resamples_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        bootstrap_sums(np.ones((3, 1)), resamples=0)


def test_percentiles_leave_out_resamples_without_a_value() -> None:
    samples = np.array([[0.0, np.nan], [1.0, np.nan], [np.nan, np.nan]])
    low, high = percentile_interval(samples, level=0.5)
    assert (low[0], high[0]) == (0.25, 0.75)
    assert np.isnan(low[1])
    assert np.isnan(high[1])


def test_a_ratio_over_nothing_is_unknown() -> None:
    assert np.isnan(ratio(np.array([1, 2]), np.array([0, 4]))).tolist() == [True, False]


@QUICK
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=7), data=st.data())
def test_the_exact_p_value_equals_enumeration(sizes: list[int], data: st.DataObject) -> None:
    observed = sum(size * data.draw(st.sampled_from([-1, 1])) for size in sizes)
    variables = []
    for size in sizes:
        chances = np.zeros(2 * size + 1)
        chances[0] += 0.5
        chances[-1] += 0.5
        variables.append(IntegerVariable(-size, chances, 1))
    sums = [sum(sign * size for sign, size in zip(signs, sizes, strict=True)) for signs in product((-1, 1), repeat=len(sizes))]
    share = sum(abs(total) >= abs(observed) for total in sums) / len(sums)
    assert exact_two_sided_p(variables, observed) == pytest.approx(share, abs=1e-9)
