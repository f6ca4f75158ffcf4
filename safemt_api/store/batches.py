"""The ledger of batches: which calls were handed in to which vendor, and what is still to come of them.

A batch is *intended* before it is created: its nonce, its rows with their calls' keys, the digest of its file and the money that is put
aside for each row are synced in one transaction, so that whoever finds the intent after a crash can look for the batch by its nonce. With
the vendor's id it is *out*; when every row is closed it is *over*; one that was certainly never created is *absent*. A row is open until
its reply is kept, or its money is freed, and that happens once, however often results are read and by however many processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from safemt_api.messages import Purpose
from safemt_api.store.books import COMMIT_USD
from safemt_api.store.connection import Body, Connection, Place, Work
from safemt_api.store.turns import StoredReply, looked_up, now_utc

BatchStage = Literal["intended", "out", "over", "absent"]
Hindrance = Literal["answered", "elsewhere", "money"]
"""Why a row is not handed in after all: its reply is in the store by now, it is in another batch, or the money does not reach for it."""


class BatchRow(NamedTuple):
    """A row that is open: one call, with the money put aside for it (``charge`` is its line in the books)."""

    id: str
    key: str
    run: str
    purpose: Purpose
    most_usd: float
    charge: int = 0


class Batch(NamedTuple):
    """A batch as the ledger knows it; ``batch_id`` is the vendor's own, ``purse`` what its money is put aside from."""

    nonce: str
    account: str
    model: str
    purse: str
    requests: int
    created_utc: str
    batch_id: str | None = None
    stage: BatchStage = "intended"

    @property
    def created(self) -> datetime:
        """When it was intended."""
        return datetime.fromisoformat(self.created_utc)


Room = Callable[[Connection], float]
"""What the ceiling leaves, in USD; infinite without one."""


def hindrances(rows: Iterable[BatchRow], room_usd: Room) -> Work[dict[str, Hindrance]]:
    """What stands against handing rows in, by the row's id."""

    def work(connection: Connection) -> dict[str, Hindrance]:
        left, found = room_usd(connection), dict[str, Hindrance]()
        for row in rows:
            if connection.execute("SELECT 1 FROM batch_rows WHERE key = ? AND open", (row.key,)).fetchone():
                found[row.id] = "elsewhere"
            elif connection.execute("SELECT 1 FROM replies WHERE key = ?", (row.key,)).fetchone():
                found[row.id] = "answered"
            elif row.most_usd > left:
                found[row.id] = "money"
            else:
                left -= row.most_usd
        return found

    return work


def intended(
    batch: Batch, rows: Sequence[tuple[BatchRow, bytes]], *, digest: str, room_usd: Room, noted: Callable[[Sequence[BatchRow]], None]
) -> Work[dict[str, Hindrance]]:
    """The work that notes a batch before it is created, and puts the money of its rows aside: all of it, or nothing.

    Args:
        batch: As it will be.
        rows: Each with the canonical request of its call.
        digest: Of the file's bytes.
        room_usd: What the ceiling leaves.
        noted: Told of the rows with their charges before the commit shows.

    Returns:
        What stands against which row; then nothing was written.
    """

    def work(connection: Connection) -> dict[str, Hindrance]:
        hindered = hindrances((row for row, _ in rows), room_usd)(connection)
        if not hindered:
            values = (batch.nonce, batch.account, batch.model, batch.purse, batch.requests, digest, batch.created_utc)
            connection.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, NULL, 'intended')", values)
            noted([_opened(connection, batch, row, request) for row, request in rows])
        return hindered

    return work


def _opened(connection: Connection, batch: Batch, row: BatchRow, request: bytes) -> BatchRow:
    charge = connection.execute(_CHARGE, (row.run, row.key, row.purpose, row.most_usd, batch.nonce, now_utc())).fetchone()[0]
    _commit(connection, batch.purse, row.most_usd)
    values = (row.id, batch.nonce, row.key, charge, Body(request.decode()))
    connection.execute("INSERT INTO batch_rows VALUES (?, ?, ?, ?, ?, TRUE)", values)
    return row._replace(charge=charge)


def _commit(connection: Connection, purse: str, usd: float) -> None:
    connection.execute(
        COMMIT_USD,
        (purse, usd),
    )


def created(nonce: str, batch_id: str) -> Work[None]:
    """The work that notes the vendor's id."""

    def work(connection: Connection) -> None:
        connection.execute("UPDATE batches SET batch_id = ?, stage = 'out' WHERE nonce = ? AND stage = 'intended'", (batch_id, nonce))

    return work


