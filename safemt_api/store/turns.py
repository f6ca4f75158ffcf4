"""The turn store: every reply on disk before anyone uses it.

SQLite in WAL mode with full sync. Writers hand a piece of work to one writer thread; all work that has come in while the last commit was
being synced goes into the next one (group commit), so that durability costs one sync for many calls. Reads go straight to a second
connection on the event loop's thread: a look-up by primary key takes some microseconds, less than a thread hop.

Two processes may share a store: SQLite's locks order their commits, and a reply that both bought is kept once.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, NamedTuple

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from safemt_api.errors import StoreError
from safemt_api.files import private_file, private_folder
from safemt_api.messages import Reply
from safemt_api.store.connection import Body, Connection, T, Work
from safemt_api.store.migrations import migrate
from safemt_api.store.records import checksum, reply_from_json, reply_to_json

STORE_FILE = "turns.sqlite"
BUSY_TIMEOUT_SECONDS = 20.0
HURRIED_SECONDS = 1.0
"""How long a commit waits for another program's lock once the run is ending: Ctrl-C must not hang."""

LOOK_SECONDS = 0.1
WAL_RETRY_SECONDS = 0.02
MAX_GROUP = 256
APPLICATION_ID = 0x53614D54  # "SaMT": tells a turn store from any other SQLite file


class StoredReply(NamedTuple):
    """A reply with what it cost when it was bought (``None``: no price was known)."""

    reply: Reply
    cost_usd: float | None


class StoreStatistics(NamedTuple):
    """How much was written, in how many synced commits, and how many stored replies were found damaged."""

    writes: int
    commits: int
    damaged: int


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Work[T]
    done: anyio.Event = field(default_factory=anyio.Event)
    result: T | None = None
    error: Exception | None = None


class TurnStore:
    """An open store; made by ``open_store``."""

    def __init__(self, path: Path, reader: sqlite3.Connection, writer: sqlite3.Connection, jobs: MemoryObjectSendStream[_Job[Any]]) -> None:
        self.path = path
        self._reader, self._writer, self._jobs = reader, writer, jobs
        self._writes = self._commits = 0
        self._damaged: set[str] = set()
        self._give_up_at = float("inf")
        self.id: str = self.read(lambda connection: connection.execute("SELECT id FROM store").fetchone()[0])

    def get(self, key: str) -> StoredReply | None:
        """The reply bought for that key, if there is one; a damaged one is none, so that it is asked for again.

        Raises:
            StoreError: The store cannot be read.
        """
        with explained(self.path):
            return self._found(self._reader, key)

    def _found(self, connection: Connection, key: str) -> StoredReply | None:
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

    def read(self, work: Work[T]) -> T:
        """Run a query on the reading connection.

        Raises:
            StoreError: The store cannot be read.
        """
        with explained(self.path):
            return work(self._reader)

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
        """The run is ending: from now on a commit waits only a moment for another program that has locked the store."""
        self._give_up_at = time.monotonic() + HURRIED_SECONDS

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
            found = self._found(connection, key)
            if found is None:
                connection.execute(_KEEP, row)
            return found or StoredReply(reply, cost_usd)

        return work

    def statistics(self) -> StoreStatistics:
        """What happened so far."""
        return StoreStatistics(self._writes, self._commits, len(self._damaged))

    async def _run_writer(self, jobs: MemoryObjectReceiveStream[_Job[Any]]) -> None:
        async with jobs:
            async for first in jobs:
                group = [first, *_waiting(jobs)]
                await anyio.to_thread.run_sync(self._commit, group)
                for job in group:
                    job.done.set()

    def _commit(self, group: list[_Job[Any]]) -> None:
        try:
            with explained(self.path), self._transaction():
                for job in group:
                    job.result = job.work(self._writer)
        except Exception as error:  # noqa: BLE001 (handed to the waiting caller, who raises it)
            if len(group) == 1 or is_busy(error.__cause__):
                for job in group:
                    job.error = error
                return
            # One piece of work that fails must not take the replies of the others with it.
            for job in group:
                self._commit([job])
        else:
            self._writes += len(group)
            self._commits += 1

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One write transaction, all or nothing; waits for another program's as long as it may."""
        give_up_at = time.monotonic() + BUSY_TIMEOUT_SECONDS
        while not self._writer.in_transaction:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > min(give_up_at, self._give_up_at):
                    raise
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise


