"""Several processes and one account: its quota is used as one process would use it, a 429 in one is heard by all, and nobody waits for the
dead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from benchmarks.pace import METERS, Vendor
from benchmarks.together import Process, Row, UseTogether, simulate_together
from safemt_api.adapters.base import QuotaHint
from safemt_api.errors import StoreError
from safemt_api.limits.lease import Ask, Grant
from safemt_api.limits.together import LOOK_SECONDS, TogetherLimiter, answered, exchanged_in
from safemt_api.store.turns import STORE_FILE, TurnStore, open_store

Virtually = Callable[[Callable[[], Awaitable[Any]]], Any]


def announced(per_minute: float, processes: list[Process], *, meter: str = "sliding minute", latency: float = 1.0) -> UseTogether:
    return simulate_together(partial(Vendor, METERS[meter](per_minute), per_minute, True), processes, latency=latency)


@pytest.mark.parametrize("meter", ["bucket, 5 s burst", "sliding minute", "fixed minute"])
@pytest.mark.parametrize(("per_minute", "latency"), [(60.0, 2.0), (500.0, 1.0)])
def test_four_processes_use_an_announced_quota_as_one_does(meter: str, per_minute: float, latency: float) -> None:
    came = announced(per_minute, [Process()] * 4, meter=meter, latency=latency)
    assert came.use.used_share >= 0.97
    assert came.use.limited_share < 0.01
    assert min(came.answered) >= 0.8 * max(came.answered)


def test_a_quota_goes_to_the_process_that_has_much_to_do() -> None:
    little = Process(workers=1, thinks_seconds=5.0)
    came = announced(500.0, [Process(workers=48), little, little, little])
    assert came.use.used_share >= 0.97
    assert came.use.limited_share < 0.01
    assert came.answered[0] > 0.8 * sum(came.answered)
    # Who wants little gets it: a call each six seconds, and at most a moment more.
    assert min(came.answered[1:]) >= 20


def test_processes_that_die_leave_their_part_to_the_others() -> None:
    came = announced(500.0, [Process(workers=24), Process(workers=24), Process(dies_at=60.0), Process(dies_at=60.5)])
    assert came.use.used_share >= 0.97
    assert came.use.limited_share < 0.01


def test_a_row_is_changed_about_once_a_second_and_process() -> None:
    came = announced(1200.0, [Process()] * 4)
    assert came.asks <= 4 * 180 * 2


@pytest.mark.parametrize("meter", ["bucket, 60 s burst", "bucket, 5 s burst", "sliding minute", "fixed minute"])
def test_a_quota_that_nobody_names_is_found_together(meter: str) -> None:
    vendor = partial(Vendor, METERS[meter](500.0), 500.0, False)
    came = simulate_together(vendor, [Process()] * 4, latency=1.0)
    assert came.use.used_share >= 0.75
    assert came.use.limited_share < 0.05


def test_an_unlimited_server_in_no_trouble_costs_no_transaction(virtually: Virtually) -> None:
    async def main() -> tuple[int, float]:
        row, limiter = Row(), TogetherLimiter(concurrency=8, cautious=False)
        async with anyio.create_task_group() as group:
            group.start_soon(limiter.take_part, row.exchange)
            began = anyio.current_time()
            for _ in range(40):
                async with limiter.slot(100) as slot:
                    await anyio.sleep(0.1)
                    slot.succeeded(tokens=100)
            took = anyio.current_time() - began
            group.cancel_scope.cancel()
        return row.asks, took

    asks, took = virtually(main)
    assert asks <= 1  # the one that says it leaves
    assert took == pytest.approx(4.0)


async def refuse(limiter: TogetherLimiter, retry_after_seconds: float | None = None) -> None:
    async with limiter.slot(10) as slot:
        slot.rate_limited(retry_after_seconds)


async def answer(limiter: TogetherLimiter, *hints: QuotaHint) -> float:
    """When a call goes that is answered at once."""
    async with limiter.slot(10) as slot:
        went = anyio.current_time()
        slot.succeeded(tokens=10, hints=hints)
        return went


@pytest.mark.parametrize("trouble", ["wall", "nothing left"])
def test_what_one_process_is_told_holds_the_others_at_their_next_look(virtually: Virtually, trouble: str) -> None:
    async def main() -> float:
        row = Row()
        one, other = (TogetherLimiter(concurrency=8, cautious=False, requests_per_minute=6000) for _ in range(2))
        async with anyio.create_task_group() as group:
            for limiter in (one, other):
                group.start_soon(limiter.take_part, row.exchange)
            await answer(one)
            await answer(other)
            if trouble == "wall":
                await refuse(one, 5.0)
            else:
                await answer(one, QuotaHint("requests", limit=10, remaining=0, reset_seconds=6.0))
            told = anyio.current_time()
            held = 0.0
            while anyio.current_time() < told + 4.0:
                with anyio.move_on_after(0.2) as waiting:
                    await answer(other)
                held = anyio.current_time() if waiting.cancelled_caught and not held else held
                await anyio.sleep(0.02)
            group.cancel_scope.cancel()
        return held - told if held else float("inf")

    assert virtually(main) <= LOOK_SECONDS + 0.4


def test_calls_wait_for_the_row_before_the_first_goes_out(virtually: Virtually) -> None:
    async def main() -> list[float]:
        row, went = Row(), list[float]()
        limiters = [TogetherLimiter(concurrency=8, requests_per_minute=60) for _ in range(3)]

        async def call(limiter: TogetherLimiter) -> None:
            went.append(await answer(limiter))

        async with anyio.create_task_group() as group:
            for limiter in limiters:
                group.start_soon(limiter.take_part, row.exchange)
            async with anyio.create_task_group() as calls:
                for limiter in limiters * 3:
                    calls.start_soon(call, limiter)
            group.cancel_scope.cancel()
        return sorted(went)

    went = virtually(main)
    assert all(later - earlier >= 0.9 for earlier, later in pairwise(went))


def test_a_store_that_fails_ends_the_calls_that_wait(virtually: Virtually) -> None:
    async def main() -> None:
        async def exchange(ask: Ask) -> Grant | None:
            await anyio.sleep(0.01)
            raise StoreError(Path("turns.sqlite"), "is locked by another program", "close it")

        limiter = TogetherLimiter(concurrency=8, requests_per_minute=60)
        async with anyio.create_task_group() as group:
            group.start_soon(limiter.take_part, exchange)
            with pytest.raises(StoreError, match="locked"), anyio.fail_after(5.0):
                await answer(limiter)

    virtually(main)


@pytest.mark.parametrize("text", ["{", "[]", '{"pace": -1}', '{"quotas": {"requests": {"limit": 0, "window_seconds": 60}}}', "\x00"])
def test_a_row_that_cannot_be_read_is_begun_anew(text: str) -> None:
    after, grant = answered(Ask(owner="a", sizes=(1.0,), limits={"requests": (60.0, 60.0)}), text, 5000.0)
    assert len(grant.tickets) == 1
    assert answered(Ask(owner="a"), after, 5000.1)[1].limits == {"requests": (60.0, 60.0)}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TurnStore]:
    """An open store."""
    async with open_store(tmp_path / STORE_FILE) as opened:
        yield opened


async def test_the_store_keeps_an_account_for_all_who_open_it(store: TurnStore) -> None:
    async with open_store(store.place) as other:
        first, second = exchanged_in(store, "vendor a"), exchanged_in(other, "vendor a")
        assert await first(Ask(owner="a")) is None
        granted = await first(Ask(owner="a", sizes=(1.0,) * 90, limits={"requests": (60.0, 60.0)}, waiting=90))
        heard = await second(Ask(owner="b", sizes=(1.0,), waiting=1))
        assert granted is not None
        assert heard is not None
        assert heard.limits == {"requests": (60.0, 60.0)}
        assert heard.tickets[0].at > granted.tickets[-1].at
        assert await exchanged_in(other, "vendor b")(Ask(owner="b")) is None


async def test_calls_of_two_stores_keep_one_quota(tmp_path: Path) -> None:
    went: list[float] = []

    async def play(path: Path) -> None:
        async with open_store(path) as opened, anyio.create_task_group() as group:
            limiter = TogetherLimiter(concurrency=8, requests_per_minute=600)
            group.start_soon(limiter.take_part, exchanged_in(opened, "vendor"))
            went.extend([await answer(limiter) for _ in range(12)])
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(play, tmp_path / STORE_FILE)
        group.start_soon(play, tmp_path / STORE_FILE)
    went.sort()
    assert went[-1] - went[0] >= 0.9 * 23 / 10.1 - 0.2