RowEnd = Literal["settled", "kept", "released"]
Keep = Callable[[Connection, bytes], StoredReply]
"""Puts a row's reply into the store, given its request."""


def closed(
    row: BatchRow, *, purse: str, settled_usd: float, state: Literal["settled", "kept", "released"], keep: Keep | None = None
) -> Work[StoredReply | None]:
    """The work that ends a row: its money is settled, and its reply kept where it has one. Of a row that has ended it changes nothing."""

    def work(connection: Connection) -> StoredReply | None:
        found = connection.execute("SELECT CAST(request AS BLOB) FROM batch_rows WHERE id = ? AND open", (row.id,)).fetchone()
        if found is None:
            return None
        connection.execute("UPDATE batch_rows SET open = FALSE, request = NULL WHERE id = ?", (row.id,))
        connection.execute("UPDATE charges SET settled_usd = ?, state = ? WHERE id = ?", (settled_usd, state, row.charge))
        _commit(connection, purse, settled_usd - row.most_usd)
        return None if keep is None else keep(connection, found[0])

    return work


def ended(nonce: str, stage: Literal["over", "absent"]) -> Work[None]:
    """The work that ends a batch all of whose rows are closed."""

    def work(connection: Connection) -> None:
        connection.execute(
            "UPDATE batches SET stage = ? WHERE nonce = ? AND NOT EXISTS (SELECT 1 FROM batch_rows WHERE nonce = ? AND open)",
            (stage, nonce, nonce),
        )

    return work


def unfinished(account: str) -> Work[list[Batch]]:
    """The batches of an account that something may still come of, the oldest first."""
    return lambda connection: [Batch(*row) for row in connection.execute(_UNFINISHED, (account,))]


def known_ids(account: str) -> Work[list[str]]:
    """The vendor's ids of all batches of an account that are known."""
    query = "SELECT batch_id FROM batches WHERE account = ? AND batch_id IS NOT NULL"
    return lambda connection: [batch_id for (batch_id,) in connection.execute(query, (account,))]


def batch_of(nonce: str) -> Work[Batch]:
    """A batch as it stands now."""
    return lambda connection: Batch(*connection.execute(_OF_NONCE, (nonce,)).fetchone())


def open_rows(nonce: str) -> Work[list[BatchRow]]:
    """The rows of a batch that are still open."""
    return lambda connection: [BatchRow(*row) for row in connection.execute(_OPEN_ROWS, (nonce,))]


def nonce_of_key(key: str) -> Work[str | None]:
    """The batch in which the call of that key is open, if it is in one."""

    def work(connection: Connection) -> str | None:
        found = connection.execute("SELECT nonce FROM batch_rows WHERE key = ? AND open", (key,)).fetchone()
        return None if found is None else str(found[0])

    return work


class Outstanding(NamedTuple):
    """What a run waits for at a vendor: a batch, and how many of its rows are the run's."""

    account: str
    model: str
    batch_id: str | None
    since_utc: str
    rows: int


def outstanding(run_id: str) -> Work[list[Outstanding]]:
    """The batches in which rows of that run (its id in the books) are open, the oldest first."""
    return lambda connection: [Outstanding(*row) for row in connection.execute(_OUTSTANDING, (run_id,))]


def outstanding_now(place: Place, run_id: str) -> list[Outstanding]:
    """The same without opening the store for writing; nothing where it cannot be read, or is of before there were batches."""
    return looked_up(place, outstanding(run_id)) or []


_OF_NONCE = "SELECT nonce, account, model, purse, requests, created_utc, batch_id, stage FROM batches WHERE nonce = ?"
_UNFINISHED = """
SELECT nonce, account, model, purse, requests, created_utc, batch_id, stage FROM batches
WHERE account = ? AND stage IN ('intended', 'out') ORDER BY (SELECT min(charge) FROM batch_rows WHERE batch_rows.nonce = batches.nonce)
"""
_OPEN_ROWS = """
SELECT r.id, r.key, c.run, c.purpose, c.most_usd, c.id FROM batch_rows r JOIN charges c ON c.id = r.charge
WHERE r.nonce = ? AND r.open ORDER BY r.charge
"""
_OUTSTANDING = """
SELECT b.account, b.model, b.batch_id, b.created_utc, count(*)
FROM batch_rows r JOIN batches b ON b.nonce = r.nonce JOIN charges c ON c.id = r.charge
WHERE r.open AND c.run = ? GROUP BY b.nonce ORDER BY min(r.charge)
"""
_CHARGE = """
INSERT INTO charges (run, key, purpose, most_usd, settled_usd, state, owner, created_utc)
VALUES (?, ?, ?, ?, NULL, 'reserved', ?, ?) RETURNING id
"""
