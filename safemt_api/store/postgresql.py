"""The turn store in a PostgreSQL database, in a schema of its own, so that other tables may be beside it.

All processes that write take one advisory lock for their transaction: their commits come one after another, as SQLite's do, and each work
sees all that was written before it. Many works share a commit, so what a process waits for is a turn, not a sync a call.

The server may go away at any moment. Each commit leaves its number in the writer's own row; when a connection is lost, the next one takes
the lock (the old transaction has ended then, or it would still hold it) and looks at the number: what is there was committed, what is not
is done again. Neither the server's transaction ids (used anew after a crash) nor our guess is asked.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread

from safemt_api.errors import StoreError
from safemt_api.store.connection import HURRIED_SECONDS, Body, Dialect, Rows, ServerAddress, T, Work
from safemt_api.store.migrations import bring_up_to_date, is_current

try:
    import psycopg
    from psycopg import pq
    from psycopg.adapt import Dumper
    from psycopg.conninfo import conninfo_to_dict
except ImportError as error:
    raise StoreError("--store", "PostgreSQL needs its driver", "run `pip install 'safemt-api[postgres]'`") from error

SCHEMA = "safemt"
LOCK = 0x53614D54
LOCK_SECONDS = 60.0
"""So long a commit waits for other processes' turns. A process that stops inside its turn is cut off by the server after half of that."""

AWAY_SECONDS = 300.0
"""So long a server that does not answer is waited for: a restart takes seconds, a fail-over a minute or two."""

CONNECT_SECONDS = 10
READERS = 4
"""So many queries are under way at one time; each takes a round trip."""

STALE_DAYS = 7

DIALECT = Dialect(
    text='TEXT COLLATE "C"',
    body="BYTEA",
    integer="BIGINT",
    flag="BOOLEAN",
    real="DOUBLE PRECISION",
    serial_key="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    strict="",
    strict_by_key="",
)

_SESSION = (
    f"SET search_path TO {SCHEMA}",
    f"SET lock_timeout TO '{LOCK_SECONDS:.0f}s'",
    f"SET idle_in_transaction_session_timeout TO '{LOCK_SECONDS / 2:.0f}s'",
    "SET client_min_messages TO warning",
    # Only ever stricter than the server's own: a commit that is lost with the server's power is a reply bought twice.
    "SELECT set_config('synchronous_commit', 'on', FALSE) WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')",
)
_BASE = (
    # SQLite's name for bytes, and the clock of leases: the same SQL runs on both.
    "CREATE DOMAIN blob AS BYTEA",
    "CREATE FUNCTION steady_seconds() RETURNS DOUBLE PRECISION LANGUAGE SQL VOLATILE"
    " AS 'SELECT CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)'",
    "CREATE TABLE writers (id TEXT PRIMARY KEY, commits BIGINT NOT NULL, seen TIMESTAMPTZ NOT NULL)",
)
_NUMBERED = """
INSERT INTO writers VALUES (?, ?, now()) ON CONFLICT (id) DO UPDATE SET commits = excluded.commits, seen = excluded.seen
"""

CURES: tuple[tuple[str, str, str], ...] = (
    ("28P01", "refuses the password", "set PGPASSWORD, or write it into ~/.pgpass"),
    ("password authentication failed", "refuses the password", "set PGPASSWORD, or write it into ~/.pgpass"),
    ("no password supplied", "wants a password", "set PGPASSWORD, or write it into ~/.pgpass"),
    ("pg_hba.conf", "lets nobody in from here by that name", "ask whoever runs it for a line in pg_hba.conf"),
    ("role ", "knows no such user", "check the address's user, or create it with `createuser`"),
    ("53300", "takes no more connections", "raise max_connections, or play fewer processes at one time"),
    ("too many clients", "takes no more connections", "raise max_connections, or play fewer processes at one time"),
    ("remaining connection slots", "takes no more connections", "raise max_connections, or play fewer processes at one time"),
    ("42501", "does not let this user make or use its tables", "grant CREATE on the database, or give a user that owns schema `safemt`"),
    ("25006", "is a read-only standby", "give the address of the primary server"),
    ("53100", "cannot be written: the server's disk is full", "free some space there, then run the same command again; nothing is lost"),
    ("53200", "cannot be written: the server is out of memory", "see to the server, then run the same command again; nothing is lost"),
    ("55P03", "is held by another process", "wait until that goes on, or end it, then run the same command again"),
    ("database ", "has no such database", "check the address's end, or create it with `createdb`"),
)
"""A SQLSTATE, or words of a refused connection (which carries no state) → what is wrong → what to do; the first that fits."""

AWAY = ("does not answer", "check the address and that the server is running, then run the same command again; nothing is lost")

_LOST = ("08", "57P", "25P03")
"""SQLSTATEs of a connection that is gone, or a server that is going down or coming up."""

_COMING_UP = ("starting up", "shutting down", "recovery", "not yet accepting")


