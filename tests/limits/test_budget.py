"""Money on a real store: never above the ceiling, whatever the order of reserving and settling, and whoever shares the store."""

from __future__ import annotations

import contextlib
import os
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

from safemt_api.errors import AccountError, BudgetExhaustedError, DialogueError, RateLimitedError, ServerError
from safemt_api.limits.budget import TOLERANCE_USD, Ledger
from safemt_api.store.connection import Connection
from safemt_api.store.turns import STORE_FILE, TurnStore, open_store

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TurnStore]:
    """An open store."""
    async with open_store(tmp_path / STORE_FILE) as opened:
        yield opened


def ledger(store: TurnStore, ceiling_usd: float | None = 1.0, *, run: str = "run") -> Ledger:
    return Ledger(store, run=run, ceiling_usd=ceiling_usd)


class Attempt:
    """One attempt that ends when the test says so, as it says."""

    def __init__(self, money: Ledger, most_usd: float | None, key: str) -> None:
        self.money = money
        self.scope = money.reserved(key=key, purpose="target", most_usd=most_usd)

    async def begin(self) -> Attempt:
        self.reservation = await self.scope.__aenter__()
        self.reservation.sent = True
        return self

    async def settle(self, cost_usd: float) -> None:
        await self.money._store.write(self.money.settle(self.reservation, cost_usd))
        await self.scope.__aexit__(None, None, None)

    async def fail(self, error: BaseException) -> None:
        assert not await self.scope.__aexit__(type(error), error, None)


BILLED, UNBILLED = ServerError("half an answer", maybe_billed=True), RateLimitedError("too fast", status=429)
CUT_OFF = KeyboardInterrupt()


async def reserve(money: Ledger, most_usd: float | None, key: str = "k") -> Attempt:
    return await Attempt(money, most_usd, key).begin()


async def settle(attempt: Attempt, cost_usd: float) -> None:
    await attempt.settle(cost_usd)


async def keep(attempt: Attempt) -> None:
    await attempt.fail(BILLED)


def states(store: TurnStore) -> list[tuple[str, float, float | None]]:
    query = "SELECT state, most_usd, settled_usd FROM charges ORDER BY id"
    return store.read(lambda connection: connection.execute(query).fetchall())


async def test_what_is_reserved_counts_until_it_is_settled_at_the_real_cost(store: TurnStore) -> None:
    money = ledger(store)
    reservation = await reserve(money, 0.6)
    assert money.committed_usd() == pytest.approx(0.6)
    await settle(reservation, 0.1)
    assert money.committed_usd() == pytest.approx(0.1)
    assert money.spent_usd() == pytest.approx({"target": 0.1, "judge": 0.0, "moderator": 0.0})


async def test_a_released_reservation_costs_nothing_and_a_kept_one_all(store: TurnStore) -> None:
    money = ledger(store)
    await (await reserve(money, 0.6)).fail(UNBILLED)
    assert money.committed_usd() == pytest.approx(0.0)
    await keep(await reserve(money, 0.7))
    assert money.committed_usd() == pytest.approx(0.7)
    assert money.spent_usd()["target"] == pytest.approx(0.7)
    assert [state for state, _, _ in states(store)] == ["released", "kept"]


@pytest.mark.parametrize(
    ("ending", "ceiling_usd", "sent", "row"),
    [
        (BILLED, 1.0, True, ("kept", 0.5)),
        (DialogueError("rejected"), 1.0, True, ("released", 0.0)),
        (AccountError("no credit"), 1.0, True, ("released", 0.0)),
        (CUT_OFF, 1.0, False, ("released", 0.0)),
        (CUT_OFF, 1.0, True, ("reserved", None)),
        (CUT_OFF, None, True, ("kept", None)),
        (CUT_OFF, None, False, None),
        (BILLED, None, True, ("kept", 0.5)),
        (UNBILLED, None, True, None),
    ],
)
async def test_each_ending_of_an_attempt_is_booked_as_the_scope_says(
    store: TurnStore, ending: BaseException, ceiling_usd: float | None, sent: bool, row: tuple[str, float | None] | None
) -> None:
    money = ledger(store, ceiling_usd)
    attempt = await reserve(money, 0.5)
    attempt.reservation.sent = sent
    await attempt.fail(ending)
    assert [(state, settled) for state, _, settled in states(store)] == ([] if row is None else [row])
    assert money.committed_usd() == pytest.approx(0.0 if row is None or row[1] == 0.0 else 0.5)


async def test_a_call_without_a_price_is_booked_only_if_the_vendor_tells_its_cost(store: TurnStore) -> None:
    money = ledger(store, None)
    for cost_usd in (None, 0.25):
        async with money.reserved(key="k", purpose="target", most_usd=None) as reservation:
            await store.write(money.settle(reservation, cost_usd))
    await (await reserve(money, None)).fail(BILLED)
    assert states(store) == [("settled", 0.0, 0.25)]


