"""The turn store in an SQLite file: WAL mode, full sync, one connection that writes and one that reads."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safemt_api.errors import StoreError
from safemt_api.files import private_file, private_folder
from safemt_api.store.connection import HURRIED_SECONDS, T, Work
from safemt_api.store.migrations import migrate

BUSY_TIMEOUT_SECONDS = 20.0
LOOK_SECONDS = 0.1
WAL_RETRY_SECONDS = 0.02
APPLICATION_ID = 0x53614D54  # "SaMT": tells a turn store from any other SQLite file


class SqliteDatabase:
    """See ``store.connection.Database``. A look-up by key takes some microseconds, less than a thread hop: reads never suspend."""

    away_seconds = None

    def __init__(self, path: Path) -> None:
        self.place = path
        self.writer = connect(path)
        # SQLite's own waiting cannot be cut short, so it waits a moment at a time, and we again and again.
        self.writer.execute(f"PRAGMA busy_timeout = {round(LOOK_SECONDS * 1000)}")
        try:
            self._reader = connect(path)
        except BaseException:
            self.writer.close()
            raise
        self._give_up_at = float("inf")

    def commit(self, works: Sequence[Work[Any]]) -> list[Any]:
        """Run all of it in one synced transaction."""
        with explained(self.place), self._transaction():
            return [work(self.writer) for work in works]

    def fails_for_all(self, error: Exception) -> bool:
        """Whether another connection holds a lock, so that no smaller piece would fare better."""
        return is_busy(error.__cause__)

    async def look(self, work: Work[T]) -> T:
        """Run a query at once, without suspending."""
        return self.read(work)

    def read(self, work: Work[T]) -> T:
        """Run a query at once."""
        with explained(self.place):
            return work(self._reader)

    def glance(self, name: str, work: Work[T], otherwise: T) -> T:
        """Run a query at once."""
        return self.read(work)

    def hurry(self) -> None:
        """From now on wait only a moment for another program that has locked the file."""
        self._give_up_at = time.monotonic() + HURRIED_SECONDS

    def close(self) -> None:
        """Close both connections."""
        self._reader.close()
        self.writer.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One write transaction, all or nothing; waits for another program's as long as it may."""
        give_up_at = time.monotonic() + BUSY_TIMEOUT_SECONDS
        while not self.writer.in_transaction:
            try:
                self.writer.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > min(give_up_at, self._give_up_at):
                    raise
        try:
            yield
            self.writer.execute("COMMIT")
        except BaseException:
            if self.writer.in_transaction:
                self.writer.execute("ROLLBACK")
            raise


def is_busy(error: BaseException | None) -> bool:
    """Whether SQLite refused because another connection holds a lock."""
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY


def seen_in_file(path: Path, work: Work[T]) -> T | None:
    """What a query finds without opening the file for writing; ``None`` where it cannot be read, or is of before there was such a table."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as connection:
            return work(connection)
    except sqlite3.Error:
        return None


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
