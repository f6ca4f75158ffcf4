"""Money on a real store: never above the ceiling, whatever the order of reserving and settling, and whoever shares the store."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safemt_api.errors import BudgetExhaustedError
from safemt_api.limits.budget import TOLERANCE_USD, Ledger, Reservation
from safemt_api.store.turns import STORE_FILE, TurnStore, open_store

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TurnStore]:
    """An open store."""
    async with open_store(tmp_path / STORE_FILE) as opened:
        yield opened


def ledger(store: TurnStore, ceiling_usd: float | None = 1.0, *, run: str = "run") -> Ledger:
    return Ledger(store, run=run, ceiling_usd=ceiling_usd)


async def reserve(money: Ledger, most_usd: float, key: str = "k") -> Reservation:
    return await money.reserve(key=key, purpose="target", most_usd=most_usd)


async def settle(store: TurnStore, money: Ledger, reservation: Reservation, cost_usd: float) -> None:
    await store.write(money.settle(reservation, cost_usd))
    money.closed(reservation)


def states(store: TurnStore) -> list[tuple[str, float, float | None]]:
    query = "SELECT state, most_usd, settled_usd FROM charges ORDER BY id"
    return store.read(lambda connection: connection.execute(query).fetchall())


async def test_what_is_reserved_counts_until_it_is_settled_at_the_real_cost(store: TurnStore) -> None:
    money = ledger(store)
    reservation = await reserve(money, 0.6)
    assert money.committed_usd() == pytest.approx(0.6)
    await settle(store, money, reservation, 0.1)
    assert money.committed_usd() == pytest.approx(0.1)
    assert money.spent_usd() == pytest.approx({"target": 0.1, "judge": 0.0, "moderator": 0.0})


async def test_a_released_reservation_costs_nothing_and_a_kept_one_all(store: TurnStore) -> None:
    money = ledger(store)
    await money.release(await reserve(money, 0.6))
    assert money.committed_usd() == pytest.approx(0.0)
    await money.keep(await reserve(money, 0.7))
    assert money.committed_usd() == pytest.approx(0.7)
    assert money.spent_usd()["target"] == pytest.approx(0.7)
    assert [state for state, _, _ in states(store)] == ["released", "kept"]


async def test_spending_is_told_by_purpose(store: TurnStore) -> None:
    money = ledger(store)
    for purpose, cost in (("target", 0.1), ("judge", 0.2), ("moderator", 0.3), ("judge", 0.05)):
        reservation = await money.reserve(key="k", purpose=purpose, most_usd=0.35)  # type: ignore[arg-type] # the tuple's words are purposes
        await settle(store, money, reservation, cost)
    assert money.spent_usd() == pytest.approx({"target": 0.1, "judge": 0.25, "moderator": 0.3})


async def test_what_does_not_fit_ends_by_an_error_when_nothing_in_flight_can_help(store: TurnStore) -> None:
    money = ledger(store)
    await money.keep(await reserve(money, 0.9))
    with pytest.raises(BudgetExhaustedError, match=r"ceiling of \$1.00.*\$0.9000 is spent.*\$0.2000") as caught:
        await reserve(money, 0.2)
    assert caught.value.exit_code == 3
    assert (await reserve(money, 0.1)).most_usd == 0.1


async def test_the_last_cent_may_be_used(store: TurnStore) -> None:
    money = ledger(store, 0.3)
    for _ in range(3):
        await money.keep(await reserve(money, 0.1))
    with pytest.raises(BudgetExhaustedError):
        await reserve(money, 0.001)


async def test_it_waits_for_calls_in_flight_that_may_free_enough(store: TurnStore) -> None:
    money = ledger(store)
    first = await reserve(money, 0.8)
    got: list[Reservation] = []

    async def second() -> None:
        got.append(await reserve(money, 0.5))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(second)
            await anyio.sleep(0.05)
            assert got == []
            await settle(store, money, first, 0.2)
    assert len(got) == 1


async def test_it_waits_also_for_a_reservation_that_is_on_disk_but_not_yet_handed_out(
    store: TurnStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    money, write, got = ledger(store), store.write, list[Reservation]()

    async def slow_write(work: Callable[[sqlite3.Connection], object]) -> object:
        result = await write(work)
        await anyio.sleep(0.3)
        return result

    async def first() -> None:
        await settle(store, money, await reserve(money, 0.8), 0.2)

    async def second() -> None:
        got.append(await reserve(money, 0.5))

    monkeypatch.setattr(store, "write", slow_write)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await anyio.sleep(0.05)
            assert money.committed_usd() > 0.0
            group.start_soon(second)
    assert len(got) == 1


async def test_a_wait_that_turns_out_to_be_in_vain_ends_by_an_error(store: TurnStore) -> None:
    money = ledger(store)
    first = await reserve(money, 0.8)

    async def second() -> None:
        with pytest.raises(BudgetExhaustedError):
            await reserve(money, 0.5)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(second)
            await anyio.sleep(0.05)
            await settle(store, money, first, 0.75)


async def test_many_at_once_all_wait_and_all_that_fits_gets_through(store: TurnStore) -> None:
    money, done, refused = ledger(store), [], []

    async def call() -> None:
        try:
            reservation = await reserve(money, 0.3)
        except BudgetExhaustedError:
            refused.append(1)
            return
        await anyio.sleep(0.001)
        await settle(store, money, reservation, 0.02)
        done.append(1)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(call)
    assert money.committed_usd() == pytest.approx(0.02 * len(done))
    assert len(done) >= (1.0 - 0.3) / 0.02
    assert len(done) + len(refused) == 60


async def test_an_abandoned_reservation_stays_spent_and_nobody_waits_for_it(store: TurnStore) -> None:
    money = ledger(store)
    money.abandoned(await reserve(money, 0.8))
    with anyio.fail_after(5), pytest.raises(BudgetExhaustedError):
        await reserve(money, 0.3)
    assert money.spent_usd()["target"] == pytest.approx(0.8)


async def test_two_ledgers_on_one_run_share_one_ceiling(tmp_path: Path) -> None:
    async with open_store(tmp_path / STORE_FILE) as one, open_store(tmp_path / STORE_FILE) as other:
        ledgers = [ledger(one), ledger(other)]
        taken: list[float] = []

        async def spend(money: Ledger) -> None:
            with contextlib.suppress(BudgetExhaustedError):
                for _ in range(20):
                    await money.keep(await reserve(money, 0.07))
                    taken.append(0.07)

        async with anyio.create_task_group() as group:
            for money in ledgers:
                group.start_soon(spend, money)
                group.start_soon(spend, money)
        assert len(taken) == 14
        assert ledgers[0].committed_usd() == pytest.approx(14 * 0.07)


async def test_each_run_has_its_own_money(store: TurnStore) -> None:
    await ledger(store, run="a").keep(await reserve(ledger(store, run="a"), 0.9))
    assert (await reserve(ledger(store, run="b"), 0.9)).id > 0


KILLED = """
import os, sys, anyio
from pathlib import Path
from safemt_api.limits.budget import Ledger
from safemt_api.store.turns import open_store

