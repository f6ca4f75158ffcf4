"""One account's batches: calls that wait are handed in together, for half the price, and answered within a day.

A call joins the queue and waits. When no other has joined for a moment, all that wait are a wave: they are written to files, cut to the
vendor's limits, and each file becomes a batch. So scripted dialogues go in one wave, live ones in one wave a turn, and judges and
moderators in waves of their own, without any of them knowing. What waits holds no picture: that is read when its row is written.

The ledger (``store.batches``) survives a crash at every point:

    joined ──► file written ──► intended, money put aside (synced) ──► created ──► out (synced) ──► polled ──► each row closed (synced)
                                        │ killed: look for the nonce in the vendor's list     │ killed: polled on
                                        └─► found: out · certainly absent: money freed, asked anew · unclear: nothing is sent again

Nothing here is tried again but what is ours: creating, polling, reading. A row that failed fails its call; the gateway then asks it singly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import file_digest
from pathlib import Path
from secrets import token_hex
from time import time
from typing import Literal, NamedTuple

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from safemt_api.adapters.batch import BatchAdapter, BatchIntent, RowResult, row_id
from safemt_api.errors import (
    BudgetExhaustedError,
    CallError,
    ConnectionFailedError,
    DialogueError,
    RateLimitedError,
    ResultsGoneError,
    SafeMTError,
    StopRunError,
    TransientError,
    UnansweredRowError,
    own_errors,
)
from safemt_api.files import private_folder
from safemt_api.limits.budget import Purse, Wanted
from safemt_api.limits.picture_memory import PictureMemory
from safemt_api.messages import Call, Reply
from safemt_api.prices import Price, cost_of
from safemt_api.store.batches import (
    Batch,
    BatchRow,
    Hindrance,
    RowEnd,
    batch_of,
    closed,
    created,
    ended,
    hindrances,
    intended,
    known_ids,
    nonce_of_key,
    open_rows,
    unfinished,
)
from safemt_api.store.connection import Connection, Work
from safemt_api.store.records import sendable_reply
from safemt_api.store.turns import StoredReply, TurnStore

BATCH_FOLDER = "batches"
"""In the results folder: files of rows while they are written and handed in."""

ROWS_AT_ONCE = 64
"""So many rows are closed in one transaction while results are read."""

MOST_REJECTIONS = 5
"""A call whose batch was rejected for the moment so often is asked singly."""


@dataclass(frozen=True, slots=True)
class BatchPace:
    """How long things of a batch take.

    ``quiet_seconds`` without another call end a wave, ``wave_seconds`` in any case; ``create_seconds`` is a deadline for handing in (200 MB
    over a slow line); a batch that the vendor does not know ``unknown_seconds`` after it was created is lost; one that has not ended
    ``patience_seconds`` after it was handed in is cancelled, and given up ``cancel_seconds`` later. An intent of another process is looked
    for when it is ``takeover_seconds`` old: then nobody is creating it any more.
    """

    quiet_seconds: float = 3.0
    wave_seconds: float = 120.0
    first_poll_seconds: float = 2.0
    longest_poll_seconds: float = 60.0
    create_seconds: float = 3600.0
    unknown_seconds: float = 900.0
    patience_seconds: float = 86_400.0
    cancel_seconds: float = 7200.0
    takeover_seconds: float = 2 * 3600.0
    full_queue_seconds: float = 60.0


DEFAULT_BATCH_PACE = BatchPace()


class BatchStatistics(NamedTuple):
    """One batch under way: ``done`` of its rows are answered where the vendor tells; ``batch_id`` is ``None`` while it is not known."""

    account: str
    model: str
    batch_id: str | None
    rows: int
    done: int | None
    since_utc: str


@dataclass(eq=False, slots=True)
class _Waiting:
    """A call in the queue or in a batch, and whoever waits for it."""

    call: Call
    key: str
    request: bytes
    wanted: Wanted
    rejections: int = 0
    done: anyio.Event = field(default_factory=anyio.Event)
    result: StoredReply | SafeMTError | None = None


class _Line(NamedTuple):
    """A row that is in the file."""

    row: BatchRow
    waiting: _Waiting


def _now_utc() -> datetime:
    return datetime.now(UTC)


class BatchQueue:
    """See the module. Whoever opens it starts ``run`` in a task group, and cancels that at the end: batches that are out stay out.

    Args:
        account: Its name in the ledger.
        vendor: How the vendor is called in sentences.
        adapter: Its batches.
        store: Where ledger and replies are.
        purse: What the calls are paid from.
        pictures: Memory for pictures, shared with calls that go singly.
        price_of: A model's price in a tier.
        folder: The results folder.
        pace: How long to wait for what.
        now_utc: The time of day; a test's own.
    """

    def __init__(
        self,
        *,
        account: str,
        vendor: str,
        adapter: BatchAdapter,
        store: TurnStore,
        purse: Purse,
        pictures: PictureMemory,
        price_of: Callable[[str, str], Price | None],
        folder: Path,
        pace: BatchPace = DEFAULT_BATCH_PACE,
        now_utc: Callable[[], datetime] = _now_utc,
    ) -> None:
        self.account, self._vendor, self._adapter = account, vendor, adapter
        self._store, self._purse, self._pictures = store, purse, pictures
        self._price_of, self._pace, self._now_utc = price_of, pace, now_utc
        self._folder = folder / BATCH_FOLDER
        self._queue: list[_Waiting] = []
        self._by_key: dict[str, _Waiting] = {}
        self._under_way: dict[str, BatchStatistics] = {}
        self._arrived, self._changed = anyio.Event(), anyio.Event()
        self._group: TaskGroup | None = None
        self._broken: SafeMTError | None = None
        self.notices: Counter[str] = Counter()

    async def ask(self, call: Call, *, key: str, request: bytes, wanted: Wanted) -> StoredReply:
        """Wait for the call's answer; when this returns, it is synced to disk and paid for.

        Raises:
            UnansweredRowError: The batch ended without it: ask singly.
            CallError, StopRunError: As when it is asked singly.
            StoreError: The ledger cannot be kept.
        """
        if self._broken is not None:
            raise self._broken
        waiting = self._by_key[key] = _Waiting(call, key, request, wanted)
        self._join(waiting)
        try:
            await waiting.done.wait()
        finally:
            self._by_key.pop(key, None)
        if isinstance(waiting.result, SafeMTError):
            raise waiting.result
        assert waiting.result is not None  # noqa: S101 (set together with the event)
        return waiting.result

    @property
    def waits(self) -> bool:
        """Whether calls wait for the vendor, however long that takes."""
        return bool(self._by_key)

    def statistics(self) -> tuple[BatchStatistics, ...]:
        """The batches under way."""
        return tuple(self._under_way.values())

    async def run(self) -> None:
        """Hand in what waits, wave after wave, and collect what is out, until cancelled."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                await anyio.to_thread.run_sync(self._sweep)
                for batch in await self._store.look(unfinished(self.account)):
                    self._take_up(batch)
                while True:
                    await self._arrived.wait()
                    await self._quiet()
                    # Who joined anew while it was still in the queue stands there twice.
                    wave, self._queue = list(dict.fromkeys(self._queue)), []
                    await self._hand_in_all([one for one in wave if self._by_key.get(one.key) is one])
        except BaseExceptionGroup as failures:
            own = own_errors(failures)
            if not own:
                raise
            self._broken = own[0]
            for key in list(self._by_key):
                self._answer(key, own[0])

    def _sweep(self) -> None:
        """Files of a process that was killed while it wrote or handed them in; nobody is as slow as that."""
        for file in self._folder.glob("*.jsonl"):
            with suppress(FileNotFoundError):
                if time() - file.stat().st_mtime > self._pace.takeover_seconds:
                    file.unlink()

    def _join(self, *waiting: _Waiting) -> None:
        self._queue += waiting
        self._arrived.set()

    def _answer(self, key: str, result: StoredReply | SafeMTError) -> None:
        waiting = self._by_key.get(key)
        if waiting is not None:
            waiting.result = result
            waiting.done.set()

    async def _quiet(self) -> None:
        """Until no call has joined for a moment."""
        with anyio.move_on_after(self._pace.wave_seconds):
            while self._arrived.is_set():
                self._arrived = anyio.Event()
                with anyio.move_on_after(self._pace.quiet_seconds):
                    await self._arrived.wait()
        self._arrived = anyio.Event()

    # Handing in

    async def _hand_in_all(self, wave: Sequence[_Waiting]) -> None:
        by_model: dict[str, list[_Waiting]] = {}
        for one in wave:
            by_model.setdefault(one.call.route.model, []).append(one)
        for model, waiting in by_model.items():
            rest = waiting
            while rest:
                if self._adapter.limits.queued_tokens is not None:
                    # How much of the queue a batch takes is the vendor's to count: one of a model at a time never fills it by itself.
                    while any(batch.model == model for batch in self._under_way.values()):
                        await self._changed.wait()
                rest = await self._hand_in(model, rest)

    async def _hand_in(self, model: str, wave: list[_Waiting]) -> list[_Waiting]:
        """Make one batch of as many as fit; returns the others."""
        batch = Batch(token_hex(8), self.account, model, self._purse.id, 0, self._now_utc().isoformat())
        named, poor = [_Line(self._row(batch, waiting), waiting) for waiting in wave], list[_Waiting]()
        hindered = await self._store.look(hindrances([line.row for line in named], self._purse.free_usd))
        lines = await self._without_hindered(named, hindered, poor)
        await anyio.to_thread.run_sync(private_folder, self._folder)
        path = self._folder / f"{batch.nonce}.jsonl"
        try:
            written, rest = await self._write(path, lines)
            while written:
                batch = batch._replace(requests=len(written))
                hindered = await self._intend(batch, path, written)
                if not hindered:
                    break
                # Between the look and the intent somebody else was quicker; it is rare, so the file is simply written anew.
                path.unlink()
                written, again = await self._write(path, await self._without_hindered(written, hindered, poor))
                rest = [*again, *rest]
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if written and self._group is not None:
            self._shows(batch, None)
            self._group.start_soon(self._create, batch, path)
        else:
            path.unlink(missing_ok=True)
        # Only now: what this batch has put aside may come back.
        await self._wait_for_money(poor)
        return rest

    def _row(self, batch: Batch, waiting: _Waiting) -> BatchRow:
        wanted = waiting.wanted
        return BatchRow(row_id(batch.nonce, waiting.key), waiting.key, wanted.run, wanted.purpose, wanted.most_usd)

    async def _without_hindered(self, lines: Sequence[_Line], hindered: dict[str, Hindrance], poor: list[_Waiting]) -> list[_Line]:
        """The rows that nothing stands against; of the others each is seen to as its hindrance asks, or put to the poor."""
        for row, waiting in lines:
            match hindered.get(row.id):
                case "answered":
                    stored = await self._store.get(row.key)
                    self._answer(row.key, stored) if stored is not None else self._join(waiting)
                case "elsewhere":
                    nonce = await self._store.look(nonce_of_key(row.key))
                    if nonce is None:  # closed in this moment
                        self._join(waiting)
                        continue
                    batch = await self._store.look(batch_of(nonce))
                    if nonce not in self._under_way:
                        self._take_up(batch)
                case "money":
                    poor.append(waiting)
                case None:
                    pass
        return [line for line in lines if line.row.id not in hindered]

    async def _wait_for_money(self, poor: list[_Waiting]) -> None:
        purse, hopeful = self._purse, list[_Waiting]()
        for waiting in poor:
            taken, elsewhere = await self._store.look(purse.standing_usd)
            if purse.lacks_usd(waiting.wanted.most_usd, taken, elsewhere):
                self._answer(waiting.key, BudgetExhaustedError(purse.ceiling_usd or 0.0, taken, waiting.wanted.most_usd))
            else:
                hopeful.append(waiting)
        if hopeful and self._group is not None:
            self._group.start_soon(self._join_when, purse.settled, hopeful)

    async def _join_when(self, settled: anyio.Event, waiting: Sequence[_Waiting]) -> None:
        await self._purse.changed(settled)
        self._join(*waiting)

    async def _write(self, path: Path, lines: Sequence[_Line]) -> tuple[list[_Line], list[_Waiting]]:
        """Write rows to the file until it is full; returns those that are in it, and the calls that no longer fit."""
        limits, size, written = self._adapter.limits, 0, list[_Line]()
        with path.open("xb") as file:
            path.chmod(0o600)  # noqa: ASYNC240 (a moment)
            for index, line in enumerate(lines):
                if len(written) == limits.max_requests:
                    return written, [late.waiting for late in lines[index:]]
                try:
                    text = await self._text(line)
                except CallError as error:
                    self._answer(line.row.key, error)
                    continue
                if len(text) > limits.max_bytes:
                    self._answer(
                        line.row.key, DialogueError(f"the request takes {len(text)} bytes, more than a batch of {self._vendor} may")
                    )
                elif size + len(text) > limits.max_bytes:
                    return written, [late.waiting for late in lines[index:]]
                else:
                    file.write(text)
                    size += len(text)
                    written.append(line)
        return written, []

    async def _text(self, line: _Line) -> bytes:
        call = line.waiting.call
        try:
            async with self._pictures.ready(call):
                return self._adapter.line(call, line.row.id) + b"\n"
        finally:
            for message in call.messages:
                for image in message.images:
                    image.release()

    async def _intend(self, batch: Batch, path: Path, lines: Sequence[_Line]) -> dict[str, Hindrance]:
        digest = await anyio.to_thread.run_sync(_digest, path)
        envelopes = {line.row.id: line.waiting.wanted.envelope for line in lines}

        earlier: list[int] = []

        def noted(rows: Sequence[BatchRow]) -> None:
            # A transaction that failed together with others' is run once more.
            while earlier:
                self._purse.forgets(earlier.pop())
            for row in rows:
                earlier.append(row.charge)
                self._purse.holds(row.charge, row.most_usd, envelopes[row.id])

        rows = [(line.row, line.waiting.request) for line in lines]
        return await self._store.write(intended(batch, rows, digest=digest, room_usd=self._purse.free_usd, noted=noted))

    # From an intent to the vendor's id

    async def _create(self, batch: Batch, path: Path) -> None:
        try:
            batch_id = await self._created(batch, path)
        except (CallError, StopRunError) as error:
            await self._give_up(batch, error)
            return
        finally:
            path.unlink(missing_ok=True)  # noqa: ASYNC240 (a moment, and not to be cut off)
        await self._store.write(created(batch.nonce, batch_id))
        await self._collect(batch._replace(batch_id=batch_id))

    async def _created(self, batch: Batch, path: Path) -> str:
        """The vendor's id of the batch, created or found.

        Raises:
            CallError, StopRunError: It is certain that there is none, and trying further is of no use.
        """
        for tries in range(1, MOST_REJECTIONS + 1):
            try:
                with anyio.fail_after(self._pace.create_seconds):
                    return await self._adapter.create(path, _intent(batch))
            except TimeoutError:
                error: CallError = ConnectionFailedError(f"{self._vendor} took too long over a batch", connected=True, maybe_billed=True)
            except CallError as failure:
                error = failure
            if error.maybe_billed:
                found = await self._search(batch)
                if found is not None:
                    return found
            elif not isinstance(error, TransientError):
                raise error
            asked = error.retry_after_seconds if isinstance(error, TransientError) else None
            await anyio.sleep(asked or self._pace.first_poll_seconds * 2.0**tries)
        error.maybe_billed = False  # each time it was looked for, and is not there
        raise error

    async def _search(self, batch: Batch) -> str | None:
        """Look for the batch until it is found, or certainly is not there; its money stays put aside meanwhile."""
        wait = self._pace.first_poll_seconds
        while True:
            with suppress(CallError):
                others = await self._store.look(known_ids(self.account))
                found = await self._adapter.find(_intent(batch), now_utc=self._now_utc(), others=others)
                if found.answer != "unclear":
                    return found.batch_id
            self.notices["unclear"] += 1
            await anyio.sleep(wait)
            wait = min(2.0 * wait, self._pace.longest_poll_seconds)

    def _take_up(self, batch: Batch) -> None:
        """Go on with a batch of an earlier process, or of another."""
        if self._group is not None:
            self._shows(batch, None)
            self._group.start_soon(self._recover, batch)

    async def _recover(self, batch: Batch) -> None:
        rows = await self._store.look(open_rows(batch.nonce))
        if batch.purse == self._purse.id:
            for row in rows:
                self._purse.holds(row.charge, row.most_usd, None)
        while batch.stage == "intended" and batch.purse != self._purse.id:
            # Another run's: it may be about to create it.
            if (self._now_utc() - batch.created).total_seconds() > self._pace.takeover_seconds:
                break
            await anyio.sleep(self._pace.quiet_seconds)
            batch = await self._store.look(batch_of(batch.nonce))
        if batch.stage == "intended":
            try:
                found = await self._search(batch)
            except StopRunError as error:
                self._fail_all(rows, error)
                self._shows(batch, None, over=True)
                return
            if found is not None:
                await self._store.write(created(batch.nonce, found))
            batch = batch._replace(batch_id=found)
        if batch.batch_id is not None:
            await self._collect(batch)
        else:
            await self._give_back(batch)

    # Collecting

    async def _collect(self, batch: Batch) -> None:
        """Poll until the batch has come to an end, then close its rows."""
        assert batch.batch_id is not None  # noqa: S101 (whoever calls this has looked)
        pace, wait, cancelled = self._pace, self._pace.first_poll_seconds, False
        self._shows(batch, None)
        while True:
            age = (self._now_utc() - batch.created).total_seconds()
            try:
                state = await self._adapter.poll(batch.batch_id)
                self._shows(batch, state.done)
                if state.phase == "rejected":
                    await self._give_up(batch, state.error or DialogueError(f"{self._vendor} rejected the batch and gave no reason"))
                    return
                if state.phase in ("ended", "expired", "cancelled"):
                    await self._read(batch, batch.batch_id)
                    return
                if state.phase == "unknown" and age > pace.unknown_seconds:
                    lost = DialogueError(
                        f"{self._vendor} no longer knows batch {batch.batch_id}; it may have been billed", maybe_billed=True
                    )
                    await self._give_up(batch, lost)
                    return
                if age > pace.patience_seconds and not cancelled:
                    await self._adapter.cancel(batch.batch_id)
                    cancelled, wait = True, pace.first_poll_seconds
            except ResultsGoneError as error:
                await self._give_up(batch, error)
                return
            except CallError:
                pass  # the vendor could not be asked now, or not to the end; what was read is kept
            except StopRunError as error:
                self._fail_all(await self._store.look(open_rows(batch.nonce)), error)
                return
            if age > pace.patience_seconds + pace.cancel_seconds:
                late = f"{self._vendor} neither ended nor cancelled batch {batch.batch_id}; it may have been billed"
                await self._give_up(batch, UnansweredRowError(late, maybe_billed=True))
                return
            await anyio.sleep(wait)
            wait = min(1.5 * wait, pace.longest_poll_seconds)

    async def _read(self, batch: Batch, batch_id: str) -> None:
        rows = {row.id: row for row in await self._store.look(open_rows(batch.nonce))}
        results: list[tuple[BatchRow, RowResult]] = []
        async for name, result in self._adapter.results(batch_id):
            row = rows.pop(name, None)
            if row is None:  # read before, told twice, or never asked for
                self.notices["unknown rows"] += 1
                continue
            results.append((row, result))
            if len(results) == ROWS_AT_ONCE:
                await self._close(batch, results)
                results = []
        unanswered = UnansweredRowError(f"{self._vendor} ended batch {batch_id} without this request")
        await self._close(batch, [*results, *((row, unanswered) for row in rows.values())], last="over")

    async def _close(
        self,
        batch: Batch,
        results: Sequence[tuple[BatchRow, RowResult]],
        *,
        last: Literal["over", "absent"] | None = None,
        still_waiting: Collection[_Waiting] = (),
    ) -> None:
        """Keep replies and settle money, in one transaction, then answer whoever waits, but for those who go on waiting.

        ``last``: these are the last rows, so that the batch is over (or was never there) with them.
        """
        quiet = {waiting.key for waiting in still_waiting}
        endings = [self._ending(batch, row, result) for row, result in results]

        def work(connection: Connection) -> list[StoredReply | None]:
            kept = [ending(connection) for ending, _ in endings]
            # In the commit of its last row: a process killed before a later one would leave a batch out that nobody waits for any more.
            ended(batch.nonce, last or "over")(connection)
            return kept

        kept = await self._store.write(work)
        for (row, result), stored, (_, settled_usd) in zip(results, kept, endings, strict=True):
            self._purse.lets_go(row.charge, settled_usd)
            # Closed by another process: what that kept is the answer, where it kept one.
            found = stored or await self._store.get(row.key)
            if found is not None:
                self._answer(row.key, found)
            elif row.key in quiet:
                pass
            elif isinstance(result, SafeMTError):
                self._answer(row.key, result)
            else:
                self._answer(row.key, UnansweredRowError(f"{self._vendor}: another process gave this request up"))
        if last is not None:
            self._shows(batch, None, over=True)

    def _ending(self, batch: Batch, row: BatchRow, result: RowResult) -> tuple[Work[StoredReply | None], float]:
        ending = partial(closed, row, purse=batch.purse)
        if not isinstance(result, Reply):
            billed = isinstance(result, CallError) and result.maybe_billed
            state: RowEnd = "kept" if billed else "released"
            settled_usd = row.most_usd if billed else 0.0
            return ending(settled_usd=settled_usd, state=state), settled_usd
        waited = max(0.0, (self._now_utc() - batch.created).total_seconds())
        reply = sendable_reply(replace(result, served_tier="batch", waited_seconds=round(waited, 3)))
        cost = cost_of(reply, partial(self._price_of, batch.model))
        settled_usd = row.most_usd if cost is None else cost

        def keep(connection: Connection, request: bytes) -> StoredReply:
            return self._store.keeping(row.key, request=request, reply=reply, cost_usd=cost)(connection)

        return ending(settled_usd=settled_usd, state="settled", keep=keep), settled_usd

    async def _give_up(self, batch: Batch, error: CallError | StopRunError) -> None:
        """No row that is open will be answered: each call fails with the error, or, where the vendor only has no room now, joins anew.

        What the vendor has against a file as a whole is one row's fault at most: asked singly, each call fails or succeeds by itself.
        """
        rows = await self._store.look(open_rows(batch.nonce))
        if isinstance(error, DialogueError) and not error.maybe_billed:
            error = UnansweredRowError(f"{self._vendor} rejected the batch as a whole ({error})")
        again: list[_Waiting] = []
        if isinstance(error, RateLimitedError):
            for row in rows:
                waiting = self._by_key.get(row.key)
                if waiting is not None and waiting.rejections < MOST_REJECTIONS:
                    waiting.rejections += 1
                    again.append(waiting)
        await self._close(batch, [(row, error) for row in rows], last="over" if batch.batch_id else "absent", still_waiting=again)
        if again and self._group is not None:
            pause = self._pace.full_queue_seconds * 2.0 ** (again[0].rejections - 1)
            self._group.start_soon(self._join_later, pause, again)

    async def _join_later(self, seconds: float, waiting: Sequence[_Waiting]) -> None:
        await anyio.sleep(seconds)
        self._join(*waiting)

    async def _give_back(self, batch: Batch) -> None:
        """The batch was never created: its money is free, and whoever waits for its rows joins anew."""
        rows = await self._store.look(open_rows(batch.nonce))
        waiting = [one for row in rows if (one := self._by_key.get(row.key)) is not None]
        never = UnansweredRowError(f"{self._vendor} never got this request")
        await self._close(batch, [(row, never) for row in rows], last="absent", still_waiting=waiting)
        self._join(*waiting)

    def _fail_all(self, rows: Sequence[BatchRow], error: SafeMTError) -> None:
        """Whoever waits for these rows is told; the rows stay open, for whoever goes on."""
        for row in rows:
            self._answer(row.key, error)

    def _shows(self, batch: Batch, done: int | None, *, over: bool = False) -> None:
        if over:
            self._under_way.pop(batch.nonce, None)
        else:
            told = BatchStatistics(batch.account, batch.model, batch.batch_id, batch.requests, done, batch.created_utc)
            self._under_way[batch.nonce] = told
        self._changed.set()
        self._changed = anyio.Event()


def _intent(batch: Batch) -> BatchIntent:
    return BatchIntent(batch.nonce, batch.model, batch.requests, batch.created)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{file_digest(file, 'sha256').hexdigest()}"
