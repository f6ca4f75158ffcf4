"""The store's schema as a list of numbered steps; each runs once, in order, inside one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from safemt_api.errors import StoreError

Migration = Callable[[sqlite3.Connection], None]


def m001_replies(connection: sqlite3.Connection) -> None:
    """One row per reply, with the request it answers and the vendor's whole body."""
    connection.execute(
        """
        CREATE TABLE replies (
            key TEXT PRIMARY KEY,
            created_utc TEXT NOT NULL,
            request TEXT NOT NULL,
            reply TEXT NOT NULL,
            raw TEXT,
            cost_usd REAL
        ) STRICT
        """
    )


def m002_spending(connection: sqlite3.Connection) -> None:
    """One row per attempt that may cost money, and the running total of each run that a ceiling is held against.

    ``charges.settled_usd`` is NULL while a call is in flight; ``spending.committed_usd`` is the sum of what is settled and reserved.
    """
    connection.execute(
        """
        CREATE TABLE charges (
            id INTEGER PRIMARY KEY,
            run TEXT NOT NULL,
            key TEXT NOT NULL,
            purpose TEXT NOT NULL,
            most_usd REAL NOT NULL,
            settled_usd REAL,
            state TEXT NOT NULL CHECK (state IN ('reserved', 'settled', 'kept', 'released')),
            owner TEXT NOT NULL,
            created_utc TEXT NOT NULL
        ) STRICT
        """
    )
    connection.execute("CREATE INDEX charges_by_run ON charges (run, purpose)")
    connection.execute("CREATE TABLE spending (run TEXT PRIMARY KEY, committed_usd REAL NOT NULL) STRICT")


def m003_books(connection: sqlite3.Connection) -> None:
    """The store's own id, and the runs that it keeps books of: ``charges.run`` and ``spending.run`` are ids of runs from here on.

    Rows of older versions hold a run's name there until that run is played again (``safemt_api.store.books``).
    """
    connection.execute("CREATE TABLE store (id TEXT PRIMARY KEY) STRICT")
    connection.execute("INSERT INTO store VALUES (?)", (uuid4().hex,))
    connection.execute("CREATE TABLE runs (id TEXT PRIMARY KEY, name TEXT NOT NULL, entered_utc TEXT NOT NULL) STRICT")


def m004_checksums(connection: sqlite3.Connection) -> None:
    """A checksum a reply; NULL in rows of older versions, which are taken as they are."""
    connection.execute("ALTER TABLE replies ADD COLUMN checksum TEXT")


def m005_uses(connection: sqlite3.Connection) -> None:
    """Which replies each run has used, whoever paid for them; ``runs.uses_noted`` says whether all of them are noted.

    It is 0 while a run is played (and where it was killed), and in rows of older versions.
    """
    connection.execute("CREATE TABLE uses (run TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (run, key)) STRICT, WITHOUT ROWID")
    connection.execute("ALTER TABLE runs ADD COLUMN uses_noted INTEGER NOT NULL DEFAULT 0")


def m006_batches(connection: sqlite3.Connection) -> None:
    """Batches that were handed in, or are about to be, and their rows; ``request`` is dropped when a row is closed (``store.batches``)."""
    connection.execute(
        """
        CREATE TABLE batches (
            nonce TEXT PRIMARY KEY,
            account TEXT NOT NULL,
            model TEXT NOT NULL,
            purse TEXT NOT NULL,
            requests INTEGER NOT NULL,
            digest TEXT NOT NULL,
            created_utc TEXT NOT NULL,
            batch_id TEXT,
            stage TEXT NOT NULL CHECK (stage IN ('intended', 'out', 'over', 'absent'))
        ) STRICT
        """
    )
    connection.execute(
        """
        CREATE TABLE batch_rows (
            id TEXT PRIMARY KEY,
            nonce TEXT NOT NULL,
            key TEXT NOT NULL,
            charge INTEGER NOT NULL,
            request TEXT,
            open INTEGER NOT NULL
        ) STRICT
        """
    )
    connection.execute("CREATE INDEX open_rows_by_key ON batch_rows (key) WHERE open")
    connection.execute("CREATE INDEX rows_by_batch ON batch_rows (nonce)")


def m007_leases(connection: sqlite3.Connection) -> None:
    """What processes that share an account know of it together (``store.leases``)."""
    connection.execute("CREATE TABLE leases (account TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT")


def m008_shards(connection: sqlite3.Connection) -> None:
    """Runs in shards, their parts, and the rows that parts handed in: compressed lines of JSON in base 64 (``store.shards``)."""
    connection.execute(
        """
        CREATE TABLE sharded (
            run TEXT PRIMARY KEY,
            id TEXT NOT NULL,
            purse TEXT NOT NULL,
            parts INTEGER NOT NULL,
            identity TEXT NOT NULL,
            record TEXT NOT NULL,
            begun_utc TEXT NOT NULL,
            tried INTEGER NOT NULL,
            trying TEXT
        ) STRICT
        """
    )
    connection.execute(
        """
        CREATE TABLE shards (
            run TEXT NOT NULL,
            part INTEGER NOT NULL,
            id TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            place TEXT NOT NULL,
            player TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('playing', 'over', 'interrupted')),
            beat INTEGER NOT NULL,
            seen_utc TEXT NOT NULL,
            counts TEXT NOT NULL,
            record TEXT,
            PRIMARY KEY (run, part)
        ) STRICT
        """
    )
    connection.execute(
        """
        CREATE TABLE shard_rows (
            run TEXT NOT NULL,
            part INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            place INTEGER NOT NULL,
            transcripts TEXT NOT NULL,
            verdicts TEXT NOT NULL,
            PRIMARY KEY (run, part, attempt, place)
        ) STRICT
        """
    )


MIGRATIONS: tuple[Migration, ...] = (
    m001_replies,
    m002_spending,
    m003_books,
    m004_checksums,
    m005_uses,
    m006_batches,
    m007_leases,
    m008_shards,
)


def migrate(connection: sqlite3.Connection, path: Path, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
    """Bring the schema up to date.

    Raises:
        StoreError: The store was written by a newer version.
    """
    if _is_current(connection, migrations):
        return  # nothing to write, so a store that another program has locked can be opened all the same
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied_utc TEXT NOT NULL) STRICT")
        applied = {name for (name,) in connection.execute("SELECT name FROM migrations")}
        unknown = applied - {migration.__name__ for migration in migrations}
        if unknown:
            raise StoreError(
                path,
                f"was written by a newer version of safemt-api (it holds {', '.join(sorted(unknown))})",
                "upgrade safemt-api, or give another --results folder",
            )
        for migration in migrations:
            if migration.__name__ not in applied:
                migration(connection)
                now = datetime.now(UTC).isoformat(timespec="seconds")
                connection.execute("INSERT INTO migrations VALUES (?, ?)", (migration.__name__, now))
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _is_current(connection: sqlite3.Connection, migrations: tuple[Migration, ...]) -> bool:
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone() is None:
        return False
    return {name for (name,) in connection.execute("SELECT name FROM migrations")} == {migration.__name__ for migration in migrations}
