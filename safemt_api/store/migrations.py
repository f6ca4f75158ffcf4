"""The store's schema as a list of numbered steps, one text for both databases; each runs once, in order, inside one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from safemt_api.errors import StoreError
from safemt_api.store.connection import SQLITE, Connection, Dialect

Migration = Callable[[Connection, Dialect], None]


def m001_replies(connection: Connection, sql: Dialect) -> None:
    """One row per reply, with the request it answers and the vendor's whole body."""
    connection.execute(
        f"""
        CREATE TABLE replies (
            key {sql.text} PRIMARY KEY,
            created_utc {sql.text} NOT NULL,
            request {sql.body} NOT NULL,
            reply {sql.body} NOT NULL,
            raw {sql.body},
            cost_usd {sql.real}
        ) {sql.strict}
        """
    )


def m002_spending(connection: Connection, sql: Dialect) -> None:
    """One row per attempt that may cost money, and the running total of each run that a ceiling is held against.

    ``charges.settled_usd`` is NULL while a call is in flight; ``spending.committed_usd`` is the sum of what is settled and reserved.
    """
    connection.execute(
        f"""
        CREATE TABLE charges (
            id {sql.serial_key},
            run {sql.text} NOT NULL,
            key {sql.text} NOT NULL,
            purpose {sql.text} NOT NULL,
            most_usd {sql.real} NOT NULL,
            settled_usd {sql.real},
            state {sql.text} NOT NULL CHECK (state IN ('reserved', 'settled', 'kept', 'released')),
            owner {sql.text} NOT NULL,
            created_utc {sql.text} NOT NULL
        ) {sql.strict}
        """
    )
    connection.execute("CREATE INDEX charges_by_run ON charges (run, purpose)")
    connection.execute(f"CREATE TABLE spending (run {sql.text} PRIMARY KEY, committed_usd {sql.real} NOT NULL) {sql.strict}")


def m003_books(connection: Connection, sql: Dialect) -> None:
    """The store's own id, and the runs that it keeps books of: ``charges.run`` and ``spending.run`` are ids of runs from here on.

    Rows of older versions hold a run's name there until that run is played again (``safemt_api.store.books``).
    """
    connection.execute(f"CREATE TABLE store (id {sql.text} PRIMARY KEY) {sql.strict}")
    connection.execute("INSERT INTO store VALUES (?)", (uuid4().hex,))
    columns = f"id {sql.text} PRIMARY KEY, name {sql.text} NOT NULL, entered_utc {sql.text} NOT NULL"
    connection.execute(f"CREATE TABLE runs ({columns}) {sql.strict}")


def m004_checksums(connection: Connection, sql: Dialect) -> None:
    """A checksum a reply; NULL in rows of older versions, which are taken as they are."""
    connection.execute(f"ALTER TABLE replies ADD COLUMN checksum {sql.text}")


def m005_uses(connection: Connection, sql: Dialect) -> None:
    """Which replies each run has used, whoever paid for them; ``runs.uses_noted`` says whether all of them are noted.

    It is 0 while a run is played (and where it was killed), and in rows of older versions.
    """
    connection.execute(f"CREATE TABLE uses (run {sql.text} NOT NULL, key {sql.text} NOT NULL, PRIMARY KEY (run, key)) {sql.strict_by_key}")
    connection.execute(f"ALTER TABLE runs ADD COLUMN uses_noted {sql.flag} NOT NULL DEFAULT FALSE")


def m006_batches(connection: Connection, sql: Dialect) -> None:
    """Batches that were handed in, or are about to be, and their rows; ``request`` is dropped when a row is closed (``store.batches``)."""
    connection.execute(
        f"""
        CREATE TABLE batches (
            nonce {sql.text} PRIMARY KEY,
            account {sql.text} NOT NULL,
            model {sql.text} NOT NULL,
            purse {sql.text} NOT NULL,
            requests {sql.integer} NOT NULL,
            digest {sql.text} NOT NULL,
            created_utc {sql.text} NOT NULL,
            batch_id {sql.text},
            stage {sql.text} NOT NULL CHECK (stage IN ('intended', 'out', 'over', 'absent'))
        ) {sql.strict}
        """
    )
    connection.execute(
        f"""
        CREATE TABLE batch_rows (
            id {sql.text} PRIMARY KEY,
            nonce {sql.text} NOT NULL,
            key {sql.text} NOT NULL,
            charge {sql.integer} NOT NULL,
            request {sql.body},
            open {sql.flag} NOT NULL
        ) {sql.strict}
        """
    )
    connection.execute("CREATE INDEX open_rows_by_key ON batch_rows (key) WHERE open")
    connection.execute("CREATE INDEX rows_by_batch ON batch_rows (nonce)")