async def main():
    async with open_store(Path(sys.argv[1])) as store:
        await Ledger(store, run="run", ceiling_usd=1.0).reserve(key="k", purpose="judge", most_usd=0.4)
        os.kill(os.getpid(), 9)

anyio.run(main)
"""


async def test_what_a_killed_process_had_reserved_counts_as_spent(tmp_path: Path) -> None:
    path = tmp_path / STORE_FILE
    killed = await anyio.run_process([sys.executable, "-c", KILLED, str(path)], env={**os.environ, "PYTHONPATH": str(PROJECT)}, check=False)
    assert killed.returncode == -9
    async with open_store(path) as store:
        money = ledger(store)
        assert money.spent_usd()["judge"] == pytest.approx(0.4)
        with anyio.fail_after(5), pytest.raises(BudgetExhaustedError):
            await reserve(money, 0.61)


async def test_a_higher_ceiling_goes_on_from_what_was_spent(store: TurnStore) -> None:
    await ledger(store).keep(await reserve(ledger(store), 0.9))
    raised = ledger(store, 2.0)
    await raised.keep(await reserve(raised, 1.05))
    with pytest.raises(BudgetExhaustedError):
        await reserve(raised, 0.1)


async def test_without_a_ceiling_nothing_is_written_beforehand_and_costs_are_booked_afterwards(store: TurnStore) -> None:
    money = ledger(store, None)
    before = store.statistics().writes
    first, second, third = [await reserve(money, 1e6) for _ in range(3)]
    assert store.statistics().writes == before
    await settle(store, money, first, 0.25)
    await money.release(second)
    await money.keep(third)
    assert money.spent_usd()["target"] == pytest.approx(1e6 + 0.25)
    assert [state for state, _, _ in states(store)] == ["settled", "kept"]


async def test_a_reply_and_its_cost_are_kept_together_or_not_at_all(store: TurnStore) -> None:
    money = ledger(store)
    reservation = await reserve(money, 0.5)
    book = money.settle(reservation, 0.1)

    def torn(connection: sqlite3.Connection) -> None:
        book(connection)
        raise LookupError("torn")

    with pytest.raises(LookupError, match="torn"):
        await store.write(torn)
    assert money.committed_usd() == pytest.approx(0.5)
    assert [state for state, _, _ in states(store)] == ["reserved"]


ENDINGS = st.sampled_from(["settle", "keep", "release", "abandon"])
STEPS = st.lists(st.tuples(st.floats(0, 0.6), st.floats(0, 1), ENDINGS, st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=25)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_whatever_the_order_never_more_than_the_ceiling_is_committed(steps: list[tuple[float, float, str, int, int]]) -> None:
    with TemporaryDirectory() as folder:
        anyio.run(interleave, Path(folder) / STORE_FILE, steps)


async def interleave(path: Path, steps: list[tuple[float, float, str, int, int]]) -> None:
    seen: list[float] = []
    expected: list[float] = []

    def watch(money: Ledger) -> None:
        seen.append(money.committed_usd())

    async def attempt(store: TurnStore, money: Ledger, step: tuple[float, float, str, int, int]) -> None:
        most, share, ending, turns, _ = step
        try:
            reservation = await reserve(money, most)
        except BudgetExhaustedError:
            return
        watch(money)
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        endings: dict[str, Callable[[], float]] = {
            "settle": lambda: share * most,
            "keep": lambda: most,
            "release": lambda: 0.0,
            "abandon": lambda: most,
        }
        if ending == "settle":
            await settle(store, money, reservation, share * most)
        elif ending == "keep":
            await money.keep(reservation)
        elif ending == "release":
            await money.release(reservation)
        else:
            money.abandoned(reservation)
        expected.append(endings[ending]())
        watch(money)

    async with open_store(path) as one, open_store(path) as other:
        ledgers = [(one, ledger(one)), (other, ledger(other))]
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for step in steps:
                    store, money = ledgers[step[-1]]
                    group.start_soon(attempt, store, money, step)
        assert max(seen, default=0.0) <= 1.0 + TOLERANCE_USD + 1e-12
        assert ledgers[0][1].committed_usd() == pytest.approx(sum(expected), abs=1e-9)
        assert sum(ledgers[0][1].spent_usd().values()) == pytest.approx(sum(expected), abs=1e-9)


async def test_under_a_small_ceiling_dialogues_end_before_others_begin(store: TurnStore) -> None:
    money, finished, under_way = ledger(store, 1.0), list[int](), [0, 0]

    async def play(number: int) -> None:
        with suppress(BudgetExhaustedError):
            async with money.dialogue():
                under_way[:] = under_way[0] + 1, max(under_way[1], under_way[0] + 1)
                try:
                    for turn in range(2):
                        reservation = await reserve(money, 0.25, key=f"{number} {turn}")
                        await anyio.sleep(0.001)
                        await settle(store, money, reservation, 0.1)
                finally:
                    under_way[0] -= 1
            finished.append(number)

    async with anyio.create_task_group() as group:
        for number in range(32):
            group.start_soon(play, number)
    # All at once, four would have put a quarter aside each, and hardly one found the money for its second call.
    assert len(finished) == 4
    assert under_way[1] <= 2
    assert money.committed_usd() <= 1.0 + TOLERANCE_USD


async def test_a_large_ceiling_lets_all_begin_once_the_price_of_a_call_is_known(store: TurnStore) -> None:
    money, under_way = ledger(store, 1000.0), [0, 0]

    async def play(number: int) -> None:
        async with money.dialogue():
            under_way[:] = under_way[0] + 1, max(under_way[1], under_way[0] + 1)
            reservation = await reserve(money, 0.01, key=str(number))
            await anyio.sleep(0.2)
            await settle(store, money, reservation, 0.001)
            under_way[0] -= 1

    async with anyio.create_task_group() as group:
        for number in range(16):
            group.start_soon(play, number)
    assert under_way[1] == 16


async def test_a_dialogue_alone_is_let_in_whatever_the_others_cost(store: TurnStore) -> None:
    money = ledger(store, 0.1)
    with anyio.fail_after(5):
        for _ in range(3):
            async with money.dialogue():
                await settle(store, money, await reserve(money, 0.05), 0.02)
