"""The queue of one account with a scripted vendor, on a virtual clock: waves, crashes between two steps, two processes, a full queue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio.testing

from safemt_api import batches
from safemt_api.adapters.batch import BatchIntent, BatchLimits, BatchSearch, BatchState, RowResult
from safemt_api.batches import BatchPace, BatchQueue
from safemt_api.errors import (
    AccountError,
    BudgetExhaustedError,
    ConnectionFailedError,
    DialogueError,
    RateLimitedError,
    UnansweredRowError,
)
from safemt_api.limits.budget import Ledger, Purse
from safemt_api.limits.picture_memory import PictureMemory
from safemt_api.messages import Call, Outcome, Reply, Route, Usage, user
from safemt_api.prices import Rates, constant_price, flat
from safemt_api.store.batches import outstanding, unfinished
from safemt_api.store.turns import STORE_FILE, TurnStore, open_store

PRICE = constant_price("test", Rates(flat(1.0), flat(1.0), flat(1.0), flat(4.0), flat(4.0)))
USAGE = Usage(input_tokens=1000, output_tokens=500)
COST = 0.003
GOOD = Reply(Outcome.ANSWERED, "words", usage=USAGE)
MOST = 0.01
LIMITS = BatchLimits(100, 10_000, None, 29)


@dataclass
class FakeBatches:
    """A vendor's batches: each is answered ``seconds`` after it was created; what happens to ``create`` and ``find`` is scripted."""

    seconds: float = 3600.0
    limits: BatchLimits = LIMITS
    creating: list[BaseException | None] = field(default_factory=list)
    states: list[BatchState] = field(default_factory=list)
    finding: list[BatchSearch] = field(default_factory=list)
    row: Callable[[str], RowResult] = lambda _: GOOD
    created: dict[str, tuple[float, list[str]]] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)

    def line(self, call: Call, row: str) -> bytes:
        if call.messages[0].text == "cannot be said":
            raise DialogueError("cannot be said")
        return row.encode()

    async def create(self, rows: Path, intent: BatchIntent) -> str:
        error = self.creating.pop(0) if self.creating else None
        if error is not None and not getattr(error, "maybe_billed", False):
            raise error
        self.created[f"batch-{intent.nonce}"] = (anyio.current_time(), rows.read_text().split())  # noqa: ASYNC240 (small)
        if error is not None:
            raise error
        return f"batch-{intent.nonce}"

    async def find(self, intent: BatchIntent, *, now_utc: datetime, others: Collection[str] = ()) -> BatchSearch:
        if self.finding:
            return self.finding.pop(0)
        name = f"batch-{intent.nonce}"
        return BatchSearch("found", name) if name in self.created else BatchSearch("absent")

    async def poll(self, batch_id: str) -> BatchState:
        if self.states:
            return self.states.pop(0)
        if batch_id in self.cancelled:
            return BatchState("cancelled")
        began, _ = self.created[batch_id]
        return BatchState("ended" if anyio.current_time() >= began + self.seconds else "working", 0, 1)

    async def results(self, batch_id: str) -> AsyncIterator[tuple[str, RowResult]]:
        for row in self.created[batch_id][1]:
            if batch_id not in self.cancelled:
                yield row, self.row(row)

    async def cancel(self, batch_id: str) -> None:
        self.cancelled.append(batch_id)


@dataclass
class Desk:
    """A running queue with what stands behind it."""

    queue: BatchQueue
    ledger: Ledger
    store: TurnStore

    async def ask(self, text: str, *, most_usd: float = MOST, model: str = "m") -> Any:
        call = Call(Route("vendor", "openai_chat", ("http://127.0.0.1:1",), model), (user(text),), service_tier="batch")
        wanted = self.ledger.wanted(purpose="target", most_usd=most_usd)
        return await self.queue.ask(call, key=f"safemt2:{text.replace(' ', '')}", request=b"{}", wanted=wanted)

    async def all(self, *texts: str, **more: Any) -> list[Any]:
        results: list[Any] = [None] * len(texts)

        async def one(index: int, text: str) -> None:
            try:
                results[index] = (await self.ask(text, **more)).reply.text
            except Exception as error:  # noqa: BLE001 (handed to the test as a value)
                results[index] = error

        async with anyio.create_task_group() as group:
            for index, text in enumerate(texts):
                group.start_soon(one, index, text)
        return results

    def states(self) -> list[str]:
        query = "SELECT state FROM charges ORDER BY id"
        return [state for (state,) in self.store.read(lambda connection: connection.execute(query).fetchall())]