async def test_spending_is_told_by_purpose(store: TurnStore) -> None:
    money = ledger(store)
    for purpose, cost in (("target", 0.1), ("judge", 0.2), ("moderator", 0.3), ("judge", 0.05)):
        async with money.reserved(key="k", purpose=purpose, most_usd=0.35) as reservation:  # type: ignore[arg-type] # the tuple's words are purposes
            await store.write(money.settle(reservation, cost))
    assert money.spent_usd() == pytest.approx({"target": 0.1, "judge": 0.25, "moderator": 0.3})


async def test_what_does_not_fit_ends_by_an_error_when_nothing_in_flight_can_help(store: TurnStore) -> None:
    money = ledger(store)
    await keep(await reserve(money, 0.9))
    with pytest.raises(BudgetExhaustedError, match=r"ceiling of \$1.00.*\$0.9000 is spent.*\$0.2000") as caught:
        await reserve(money, 0.2)
    assert caught.value.exit_code == 3
    await settle(await reserve(money, 0.1), 0.1)


async def test_the_last_cent_may_be_used(store: TurnStore) -> None:
    money = ledger(store, 0.3)
    for _ in range(3):
        await keep(await reserve(money, 0.1))
    with pytest.raises(BudgetExhaustedError):
        await reserve(money, 0.001)


async def test_it_waits_for_calls_in_flight_that_may_free_enough(store: TurnStore) -> None:
    money = ledger(store)
    first = await reserve(money, 0.8)
    got: list[Attempt] = []

    async def second() -> None:
        got.append(await reserve(money, 0.5))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(second)
            await anyio.sleep(0.05)
            assert got == []
            await settle(first, 0.2)
    assert len(got) == 1


async def test_it_waits_also_for_a_reservation_that_is_on_disk_but_not_yet_handed_out(
    store: TurnStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    money, write, got = ledger(store), store.write, list[Attempt]()

    async def slow_write(work: Callable[[Connection], object]) -> object:
        result = await write(work)
        await anyio.sleep(0.3)
        return result

    async def first() -> None:
        await settle(await reserve(money, 0.8), 0.2)

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
            await settle(first, 0.75)


async def test_many_at_once_all_wait_and_all_that_fits_gets_through(store: TurnStore) -> None:
    money, done, refused = ledger(store), [], []

    async def call() -> None:
        try:
            reservation = await reserve(money, 0.3)
        except BudgetExhaustedError:
            refused.append(1)
            return
        await anyio.sleep(0.001)
        await settle(reservation, 0.02)
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
    await (await reserve(money, 0.8)).fail(CUT_OFF)
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
                    await keep(await reserve(money, 0.07))
                    taken.append(0.07)

        async with anyio.create_task_group() as group:
            for money in ledgers:
                group.start_soon(spend, money)
                group.start_soon(spend, money)
        assert len(taken) == 14
        assert ledgers[0].committed_usd() == pytest.approx(14 * 0.07)


async def test_each_run_has_its_own_money(store: TurnStore) -> None:
    await keep(await reserve(ledger(store, run="a"), 0.9))
    await settle(await reserve(ledger(store, run="b"), 0.9), 0.9)


KILLED = """
import os, sys, anyio
from pathlib import Path
from safemt_api.limits.budget import Ledger
from safemt_api.store.turns import open_store

async def main():
    async with open_store(Path(sys.argv[1])) as store:
        async with Ledger(store, run="run", ceiling_usd=1.0).reserved(key="k", purpose="judge", most_usd=0.4):
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
    await keep(await reserve(ledger(store), 0.9))
    raised = ledger(store, 2.0)
    await keep(await reserve(raised, 1.05))
    with pytest.raises(BudgetExhaustedError):
        await reserve(raised, 0.1)


async def test_without_a_ceiling_nothing_is_written_beforehand_and_costs_are_booked_afterwards(store: TurnStore) -> None:
    money = ledger(store, None)
    before = store.statistics().writes
    first, second, third = [await reserve(money, 1e6) for _ in range(3)]
    assert store.statistics().writes == before
    await settle(first, 0.25)
    await second.fail(UNBILLED)
    await keep(third)
    assert money.spent_usd()["target"] == pytest.approx(1e6 + 0.25)
    assert [state for state, _, _ in states(store)] == ["settled", "kept"]


async def test_a_reply_and_its_cost_are_kept_together_or_not_at_all(store: TurnStore) -> None:
    money = ledger(store)

    def torn(connection: Connection) -> None:
        book(connection)
        raise LookupError("torn")

    attempt = await reserve(money, 0.5)
    book = money.settle(attempt.reservation, 0.1)
    with pytest.raises(LookupError, match="torn") as caught:
        await store.write(torn)
    await attempt.fail(caught.value)
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
            await settle(reservation, share * most)
        elif ending == "keep":
            await keep(reservation)
        elif ending == "release":
            await reservation.fail(UNBILLED)
        else:
            await reservation.fail(CUT_OFF)
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
                        await settle(reservation, 0.1)
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
            await settle(reservation, 0.001)
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
                await settle(await reserve(money, 0.05), 0.02)