class _BodyDumper(Dumper):
    format = pq.Format.BINARY
    oid = psycopg.adapters.types["bytea"].oid

    def dump(self, obj: Any) -> bytes:
        """The text's bytes."""
        return str(obj).encode()


@lru_cache(maxsize=1024)
def _with_places(sql: str) -> bytes:
    return sql.replace("%", "%%").replace("?", "%s").encode()


class _Session:
    """A connection that speaks SQLite's ``?``; made anew when it was lost."""

    def __init__(self, place: ServerAddress, connected: psycopg.Connection[Any]) -> None:
        self.place, self.raw = place, connected
        connected.adapters.register_dumper(Body, _BodyDumper)
        for statement in _SESSION:
            connected.execute(statement.encode())

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Run one statement."""
        return self.raw.execute(_with_places(sql), parameters)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Rows:
        """Run one statement for each of the rows of values."""
        cursor = self.raw.cursor()
        cursor.executemany(_with_places(sql), parameters)
        return cursor

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One transaction in which nobody else writes, all or nothing."""
        self.execute("BEGIN")
        try:
            self.execute("SELECT pg_advisory_xact_lock(?)", (LOCK,))
            yield
            self.execute("COMMIT")
        except BaseException:
            with suppress(psycopg.Error):
                self.execute("ROLLBACK")
            raise


