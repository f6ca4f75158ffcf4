"""The arithmetic of one quota: never above it in any window, and never far below it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.limits.quota import BURST_SECONDS, Quota, Taken

GAPS = st.floats(0, 30) | st.just(0.0)
USES = st.lists(st.tuples(GAPS, st.floats(0.01, 1.0), st.floats(0, 1), st.floats(0, 90)), max_size=60)


def use(quota: Quota, now: float, amount: float) -> tuple[float, Taken]:
    """Wait as the limiter does, then take."""
    for _ in range(1000):
        wait = quota.wait_seconds(now, amount)
        if wait <= 0:
            return now, quota.take(now, amount)
        now += wait
    raise AssertionError("the wait never ends")


def most_in_any_window(events: list[tuple[float, float]], seconds: float) -> float:
    return max((sum(amount for time, amount in events if start <= time < start + seconds) for start, _ in events), default=0.0)


@given(limit=st.floats(1, 10_000), uses=USES)
def test_no_window_ever_holds_more_than_the_limit(limit: float, uses: list[tuple[float, float, float, float]]) -> None:
    quota, now, events = Quota(limit), 0.0, []
    for gap, share, _, _ in uses:
        now, _ = use(quota, now + gap, share * limit)
        events.append((now, share * limit))
    assert most_in_any_window(events, 60.0) <= limit * (1 + 1e-9)


@given(limit=st.floats(10, 10_000), uses=USES)
def test_no_window_holds_more_than_the_limit_when_estimates_are_corrected_downwards(
    limit: float, uses: list[tuple[float, float, float, float]]
) -> None:
    quota, now = Quota(limit), 0.0
    taken: list[Taken] = []
    open_calls: list[tuple[float, Taken, float]] = []
    for gap, share, real_share, latency in uses:
        now += gap
        for end, one, real in [call for call in open_calls if call[0] <= now]:
            quota.correct(one, real)
            open_calls.remove((end, one, real))
        now, one = use(quota, now, share * limit)
        taken.append(one)
        open_calls.append((now + latency, one, share * limit * real_share))
    assert most_in_any_window([(one.time, one.amount) for one in taken], 60.0) <= limit * (1 + 1e-9)


@given(limit=st.floats(1, 100), lower=st.floats(0.1, 1.0), uses=USES)
def test_a_lowered_limit_holds_from_then_on(limit: float, lower: float, uses: list[tuple[float, float, float, float]]) -> None:
    quota, now, after = Quota(limit), 0.0, []
    for position, (gap, share, _, _) in enumerate(uses):
        if position == len(uses) // 2:
            limit *= lower
            quota.resize(limit, 60.0)
        now, _ = use(quota, now + gap, share * limit)
        if position >= len(uses) // 2:
            after.append((now, share * limit))
    assert most_in_any_window(after, 60.0) <= limit * (1 + 1e-9)


@pytest.mark.parametrize("limit", [60.0, 500.0, 6000.0])
def test_a_busy_quota_is_used_evenly_from_the_first_second_and_almost_whole(limit: float) -> None:
    quota, now, times = Quota(limit), 0.0, []
    while now < 180.0:
        now, _ = use(quota, now, 1.0)
        times.append(now)
    for second in range(170):
        assert sum(second <= time < second + 1 for time in times) <= limit / 60 * (1 + BURST_SECONDS) + 1
    assert len(times) / (limit * 3) > 0.985


def test_after_a_pause_no_more_than_a_moment_of_quota_goes_at_once() -> None:
    quota = Quota(6000.0)
    now, _ = use(quota, 0.0, 1.0)
    at_once = 0
    while quota.wait_seconds(now + 500.0, 1.0) == 0.0:
        quota.take(now + 500.0, 1.0)
        at_once += 1
    assert at_once <= 6000 / 60 * BURST_SECONDS + 1


def test_an_amount_above_the_whole_limit_waits_for_an_empty_window_and_then_goes() -> None:
    quota = Quota(100.0)
    quota.take(0.0, 50.0)
    now, _ = use(quota, 1.0, 5000.0)
    assert 60.0 <= now <= 62.0


def test_a_correction_after_the_window_has_passed_changes_nothing() -> None:
    quota = Quota(100.0)
    old = quota.take(0.0, 100.0)
    assert quota.wait_seconds(200.0, 1.0) == 0.0
    quota.correct(old, 1.0)
    now, _ = use(quota, 200.0, 100.0)
    later, _ = use(quota, now, 100.0)
    assert later - now >= 60.0


def test_a_correction_upwards_slows_what_follows() -> None:
    plain, corrected = Quota(600.0), Quota(600.0)
    for quota in (plain, corrected):
        one = quota.take(0.0, 10.0)
        if quota is corrected:
            quota.correct(one, 100.0)
    assert corrected.wait_seconds(0.0, 10.0) > plain.wait_seconds(0.0, 10.0) + 8.0


def test_one_amount_above_the_whole_quota_waits_a_window_and_no_longer() -> None:
    quota = Quota(1.0)
    quota.take(0.0, 560.0)
    assert quota.wait_seconds(0.0, 560.0) <= 61.0
    quota.resize(60_000.0, 60.0)
    assert quota.wait_seconds(61.0, 560.0) == 0.0
