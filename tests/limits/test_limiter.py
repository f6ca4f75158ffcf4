"""The joint limiter on a virtual clock: quota, tokens and concurrency hold, every call gets its turn in order, and nothing freezes it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from statistics import mean, median
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.pace import METERS, Use, most_in_window, simulate
from benchmarks.stray_refusals import Stray
from safemt_api.adapters.base import QuotaHint
from safemt_api.limits.limiter import MAX_HISTORY, Change, Limiter

Virtually = Callable[[Callable[[], Awaitable[Any]]], Any]


class Record:
    """What calls through a limiter did."""

    def __init__(self) -> None:
        self.admitted: list[tuple[float, int]] = []
        self.order: list[int] = []
        self.in_flight = self.peak = 0


async def call(limiter: Limiter, record: Record, number: int, *, tokens: int, seconds: float, hints: tuple[QuotaHint, ...] = ()) -> None:
    async with limiter.slot(tokens) as slot:
        record.admitted.append((anyio.current_time(), tokens))
        record.order.append(number)
        record.in_flight += 1
        record.peak = max(record.peak, record.in_flight)
        await anyio.sleep(seconds)
        record.in_flight -= 1
        slot.succeeded(tokens=tokens, hints=hints)


def play(virtually: Virtually, limiter: Limiter, calls: list[tuple[int, float]], **options: Any) -> Record:
    record = Record()

    async def main() -> None:
        with anyio.fail_after(1e6):
            async with anyio.create_task_group() as group:
                for number, (tokens, seconds) in enumerate(calls):
                    group.start_soon(partial(call, limiter, record, number, tokens=tokens, seconds=seconds, **options))
                    await anyio.sleep(0.001)

    virtually(main)
    return record


CALLS = st.lists(st.tuples(st.integers(1, 900), st.floats(0, 40)), min_size=1, max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(calls=CALLS, rpm=st.integers(1, 200), tpm=st.integers(900, 20_000), concurrency=st.integers(1, 20))
def test_requests_tokens_and_concurrency_hold_and_every_call_comes_in_order(
    virtually: Virtually, calls: list[tuple[int, float]], rpm: int, tpm: int, concurrency: int
) -> None:
    limiter = Limiter(concurrency=concurrency, requests_per_minute=rpm, tokens_per_minute=tpm)
    record = play(virtually, limiter, calls)
    assert record.order == list(range(len(calls)))
    assert record.peak <= concurrency
    times = [time for time, _ in record.admitted]
    assert most_in_window(times, 60.0) <= rpm
    for start in times:
        assert sum(tokens for time, tokens in record.admitted if start <= time < start + 60.0) <= tpm
    assert limiter.statistics().in_flight == limiter.statistics().waiting == 0


def test_without_any_quota_only_the_concurrency_holds(virtually: Virtually) -> None:
    record = play(virtually, Limiter(concurrency=4), [(10, 1.0)] * 40)
    assert record.peak == 4
    assert record.admitted[-1][0] < 12.0


def test_the_number_at_once_grows_to_the_cap_under_load(virtually: Virtually) -> None:
    record = play(virtually, Limiter(concurrency=64), [(10, 2.0)] * 600)
    assert record.peak == 64


def test_a_quota_in_the_headers_is_kept_at_once(virtually: Virtually) -> None:
    hints = (QuotaHint("requests", limit=120),)
    record = play(virtually, Limiter(concurrency=32), [(10, 0.5)] * 300, hints=hints)
    assert most_in_window([time for time, _ in record.admitted], 60.0) <= 120


def test_the_users_own_pace_is_not_changed_by_headers(virtually: Virtually) -> None:
    limiter = Limiter(concurrency=32, requests_per_minute=30)
    record = play(virtually, limiter, [(10, 0.5)] * 60, hints=(QuotaHint("requests", limit=6000),))
    assert most_in_window([time for time, _ in record.admitted], 60.0) <= 30
    assert limiter.statistics().requests_per_minute == pytest.approx(30, rel=0.02)


def test_a_days_quota_is_not_spread_over_the_day(virtually: Virtually) -> None:
    hints = (QuotaHint("requests", limit=1000, window_seconds=86_400.0),)
    record = play(virtually, Limiter(concurrency=8), [(10, 1.0)] * 80, hints=hints)
    assert record.admitted[-1][0] < 30.0


def test_tokens_are_paced_by_the_real_usage_once_it_is_known(virtually: Virtually) -> None:
    async def main() -> float:
        limiter = Limiter(concurrency=4, tokens_per_minute=6000)

        async def work() -> None:
            for _ in range(10):
                async with limiter.slot(3000) as slot:
                    await anyio.sleep(0.5)
                    slot.succeeded(tokens=100)

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(work)
        return float(anyio.current_time())

    started = 40 * 3000 / 6000 * 60
    assert virtually(main) < started / 3


def test_a_call_that_sleeps_between_two_tries_holds_no_slot(virtually: Virtually) -> None:
    async def main() -> float:
        limiter = Limiter(concurrency=1)

        async def fails_first() -> None:
            async with limiter.slot(1) as slot:
                slot.overloaded()
            await anyio.sleep(500)
            async with limiter.slot(1) as slot:
                slot.succeeded(tokens=1)

        async with anyio.create_task_group() as group:
            group.start_soon(fails_first)
            await anyio.sleep(0.1)
            async with limiter.slot(1) as slot:
                through = anyio.current_time()
                slot.succeeded(tokens=1)
        return float(through)

    before = virtually(main)
    assert before < 10


@pytest.mark.parametrize("retry_after", [600.0, 86_400.0])
def test_a_long_retry_after_of_one_call_does_not_freeze_the_others(virtually: Virtually, retry_after: float) -> None:
    async def main() -> tuple[float, int]:
        limiter = Limiter(concurrency=8)
        async with limiter.slot(1) as slot:
            slot.succeeded(tokens=1)
        async with limiter.slot(1) as slot:
            slot.rate_limited(retry_after)
        start = anyio.current_time()
        for _ in range(20):
            async with limiter.slot(1) as slot:
                await anyio.sleep(0.1)
                slot.succeeded(tokens=1)
        return anyio.current_time() - start, limiter.statistics().rate_limited

    seconds, limited = virtually(main)
    assert limited == 1
    assert seconds < 90


@pytest.mark.parametrize(
    ("hint", "seconds"),
    [
        (QuotaHint("requests", limit=30, remaining=0, reset_seconds=60.0), 2.0),
        (QuotaHint("requests", limit=30, remaining=0, reset_seconds=0.5), 0.5),
        (QuotaHint("tokens", limit=10_000, remaining=0, reset_seconds=60.0), 1.0),
        (QuotaHint("tokens", limit=10_000, remaining=0), 1.0),
        (QuotaHint("tokens", limit=10_000, remaining=1, reset_seconds=60.0), 0.0),
    ],
)
def test_a_quota_that_is_used_up_holds_the_next_call_for_a_moment(virtually: Virtually, hint: QuotaHint, seconds: float) -> None:
    async def scenario() -> float:
        limiter, record = Limiter(concurrency=4, requests_per_minute=6000.0), Record()
        await call(limiter, record, 0, tokens=1, seconds=0.0, hints=(hint,))
        answered = anyio.current_time()
        await call(limiter, record, 1, tokens=1, seconds=0.0)
        return record.admitted[1][0] - answered

    assert virtually(scenario) == pytest.approx(seconds, abs=0.05)


def test_a_remaining_of_zero_with_a_distant_reset_does_not_freeze(virtually: Virtually) -> None:
    hints = (
        QuotaHint("requests", limit=60, remaining=0, reset_seconds=3000.0),
        QuotaHint("tokens", limit=10_000, remaining=0, reset_seconds=3000.0),
    )
    record = play(virtually, Limiter(concurrency=4), [(10, 0.1)] * 30, hints=hints)
    assert record.admitted[-1][0] < 400


def test_a_tokens_quota_that_the_answer_itself_exceeds_is_not_believed(virtually: Virtually) -> None:
    limiter = Limiter(concurrency=4)
    record = play(virtually, limiter, [(500, 0.5)] * 60, hints=(QuotaHint("tokens", limit=1),))
    assert record.admitted[-1][0] < 30.0
    assert [change.cause for change in limiter.history if "not believed" in change.cause] == [
        "a tokens quota of 1 that this very answer exceeds is not believed"
    ]


def test_what_is_not_believed_is_said_once_however_long_the_history_is(virtually: Virtually) -> None:
    limiter = Limiter(concurrency=4)
    limiter.history.extend([Change(0.0, 4, None, "growth")] * MAX_HISTORY)

    async def main() -> None:
        for wait in ("years", "-1"):
            async with limiter.slot(1) as slot:
                slot.disbelieve("Retry-After", f"the wait asked for ({wait})")

    virtually(main)
    assert [change.cause for change in limiter.history[MAX_HISTORY:]] == ["the wait asked for (years) is not believed"]


@pytest.mark.parametrize("retry_after", [None, 1.0, 20.0])
def test_a_429_as_the_very_first_answer_is_forgotten_within_a_minute(virtually: Virtually, retry_after: float | None) -> None:
    async def main() -> float:
        limiter, answered = Limiter(concurrency=16), list[float]()
        async with limiter.slot(1) as slot:
            slot.rate_limited(retry_after)

        async def work() -> None:
            while anyio.current_time() < 120.0:
                async with limiter.slot(1) as slot:
                    await anyio.sleep(0.5)
                    slot.succeeded(tokens=1)
                    answered.append(anyio.current_time())

        async with anyio.create_task_group() as group:
            for _ in range(16):
                group.start_soon(work)
        return sum(60.0 <= time < 120.0 for time in answered) / 60.0

    assert virtually(main) > 0.9 * 16 / 0.5


@pytest.mark.parametrize("cautious", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("retry_after", [None, 1.0, 5.0])
def test_stray_429s_cost_little_more_than_their_share(share: float, retry_after: float | None, cautious: bool) -> None:
    ratios = [Stray(share, retry_after, cautious=cautious, seed=seed).finish().ratio for seed in range(7)]
    assert median(ratios) <= 1.5


@pytest.mark.slow
async def test_stray_429s_are_measured_over_sockets_too() -> None:
    finish = await Stray(0.4, latency_seconds=0.02, calls=20, workers=8).finish_over_sockets()
    # Of twenty calls some are refused for both, and each such call waits half a second at the least.
    assert min(finish.ours_seconds, finish.deaf_seconds) > 0.5


def test_the_pace_recovers_after_429s(virtually: Virtually) -> None:
    async def main() -> list[float]:
        limiter, limited_until = Limiter(concurrency=16), 60.0
        times: list[float] = []

        async def work() -> None:
            while anyio.current_time() < start + 420:
                async with limiter.slot(1) as slot:
                    now = anyio.current_time() - start
                    await anyio.sleep(0.5)
                    times.append(now)
                    if now < limited_until and sum(now - 1 < time for time in times[-20:]) > 2:
                        slot.rate_limited(None)
                    else:
                        slot.succeeded(tokens=1)

        start = anyio.current_time()
        async with anyio.create_task_group() as group:
            for _ in range(16):
                group.start_soon(work)
        return times

    times = virtually(main)
    slow = sum(30 <= time < 60 for time in times) / 30
    late = sum(360 <= time < 420 for time in times) / 60
    assert late > 4 * slow


def test_a_probe_that_dies_or_is_cancelled_does_not_freeze_the_rest(virtually: Virtually) -> None:
    async def main() -> None:
        limiter = Limiter(concurrency=4)
        async with limiter.slot(1) as slot:
            slot.rate_limited(None)
        with pytest.raises(RuntimeError, match="dead"):
            async with limiter.slot(1):
                raise RuntimeError("dead")
        with anyio.move_on_after(30):
            async with limiter.slot(1):
                await anyio.sleep_forever()
        async with limiter.slot(1) as slot:
            slot.overloaded()
        with anyio.fail_after(60):
            async with limiter.slot(1) as slot:
                slot.succeeded(tokens=1)

    virtually(main)


def test_a_call_cancelled_while_it_waits_leaves_no_trace(virtually: Virtually) -> None:
    async def main() -> None:
        limiter = Limiter(concurrency=1)
        async with limiter.slot(1) as slot:
            with anyio.move_on_after(5) as scope:
                async with limiter.slot(1):
                    pytest.fail("two at once")
            assert scope.cancelled_caught
            slot.succeeded(tokens=1)
        with anyio.fail_after(5):
            async with limiter.slot(1) as slot:
                slot.succeeded(tokens=1)
        statistics = limiter.statistics()
        assert (statistics.in_flight, statistics.waiting) == (0, 0)

    virtually(main)


def test_many_429s_in_one_moment_are_one_cut(virtually: Virtually) -> None:
    async def main() -> int:
        limiter = Limiter(concurrency=32, cautious=False)
        async with limiter.slot(1) as slot:
            slot.succeeded(tokens=1)

        async def limited() -> None:
            async with limiter.slot(1) as slot:
                await anyio.sleep(1)
                slot.rate_limited(1.0)

        async with anyio.create_task_group() as group:
            for _ in range(32):
                group.start_soon(limited)
            await anyio.sleep(1.5)
            cut = limiter.statistics().concurrency
            group.cancel_scope.cancel()
        return cut

    assert virtually(main) == int(32 * 0.7)


def test_the_moves_of_the_limit_are_recorded(virtually: Virtually) -> None:
    limiter = Limiter(concurrency=8)
    play(virtually, limiter, [(1, 0.5)] * 20, hints=(QuotaHint("requests", limit=600),))
    assert [change.cause for change in limiter.history] == ["requests quota from headers"]
    assert limiter.history[0].requests_per_minute == pytest.approx(600, rel=0.02)


@pytest.mark.parametrize("meter", ["bucket, 60 s burst", "bucket, 5 s burst", "sliding minute", "fixed minute"])
def test_an_announced_quota_is_used_almost_whole_and_hardly_ever_overrun(meter: str) -> None:
    used = simulate(METERS[meter](500), 500, announce=True, latency=1.0)
    assert_use(used, least_used=0.97, most_limited=0.01)


@pytest.mark.parametrize("meter", ["bucket, 60 s burst", "bucket, 5 s burst", "sliding minute", "fixed minute"])
def test_an_unannounced_quota_is_found_from_429s_alone(meter: str) -> None:
    used = simulate(METERS[meter](600), 600, announce=False, latency=2.0)
    assert_use(used, least_used=0.90, most_limited=0.03)


@pytest.mark.parametrize(
    ("meter", "per_minute", "most_limited"),
    [
        ("bucket, 60 s burst", 60, 0.12),
        ("bucket, 5 s burst", 60, 0.15),
        ("bucket, 1 s burst", 60, 0.2),
        ("bucket, 60 s burst", 20, 0.35),
        ("bucket, 5 s burst", 20, 0.4),
        ("bucket, 1 s burst", 20, 0.45),
    ],
)
def test_a_small_unannounced_bucket_is_not_run_over_again_and_again(meter: str, per_minute: int, most_limited: float) -> None:
    uses = [simulate(METERS[meter](per_minute), per_minute, announce=False, latency=2.0, seed=seed) for seed in range(6)]
    assert mean(use.limited_share for use in uses) < most_limited
    assert mean(use.used_share for use in uses) > 0.75


def assert_use(used: Use, *, least_used: float, most_limited: float) -> None:
    assert used.used_share >= least_used
    assert used.limited_share < most_limited


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_whatever_the_vendor_answers_every_call_gets_through(virtually: Virtually, seed: int) -> None:
    draws = random.Random(seed)

    async def main() -> int:
        limiter, done = Limiter(concurrency=draws.choice([1, 3, 16])), []

        async def work(number: int) -> None:
            while True:
                async with limiter.slot(draws.randrange(1, 2000)) as slot:
                    await anyio.sleep(draws.random() * 3)
                    luck = draws.random()
                    if luck < 0.2:
                        slot.rate_limited(draws.choice([None, 0.0, 5.0, 900.0]))
                    elif luck < 0.3:
                        slot.overloaded()
                    elif luck > 0.4:
                        hints = (
                            QuotaHint(
                                "requests", draws.choice([None, 60, 600]), draws.choice([None, 0, 5]), draws.choice([None, 0.0, 60.0])
                            ),
                        )
                        slot.succeeded(tokens=draws.choice([None, 0, 500]), hints=hints)
                        done.append(number)
                        return
                await anyio.sleep(draws.random())

        with anyio.fail_after(7200):
            async with anyio.create_task_group() as group:
                for number in range(40):
                    group.start_soon(work, number)
        return len(done)

    assert virtually(main) == 40