def connect(place: ServerAddress, **more: object) -> _Session:
    """A connection with our settings.

    Raises:
        psycopg.Error: There is none to be had.
        StoreError: The address cannot be read.
    """
    try:
        given = conninfo_to_dict(str(place))
    except psycopg.ProgrammingError as error:
        raise StoreError(str(place), f"cannot be read ({_first_line(error)})", "give postgresql://USER@HOST/DATABASE") from error
    usual: Mapping[str, object] = {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "safemt-api",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    secret = {} if place.password is None else {"password": place.password}
    settings: dict[str, Any] = {**usual, **given, **secret, **more}
    raw = psycopg.connect(autocommit=True, **settings)
    try:
        return _Session(place, raw)
    except BaseException:
        raw.close()
        raise


class PostgresDatabase:
    """See ``store.connection.Database``.

    Raises:
        StoreError: The server cannot be used, or its store is another program's or of a newer version.
    """

    def __init__(self, place: ServerAddress) -> None:
        self._place = place
        self._id, self._number = uuid4().hex, 0
        self._give_up_at, self._hurried = float("inf"), threading.Event()
        self._away_since: float | None = None
        self._idle: queue.LifoQueue[_Session | None] = queue.LifoQueue()
        self._seen, self._looking = dict[str, Any](), set[str]()
        self._beside = ThreadPoolExecutor(1, "glance")
        self._limiter = anyio.CapacityLimiter(READERS)
        with explained(place):
            self._writer: _Session | None = connect(place)
            try:
                _prepare(self._writer)
            except BaseException:
                self._writer.raw.close()
                raise
        for _ in range(READERS + 2):
            self._idle.put(None)

    @property
    def place(self) -> ServerAddress:
        """The server's address, without its password."""
        return self._place

    @property
    def away_seconds(self) -> float | None:
        """How long the server has not answered; ``None`` while it does."""
        return None if self._away_since is None else time.monotonic() - self._away_since

    def commit(self, works: Sequence[Work[Any]]) -> list[Any]:
        """Run all of it in one synced transaction, whatever becomes of the connection meanwhile."""
        self._number += 1
        results: list[Any] | None = None

        def once() -> list[Any]:
            nonlocal results
            if self._writer is None:
                self._writer = connect(self._place)
            with self._writer.turn():
                # A result that is there was lost on its way: the transaction that made it has ended, one way or the other.
                if results is None or not self._has_committed(self._writer):
                    results = None
                    found = [work(self._writer) for work in works]
                    self._writer.execute(_NUMBERED, (self._id, self._number))
                    results = found
            return results

        def lost() -> None:
            if self._writer is not None:
                self._writer.raw.close()
                self._writer = None

        with explained(self._place):
            return self._patiently(once, lost, AWAY_SECONDS)

    def _has_committed(self, session: _Session) -> bool:
        found = session.execute("SELECT commits FROM writers WHERE id = ?", (self._id,)).fetchone()
        return found is not None and found[0] == self._number

    def _patiently(self, once: Callable[[], T], lost: Callable[[], None], patience_seconds: float) -> T:
        """Do it again, on another connection, until the server has been away for too long."""
        began, wait = time.monotonic(), 0.05
        while True:
            try:
                result = once()
            except psycopg.Error as error:
                if not is_away(error):
                    raise
                lost()
                self._away_since = self._away_since or began
                if time.monotonic() - began > patience_seconds or time.monotonic() > self._give_up_at:
                    raise
                self._hurried.wait(wait)
                time.sleep(0.05)  # once hurried the event waits no more
                wait = min(2.0 * wait, 2.0)
            else:
                self._away_since = None
                return result

    def fails_for_all(self, error: Exception) -> bool:
        """Whether the server is away, or another process holds the store."""
        cause = error.__cause__
        return isinstance(cause, psycopg.Error) and (is_away(cause) or cause.sqlstate in ("55P03", "53100", "25006"))

    async def look(self, work: Work[T]) -> T:
        """Run a query in a thread."""
        return await anyio.to_thread.run_sync(self._looked, work, AWAY_SECONDS, limiter=self._limiter)

    def read(self, work: Work[T]) -> T:
        """Run a query now; a server that is away is not waited for."""
        return self._looked(work, 0.0)

    def _looked(self, work: Work[T], patience_seconds: float) -> T:
        session = self._idle.get()

        def once() -> T:
            nonlocal session
            if session is None or session.raw.closed:
                session = connect(self._place)
            return work(session)

        def lost() -> None:
            nonlocal session
            if session is not None:
                session.raw.close()
                session = None

        try:
            with explained(self._place):
                try:
                    return self._patiently(once, lost, patience_seconds)
                except psycopg.Error as error:
                    # One more time on a fresh connection: of an idle one it shows only now that the server was restarted since.
                    if patience_seconds or not is_away(error):
                        raise
                    return once()
        finally:
            self._idle.put(session)

    def glance(self, name: str, work: Work[T], otherwise: T) -> T:
        """What the query found last; it is run anew beside."""

        def look_again() -> None:
            try:
                with suppress(StoreError):
                    self._seen[name] = self._looked(work, 0.0)
            finally:
                self._looking.discard(name)

        if name not in self._looking:
            self._looking.add(name)
            with suppress(RuntimeError):  # closed: the last display
                self._beside.submit(look_again)
        found: T = self._seen.get(name, otherwise)
        return found

    def hurry(self) -> None:
        """From now on wait only a moment for the server."""
        self._give_up_at = time.monotonic() + HURRIED_SECONDS
        self._hurried.set()

    def close(self) -> None:
        """Close all connections."""
        self._beside.shutdown(cancel_futures=True)
        if self._writer is not None:
            with suppress(psycopg.Error):
                self._writer.execute("DELETE FROM writers WHERE id = ?", (self._id,))
            self._writer.raw.close()
        while not self._idle.empty():
            session = self._idle.get()
            if session is not None:
                session.raw.close()


def _prepare(session: _Session) -> None:
    standby, _, ours = session.execute(_LOOK).fetchone()
    if standby:
        raise StoreError(str(session.place), "is a read-only standby", "give the address of the primary server")
    if ours and is_current(session):
        return  # nothing to write, so a user who may only use the tables gets on with them
    with session.turn():
        # Another process may have made it while we waited.
        _, tables, ours = session.execute(_LOOK).fetchone()
        if tables and not ours:
            raise StoreError(str(session.place), f"has a schema {SCHEMA!r} of another program", "give another database")
        if not ours:
            if not session.execute("SELECT count(*) FROM pg_namespace WHERE nspname = ?", (SCHEMA,)).fetchone()[0]:
                session.execute(f"CREATE SCHEMA {SCHEMA}")
            for statement in _BASE:
                session.execute(statement)
        bring_up_to_date(session, DIALECT, str(session.place))
        session.execute("DELETE FROM writers WHERE seen < now() - ? * INTERVAL '1 day'", (STALE_DAYS,))


# Of the catalogue's own tables: what its functions say (`to_regclass`) may be remembered from before the lock was had.
_LOOK = f"""
SELECT pg_is_in_recovery(), count(*) > 0, coalesce(bool_or(tablename = 'migrations'), FALSE)
FROM pg_tables WHERE schemaname = '{SCHEMA}'
"""  # noqa: S608 (a constant of ours)


def seen_on_server(place: ServerAddress, work: Work[T]) -> T | None:
    """What a query finds; ``None`` where the server cannot be asked, or its store is of before there was such a table."""
    try:
        session = connect(place, connect_timeout=3)
    except (psycopg.Error, StoreError):
        return None
    try:
        return work(session)
    except psycopg.Error:
        return None
    finally:
        session.raw.close()


def is_away(error: psycopg.Error) -> bool:
    """Whether the connection is gone or the server is not there, so that it is worth trying again."""
    if error.sqlstate is not None:
        return error.sqlstate.startswith(_LOST)
    if not isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return False
    words = str(error)
    return any(part in words for part in _COMING_UP) or not ("FATAL" in words or "password supplied" in words)


@contextmanager
def explained(place: ServerAddress) -> Iterator[None]:
    """Turn the driver's errors into ``StoreError`` with a cure."""
    try:
        yield
    except psycopg.Error as error:
        words = str(error)
        found = next(((problem, cure) for part, problem, cure in CURES if part in (error.sqlstate or "") or part in words), None)
        if is_away(error):
            problem, cure = AWAY
            problem = f"{problem} ({_first_line(error)})"
        elif found is not None:
            problem, cure = found
        else:
            problem, cure = f"cannot be used ({_first_line(error)})", "see to the server, then run the same command again; nothing is lost"
        hidden = problem if not place.password else problem.replace(place.password, "***")
        raise StoreError(str(place), hidden, cure) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
