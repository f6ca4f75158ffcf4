"""What successes and 429s teach, step by step."""

from __future__ import annotations

from math import ceil

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
    rate.take(0.0)
    rate.succeeded(0.1, 0.0)
    for step in range(1000):
        assert rate.wait_seconds(1.0) == 0.0
        rate.take(1.0)
        rate.succeeded(1.0 + step * 1e-6, 1.0)
    assert rate.per_second is None


def test_an_answer_that_took_longer_than_all_that_is_remembered_is_no_trouble() -> None:
    rate = AdaptiveRate()
    rate.take(0.0)
    assert not rate.succeeded(500.0, 0.0)
    rate.take(500.0)
    assert rate.limited(501.0, 500.0, 5.0)
    rate.take(506.0)
    assert rate.succeeded(1000.0, 506.0)


def test_calls_are_spaced_until_the_first_answer_tells_anything() -> None:
    rate = AdaptiveRate()
    rate.take(0.0)
    assert rate.wait_seconds(0.0) > 0


def test_after_a_429_one_probe_goes_at_a_time() -> None:
    rate = AdaptiveRate()
    rate.take(0.0)
    assert not rate.limited(0.1, 0.0, None)
    assert rate.limited(0.1, 0.05, None)
    wait = rate.wait_seconds(0.1)
    assert 0 < wait <= 2
    rate.take(0.1 + wait)
    assert rate.wait_seconds(0.1 + wait) == float("inf")
    assert rate.succeeded(2.0, 0.1 + wait)
    assert rate.per_second is not None
    assert rate.wait_seconds(100.0) == 0.0


def test_429s_that_slowing_down_does_not_cure_are_taken_as_noise() -> None:
    rate = AdaptiveRate()
    now, refused = 0.0, 0
    for call in range(4000):
        now += max(rate.wait_seconds(now), 0.05)
        rate.take(now)
        if call % 12 == 5:
            refused += 1
            rate.limited(now, now, None)
        else:
            rate.succeeded(now, now)
    assert rate.per_second is None or rate.per_second > 10.0


def test_a_long_wait_asked_for_stops_everything_at_once() -> None:
    rate = AdaptiveRate()
    rate.take(0.0)
    rate.succeeded(0.1, 0.0)
    rate.take(1.0)
    assert rate.limited(1.1, 1.0, 30.0)
    assert rate.wait_seconds(1.1) > 2.0