def m007_leases(connection: Connection, sql: Dialect) -> None:
    """What processes that share an account know of it together (``store.leases``)."""
    connection.execute(f"CREATE TABLE leases (account {sql.text} PRIMARY KEY, state {sql.text} NOT NULL) {sql.strict}")


def m008_shards(connection: Connection, sql: Dialect) -> None:
    """Runs in shards, their parts, and the rows that parts handed in: compressed lines of JSON in base 64 (``store.shards``)."""
    connection.execute(
        f"""
        CREATE TABLE sharded (
            run {sql.text} PRIMARY KEY,
            id {sql.text} NOT NULL,
            purse {sql.text} NOT NULL,
            parts {sql.integer} NOT NULL,
            identity {sql.text} NOT NULL,
            record {sql.text} NOT NULL,
            begun_utc {sql.text} NOT NULL,
            tried {sql.integer} NOT NULL,
            trying {sql.text}
        ) {sql.strict}
        """
    )
    connection.execute(
        f"""
        CREATE TABLE shards (
            run {sql.text} NOT NULL,
            part {sql.integer} NOT NULL,
            id {sql.text} NOT NULL,
            attempt {sql.integer} NOT NULL,
            place {sql.text} NOT NULL,
            player {sql.text} NOT NULL,
            state {sql.text} NOT NULL CHECK (state IN ('playing', 'over', 'interrupted')),
            beat {sql.integer} NOT NULL,
            seen_utc {sql.text} NOT NULL,
            counts {sql.text} NOT NULL,
            record {sql.text},
            PRIMARY KEY (run, part)
        ) {sql.strict}
        """
    )
    connection.execute(
        f"""
        CREATE TABLE shard_rows (
            run {sql.text} NOT NULL,
            part {sql.integer} NOT NULL,
            attempt {sql.integer} NOT NULL,
            place {sql.integer} NOT NULL,
            transcripts {sql.text} NOT NULL,
            verdicts {sql.text} NOT NULL,
            PRIMARY KEY (run, part, attempt, place)
        ) {sql.strict}
        """
    )


def m009_spenders(connection: Connection, sql: Dialect) -> None:
    """The processes that spend from a purse (``store.spenders``), and what each has put aside."""
    connection.execute(
        f"""
        CREATE TABLE spenders (
            owner {sql.text} PRIMARY KEY,
            purse {sql.text} NOT NULL,
            dialogues {sql.integer} NOT NULL,
            needs_usd {sql.real} NOT NULL,
            dearest_call_usd {sql.real} NOT NULL,
            dearest_dialogue_usd {sql.real} NOT NULL,
            seen {sql.real} NOT NULL
        ) {sql.strict}
        """
    )
    connection.execute("CREATE INDEX reserved_by_owner ON charges (owner) WHERE state = 'reserved'")


MIGRATIONS: tuple[Migration, ...] = (
    m001_replies,
    m002_spending,
    m003_books,
    m004_checksums,
    m005_uses,
    m006_batches,
    m007_leases,
    m008_shards,
    m009_spenders,
)


def migrate(connection: sqlite3.Connection, path: Path, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
    """Bring the schema of an SQLite file up to date.

    Raises:
        StoreError: The store was written by a newer version.
    """
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone() and is_current(connection, migrations):
        return  # nothing to write, so a store that another program has locked can be opened all the same
    connection.execute("BEGIN IMMEDIATE")
    try:
        bring_up_to_date(connection, SQLITE, path, migrations)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def bring_up_to_date(connection: Connection, sql: Dialect, place: Path | str, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
    """Run the steps that are wanting, inside a transaction that nobody else is in.

    Raises:
        StoreError: The store was written by a newer version.
    """
    connection.execute(f"CREATE TABLE IF NOT EXISTS migrations (name {sql.text} PRIMARY KEY, applied_utc {sql.text} NOT NULL) {sql.strict}")
    applied = _applied(connection)
    unknown = applied - _names(migrations)
    if unknown:
        raise StoreError(
            place,
            f"was written by a newer version of safemt-api (it holds {', '.join(sorted(unknown))})",
            "upgrade safemt-api, or give another --results folder",
        )
    for migration in migrations:
        if migration.__name__ not in applied:
            migration(connection, sql)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            connection.execute("INSERT INTO migrations VALUES (?, ?)", (migration.__name__, now))


def is_current(connection: Connection, migrations: tuple[Migration, ...] = MIGRATIONS) -> bool:
    """Whether a store that has the table of steps has had all of these, and no others."""
    return _applied(connection) == _names(migrations)


def _applied(connection: Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM migrations")}


def _names(migrations: Iterable[Migration]) -> set[str]:
    return {migration.__name__ for migration in migrations}
