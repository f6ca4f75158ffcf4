"""Whose money is whose: the store's own id, and the runs that it keeps books of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import NamedTuple

from safemt_api.messages import PURPOSES, Purpose
from safemt_api.store.connection import Connection, Place, Work
from safemt_api.store.turns import looked_up, now_utc


def entered(run_id: str, name: str) -> Work[None]:
    """The work that enters a run; what an older version booked under the run's name becomes the run's own. The name is for people."""

    def work(connection: Connection) -> None:
        if connection.execute("UPDATE runs SET name = ? WHERE id = ?", (name, run_id)).rowcount:
            return
        connection.execute("INSERT INTO runs (id, name, entered_utc) VALUES (?, ?, ?)", (run_id, name, now_utc()))
        connection.execute("UPDATE charges SET run = ? WHERE run = ?", (run_id, name))
        connection.execute("UPDATE spending SET run = ? WHERE run = ?", (run_id, name))

    return work


def older_run_id(store_id: str, name: str) -> str:
    """The id that a run of an older version gets when it is played again: the same however often its start is cut short."""
    return sha256(f"{store_id} {name}".encode()).hexdigest()[:32]


def name_of(run_id: str) -> Work[str | None]:
    """What a run is called in the store's books; ``None``: they know nothing of it."""

    def work(connection: Connection) -> str | None:
        row = connection.execute("SELECT name FROM runs WHERE id = ?", (run_id,)).fetchone()
        return None if row is None else str(row[0])

    return work


def booked_runs() -> Work[list[tuple[str, str]]]:
    """The runs that were entered: id and name."""
    return lambda connection: [(run_id, name) for run_id, name in connection.execute("SELECT id, name FROM runs")]


def left(run_ids: Iterable[str]) -> Work[None]:
    """The work that takes runs that were removed out of the books; what they spent stays in the charges."""
    rows = [(run_id,) for run_id in run_ids]

    def work(connection: Connection) -> None:
        connection.executemany("DELETE FROM runs WHERE id = ?", rows)
        connection.executemany("DELETE FROM uses WHERE run = ?", rows)

    return work


def replies_bought(run_id: str) -> Work[tuple[int, int]]:
    """How many replies the run has paid for, and how many of them the store still holds."""
    return lambda connection: connection.execute(_BOUGHT, (run_id,)).fetchone()


_BOUGHT = """
SELECT count(*), count(*) FILTER (WHERE key IN (SELECT key FROM replies))
FROM (SELECT DISTINCT key FROM charges WHERE run = ? AND state = 'settled') AS bought
"""


class Spending(NamedTuple):
    """What a run has spent by purpose, reservations included, and what calls that were cut off without a ceiling may have cost beside."""

    by_purpose: Mapping[Purpose, float]
    maybe_usd: float


def spent_now_usd(place: Place, run_id: str) -> Spending | None:
    """The run's spending, without opening the store for writing; ``None`` where it cannot be read."""
    found = looked_up(
        place,
        lambda connection: (connection.execute(SPENT, (run_id,)).fetchall(), connection.execute(MAYBE, (run_id,)).fetchone()[0]),
    )
    if found is None:
        return None
    rows, maybe = found
    return Spending({**dict.fromkeys(PURPOSES, 0.0), **{purpose: usd for purpose, usd in rows if purpose in PURPOSES}}, float(maybe))


COMMIT_USD = """
INSERT INTO spending VALUES (?, ?) ON CONFLICT (run) DO UPDATE SET committed_usd = spending.committed_usd + excluded.committed_usd
"""
"""Adds to what is spent or reserved out of a purse."""

SPENT = """
SELECT purpose, sum(coalesce(settled_usd, most_usd)) FROM charges
WHERE run = ? AND NOT (state = 'kept' AND settled_usd IS NULL) GROUP BY purpose
"""
MAYBE = "SELECT coalesce(sum(most_usd), 0.0) FROM charges WHERE run = ? AND state = 'kept' AND settled_usd IS NULL"
"""Calls that were cut off while no ceiling was held: they may have been billed, and nothing was put aside for them."""


class BoughtReply(NamedTuple):
    """A reply as the store holds it: the canonical request, our reading of the answer, the vendor's body, and when it was kept.

    ``charges`` are the attempts that a run paid or put money aside for: when, in what state they ended, and how much.
    """

    key: str
    created_utc: str
    request: str
    reply: str
    raw: str | None
    cost_usd: float | None
    charges: tuple[tuple[str, str, float], ...]


def bought_reply(place: Place, key: str, run_id: str) -> BoughtReply | None:
    """The reply of that key, without opening the store for writing; ``None`` where it holds none or cannot be read."""
    found = looked_up(
        place,
        lambda connection: (connection.execute(_BOUGHT_REPLY, (key,)).fetchone(), connection.execute(CHARGES, (run_id, key)).fetchall()),
    )
    if found is None or found[0] is None:
        return None
    (name, created, *bodies, cost), charges = found
    request, reply, raw = (None if body is None else body.decode("utf-8", "replace") for body in bodies)
    return BoughtReply(name, created, request or "", reply or "", raw, cost, tuple(charges))


_BOUGHT_REPLY = """
SELECT key, created_utc, CAST(request AS BLOB), CAST(reply AS BLOB), CAST(raw AS BLOB), cost_usd FROM replies WHERE key = ?
"""
CHARGES = "SELECT created_utc, state, coalesce(settled_usd, most_usd) FROM charges WHERE run = ? AND key = ? ORDER BY id LIMIT 100"
