"""Money as reservation: before a call is sent the most it can cost is put aside, after it the real cost is settled.

The ledger is in the store, in the transactions that keep the replies, so that a killed run knows what it spent and two processes on one
run share one ceiling. ``Ledger.reserved`` is the scope of one attempt, and holds every way in which one can end:

    a reply whose cost is known                     settled   at that
    a reply whose cost is not told                  settled   at all that was put aside
    a failure that was not billed for certain       released  nothing
    a failure that may have been billed             kept      all that was put aside
    cut off before it was sent, or the whole run
    stopped by the vendor's answer to it            released  nothing
    cut off while the vendor worked, a ceiling      reserved  all that was put aside: the row is left open, as a killed process leaves it
    the same, but no ceiling                        kept      beside what is spent, until a ceiling is given

Dialogues are let in by what all of their calls may put aside (``Ledger.dialogue``): otherwise, under a small ceiling, many begin and none
has the money for its end. Who is let in is kept in memory; the ceiling itself is held call by call, on disk. Where several processes spend
from one purse (``together``), each says in the store that it lives and what its dialogues may still need: so a dialogue is let in beside
those of all, and a call waits for what any process that lives may still give back, but not for what a killed one had put aside.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import anyio

from safemt_api.errors import BudgetExhaustedError, CallError, StopRunError, StoreError
from safemt_api.messages import PURPOSES, Purpose
from safemt_api.store.books import COMMIT_USD, MAYBE, SPENT
from safemt_api.store.connection import Connection, T, Work
from safemt_api.store.spenders import Others, Spender, left, others, said, standing
from safemt_api.store.turns import TurnStore, now_utc

TOLERANCE_USD = 1e-9
SIGN_SECONDS = 2.0
LOOK_SECONDS = 0.5
"""So often who waits for money looks whether another process has given some back."""
LEAST_BETWEEN_SECONDS = 0.1
LEAVE_SECONDS = 2.0
NOT_RESERVED = 0


@dataclass(eq=False, slots=True)
class Reservation:
    """Money put aside for one attempt.

    ``most_usd`` is ``None`` where no price is known, ``id`` is ``NOT_RESERVED`` where no ceiling is held; ``sent`` is set by whoever sends
    the call.
    """

    key: str
    purpose: Purpose
    most_usd: float | None
    id: int = NOT_RESERVED
    sent: bool = False
    settled: bool = False


CALLS_ASSUMED = 50
"""Until a dialogue has ended, one is taken to need so many of the dearest call: eight turns, moderated and judged, some of it twice."""


@dataclass(eq=False)
class Envelope:
    """What the calls of one dialogue have put aside in all, and what of it is spent or still put aside."""

    reserved_usd: float = 0.0
    drawn_usd: float = 0.0


class Wanted(NamedTuple):
    """Money that will be put aside: whose, for whom, how much, and out of which dialogue's envelope."""

    run: str
    purpose: Purpose
    most_usd: float
    envelope: Envelope | None


_dialogue: ContextVar[Envelope | None] = ContextVar("dialogue", default=None)


