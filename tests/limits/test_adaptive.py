"""What successes and 429s teach, step by step."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import ceil
from statistics import mean

import pytest

from safemt_api.limits.adaptive import COOLDOWN_SECONDS, START_CONCURRENCY, AdaptiveConcurrency, AdaptiveRate


def clean_round(concurrency: AdaptiveConcurrency, now: float, *, in_flight: int | None = None) -> None:
    concurrency.admitted(int(concurrency.limit) if in_flight is None else in_flight)
    for _ in range(ceil(concurrency.limit)):
        concurrency.succeeded(now)


def test_the_number_at_once_doubles_until_the_first_cut_and_then_grows_slowly() -> None:
    concurrency = AdaptiveConcurrency(1000)
    assert concurrency.limit == START_CONCURRENCY
    clean_round(concurrency, 1.0)
    assert concurrency.limit == 2 * START_CONCURRENCY
    assert concurrency.cut(2.0)
    after = concurrency.limit
    clean_round(concurrency, 2.0 + COOLDOWN_SECONDS)
    assert after < concurrency.limit <= after + 1


def test_it_does_not_grow_while_the_limit_is_not_what_holds_calls_back() -> None:
    concurrency = AdaptiveConcurrency(1000)
    clean_round(concurrency, 1.0, in_flight=2)
    assert concurrency.limit == START_CONCURRENCY


def test_it_is_cut_once_per_cooldown_and_never_below_one() -> None:
    concurrency = AdaptiveConcurrency(4)
    assert concurrency.cut(0.0)
    assert not concurrency.cut(1.0)
    for step in range(50):
        concurrency.cut(10.0 * step + 10.0)
    assert concurrency.limit == 1.0


def test_it_never_grows_above_the_cap() -> None:
    concurrency = AdaptiveConcurrency(10)
    for step in range(20):
        clean_round(concurrency, float(step))
    assert concurrency.limit == 10.0


def test_the_rate_is_free_until_the_first_429() -> None:
    rate = AdaptiveRate()
    rate.succeeded(0.1, rate.take(0.0))
    for step in range(1000):
        assert rate.wait_seconds(1.0) == 0.0
        rate.succeeded(1.0 + step * 1e-6, rate.take(1.0))
    assert rate.per_second is None


def test_an_answer_that_took_longer_than_all_that_is_remembered_is_no_trouble() -> None:
    rate = AdaptiveRate()
    assert rate.succeeded(500.0, rate.take(0.0)) is None
    assert rate.limited(501.0, rate.take(500.0), 5.0) == "wall"
    assert rate.succeeded(1000.0, rate.take(510.0)) == "slower"


def test_calls_are_spaced_until_the_first_answer_tells_anything() -> None:
    rate = AdaptiveRate()
    rate.take(0.0)
    assert rate.wait_seconds(0.0) > 0


def test_a_429_before_the_first_answer_does_not_end_the_spacing() -> None:
    rate = AdaptiveRate()
    rate.limited(0.05, rate.take(0.0), None)
    assert rate.wait_seconds(0.05) > 0
    second = rate.take(0.5)
    assert rate.wait_seconds(0.5) > 0
    rate.succeeded(0.9, second)
    assert rate.wait_seconds(0.9) == 0.0


def answered(rate: AdaptiveRate, calls: int, *, until: float) -> None:
    for one in range(calls):
        rate.succeeded(until, rate.take(until - (calls - one) * 0.01))


def test_after_a_row_of_429s_one_probe_goes_at_a_time() -> None:
    rate = AdaptiveRate()
    answered(rate, 100, until=2.0)
    assert rate.limited(2.1, rate.take(2.0), None) is None
    assert rate.limited(2.2, rate.take(2.1), None) == "wall"
    wait = rate.wait_seconds(2.2)
    assert 0 < wait <= 2
    probe = rate.take(2.2 + wait)
    assert rate.wait_seconds(2.2 + wait) == float("inf")
    assert rate.succeeded(5.0, probe) == "slower"
    assert rate.per_second is not None
    assert rate.wait_seconds(100.0) == 0.0


def play(rate: AdaptiveRate, refused: Callable[[float, int], bool], *, calls: int, least_spacing: float = 0.02) -> tuple[float, int]:
    """Calls one after the other as fast as the rate lets them; the time and the number refused."""
    now, count = 0.0, 0
    for number in range(calls):
        now += max(rate.wait_seconds(now), least_spacing)
        call = rate.take(now)
        if refused(now, number):
            count += 1
            rate.limited(now, call, None)
        else:
            rate.succeeded(now, call)
    return now, count


@pytest.mark.parametrize("share", [0.03, 0.07, 0.1, 0.3, 0.5])
def test_429s_that_slowing_down_does_not_cure_are_taken_as_chance(share: float) -> None:
    def seconds(seed: int) -> float:
        draws = random.Random(seed)
        return play(AdaptiveRate(), lambda now, number: draws.random() < share, calls=2000)[0]

    # One call at a time, so every trial is felt in full.
    assert mean(seconds(seed) for seed in range(6)) < 2.0 * 2000 * 0.02


def test_a_bucket_is_never_taken_for_chance() -> None:
    level, then = 20.0, 0.0

    def dry(now: float, number: int) -> bool:
        nonlocal level, then
        level, then = min(20.0, level + (now - then) * 10.0), now
        if level < 1.0:
            return True
        level -= 1.0
        return False

    rate = AdaptiveRate()
    seconds, refused = play(rate, dry, calls=2000)
    assert refused < 0.06 * 2000
    assert seconds < 1.15 * 2000 / 10.0
    assert rate.chance_share == 0.0


def test_a_long_wait_asked_for_stops_everything_at_once() -> None:
    rate = AdaptiveRate()
    rate.succeeded(0.1, rate.take(0.0))
    assert rate.limited(1.1, rate.take(1.0), 30.0) == "wall"
    assert rate.wait_seconds(1.1) >= 1.0


def test_an_answer_before_the_end_of_the_wait_asked_for_gives_the_pace_back() -> None:
    rate = AdaptiveRate()
    answered(rate, 20, until=1.0)
    rate.limited(1.1, rate.take(1.0), 30.0)
    assert rate.succeeded(4.0, rate.take(1.1 + rate.wait_seconds(1.1))) == "chance"
    assert rate.per_second is None


def test_an_outage_longer_than_any_window_leaves_the_pace_as_it_was() -> None:
    rate = AdaptiveRate()
    seconds, _ = play(rate, lambda now, number: 10.0 < now < 110.0, calls=3000)
    assert rate.per_second is None
    assert seconds < 110.0 + 12.0 + 2500 * 0.02 + 5.0
