"""One ceiling over several processes: each waits for what others may give back, none for the dead, and no dialogue begins that has no money
for its end."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from safemt_api.errors import BudgetExhaustedError
from safemt_api.limits.budget import TOLERANCE_USD, Ledger, Purse
from safemt_api.store import spenders
from safemt_api.store.turns import STORE_FILE, TurnStore, open_store
from tests.limits.test_budget import CUT_OFF, PROJECT, Attempt, reserve, settle


@asynccontextmanager
async def processes(path: Path, number: int, *, ceiling_usd: float = 1.0) -> AsyncIterator[list[Ledger]]:
    """So many ledgers of one purse, each with a store of its own, as so many processes have them."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_store(path)) for _ in range(number)]
        purses = [Purse(store, purse_id="purse", ceiling_usd=ceiling_usd, together=True) for store in stores]
        async with anyio.create_task_group() as group:
            for purse in purses:
                group.start_soon(purse.take_part)
            while not {purse.owner for purse in purses} <= {*living(stores[0])}:  # noqa: ASYNC110 (what the store shows is no event)
                await anyio.sleep(0.01)
            yield [Ledger(store, run=f"run {at}", purse=purse) for at, (store, purse) in enumerate(zip(stores, purses, strict=True))]
            group.cancel_scope.cancel()


def living(store: TurnStore) -> list[str]:
    return [owner for (owner,) in store.read(lambda connection: connection.execute("SELECT owner FROM spenders").fetchall())]


async def test_a_call_waits_for_what_another_process_may_give_back(tmp_path: Path) -> None:
    got: list[Attempt] = []
    async with processes(tmp_path / STORE_FILE, 2) as (one, other):
        first = await reserve(one, 0.8)

        async def second() -> None:
            got.append(await reserve(other, 0.5))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(second)
                await anyio.sleep(0.7)
                assert got == []
                await settle(first, 0.2)
        assert len(got) == 1
        assert one.committed_usd() == pytest.approx(0.7)


async def test_a_wait_for_another_process_that_is_in_vain_ends_by_an_error(tmp_path: Path) -> None:
    async with processes(tmp_path / STORE_FILE, 2) as (one, other):
        first = await reserve(one, 0.8)

        async def second() -> None:
            with pytest.raises(BudgetExhaustedError):
                await reserve(other, 0.5)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(second)
                await anyio.sleep(0.1)
                await settle(first, 0.75)


async def test_what_a_process_left_reserved_when_it_ended_is_spent_for_the_others(tmp_path: Path) -> None:
    path = tmp_path / STORE_FILE
    async with processes(path, 1) as (one,):
        await (await reserve(one, 0.8)).fail(CUT_OFF)
    async with processes(path, 1) as (other,):
        with anyio.fail_after(5), pytest.raises(BudgetExhaustedError):
            await reserve(other, 0.5)


KILLED = """
import os, sys, anyio
from pathlib import Path
from safemt_api.limits.budget import Ledger, Purse
from safemt_api.store.turns import open_store

async def main():
    async with open_store(Path(sys.argv[1])) as store, anyio.create_task_group() as group:
        purse = Purse(store, purse_id="purse", ceiling_usd=1.0, together=True)
        group.start_soon(purse.take_part)
        await anyio.sleep(0.3)
        ledger = Ledger(store, run="killed", purse=purse)
        async with ledger.dialogue(), ledger.reserved(key="k", purpose="judge", most_usd=0.8):
            os.kill(os.getpid(), 9)

anyio.run(main)
"""


async def test_nobody_waits_long_for_the_money_and_the_dialogues_of_a_killed_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spenders, "LIVING_SECONDS", 4.0)
    path = tmp_path / STORE_FILE
    killed = await anyio.run_process([sys.executable, "-c", KILLED, str(path)], env={**os.environ, "PYTHONPATH": str(PROJECT)}, check=False)
    assert killed.returncode == -9
    async with processes(path, 1) as (other,):
        assert len(living(other._store)) == 2
        with anyio.fail_after(8):
            async with other.dialogue():
                with pytest.raises(BudgetExhaustedError, match=r"\$0.8000 is spent"):
                    await reserve(other, 0.5)
                await settle(await reserve(other, 0.2), 0.2)
        assert other.committed_usd() == pytest.approx(1.0)


async def test_under_a_small_ceiling_dialogues_of_all_processes_end_before_others_begin(tmp_path: Path) -> None:
    finished, under_way = list[int](), [0, 0]

    async def play(money: Ledger, number: int) -> None:
        with suppress(BudgetExhaustedError):
            async with money.dialogue():
                under_way[:] = under_way[0] + 1, max(under_way[1], under_way[0] + 1)
                try:
                    for turn in range(2):
                        reservation = await reserve(money, 0.25, key=f"{number} {turn}")
                        await anyio.sleep(0.001)
                        await settle(reservation, 0.1)
                finally:
                    under_way[0] -= 1
            finished.append(number)

    async with processes(tmp_path / STORE_FILE, 4) as ledgers:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for number in range(16):
                    group.start_soon(play, ledgers[number % 4], number)
        assert len(finished) == 4
        assert under_way[1] <= 2
        assert ledgers[0].committed_usd() <= 1.0 + TOLERANCE_USD


async def test_a_large_ceiling_lets_dialogues_of_all_processes_run_side_by_side(tmp_path: Path) -> None:
    under_way = [0, 0]

    async def play(money: Ledger, number: int) -> None:
        async with money.dialogue():
            under_way[:] = under_way[0] + 1, max(under_way[1], under_way[0] + 1)
            reservation = await reserve(money, 0.01, key=str(number))
            await anyio.sleep(1.5)
            await settle(reservation, 0.001)
            under_way[0] -= 1

    async with processes(tmp_path / STORE_FILE, 4, ceiling_usd=1000.0) as ledgers:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for number in range(16):
                    group.start_soon(play, ledgers[number % 4], number)
    assert under_way[1] >= 15  # all but the first, which told what a call costs


async def test_processes_that_end_well_leave_no_trace_but_their_spending(tmp_path: Path) -> None:
    path = tmp_path / STORE_FILE
    async with processes(path, 2) as (one, other):
        await settle(await reserve(one, 0.3), 0.1)
        await settle(await reserve(other, 0.3), 0.2)
    async with open_store(path) as store:
        assert living(store) == []
        assert Ledger(store, run="purse", ceiling_usd=1.0).committed_usd() == pytest.approx(0.3)
