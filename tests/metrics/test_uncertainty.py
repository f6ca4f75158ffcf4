"""Wilson's interval, the bootstrap's engine, and exact distributions of sums."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from safemt_api.errors import UsageError
from safemt_api.metrics import uncertainty
from safemt_api.metrics.uncertainty import (
    IntegerVariable,
    bayesian_sums,
    bootstrap_sums,
    exact_two_sided_p,
    paired_difference_interval,
    percentile_interval,
    proportion_interval,
    ratio,
    wilson,
)

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


def test_wilson_is_mended_where_it_covers_too_seldom() -> None:
    """Wilson's bound of 3 in 100 lies above .01, but 7.9 % of such runs show 3 or more. A Poisson of mean .8177 is < 3 with chance .95."""
    assert wilson(3, 100)[0] > 0.01
    assert proportion_interval(3, 100) == pytest.approx((0.008177, wilson(3, 100)[1]), abs=1e-6)
    assert proportion_interval(97, 100) == pytest.approx((wilson(97, 100)[0], 1 - 0.008177), abs=1e-6)
    for successes, n in ((0, 100), (4, 100), (3, 50), (1, 2)):
        assert proportion_interval(successes, n) == wilson(successes, n)


@pytest.mark.parametrize("ids", [30, 100, 400])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3, 0.9])
def test_the_interval_of_a_proportion_covers(ids: int, rate: float) -> None:
    held = [low <= rate <= high for low, high in (proportion_interval(x, ids) for x in range(ids + 1))]
    chances = [math.comb(ids, x) * rate**x * (1 - rate) ** (ids - x) for x in range(ids + 1)]
    # The least is Wilson's own 92.98 % for 30 ids and .3.
    assert round(sum(chance for chance, covered in zip(chances, held, strict=True) if covered), 3) >= 0.93


def test_newcombes_published_examples_of_paired_differences() -> None:
    # Newcombe 1998, Statistics in Medicine 17, 2635: 36/12/2/0, and 53 discordant in one direction of 53.
    assert paired_difference_interval(36, 2, 12, 50) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_a_paired_difference_mirrors_and_never_collapses() -> None:
    low, high = paired_difference_interval(10, 0, 0, 20)
    assert low == pytest.approx(-high)
    assert high > 0.05
    forth, back = paired_difference_interval(3, 1, 4, 12), paired_difference_interval(3, 4, 1, 12)
    assert forth == pytest.approx((-back[1], -back[0]))
    assert all(math.isnan(bound) for bound in paired_difference_interval(0, 0, 0, 0))
    with pytest.raises(UsageError, match="must not be negative"):
        paired_difference_interval(3, 1, 1, 4)


def test_the_bayesian_bootstrap_of_a_proportion_is_clopper_and_pearsons_mid_p_interval() -> None:
    columns = np.column_stack([np.arange(40) < 4, np.ones(40)])
    sums = bayesian_sums(columns, np.array([0.0, 1.0]), np.array([1.0, 1.0]), resamples=100_000)
    low, high = percentile_interval(ratio(sums[:, 0], sums[:, 1])[:, None])
    # Mid-p bounds of 4 in 40, by bisection on (P(X < 4) + P(X <= 4)) / 2.
    assert (low.item(), high.item()) == pytest.approx((0.0326, 0.2241), abs=0.006)


def test_the_bayesian_bootstrap_has_the_unbiased_variance_of_a_mean() -> None:
    values = np.random.default_rng(3).standard_normal(50)
    columns = np.column_stack([values, np.ones(50)])
    sums = bayesian_sums(columns, np.zeros(2), np.zeros(2), resamples=50_000)
    assert np.var(sums[:, 0] / sums[:, 1]) == pytest.approx(values.var(ddof=1) / 50, rel=0.05)


def test_ids_that_are_alike_are_drawn_as_one() -> None:
    columns = np.column_stack([np.arange(5_000) % 2, np.ones(5_000)])
    started = time.process_time()
    sums = bayesian_sums(columns, np.zeros(2), np.zeros(2), resamples=20_000)
    assert time.process_time() - started < 1
    assert np.std(sums[:, 0] / sums[:, 1]) == pytest.approx(0.5 / math.sqrt(5_000), rel=0.05)


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
    monkeypatch.setattr(uncertainty, "MAX_KEPT_CELLS", 0)
    assert np.array_equal(whole, bootstrap_sums(values, resamples=101, seed=4))


def test_kept_counts_are_those_of_their_own_seed_and_ids() -> None:
    values = np.arange(12.0)[:, None]
    first = bootstrap_sums(values, resamples=50, seed=1)
    other, fewer = bootstrap_sums(values, resamples=50, seed=2), bootstrap_sums(values[:11], resamples=50, seed=1)
    assert not np.array_equal(first, other)
    assert fewer.shape == first.shape
    assert np.array_equal(first, bootstrap_sums(values, resamples=50, seed=1))


def test_an_id_that_is_drawn_more_often_than_a_byte_holds_is_counted_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def lopsided(ids: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
        yield np.full((resamples, ids), 300)

    monkeypatch.setattr(uncertainty, "_resample_counts", lopsided)
    assert (bootstrap_sums(np.ones((3, 1)), resamples=7, seed=77) == 900).all()


def test_resampled_counts_are_multinomial() -> None:
    counts = bootstrap_sums(np.eye(10), resamples=20_000, seed=2)
    assert counts.mean(axis=0) == pytest.approx(np.ones(10), abs=0.04)
    assert counts.var(axis=0) == pytest.approx(np.full(10, 0.9), abs=0.05)
    assert np.cov(counts.T)[0, 1:] == pytest.approx(np.full(9, -0.1), abs=0.05)


def test_no_resamples_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        bootstrap_sums(np.ones((3, 1)), resamples=0)
    with pytest.raises(UsageError, match="at least 1"):
        bayesian_sums(np.ones((3, 1)), np.zeros(1), np.ones(1), resamples=0)


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
