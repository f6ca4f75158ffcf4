"""The common front of several runs: the slowest never waits, the others stay near, and the end of the money is one id for all."""

from __future__ import annotations

from collections import Counter, defaultdict

import anyio
import pytest

from safemt_api.dataset.entries import Entry
from safemt_api.errors import BudgetExhaustedError
from safemt_api.runs.balance import Balance

LENGTHS = (1, 2, 4)


def _entries(ids: int) -> list[Entry]:
    return [Entry(f"id{number}", "s", "harmful", length, ("i",), "f", 0, 0, 0, b"") for number in range(ids) for length in LENGTHS]


async def _play(
    balance: Balance, run: str, entries: list[Entry], *, seconds: float, workers: int, begun: dict[str, list[str]], poor_at: str = ""
) -> None:
    todo = iter(entries)

    async def work() -> None:
        for entry in todo:
            try:
                async with balance.passing(run, entry):
                    begun[run].append(entry.id)
                    if entry.id == poor_at:
                        raise BudgetExhaustedError(1.0, 1.0, 0.1)
                    await anyio.sleep(seconds)
            except BudgetExhaustedError:
                continue

    async with anyio.create_task_group() as group:
        for _ in range(workers):
            group.start_soon(work)
    balance.leave(run)


async def test_a_quick_run_stays_near_a_slow_one_and_costs_it_no_time() -> None:
    entries, begun = _entries(30), defaultdict[str, list[str]](list)
    balance = Balance(entries, ["slow", "quick"], concurrency=3)
    started = anyio.current_time()
    ahead = 0

    async def watch() -> None:
        nonlocal ahead
        while True:
            ahead = max(ahead, len(set(begun["quick"])) - len(set(begun["slow"])))
            await anyio.sleep(0.002)

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        async with anyio.create_task_group() as playing:
            playing.start_soon(lambda: _play(balance, "slow", entries, seconds=0.01, workers=3, begun=begun))
            playing.start_soon(lambda: _play(balance, "quick", entries, seconds=0.0, workers=3, begun=begun))
        group.cancel_scope.cancel()
    elapsed = anyio.current_time() - started
    assert Counter(begun["slow"]) == Counter(begun["quick"]) == Counter(entry.id for entry in entries)
    assert 0 < ahead <= 4
    alone = len(entries) * 0.01 / 3
    assert elapsed < 3 * alone


async def test_nobody_waits_for_a_run_that_left() -> None:
    entries, begun = _entries(20), defaultdict[str, list[str]](list)
    balance = Balance(entries, ["dead", "alive"], concurrency=2)
    balance.leave("dead")
    with anyio.fail_after(5):
        await _play(balance, "alive", entries, seconds=0.0, workers=2, begun=begun)
    assert len(begun["alive"]) == len(entries)


async def test_the_end_of_the_money_is_the_same_id_for_all() -> None:
    entries, begun = _entries(20), defaultdict[str, list[str]](list)
    balance = Balance(entries, ["poor", "other"], concurrency=2)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: _play(balance, "poor", entries, seconds=0.001, workers=2, begun=begun, poor_at="id9"))
            group.start_soon(lambda: _play(balance, "other", entries, seconds=0.001, workers=2, begun=begun))
    finished = {run: Counter(ids) for run, ids in begun.items()}
    early = [f"id{number}" for number in range(9)]
    assert all(finished[run][one] == len(LENGTHS) for run in ("poor", "other") for one in early)
    # What was under way when the money ended may be there; nothing else of a later id.
    assert sum(finished["other"][f"id{number}"] > 0 for number in range(10, 20)) <= 4


async def test_a_dialogue_that_fails_moves_the_front_too() -> None:
    entries = _entries(3)
    balance = Balance(entries, ["one"], concurrency=1)
    for entry in entries:
        with pytest.raises(RuntimeError):
            async with balance.passing("one", entry):
                raise RuntimeError
