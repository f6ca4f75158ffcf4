"""Which processes spend from a purse now: each says from time to time that it lives, and what its dialogues may still need.

What a process that lives has put aside for calls under way may come back to the others; what a dead one had is spent. Times are the
database's clock (see ``store.leases``).
"""

from __future__ import annotations

from typing import NamedTuple

from safemt_api.store.connection import Connection, Work

LIVING_SECONDS = 10.0
"""Who has not been heard of for so long is dead: several times as long as between two signs of life."""


class Spender(NamedTuple):
    """One process: dialogues under way and what they may still need, and the dearest call and dialogue that it has seen, in USD."""

    owner: str
    purse: str
    dialogues: int
    needs_usd: float
    dearest_call_usd: float
    dearest_dialogue_usd: float


class Others(NamedTuple):
    """The same of all other processes that live (the dearest also of those that do not)."""

    dialogues: int
    needs_usd: float
    dearest_call_usd: float
    dearest_dialogue_usd: float


def said(spender: Spender) -> Work[Others]:
    """The work that says a process lives, and tells of the others."""

    def work(connection: Connection) -> Others:
        connection.execute(_SAY, spender)
        return others(connection, spender.owner, spender.purse)

    return work


def others(connection: Connection, owner: str, purse: str) -> Others:
    """All who spend from a purse beside this one."""
    return Others(*connection.execute(_OTHERS, (LIVING_SECONDS, LIVING_SECONDS, purse, owner)).fetchone())


def left(owner: str) -> Work[None]:
    """The work that says a process spends no more."""

    def work(connection: Connection) -> None:
        connection.execute("DELETE FROM spenders WHERE owner = ?", (owner,))

    return work


def standing(connection: Connection, owner: str, purse: str) -> tuple[float, float]:
    """What is committed out of a purse, and what of it other living processes have put aside, at one moment."""
    committed, reserved = connection.execute(_STANDING, (purse, purse, owner, LIVING_SECONDS)).fetchone()
    return float(committed), float(reserved)


_SAY = """
INSERT INTO spenders (owner, purse, dialogues, needs_usd, dearest_call_usd, dearest_dialogue_usd, seen)
VALUES (?, ?, ?, ?, ?, ?, steady_seconds())
ON CONFLICT (owner) DO UPDATE SET dialogues = excluded.dialogues, needs_usd = excluded.needs_usd, seen = excluded.seen,
    dearest_call_usd = excluded.dearest_call_usd, dearest_dialogue_usd = excluded.dearest_dialogue_usd
"""
_OTHERS = """
SELECT coalesce(sum(CASE WHEN seen BETWEEN steady_seconds() - ? AND steady_seconds() THEN dialogues ELSE 0 END), 0),
    coalesce(sum(CASE WHEN seen BETWEEN steady_seconds() - ? AND steady_seconds() THEN needs_usd ELSE 0.0 END), 0.0),
    coalesce(max(dearest_call_usd), 0.0), coalesce(max(dearest_dialogue_usd), 0.0)
FROM spenders WHERE purse = ? AND owner <> ?
"""
_STANDING = """
SELECT coalesce((SELECT committed_usd FROM spending WHERE run = ?), 0.0),
    coalesce((SELECT sum(most_usd) FROM charges WHERE state = 'reserved' AND owner IN (
        SELECT owner FROM spenders WHERE purse = ? AND owner <> ? AND seen BETWEEN steady_seconds() - ? AND steady_seconds())), 0.0)
"""