class Purse:
    """What one ceiling is held over: a run, or all arms of a study. ``id`` is its row in the store's books.

    Its ledgers share who is let in and what is open, so that an arm waits for what another may still give back. ``together``: other
    processes may spend from it, too; ``take_part`` is then to be run beside the calls.
    """

    def __init__(
        self,
        store: TurnStore,
        *,
        purse_id: str,
        ceiling_usd: float | None,
        calls_assumed: int = CALLS_ASSUMED,
        together: bool = False,
    ) -> None:
        self._store, self.id, self.ceiling_usd, self._calls_assumed = store, purse_id, ceiling_usd, calls_assumed
        self.owner, self._together = uuid4().hex, together
        # Who waits to be let in waits in order; what a process says of itself it says whole, before anything else of it is said.
        self._door, self._saying, self._news = anyio.Lock(), anyio.Lock(), anyio.Event()
        self.open: dict[int, float] = {}
        self.envelopes: set[Envelope] = set()
        self.drawn: dict[int, Envelope] = {}
        self.dearest_call_usd = self.dearest_dialogue_usd = 0.0
        self.settled = anyio.Event()

    async def taken_usd(self) -> float:
        """What is spent or reserved."""
        return await self._store.look(lambda connection: committed(connection, self.id))

    async def take_part(self) -> None:
        """Say that this process lives, again and again, until cancelled."""
        try:
            while True:
                self._news = anyio.Event()
                async with self._saying:
                    drawn = tuple(envelope.drawn_usd for envelope in self.envelopes)
                    self._learn(await self._store.write(said(self._spender(drawn, self.needed_usd()))))
                await anyio.sleep(LEAST_BETWEEN_SECONDS)
                with anyio.move_on_after(SIGN_SECONDS):
                    await self._news.wait()
        except StoreError:
            return  # whoever spends hears of it; to the others this process is dead
        finally:
            with anyio.move_on_after(LEAVE_SECONDS, shield=True), suppress(StoreError):
                await self._store.write(left(self.owner))

    def _spender(self, drawn: Sequence[float], needed_usd: float) -> Spender:
        """What this process says of itself, with so much drawn by each dialogue under way."""
        # Before the first call of all nobody knows how much a dialogue needs: all that there is.
        needs = min(self.ceiling_usd or 0.0, sum(max(0.0, needed_usd - one) for one in drawn))
        return Spender(self.owner, self.id, len(drawn), needs, self.dearest_call_usd, self.dearest_dialogue_usd)

    def _learn(self, others: Others) -> None:
        if others.dearest_call_usd > self.dearest_call_usd or others.dearest_dialogue_usd > self.dearest_dialogue_usd:
            self.dearest_call_usd = max(self.dearest_call_usd, others.dearest_call_usd)
            self.dearest_dialogue_usd = max(self.dearest_dialogue_usd, others.dearest_dialogue_usd)
            self.wake()

    async def let_in(self, envelope: Envelope) -> None:
        """Wait until one more dialogue fits beside those under way, in all processes."""
        if self.ceiling_usd is None or not self._together:
            while self.ceiling_usd is not None and self.envelopes and await self.room_usd() < self.needed_usd():
                await self.settled.wait()
            self.envelopes.add(envelope)
            return
        async with self._door:
            while envelope not in self.envelopes:
                settled = self.settled
                async with self._saying:
                    drawn = tuple(one.drawn_usd for one in self.envelopes)
                    beside, fits = await self._store.write(partial(self._claim, drawn))
                    if fits:
                        self.envelopes.add(envelope)
                self._learn(beside)
                if not fits:
                    await self.changed(settled)

    def _claim(self, drawn: tuple[float, ...], connection: Connection) -> tuple[Others, bool]:
        """Say in the store that one more dialogue begins, if it fits beside all others: nobody else can say so meanwhile."""
        beside = others(connection, self.owner, self.id)
        needed = max(beside.dearest_dialogue_usd, self.dearest_dialogue_usd)
        needed = needed or self._calls_assumed * max(beside.dearest_call_usd, self.dearest_call_usd) or float("inf")
        with_it = self._spender((*drawn, 0.0), needed)
        alone = not drawn and not beside.dialogues
        if not alone and (needed == float("inf") or with_it.needs_usd + beside.needs_usd > self.free_usd(connection)):
            return beside, False
        said(with_it)(connection)
        return beside, True

    def left(self, envelope: Envelope) -> None:
        """A dialogue is over: what it did not need is free."""
        self.envelopes.remove(envelope)
        self.dearest_dialogue_usd = max(self.dearest_dialogue_usd, envelope.reserved_usd)
        self._news.set()
        self.wake()

    async def changed(self, settled: anyio.Event) -> None:
        """Wait until more money may be there: something was settled here, or it is time to look whether that happened elsewhere."""
        with anyio.move_on_after(LOOK_SECONDS if self._together else None):
            await settled.wait()

    def standing_usd(self, connection: Connection) -> tuple[float, float]:
        """What is committed, and what of it other processes may still give back."""
        return standing(connection, self.owner, self.id) if self._together else (committed(connection, self.id), 0.0)

    def lacks_usd(self, most_usd: float, taken_usd: float, elsewhere_usd: float) -> bool:
        """Whether so much does not fit even if all comes back that may, here and elsewhere."""
        hoped = sum(self.open.values()) + elsewhere_usd
        return not hoped or taken_usd - hoped + most_usd > (self.ceiling_usd or 0.0) + TOLERANCE_USD

    def wake(self) -> None:
        """Whoever waits for money looks again."""
        self.settled.set()
        self.settled = anyio.Event()

    def needed_usd(self) -> float:
        """What a dialogue may put aside; everything, until its first call has."""
        return self.dearest_dialogue_usd or self._calls_assumed * self.dearest_call_usd or float("inf")

    def expects(self, most_usd: float) -> None:
        """A call that may cost so much is on its way: the dearest one tells how much a dialogue may need."""
        if most_usd > self.dearest_call_usd:
            self.dearest_call_usd = most_usd
            self.wake()
            self._news.set()

    def holds(self, charge: int, most_usd: float, envelope: Envelope | None) -> None:
        """So much is put aside under that charge, on disk already or in the commit under way, and may come back."""
        self.open[charge] = most_usd
        if envelope is not None:
            envelope.reserved_usd += most_usd
            envelope.drawn_usd += most_usd
            self.drawn[charge] = envelope

    def forgets(self, charge: int) -> None:
        """The commit under way that was to put it aside is tried anew: nothing is put aside under that charge."""
        most_usd, envelope = self.open.pop(charge, 0.0), self.drawn.pop(charge, None)
        if envelope is not None:
            envelope.reserved_usd -= most_usd
            envelope.drawn_usd -= most_usd

    def lets_go(self, charge: int, settled_usd: float | None = None) -> None:
        """What was put aside is settled, if at all, and comes back no more: whoever waits for money looks again."""
        most_usd = self.open.pop(charge, 0.0)
        envelope = self.drawn.pop(charge, None)
        if envelope is not None and settled_usd is not None:
            envelope.drawn_usd += settled_usd - most_usd
        self.wake()

    def free_usd(self, connection: Connection) -> float:
        """What the ceiling leaves beside what is committed; infinite without one."""
        return float("inf") if self.ceiling_usd is None else self.ceiling_usd + TOLERANCE_USD - committed(connection, self.id)

    async def room_usd(self) -> float:
        """What neither is committed nor may still be needed by dialogues under way."""
        taken = await self.taken_usd()
        needed = sum(max(0.0, self.needed_usd() - envelope.drawn_usd) for envelope in self.envelopes)
        return (self.ceiling_usd or 0.0) + TOLERANCE_USD - taken - needed


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
        self._owner = self._purse.owner

    @property
    def purse(self) -> Purse:
        """What the run's calls are paid from."""
        return self._purse

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
        purse, envelope = self._purse, Envelope()
        await purse.let_in(envelope)
        before = _dialogue.set(envelope)
        try:
            yield
        finally:
            _dialogue.reset(before)
            purse.left(envelope)

    def wanted(self, *, purpose: Purpose, most_usd: float | None) -> Wanted:
        """What a batch will put aside for a call, once it is handed in with others."""
        self._purse.expects(most_usd or 0.0)
        return Wanted(self._run, purpose, most_usd or 0.0, _dialogue.get())

    @asynccontextmanager
    async def reserved(self, *, key: str, purpose: Purpose, most_usd: float | None) -> AsyncIterator[Reservation]:
        """Put aside the most that one attempt can cost, and book how the attempt ends; see the module for all endings.

        Waits while calls in flight may still free enough. Without a ceiling nothing is put aside (and nothing written): only endings are
        booked. A reply is booked by ``settle``, in the transaction that keeps it.

        Raises:
            BudgetExhaustedError: It does not fit, and nothing in flight can change that.
        """
        money = Reservation(key, purpose, most_usd)
        if self.ceiling_usd is not None and most_usd is not None:
            await self._put_aside(money, most_usd, self.ceiling_usd)
        try:
            yield money
        except CallError as error:
            await self._end(money, "kept" if error.maybe_billed else "released")
            raise
        except BaseException as error:
            if not money.settled:
                await self._cut_off(money, free=not money.sent or isinstance(error, StopRunError))
            raise
        finally:
            self._purse.lets_go(money.id)

    async def _put_aside(self, money: Reservation, most_usd: float, ceiling_usd: float) -> None:
        purse = self._purse
        while money.id == NOT_RESERVED:
            settled = purse.settled
            # Looked at first without a write: at the end of the money every dialogue that is left comes by here once.
            taken, elsewhere = await self._store.look(purse.standing_usd)
            if taken + most_usd <= ceiling_usd + TOLERANCE_USD:
                taken, elsewhere = await self._store.write(partial(self._try_reserve, money, most_usd, ceiling_usd))
            if money.id == NOT_RESERVED:
                if purse.lacks_usd(most_usd, taken, elsewhere):
                    raise BudgetExhaustedError(ceiling_usd, taken, most_usd)
                await purse.changed(settled)
        purse.holds(money.id, most_usd, _dialogue.get())
        purse.expects(most_usd)

    def _try_reserve(self, money: Reservation, most_usd: float, ceiling_usd: float, connection: Connection) -> tuple[float, float]:
        """Put it aside if it fits; what was taken before, and what of it may come back elsewhere."""
        # A transaction that failed together with others' is run once more.
        self._purse.open.pop(money.id, None)
        money.id = NOT_RESERVED
        taken, elsewhere = self._purse.standing_usd(connection)
        if taken + most_usd <= ceiling_usd + TOLERANCE_USD:
            money.id = self._insert(connection, money, None, "reserved")
            # Noted before the commit shows: whoever then finds the money gone must see that it may come back.
            self._purse.open[money.id] = most_usd
        return taken, elsewhere

    def settle(self, money: Reservation, cost_usd: float | None) -> Work[None]:
        """The work that books a reply's cost (``None``: not told), to be run in the transaction that keeps the reply."""
        money.settled = True
        cost_usd = money.most_usd if cost_usd is None else cost_usd
        # Neither a price nor a cost is known: nothing to book.
        return (lambda _: None) if cost_usd is None else self._ending(money, cost_usd, "settled")

    async def _end(self, money: Reservation, state: Literal["kept", "released"]) -> None:
        """Book an attempt that brought no reply; of one that nothing was put aside for, only what may have been billed."""
        if money.id != NOT_RESERVED or (state == "kept" and money.most_usd):
            await self._store.write(self._ending(money, (money.most_usd or 0.0) if state == "kept" else 0.0, state))

    async def _cut_off(self, money: Reservation, *, free: bool) -> None:
        if free:
            await self._end(money, "released")
        elif money.id == NOT_RESERVED and money.most_usd:
            most_usd = money.most_usd

            def note(connection: Connection) -> None:
                self._insert(connection, money, None, "kept")
                # Counts as soon as a ceiling is given.
                connection.execute(COMMIT_USD, (self._purse.id, most_usd))

            await self._store.write(note)

    def _ending(self, money: Reservation, cost_usd: float, state: str) -> Work[None]:
        put_aside = 0.0 if money.id == NOT_RESERVED else money.most_usd or 0.0
        envelope = self._purse.drawn.pop(money.id, None)
        if envelope is not None:
            envelope.drawn_usd += cost_usd - put_aside

        def work(connection: Connection) -> None:
            if money.id == NOT_RESERVED:
                self._insert(connection, money, cost_usd, state)
            else:
                connection.execute("UPDATE charges SET settled_usd = ?, state = ? WHERE id = ?", (cost_usd, state, money.id))
            connection.execute(COMMIT_USD, (self._purse.id, cost_usd - put_aside))

        return work

    def _insert(self, connection: Connection, money: Reservation, settled_usd: float | None, state: str) -> int:
        row = (self._run, money.key, money.purpose, money.most_usd or 0.0, settled_usd, state, self._owner, now_utc())
        if state == "reserved":
            connection.execute(COMMIT_USD, (self._purse.id, money.most_usd))
        return int(connection.execute(_INSERT, row).fetchone()[0])

    def spent_usd(self) -> Mapping[Purpose, float]:
        """What the run has spent by purpose, kept reservations included; as it was last known where the store's server is away."""
        return _by_purpose(self._last(f"spent {self._run}", self._bookings, []))

    def spent_lately_usd(self) -> float:
        """What the run has spent in all, for a display."""
        return sum(_by_purpose(self._store.glance(f"spent {self._run}", self._bookings, [])).values())

    def _bookings(self, connection: Connection) -> list[tuple[Any, float]]:
        return connection.execute(SPENT, (self._run,)).fetchall()

    def maybe_usd(self) -> float:
        """What calls that were cut off without a ceiling may have cost at most, beside what is spent."""
        return self._last(f"maybe {self._run}", lambda connection: float(connection.execute(MAYBE, (self._run,)).fetchone()[0]), 0.0)

    def _last(self, name: str, work: Work[T], otherwise: T) -> T:
        # A run that ends because the server is away writes its summary all the same; the one that goes on with it knows better.
        try:
            return self._store.read(work)
        except StoreError:
            return self._store.glance(name, work, otherwise)

    def committed_usd(self) -> float:
        """What is spent or reserved."""
        return self._store.read(lambda connection: committed(connection, self._purse.id))


_INSERT = """
INSERT INTO charges (run, key, purpose, most_usd, settled_usd, state, owner, created_utc) VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id
"""


def _by_purpose(rows: Iterable[tuple[Any, float]]) -> dict[Purpose, float]:
    spent = dict.fromkeys(PURPOSES, 0.0)
    spent.update({purpose: usd for purpose, usd in rows if purpose in spent})
    return spent


def committed(connection: Connection, purse_id: str) -> float:
    """What is spent or reserved out of a purse."""
    row = connection.execute("SELECT committed_usd FROM spending WHERE run = ?", (purse_id,)).fetchone()
    return float(row[0]) if row else 0.0
