"""What a piece of work may ask of a database, whichever it is, so that each is written once and runs on SQLite and PostgreSQL.

The SQL that both understand: ``?`` for a value (and nowhere else), ``RETURNING`` for an id, ``ON CONFLICT`` with the table's name before
the old value, ``TRUE`` and ``FALSE``, an alias for each sub-query in ``FROM``, no ``rowid``, ``steady_seconds()`` for the database's own
clock. A text that may hold anything a vendor says is a ``Body`` when it is written and ``CAST(… AS BLOB)`` when it is read: PostgreSQL's
own texts cannot hold NUL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from safemt_api.errors import UsageError

STORE_FILE = "turns.sqlite"
HURRIED_SECONDS = 1.0
"""How long a commit waits for another program's lock, or for a server, once the run is ending: Ctrl-C must not hang."""


class Rows(Protocol):
    """What a statement brought."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""
        ...

    def fetchone(self) -> Any:
        """The next row as a tuple; ``None`` after the last."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """The rows that are left, one by one."""
        ...


class Connection(Protocol):
    """A connection to either database; SQLite's own is one."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Run one statement."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Rows:
        """Run one statement for each of the rows of values."""
        ...


T = TypeVar("T")
Work = Callable[[Connection], T]
"""A query, or a change that is made whole or not at all, with no other process writing meanwhile. It may be run again, when others' work in
the same commit failed or the connection was lost: what it changes in memory it must be able to change twice."""


class ServerAddress(str):
    """Where a PostgreSQL store is; as a text never with the password, so that it may stand in files and sentences."""

    password: str | None = None


Place = Path | ServerAddress
"""Where a store lies: an SQLite file, or a database on a server."""


def server_address(given: str) -> ServerAddress:
    """``postgresql://USER:PASSWORD@HOST:PORT/DATABASE?…`` with its password apart.

    Raises:
        UsageError: It is no such address; the sentence does not repeat it, since it may hold a password.
    """
    if isinstance(given, ServerAddress):
        return given
    try:
        parts = urlsplit(given)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("postgresql", "postgres"):
        raise UsageError("is no server's address: give postgresql://USER@HOST/DATABASE, or leave it out for a file in --results")
    user, at, hosts = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    asked = parse_qsl(parts.query, keep_blank_values=True)
    query = urlencode([(key, value) for key, value in asked if "password" not in key])
    address = ServerAddress(f"postgresql://{name}{at}{hosts}{parts.path}" + (f"?{query}" if query else ""))
    address.password = next((value for key, value in asked if key == "password"), None) or unquote(password) or None
    return address


class Database(Protocol):
    """One of the two databases, opened. Its errors are ``StoreError``, each one sentence with a cure.

    ``away_seconds``: for so long a server has not answered; ``None`` while it does.
    """

    @property
    def place(self) -> Place:
        """Where it lies."""
        ...

    @property
    def away_seconds(self) -> float | None:
        """See the class."""
        ...

    def commit(self, works: Sequence[Work[Any]]) -> list[Any]:
        """Run all of it in one synced transaction, or none of it; called in the writer thread alone."""
        ...

    def fails_for_all(self, error: Exception) -> bool:
        """Whether each piece of a group that failed so would fail alike by itself."""
        ...

    async def look(self, work: Work[T]) -> T:
        """Run a query without keeping the event loop waiting."""
        ...

    def read(self, work: Work[T]) -> T:
        """Run a query now."""
        ...

    def glance(self, name: str, work: Work[T], otherwise: T) -> T:
        """What a display may show of a query: as it is now, or on a server, as it was a moment ago; never waits."""
        ...

    def hurry(self) -> None:
        """From now on wait only ``HURRIED_SECONDS`` for anyone."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Body(str):
    """A text of any characters, kept as its UTF-8 bytes in PostgreSQL and as a text in SQLite."""

    __slots__ = ()


class Dialect(NamedTuple):
    """Where the two databases' definitions of tables differ; migrations are written with these words."""

    text: str
    body: str
    integer: str
    flag: str
    real: str
    serial_key: str
    strict: str
    strict_by_key: str


SQLITE = Dialect("TEXT", "TEXT", "INTEGER", "INTEGER", "REAL", "INTEGER PRIMARY KEY", "STRICT", "STRICT, WITHOUT ROWID")
