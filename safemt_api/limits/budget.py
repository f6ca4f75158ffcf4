"""Money as reservation: before a call is sent the most it can cost is put aside, after it the real cost is settled.

The ledger is in the store, in the transactions that keep the replies, so that a killed run knows what it spent and two processes on one
run share one ceiling. Three endings of a reservation: *settled* (the real cost is known), *released* (nothing was billed for certain), and
*kept* (the call may have been billed without an answer: the whole reservation counts as spent). A reservation that its process left open
when it was killed counts as kept.

Dialogues are let in by what all of their calls may put aside (``Ledger.dialogue``): otherwise, under a small ceiling, many begin and none
has the money for its end. Only one process plays a run, so who is let in is kept in memory; the ceiling itself is held call by call, on
disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple
from uuid import uuid4

import anyio

from safemt_api.errors import BudgetExhaustedError
from safemt_api.messages import PURPOSES, Purpose
from safemt_api.store.books import MAYBE, SPENT
from safemt_api.store.turns import TurnStore, Work, now_utc

TOLERANCE_USD = 1e-9
NOT_RESERVED = 0


class Reservation(NamedTuple):
    """Money put aside for one attempt."""

    id: int
    key: str
    purpose: Purpose
    most_usd: float


CALLS_ASSUMED = 50
"""Until a dialogue has ended, one is taken to need so many of the dearest call: eight turns, moderated and judged, some of it twice."""


@dataclass(eq=False)
class Envelope:
    """What the calls of one dialogue have put aside in all, and what of it is spent or still put aside."""

    reserved_usd: float = 0.0
    drawn_usd: float = 0.0


_dialogue: ContextVar[Envelope | None] = ContextVar("dialogue", default=None)


class Purse:
    """What one ceiling is held over: a run, or all arms of a study. ``id`` is its row in the store's books.

    Its ledgers share who is let in and what is open, so that an arm waits for what another may still give back.
    """

    def __init__(self, store: TurnStore, *, purse_id: str, ceiling_usd: float | None) -> None:
        self._store, self.id, self.ceiling_usd = store, purse_id, ceiling_usd
        self.open: dict[int, float] = {}
        self.envelopes: set[Envelope] = set()
        self.drawn: dict[int, Envelope] = {}
        self.dearest_call_usd = self.dearest_dialogue_usd = 0.0
        self.settled = anyio.Event()

    def committed_usd(self) -> float:
        """What is spent or reserved."""
        return self._store.read(lambda connection: committed(connection, self.id))

    def wake(self) -> None:
        """Whoever waits for money looks again."""
        self.settled.set()
        self.settled = anyio.Event()

    def needed_usd(self) -> float:
        """What a dialogue may put aside; everything, until its first call has."""
        return self.dearest_dialogue_usd or CALLS_ASSUMED * self.dearest_call_usd or float("inf")

    def room_usd(self) -> float:
        """What neither is committed nor may still be needed by dialogues under way."""
        needed = sum(max(0.0, self.needed_usd() - envelope.drawn_usd) for envelope in self.envelopes)
        return (self.ceiling_usd or 0.0) + TOLERANCE_USD - self.committed_usd() - needed


class Ledger:
    """The spending of one run (``run`` is its id in the store's books), out of a purse with an optional ceiling.

    Args:
        store: Where the books are.
        run: Whose calls are booked.
        ceiling_usd: Of the run alone.
        purse: Of several runs together, instead.
    """

    def __init__(self, store: TurnStore, *, run: str, ceiling_usd: float | None = None, purse: Purse | None = None) -> None:
        self._store, self._run = store, run
        self._purse = purse or Purse(store, purse_id=run, ceiling_usd=ceiling_usd)
        self._owner = uuid4().hex

    @property
    def ceiling_usd(self) -> float | None:
        """The ceiling that the run's calls are held against."""
        return self._purse.ceiling_usd

    @asynccontextmanager
    async def dialogue(self) -> AsyncIterator[None]:
        """Wait until one more dialogue fits beside those that are under way; what it leaves is free at its end.

        A dialogue needs as much as the dearest so far has put aside. With nothing else under way it is let in even if that does not fit:
        its replies may be in the store, or cost less, and each call must find its own money all the same.
        """
        purse = self._purse
        while purse.ceiling_usd is not None and purse.envelopes and purse.room_usd() < purse.needed_usd():
            await purse.settled.wait()
        envelope = Envelope()
        purse.envelopes.add(envelope)
        before = _dialogue.set(envelope)
        try:
            yield
        finally:
            _dialogue.reset(before)
            purse.envelopes.remove(envelope)
            purse.dearest_dialogue_usd = max(purse.dearest_dialogue_usd, envelope.reserved_usd)
            purse.wake()

    async def reserve(self, *, key: str, purpose: Purpose, most_usd: float) -> Reservation:
        """Put the most a call can cost aside; waits while calls in flight may still free enough.

        Without a ceiling nothing is put aside (and nothing written): only endings are booked.

        Raises:
            BudgetExhaustedError: It does not fit, and nothing in flight can change that.
        """
        if self.ceiling_usd is None:
            return Reservation(NOT_RESERVED, key, purpose, most_usd)
        while True:
            settled = self._purse.settled
            # Looked at first without a write: at the end of the money every dialogue that is left comes by here once.
            taken = self.committed_usd()
            if taken + most_usd <= self.ceiling_usd + TOLERANCE_USD:
                reservation = await self._store.write(self._try_reserve(key, purpose, most_usd))
                if isinstance(reservation, Reservation):
                    self._draw(reservation)
                    return reservation
                taken = reservation
            if not self._purse.open or taken - sum(self._purse.open.values()) + most_usd > self.ceiling_usd + TOLERANCE_USD:
                raise BudgetExhaustedError(self.ceiling_usd, taken, most_usd)
            await settled.wait()

    def _draw(self, reservation: Reservation) -> None:
        envelope = _dialogue.get()
        if envelope is not None:
            envelope.reserved_usd += reservation.most_usd
            envelope.drawn_usd += reservation.most_usd
            self._purse.drawn[reservation.id] = envelope
        if reservation.most_usd > self._purse.dearest_call_usd:
            self._purse.dearest_call_usd = reservation.most_usd
            self._purse.wake()

    def unreserved(self, *, key: str, purpose: Purpose) -> Reservation:
        """For a call that nothing could be put aside for, because no price was known beforehand: only what it did cost is booked."""
        return Reservation(NOT_RESERVED, key, purpose, 0.0)

    def settle(self, reservation: Reservation, cost_usd: float) -> Work[None]:
        """The work that books the real cost; to be run in the transaction that keeps the reply."""
        return self._close(reservation, cost_usd, "settled")

    async def release(self, reservation: Reservation) -> None:
        """Nothing was billed: free the money."""
        if reservation.id == NOT_RESERVED:
            return
        await self._store.write(self._close(reservation, 0.0, "released"))
        self.closed(reservation)

    async def keep(self, reservation: Reservation) -> None:
        """The call may have been billed without an answer: the reservation stays spent."""
        await self._store.write(self._close(reservation, reservation.most_usd, "kept"))
        self.closed(reservation)

    async def interrupted(self, reservation: Reservation) -> None:
        """The attempt was cut off (Ctrl-C): what is put aside stays so; without a ceiling it is noted as maybe billed."""
        if reservation.id != NOT_RESERVED:
            self.abandoned(reservation)
        elif reservation.most_usd:
            row = (self._run, reservation.key, reservation.purpose, reservation.most_usd, None, "kept", self._owner, now_utc())

            def work(connection: sqlite3.Connection) -> None:
                connection.execute(_INSERT, row)
                # Counts as soon as a ceiling is given.
                connection.execute(_COMMIT, (self._purse.id, reservation.most_usd))

            await self._store.write(work)

    def abandoned(self, reservation: Reservation) -> None:
        """The attempt was cut off (Ctrl-C): nothing more will be written of it here, its row stays open and counts as spent."""
        self.closed(reservation)

    def closed(self, reservation: Reservation) -> None:
        """The reservation's end is on disk: whoever waits for money looks again."""
        self._purse.open.pop(reservation.id, None)
        self._purse.drawn.pop(reservation.id, None)
        self._purse.wake()

    def spent_usd(self) -> Mapping[Purpose, float]:
        """What the run has spent by purpose, kept reservations included."""
        rows = self._store.read(lambda connection: connection.execute(SPENT, (self._run,)).fetchall())
        spent = dict.fromkeys(PURPOSES, 0.0)
        spent.update({purpose: usd for purpose, usd in rows if purpose in spent})
        return spent

    def maybe_usd(self) -> float:
        """What calls that were cut off without a ceiling may have cost at most, beside what is spent."""
        return self._store.read(lambda connection: float(connection.execute(MAYBE, (self._run,)).fetchone()[0]))

    def committed_usd(self) -> float:
        """What is spent or reserved."""
        return self._purse.committed_usd()

    def _try_reserve(self, key: str, purpose: Purpose, most_usd: float) -> Work[Reservation | float]:
        ceiling = self.ceiling_usd or 0.0
        noted: list[int] = []

        def work(connection: sqlite3.Connection) -> Reservation | float:
            for rolled_back in noted:
                self._purse.open.pop(rolled_back, None)
            taken = committed(connection, self._purse.id)
            if taken + most_usd > ceiling + TOLERANCE_USD:
                return taken
            row = (self._run, key, purpose, most_usd, None, "reserved", self._owner, now_utc())
            reservation = Reservation(connection.execute(_INSERT, row).lastrowid or NOT_RESERVED, key, purpose, most_usd)
            connection.execute(_COMMIT, (self._purse.id, most_usd))
            # Noted before the commit shows: whoever then finds the money gone must see that it may come back.
            self._purse.open[reservation.id] = most_usd
            noted.append(reservation.id)
            return reservation

        return work

    def _close(self, reservation: Reservation, cost_usd: float, state: str) -> Work[None]:
        envelope = self._purse.drawn.pop(reservation.id, None)
        if envelope is not None:
            envelope.drawn_usd += cost_usd - reservation.most_usd

        def book(connection: sqlite3.Connection) -> None:
            row = (self._run, reservation.key, reservation.purpose, reservation.most_usd, cost_usd, state, self._owner, now_utc())
            connection.execute(_INSERT, row)
            connection.execute(_COMMIT, (self._purse.id, cost_usd))

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE charges SET settled_usd = ?, state = ? WHERE id = ?", (cost_usd, state, reservation.id))
            connection.execute(_COMMIT, (self._purse.id, cost_usd - reservation.most_usd))

        return book if reservation.id == NOT_RESERVED else work


_INSERT = "INSERT INTO charges (run, key, purpose, most_usd, settled_usd, state, owner, created_utc) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_COMMIT = "INSERT INTO spending VALUES (?, ?) ON CONFLICT (run) DO UPDATE SET committed_usd = committed_usd + excluded.committed_usd"


def committed(connection: sqlite3.Connection, purse_id: str) -> float:
    """What is spent or reserved out of a purse."""
    row = connection.execute("SELECT committed_usd FROM spending WHERE run = ?", (purse_id,)).fetchone()
    return float(row[0]) if row else 0.0