@pytest.fixture
def anyio_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, Any]]]:
    """A virtual clock; work for threads is done on the loop, because the clock takes a loop that waits for a thread for an idle one."""

    async def inline(work: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return work(*args)

    monkeypatch.setattr(anyio.to_thread, "run_sync", inline)
    return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})  # type: ignore[return-value] # a plain value serves as well


Opener = Callable[..., AbstractAsyncContextManager[Desk]]


@pytest.fixture
def desk(tmp_path: Path) -> Opener:
    """``async with desk(vendor) as open:`` a queue over a real store."""

    @asynccontextmanager
    async def build(vendor: FakeBatches, *, max_usd: float | None = 1.0, run: str = "run", **pace: Any) -> AsyncIterator[Desk]:
        async with open_store(tmp_path / STORE_FILE) as store:
            purse = Purse(store, purse_id=run, ceiling_usd=max_usd)
            queue = BatchQueue(
                account="vendor here",
                vendor="vendor",
                adapter=vendor,
                store=store,
                folder=tmp_path,
                purse=purse,
                pictures=PictureMemory(),
                price_of=lambda _model, _tier: PRICE,
                pace=BatchPace(**pace),
                now_utc=lambda: datetime(2026, 11, 21, tzinfo=UTC) + timedelta(seconds=anyio.current_time()),
            )
            async with anyio.create_task_group() as group:
                group.start_soon(queue.run)
                yield Desk(queue, Ledger(store, run=run, purse=purse), store)
                group.cancel_scope.cancel()

    return build


async def test_who_waits_at_the_same_time_goes_in_one_batch_and_is_paid_for_once(desk: Opener) -> None:
    vendor = FakeBatches()
    async with desk(vendor) as opened:
        assert await opened.all("one", "two", "three") == ["words"] * 3
        assert opened.ledger.committed_usd() == pytest.approx(3 * COST)
        assert opened.states() == ["settled"] * 3
        assert opened.queue.statistics() == ()
    ((_, rows),) = vendor.created.values()
    assert len(rows) == 3


async def test_a_call_that_cannot_be_written_fails_alone(desk: Opener) -> None:
    vendor = FakeBatches()
    async with desk(vendor) as opened:
        good, bad = await opened.all("one", "cannot be said")
    assert good == "words"
    assert isinstance(bad, DialogueError)


async def test_models_have_batches_of_their_own(desk: Opener) -> None:
    vendor = FakeBatches()
    async with desk(vendor) as opened, anyio.create_task_group() as group:
        group.start_soon(opened.all, "one", "two")
        await opened.ask("three", model="other")
    assert sorted(len(rows) for _, rows in vendor.created.values()) == [1, 2]


async def test_a_creation_of_unknown_outcome_is_looked_for_and_never_repeated_before_that_is_known(desk: Opener) -> None:
    lost = ConnectionFailedError("reset", connected=True, maybe_billed=True)
    vendor = FakeBatches(creating=[lost], finding=[BatchSearch("unclear")] * 5)
    async with desk(vendor) as opened:
        assert await opened.all("one", "two") == ["words"] * 2
        assert opened.queue.notices["unclear"] == 5
        assert opened.states() == ["settled"] * 2
    assert len(vendor.created) == 1


async def test_an_intent_that_is_not_decided_keeps_its_money_and_nothing_is_sent_again(desk: Opener) -> None:
    lost = ConnectionFailedError("reset", connected=True, maybe_billed=True)
    vendor = FakeBatches(creating=[lost], finding=[BatchSearch("unclear")] * 10_000)
    async with desk(vendor) as opened:
        with anyio.move_on_after(3600):
            await opened.all("one", "two")
        assert opened.states() == ["reserved"] * 2
        assert opened.ledger.committed_usd() == pytest.approx(2 * MOST)
        assert len(vendor.created) == 1
    vendor.finding = [BatchSearch("unclear")] * 3
    async with desk(vendor) as opened:
        (out,) = opened.store.read(outstanding("run"))
        assert (out.batch_id, out.rows) == (None, 2)
        assert await opened.all("one", "two") == ["words"] * 2
        assert opened.states() == ["settled"] * 2
    assert len(vendor.created) == 1