def is_busy(error: BaseException | None) -> bool:
    """Whether SQLite refused because another connection holds a lock."""
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY


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
async def open_store(path: Path) -> AsyncIterator[TurnStore]:
    """Open the store, creating or migrating it; on leaving, all that was handed over is committed.

    Raises:
        StoreError: Locked, read-only, damaged, of a newer schema, or no turn store at all.
    """
    writer = await anyio.to_thread.run_sync(connect, path)
    # SQLite's own waiting cannot be cut short, so it waits a moment at a time, and we again and again.
    writer.execute(f"PRAGMA busy_timeout = {round(LOOK_SECONDS * 1000)}")
    try:
        reader = connect(path)
    except BaseException:
        writer.close()
        raise
    # Unlimited: senders wait for their own commit anyway, so that at most one job a call is ever queued.
    send, receive = anyio.create_memory_object_stream[_Job[Any]](max_buffer_size=float("inf"))
    store = TurnStore(path, reader, writer, send)
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_shielded_writer, store, receive)
            async with send:
                try:
                    yield store
                except BaseException as error:  # noqa: BLE001 (raised again below, bare: a task group would wrap it in a group)
                    failure = error
    finally:
        reader.close()
        writer.close()
    if failure is not None:
        raise failure


async def _shielded_writer(store: TurnStore, jobs: MemoryObjectReceiveStream[_Job[Any]]) -> None:
    # Ends when the sending side is closed, never by cancellation: Ctrl-C must not cut a commit that a caller waits for.
    with anyio.CancelScope(shield=True):
        await store._run_writer(jobs)


def connect(path: Path) -> sqlite3.Connection:
    """A connection with our settings, schema up to date.

    Raises:
        StoreError: As ``open_store``.
    """
    try:
        private_folder(path.parent)
    except OSError as error:
        raise StoreError(path.parent, f"the folder cannot be made ({error.strerror})", "give another --results folder") from error
    with suppress(OSError):  # what stands in the way SQLite tells when it opens the file
        private_file(path)
    with explained(path):
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    # One statement, so one state of the file: another process may be creating it at this moment.
    look = "SELECT (SELECT application_id FROM pragma_application_id), (SELECT count(*) FROM sqlite_master)"
    application_id, tables = connection.execute(look).fetchone()
    if application_id != APPLICATION_ID and tables:
        raise StoreError(path, "is a database of another program", "move it away or give another --results folder")
    connection.create_function("steady_seconds", 0, time.monotonic)
    _into_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")
    if application_id != APPLICATION_ID:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    migrate(connection, path)


def _into_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait for this switch as it does for every other lock: of two processes that create a store together, one is refused.
    give_up = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(WAL_RETRY_SECONDS)
        else:
            return


def shrink(path: Path) -> None:
    """Give the room of removed rows back to the disk; where another program holds the store, or the disk has no room for a copy, later."""
    connection = connect(path)
    try:
        with suppress(sqlite3.OperationalError):
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


CURES: tuple[tuple[str, str, str], ...] = (
    ("locked", "is locked by another program", "close that program, then run the same command again"),
    ("readonly", "cannot be written (read-only)", "make the file and its folder writable or give another --results folder"),
    ("full", "cannot be written: the disk is full", "free some space, then run the same command again; nothing is lost"),
    ("not a database", "is damaged or no database", "move it away (replies in it are lost) or restore a copy"),
    ("malformed", "is damaged", "move it away or restore a copy; `sqlite3 FILE .recover` may save its rows"),
    ("disk i/o", "cannot be written (disk error)", "check the disk, then run the same command again"),
    ("unable to open", "cannot be opened", "check that the folder exists and is writable, or give another --results folder"),
)
"""SQLite's words → what is wrong → what to do. Matched on the text because Python's exception classes do not tell them apart."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ``StoreError`` with a cure."""
    try:
        yield
    except sqlite3.Error as error:
        words = str(error).lower()
        problem, cure = next(
            ((problem, cure) for part, problem, cure in CURES if part in words),
            (f"cannot be used ({error})", "move it away or give another --results folder"),
        )
        raise StoreError(path, problem, cure) from error


def now_utc() -> str:
    """The time now, UTC, as files hold it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
