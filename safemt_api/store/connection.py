"""What a piece of work may ask of a database, whichever it is, so that each is written once and runs on SQLite and PostgreSQL.

The SQL that both understand: ``?`` for a value (and nowhere else), ``RETURNING`` for an id, ``ON CONFLICT`` with the table's name before
the old value, ``TRUE`` and ``FALSE``, an alias for each sub-query in ``FROM``, no ``rowid``, ``steady_seconds()`` for the database's own
clock. A text that may hold anything a vendor says is a ``Body`` when it is written and ``CAST(… AS BLOB)`` when it is read: PostgreSQL's
own texts cannot hold NUL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar


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
