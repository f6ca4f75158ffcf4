"""Whose money is whose: the store's own id, and the runs that it keeps books of."""

from __future__ import annotations

import sqlite3

from safemt_api.store.turns import Work, now_utc


def entered(run_id: str, name: str) -> Work[None]:
    """The work that enters a run; what an older version booked under the run's name becomes the run's own. The name is for people."""

    def work(connection: sqlite3.Connection) -> None:
        if connection.execute("UPDATE runs SET name = ? WHERE id = ?", (name, run_id)).rowcount:
            return
        connection.execute("INSERT INTO runs VALUES (?, ?, ?)", (run_id, name, now_utc()))
        connection.execute("UPDATE charges SET run = ? WHERE run = ?", (run_id, name))
        connection.execute("UPDATE spending SET run = ? WHERE run = ?", (run_id, name))

    return work


def is_entered(run_id: str) -> Work[bool]:
    """Whether the store knows the run."""
    return lambda connection: connection.execute("SELECT 1 FROM runs WHERE id = ?", (run_id,)).fetchone() is not None


def replies_bought(run_id: str) -> Work[tuple[int, int]]:
    """How many replies the run has paid for, and how many of them the store still holds."""
    return lambda connection: connection.execute(_BOUGHT, (run_id,)).fetchone()


_BOUGHT = """
SELECT count(*), coalesce(sum(key IN (SELECT key FROM replies)), 0)
FROM (SELECT DISTINCT key FROM charges WHERE run = ? AND state = 'settled')
"""