async def test_an_intent_that_never_became_a_batch_is_freed_and_asked_anew(desk: Opener) -> None:
    vendor = FakeBatches(creating=[ConnectionFailedError("refused", connected=False, maybe_billed=False)] * 3)
    async with desk(vendor, first_poll_seconds=3600.0) as opened:
        with anyio.move_on_after(10):
            await opened.all("one", "two")
        assert opened.states() == ["reserved"] * 2
        assert vendor.created == {}
    vendor.creating = []
    async with desk(vendor) as opened:
        assert await opened.all("one", "two") == ["words"] * 2
        assert opened.states() == ["released", "released", "settled", "settled"]
        assert opened.ledger.committed_usd() == pytest.approx(2 * COST)
    assert len(vendor.created) == 1


async def test_what_one_process_has_handed_in_another_waits_for(desk: Opener) -> None:
    vendor = FakeBatches()
    async with desk(vendor) as first, desk(vendor, run="other") as second, anyio.create_task_group() as group:
        group.start_soon(first.all, "one", "two")
        await anyio.sleep(60)
        assert await second.all("two", "three") == ["words"] * 2
        assert second.ledger.committed_usd() == pytest.approx(COST)
    assert sorted(len(rows) for _, rows in vendor.created.values()) == [1, 2]


async def test_a_full_queue_is_waited_for_and_an_account_that_is_refused_ends_the_run(desk: Opener) -> None:
    full = BatchState("rejected", error=RateLimitedError("queue full"))
    vendor = FakeBatches(states=[full, full])
    async with desk(vendor) as opened:
        assert await opened.all("one") == ["words"]
        assert opened.states() == ["released", "released", "settled"]
    refused = FakeBatches(creating=[AccountError("no credit")])
    async with desk(refused) as opened:
        (error,) = await opened.all("two")
        assert isinstance(error, AccountError)
        assert opened.states()[-1] == "released"


async def test_a_batch_that_is_late_is_cancelled_and_its_rows_are_left_to_be_asked_singly(desk: Opener) -> None:
    vendor = FakeBatches(seconds=1e9)
    async with desk(vendor) as opened:
        (error,) = await opened.all("one")
        assert isinstance(error, UnansweredRowError)
        assert not error.maybe_billed
        assert opened.states() == ["released"]
        assert 86_400 < anyio.current_time() < 90_000
    assert len(vendor.cancelled) == 1


async def test_a_batch_that_neither_ends_nor_can_be_cancelled_counts_as_billed(desk: Opener) -> None:
    vendor = FakeBatches(states=[BatchState("working")] * 10_000)
    async with desk(vendor) as opened:
        (error,) = await opened.all("one")
        assert isinstance(error, UnansweredRowError)
        assert error.maybe_billed
        assert opened.states() == ["kept"]


async def test_a_batch_that_the_vendor_no_longer_knows_counts_as_billed(desk: Opener) -> None:
    vendor = FakeBatches(states=[BatchState("unknown")] * 10_000)
    async with desk(vendor) as opened:
        (error,) = await opened.all("one")
        assert "no longer knows batch" in str(error)
        assert opened.states() == ["kept"]
        assert anyio.current_time() < 1200


async def test_what_the_ceiling_leaves_no_room_for_waits_for_what_comes_back(desk: Opener) -> None:
    vendor = FakeBatches()
    async with desk(vendor, max_usd=2.5 * MOST) as opened:
        results = await opened.all(*(str(number) for number in range(10)))
        assert opened.ledger.committed_usd() <= 2.5 * MOST + 1e-9
    done = [one for one in results if one == "words"]
    assert len(done) >= 5
    assert all(isinstance(one, BudgetExhaustedError) for one in results if one != "words")


async def test_a_batch_is_over_with_its_last_row_whatever_comes_after_that(desk: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "ROWS_AT_ONCE", 1)

    class Endless(FakeBatches):
        async def results(self, batch_id: str) -> AsyncIterator[tuple[str, RowResult]]:
            async for one in super().results(batch_id):
                yield one
            await anyio.sleep_forever()

    async with desk(Endless()) as opened:
        assert await opened.all("one", "two") == ["words"] * 2
        assert opened.store.read(unfinished("vendor here")) == []


async def test_a_row_that_failed_is_freed_or_kept_as_the_vendor_bills_it(desk: Opener) -> None:
    errors = {"a": DialogueError("too long"), "b": ConnectionFailedError("half", connected=True, maybe_billed=True)}
    vendor = FakeBatches(row=lambda row: errors.get(row[-1], GOOD))
    async with desk(vendor) as opened:
        results = await opened.all("a", "b", "c")
        assert sorted(opened.states()) == ["kept", "released", "settled"]
    assert results == [errors["a"], errors["b"], "words"]
