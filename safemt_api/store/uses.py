"""Whose replies are whose: what each run took from the store, whoever paid for it, and what none of some runs uses any more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from safemt_api.store.books import entered
from safemt_api.store.connection import Connection, Work
from safemt_api.store.turns import TurnStore

NOTED_AT_ONCE = 500
"""So many uses go into one commit; of a run that is killed the last ones are lost, so its uses count as unknown."""


class Uses:
    """The replies that a run takes, noted as it goes; made by ``open_uses``.

    ``complete`` is for whoever knows that all of the run's replies were taken again since: it makes known what was not noted before.
    """

    def __init__(self, store: TurnStore, run_id: str, *, known: bool) -> None:
        self._store, self._run, self.complete = store, run_id, known
        self._waiting: list[str] = []

    async def note(self, key: str) -> None:
        """Note one reply.

        Raises:
            StoreError: The store cannot be written.
        """
        self._waiting.append(key)
        if len(self._waiting) >= NOTED_AT_ONCE:
            await self._write(noted=False)

    async def close(self) -> None:
        """Note what waits, and whether all is noted now.

        Raises:
            StoreError: The store cannot be written; the run's uses stay unknown.
        """
        await self._write(noted=self.complete)

    async def _write(self, *, noted: bool) -> None:
        rows = [(self._run, key) for key in self._waiting]
        self._waiting = []

        def work(connection: Connection) -> None:
            connection.executemany("INSERT INTO uses VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
            connection.execute("UPDATE runs SET uses_noted = ? WHERE id = ?", (noted, self._run))

        await self._store.write(work)


async def open_uses(store: TurnStore, run_id: str, name: str) -> Uses:
    """Enter a run that is about to be played, whose uses count as unknown until it ends.

    Raises:
        StoreError: The store cannot be written.
    """

    def work(connection: Connection) -> bool:
        before = connection.execute("SELECT uses_noted FROM runs WHERE id = ?", (run_id,)).fetchone()
        entered(run_id, name)(connection)
        connection.execute("UPDATE runs SET uses_noted = FALSE WHERE id = ?", (run_id,))
        # What an older version booked under the run's name was used by it, and not noted.
        spent = connection.execute("SELECT 1 FROM charges WHERE run = ? LIMIT 1", (run_id,)).fetchone()
        return spent is None if before is None else bool(before[0])

    return Uses(store, run_id, known=await store.write(work))


class Unused(NamedTuple):
    """Replies that none of some runs uses: how many, how large, what they cost when they were bought, and who used them."""

    replies: int
    size_bytes: int
    cost_usd: float
    users: tuple[str, ...]


def unknown_uses(run_ids: Iterable[str]) -> Work[frozenset[str]]:
    """Those of the runs whose uses are not known: they are played now or were killed, or an older version played them."""

    ids = frozenset(run_ids)

    def work(connection: Connection) -> frozenset[str]:
        known = {run_id for (run_id,) in connection.execute("SELECT id FROM runs WHERE uses_noted")}
        return ids - known

    return work


def unused(run_ids: Iterable[str], *, since_utc: str | None) -> Work[Unused]:
    """What ``free_unused`` would free.

    Args:
        run_ids: The runs that there are.
        since_utc: Replies bought before are kept; ``None``: every reply may go.
    """
    ids = tuple(run_ids)

    def work(connection: Connection) -> Unused:
        _mark(connection, ids, since_utc)
        replies, size_bytes, cost_usd = connection.execute(_SIZE_OF_GONE).fetchone()
        return Unused(replies, size_bytes, cost_usd, tuple(name for (name,) in connection.execute(_USERS_OF_GONE)))

    return work


def free_unused(run_ids: Iterable[str], *, since_utc: str | None) -> Work[int]:
    """Remove the replies that no run uses, and what runs that are gone had noted; money that was spent stays booked.

    Returns (of the work): How many replies went.
    """
    ids = tuple(run_ids)

    def work(connection: Connection) -> int:
        _mark(connection, ids, since_utc)
        freed = connection.execute("DELETE FROM replies WHERE key IN (SELECT key FROM gone)").rowcount
        connection.execute("DELETE FROM uses WHERE run NOT IN (SELECT id FROM living)")
        return freed

    return work


_SIZE_OF_GONE = """
SELECT count(*), coalesce(sum(length(CAST(request AS BLOB)) + length(CAST(reply AS BLOB)) + coalesce(length(CAST(raw AS BLOB)), 0)), 0),
    coalesce(sum(cost_usd), 0.0)
FROM replies JOIN gone USING (key)
"""
_USERS_OF_GONE = """
SELECT DISTINCT name FROM runs
WHERE id IN (SELECT run FROM uses JOIN gone USING (key) UNION SELECT run FROM charges JOIN gone USING (key)) ORDER BY name
"""


def _mark(connection: Connection, run_ids: tuple[str, ...], since_utc: str | None) -> None:
    """The keys of replies that none of the runs used or paid for, in a temporary table ``gone``; the runs in ``living``."""
    connection.execute("CREATE TEMPORARY TABLE IF NOT EXISTS living (id TEXT PRIMARY KEY)")
    connection.execute("CREATE TEMPORARY TABLE IF NOT EXISTS gone (key TEXT PRIMARY KEY)")
    connection.execute("DELETE FROM living")
    connection.execute("DELETE FROM gone")
    connection.executemany("INSERT INTO living VALUES (?) ON CONFLICT DO NOTHING", [(one,) for one in run_ids])
    connection.execute(
        "INSERT INTO gone SELECT key FROM replies WHERE created_utc >= ?"
        " AND key NOT IN (SELECT key FROM uses WHERE run IN (SELECT id FROM living))"
        " AND key NOT IN (SELECT key FROM charges WHERE run IN (SELECT id FROM living))",
        (since_utc or "",),
    )
