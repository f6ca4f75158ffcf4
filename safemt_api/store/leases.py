"""What the processes that share a store know together of an account: one row each, changed in short transactions.

The text is ``limits.lease``'s own; here are the row, its lock and its clock. Machines' clocks differ, so only the database's is used: with
SQLite, all processes are on one machine, whose steady clock they share.
"""

from __future__ import annotations

from collections.abc import Callable

from safemt_api.store.connection import Connection, T, Work


def exchanged(account: str, change: Callable[[str, float], tuple[str, T]]) -> Work[T]:
    """The work that changes an account's row: its text ("" at first) and the time in seconds go in, its text from now on comes out."""

    def work(connection: Connection) -> T:
        # One statement that makes the row, locks it and reads it: who comes meanwhile waits for this transaction.
        before, now_seconds = connection.execute(_LOCK, (account,)).fetchone()
        after, result = change(before, now_seconds)
        connection.execute("UPDATE leases SET state = ? WHERE account = ?", (after, account))
        return result

    return work


def is_shared(account: str) -> Work[bool]:
    """Whether any process has told anything of the account."""
    return lambda connection: connection.execute("SELECT 1 FROM leases WHERE account = ?", (account,)).fetchone() is not None


_LOCK = "INSERT INTO leases VALUES (?, '') ON CONFLICT (account) DO UPDATE SET state = leases.state RETURNING state, steady_seconds()"
