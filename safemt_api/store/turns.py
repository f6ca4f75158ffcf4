"""The turn store: every reply on disk before anyone uses it.

Writers hand a piece of work to one writer thread; all work that has come in while the last commit was being synced goes into the next one
(group commit), so that durability costs one sync for many calls. Where it lies is ``store.sqlite``'s business, or ``store.postgresql``'s.

Processes may share a store: their commits come one after another, and a reply that two of them bought is kept once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from safemt_api.messages import Reply
from safemt_api.store.connection import STORE_FILE as STORE_FILE  # noqa: PLC0414 (those who open a store take both from here)
from safemt_api.store.connection import Body, Connection, Database, Place, ServerAddress, T, Work
from safemt_api.store.records import checksum, reply_from_json, reply_to_json
from safemt_api.store.sqlite import SqliteDatabase, seen_in_file, shrink

MAX_GROUP = 256


class StoredReply(NamedTuple):
    """A reply with what it cost when it was bought (``None``: no price was known)."""

    reply: Reply
    cost_usd: float | None


class StoreStatistics(NamedTuple):
    """How much was written, in how many synced commits, how many stored replies were found damaged, and for how long the server has not
    answered (``None``: it does, or there is none)."""

    writes: int
    commits: int
    damaged: int
    away_seconds: float | None = None


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Work[T]
    done: anyio.Event = field(default_factory=anyio.Event)
    result: T | None = None
    error: Exception | None = None


class TurnStore:
    """An open store; made by ``open_store``."""

    def __init__(self, database: Database, jobs: MemoryObjectSendStream[_Job[Any]]) -> None:
        self._database, self._jobs = database, jobs
        self._writes = self._commits = 0
        self._damaged: set[str] = set()
        self.id: str = self.read(lambda connection: connection.execute("SELECT id FROM store").fetchone()[0])

    @property
    def place(self) -> Place:
        """Where it lies."""
        return self._database.place

    async def get(self, key: str) -> StoredReply | None:
        """The reply bought for that key, if there is one; a damaged one is none, so that it is asked for again.

        Raises:
            StoreError: The store cannot be read.
        """
        return await self._database.look(partial(self._found, key))

    def _found(self, key: str, connection: Connection) -> StoredReply | None:
        row = connection.execute(_FIND, (key,)).fetchone()
        if row is None:
            return None
        reply, raw, cost_usd, expected = row
        try:
            if expected not in (None, checksum(key, reply, raw, cost_usd)):
                raise ValueError("the checksum is another")
            return StoredReply(reply_from_json(reply.decode(), None if raw is None else raw.decode()), cost_usd)
        except ValueError:
            self._damaged.add(key)
            return None

    async def look(self, work: Work[T]) -> T:
        """Run a query beside whatever is written; with SQLite this never suspends.

        Raises:
            StoreError: The store cannot be read.
        """
        return await self._database.look(work)

    def read(self, work: Work[T]) -> T:
        """Run a query now, and let everything else wait for it: for the start and the end of a run.

        Raises:
            StoreError: The store cannot be read.
        """
        return self._database.read(work)

    def glance(self, name: str, work: Work[T], otherwise: T) -> T:
        """What a display may show of a query: as it is now, or on a server, as it was a moment ago (``otherwise``: nothing is known yet).

        ``name`` says which query it is.
        """
        return self._database.glance(name, work, otherwise)

    async def write(self, work: Work[T]) -> T:
        """Run work in the next commit; when this returns, its effect is synced to disk.

        Raises:
            StoreError: The store cannot be written; nothing of this work is in it.
        """
        job: _Job[T] = _Job(work)
        # Once handed over, the work is committed whatever happens to the caller: a reply that is paid for is not lost to a cancellation.
        with anyio.CancelScope(shield=True):
            await self._jobs.send(job)
            await job.done.wait()
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]  # the writer has set it: the job is done and has no error

    def hurry(self) -> None:
        """The run is ending: from now on a commit waits only a moment for another program that holds the store, or for a server."""
        self._database.hurry()

    async def put(self, key: str, *, request: bytes, reply: Reply, cost_usd: float | None, also: Work[None] | None = None) -> StoredReply:
        """Keep a reply; ``also`` runs in the same transaction (the budget settles there).

        Returns:
            What the store holds now: this reply, or the one that another process put there first, which everyone must go on with.

        Raises:
            StoreError: The store cannot be written.
        """
        keep = self.keeping(key, request=request, reply=reply, cost_usd=cost_usd)

        def work(connection: Connection) -> StoredReply:
            if also is not None:
                also(connection)
            return keep(connection)

        return await self.write(work)

    def keeping(self, key: str, *, request: bytes, reply: Reply, cost_usd: float | None) -> Work[StoredReply]:
        """The work that keeps a reply, for whoever has more to write with it; its result is what ``put`` returns."""
        text, raw = reply_to_json(reply), reply.raw
        expected = checksum(key, text.encode(), None if raw is None else raw.encode(), cost_usd)
        row = (key, now_utc(), Body(request.decode()), Body(text), None if raw is None else Body(raw), cost_usd, expected)

        def work(connection: Connection) -> StoredReply:
            # The first reply to a key stays: another process may have used it already.
            found = self._found(key, connection)
            if found is None:
                connection.execute(_KEEP, row)
            return found or StoredReply(reply, cost_usd)

        return work

    def statistics(self) -> StoreStatistics:
        """What happened so far."""
        return StoreStatistics(self._writes, self._commits, len(self._damaged), self._database.away_seconds)

    async def _run_writer(self, jobs: MemoryObjectReceiveStream[_Job[Any]]) -> None:
        async with jobs:
            async for first in jobs:
                group = [first, *_waiting(jobs)]
                await anyio.to_thread.run_sync(self._commit, group)
                for job in group:
                    job.done.set()

    def _commit(self, group: list[_Job[Any]]) -> None:
        try:
            results = self._database.commit([job.work for job in group])
        except Exception as error:  # noqa: BLE001 (handed to the waiting caller, who raises it)
            if len(group) == 1 or self._database.fails_for_all(error):
                for job in group:
                    job.error = error
                return
            # One piece of work that fails must not take the replies of the others with it.
            for job in group:
                self._commit([job])
        else:
            for job, result in zip(group, results, strict=True):
                job.result = result
            self._writes += len(group)
            self._commits += 1


# As bytes: a text that is no UTF-8 any more is damage to be noticed, not an error of the query.
_FIND = "SELECT CAST(reply AS BLOB), CAST(raw AS BLOB), cost_usd, checksum FROM replies WHERE key = ?"
# What is there already is damaged.
_KEEP = """
INSERT INTO replies (key, created_utc, request, reply, raw, cost_usd, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET created_utc = excluded.created_utc, request = excluded.request, reply = excluded.reply, raw = excluded.raw,
    cost_usd = excluded.cost_usd, checksum = excluded.checksum
"""


def _waiting(jobs: MemoryObjectReceiveStream[_Job[Any]]) -> Iterator[_Job[Any]]:
    for _ in range(MAX_GROUP - 1):
        try:
            yield jobs.receive_nowait()
        except (anyio.WouldBlock, anyio.EndOfStream):
            return


@asynccontextmanager
async def open_store(place: Place) -> AsyncIterator[TurnStore]:
    """Open the store, creating or migrating it; on leaving, all that was handed over is committed.

    Raises:
        StoreError: Locked, read-only, damaged, of a newer schema, no turn store at all, or a server that cannot be used.
    """
    database = await anyio.to_thread.run_sync(_database_at, place)
    # Unlimited: senders wait for their own commit anyway, so that at most one job a call is ever queued.
    send, receive = anyio.create_memory_object_stream[_Job[Any]](max_buffer_size=float("inf"))
    failure: BaseException | None = None
    try:
        store = TurnStore(database, send)
        async with anyio.create_task_group() as group:
            group.start_soon(_shielded_writer, store, receive)
            async with send:
                try:
                    yield store
                except BaseException as error:  # noqa: BLE001 (raised again below, bare: a task group would wrap it in a group)
                    failure = error
    finally:
        database.close()
    if failure is not None:
        raise failure


def _database_at(place: Place) -> Database:
    return _server().PostgresDatabase(place) if isinstance(place, ServerAddress) else SqliteDatabase(place)


def _server() -> ModuleType:
    from safemt_api.store import postgresql  # noqa: PLC0415 (its driver is an optional extra)

    return postgresql


async def _shielded_writer(store: TurnStore, jobs: MemoryObjectReceiveStream[_Job[Any]]) -> None:
    # Ends when the sending side is closed, never by cancellation: Ctrl-C must not cut a commit that a caller waits for.
    with anyio.CancelScope(shield=True):
        await store._run_writer(jobs)


def looked_up(place: Place, work: Work[T]) -> T | None:
    """What a query finds without opening the store for writing; ``None`` where it cannot be read."""
    found: T | None = _server().seen_on_server(place, work) if isinstance(place, ServerAddress) else seen_in_file(place, work)
    return found


def shrink_store(place: Place) -> None:
    """Give the room of removed rows back to the disk; a server sees to that by itself."""
    if isinstance(place, Path):
        shrink(place)


def now_utc() -> str:
    """The time now, UTC, as files hold it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
