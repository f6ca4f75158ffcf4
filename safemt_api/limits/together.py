"""A limiter for an account that other processes call too: what ``limits.lease`` hands out is held here, and used when calls come.

Nothing is asked while nothing is known that must be shared: a server without a quota, in no trouble, costs a look at one row a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import floor
from uuid import uuid4

import anyio
from pydantic import TypeAdapter, ValidationError

from safemt_api.errors import StoreError
from safemt_api.limits.adaptive import WINDOW_SECONDS, Move
from safemt_api.limits.lease import AHEAD_SECONDS, BIN_SECONDS, MOST_TICKETS, TICKET_SECONDS, Account, Ask, Change, Grant, Ticket
from safemt_api.limits.limiter import Hint, Limiter
from safemt_api.limits.quota import Taken
from safemt_api.store.leases import exchanged, is_shared
from safemt_api.store.turns import TurnStore

LOOK_SECONDS = 0.9
"""So often a process that has calls under way hears of the others."""
LEAST_BETWEEN_SECONDS = 0.1
LEAVE_SECONDS = 2.0
DRIFT = 1e-4
"""Two clocks that run apart faster than this are broken."""
LEAST_SHARE = 0.02
SENT_SECONDS = 5.0

Exchange = Callable[[Ask], Awaitable[Grant | None]]
"""Tells what a process asks, and brings what it is granted; ``None``: nobody knows anything of the account that must be shared."""


class Tickets:
    """The tickets that a process holds, in its own time, and what it has still to tell of others. Pure: time is an argument."""

    def __init__(self) -> None:
        self.limits: Mapping[str, tuple[float, float]] = {}
        self.bound = False
        self._held: deque[Ticket] = deque()
        self._changes: dict[int, list[float]] = {}
        self._ahead_seconds = float("inf")
        self._heard_at = 0.0

    @property
    def held(self) -> tuple[float, ...]:
        """The tokens of each."""
        return tuple(ticket.tokens for ticket in self._held)

    def wait_seconds(self, now: float, tokens: float) -> float:
        """How long until a call of so many tokens may go; infinite where there is no ticket for it."""
        if not self.bound:
            return 0.0
        self._drop_old(now)
        tickets = self._enough_for(tokens)
        return float("inf") if tickets is None else max(0.0, tickets[-1].at + self._ahead_seconds - now)

    def take(self, now: float, tokens: float) -> Taken | None:
        """A call goes now; the caller has waited ``wait_seconds``."""
        if not self.bound:
            return None
        used = self._enough_for(tokens) or ()
        for ticket in used:
            self._held.popleft()
            self._give_back(ticket)
        taken = Taken(now, tokens)
        self._note(self._theirs(now), 1.0, tokens)
        return taken

    def correct(self, taken: Taken, tokens: float) -> None:
        """The call that was taken used so many tokens."""
        self._note(self._theirs(taken.time), 0.0, tokens - taken.amount)
        taken.amount = tokens

    def sent_before(self, times: Sequence[float]) -> None:
        """Calls that went before there was a quota."""
        for time in times:
            self._note(self._theirs(time), 1.0, 0.0)

    def report(self, now: float) -> tuple[Change, ...]:
        """What became of tickets since the last report."""
        self._drop_old(now)
        changes = tuple(Change((number + 0.5) * BIN_SECONDS, *amounts) for number, amounts in sorted(self._changes.items()))
        self._changes = {}
        return changes

    def hear(self, now: float, grant: Grant) -> None:
        """Take what was granted."""
        # The shortest way of an answer tells best how the two clocks stand.
        drifted = self._ahead_seconds + DRIFT * (now - self._heard_at)
        self._ahead_seconds, self._heard_at = min(drifted, now - grant.now), now
        self.limits, self.bound = grant.limits, grant.bound
        if grant.held_seconds or not grant.bound:
            while self._held:
                self._give_back(self._held.popleft())
        self._held.extend(grant.tickets)

    def uncovered(self, sizes: Iterable[float]) -> tuple[float, ...]:
        """Of calls that wait, in order: what the tickets that are held leave to be asked for."""
        left, wanted = list(reversed(self._held)), list[float]()
        for tokens in sizes:
            lacking = float(tokens)
            while left and lacking > 0.0:
                covered = left.pop().tokens
                lacking -= covered if "tokens" in self.limits else lacking
            if lacking > 0.0:
                wanted.append(lacking)
            if len(wanted) >= MOST_TICKETS:
                break
        return tuple(wanted)

    def _enough_for(self, tokens: float) -> list[Ticket] | None:
        """The first tickets that together are enough: one, unless what was expected was less than what came."""
        wanted = min(tokens, self.limits["tokens"][0]) if "tokens" in self.limits else 0.0
        tickets = list[Ticket]()
        for ticket in self._held:
            tickets.append(ticket)
            wanted -= ticket.tokens
            if wanted <= 0.0:
                return tickets
        return None

    def _drop_old(self, now: float) -> None:
        while self._held and self._held[0].at + TICKET_SECONDS < self._theirs(now):
            self._give_back(self._held.popleft())

    def _give_back(self, ticket: Ticket) -> None:
        self._note(ticket.at + TICKET_SECONDS, -1.0, -ticket.tokens)

    def _note(self, time: float, requests: float, tokens: float) -> None:
        amounts = self._changes.setdefault(floor(time / BIN_SECONDS), [0.0, 0.0])
        amounts[0] += requests
        amounts[1] += tokens

    def _theirs(self, now: float) -> float:
        """A time of ours on the account's clock."""
        return now - self._ahead_seconds


class TogetherLimiter(Limiter):
    """See the module; ``take_part`` is to be run beside the calls."""

    def __init__(
        self,
        *,
        concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        cautious: bool = True,
        published_at_once: int | None = None,
    ) -> None:
        super().__init__(
            concurrency=concurrency, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, cautious=cautious
        )
        self._owner = uuid4().hex
        self._tickets = Tickets()
        self._own_limits = {kind: quota.limit for kind, quota in self._quotas.items()}
        self._published_at_once = self._at_once = published_at_once
        self._news: dict[str, tuple[float, float]] = {}
        self._sent: deque[float] = deque(maxlen=2 * MOST_TICKETS)
        self._mean_tokens, self._full = 0.0, 0
        self._held_until = self._blocked_told = float("-inf")
        self._version, self._pace_moved = 0, False
        self._wanted, self._urgent = anyio.Event(), anyio.Event()
        self._failure: StoreError | None = None

    async def take_part(self, exchange: Exchange) -> None:
        """Tell the others and hear of them, again and again, until cancelled."""
        try:
            while True:
                await self._until_wanted()
                ask = self._ask(anyio.current_time())
                grant = await exchange(ask)
                if grant is not None:
                    self._hear(anyio.current_time(), ask, grant)
                    self._wake()
                # Where nothing was to be had, asking again helps once there is room.
                pause = min(LOOK_SECONDS, grant.free_seconds) if grant is not None and not grant.tickets else 0.0
                with anyio.move_on_after(max(LEAST_BETWEEN_SECONDS, pause)):
                    await self._urgent.wait()
        except StoreError as error:
            # Whoever wants to call hears of it.
            self._failure = error
            self._wake()
        finally:
            with anyio.move_on_after(LEAVE_SECONDS, shield=True), suppress(StoreError):
                last = self._tickets.report(anyio.current_time())
                await exchange(Ask(owner=self._owner, changes=last, version=self._version, leaves=True))

    async def _until_wanted(self) -> None:
        busy = self._in_flight or self._queued or self._tickets.held
        with anyio.move_on_after(LOOK_SECONDS if busy else None):
            await self._wanted.wait()
        self._wanted, self._urgent = anyio.Event(), anyio.Event()

    def _tell_now(self) -> None:
        self._urgent.set()
        self._wanted.set()

    def _ask(self, now: float) -> Ask:
        lately = max(1.0, min(SENT_SECONDS, now - (now if self._started is None else self._started)))
        pace = sum(time >= now - lately for time in self._sent) / lately
        waiting = self._tickets.uncovered(self._queued.values())
        # What came in the last seconds will come in the next: so that a call finds its ticket there.
        expected = max(0, round(pace * AHEAD_SECONDS) - len(waiting) - len(self._tickets.held))
        news, self._news = self._news, {}
        moved, self._pace_moved = self._pace_moved, False
        blocked, self._blocked_told = max(0.0, self._blocked_until - max(now, self._blocked_told)), self._blocked_until
        return Ask(
            owner=self._owner,
            sizes=(*waiting, *[self._mean_tokens] * expected),
            held=self._tickets.held,
            changes=self._tickets.report(now),
            limits=news,
            own_limits=self._own_limits,
            sent_per_second=pace,
            in_flight=self._in_flight,
            waiting=len(self._queued),
            published_at_once=self._published_at_once,
            holds_seconds=self._rate.blocked_seconds(now),
            blocked_seconds=blocked,
            pace=self._rate.per_second,
            moved=moved,
            version=self._version,
            unknown=not self._rate.known,
        )

    def _hear(self, now: float, ask: Ask, grant: Grant) -> None:
        self._tickets.hear(now, grant)
        self._full = len(self._tickets.held)
        self._held_until, self._at_once = now + grant.held_seconds, grant.at_once
        self._rate.share = max(LEAST_SHARE, grant.share)
        if grant.known:
            self._rate.trust()
        for kind in {*self._quotas} - {*grant.limits, *self._news}:
            del self._quotas[kind]
        for kind, (limit, window_seconds) in grant.limits.items():
            super()._set_quota(kind, limit, window_seconds, "of all processes")
        if grant.limits and self._admitted:
            self._tickets.sent_before([time for time in self._admitted if time > now - WINDOW_SECONDS])
            self._admitted.clear()
        if ask.moved and grant.version == ask.version + 1:
            self._version = grant.version
        elif grant.version != self._version:
            self._version, self._pace_moved = grant.version, False
            self._rate.adopt(now, grant.pace)
            self._note("pace of all processes")
        elif not self._pace_moved:
            self._rate.per_second = grant.pace

    def _wait_seconds(self, tokens: int) -> float:
        if self._failure is not None:
            raise self._failure
        at_once = int(self._concurrency.limit) if self._at_once is None else min(self._at_once, int(self._concurrency.limit))
        if self._in_flight >= at_once:
            return float("inf")
        now = anyio.current_time()
        # A quota that is known and not yet handed out by tickets binds all the same, as does that there may be one.
        untold = (self._quotas or not self._rate.known) and not self._tickets.bound
        for_ticket = float("inf") if untold else self._tickets.wait_seconds(now, tokens)
        if for_ticket == float("inf"):
            self._wanted.set()
        return max(0.0, self._blocked_until - now, self._held_until - now, self._rate.wait_seconds(now), for_ticket)

    def _use(self, now: float, tokens: int) -> Taken | None:
        if "requests" not in self._tickets.limits:
            self._admitted.append(now)
        self._sent.append(now)
        self._mean_tokens += (tokens - self._mean_tokens) / min(len(self._sent), 50)
        taken = self._tickets.take(now, tokens)
        if 2 * len(self._tickets.held) <= self._full:
            self._wanted.set()
        return taken

    def _correct(self, taken: Taken, tokens: int) -> None:
        self._tickets.correct(taken, tokens)

    def _learn(self, now: float, hint: Hint, tokens: int | None) -> None:
        before = self._blocked_until
        super()._learn(now, hint, tokens)
        if self._blocked_until != before:
            self._tell_now()

    def _set_quota(self, kind: str, limit: float, window_seconds: float, origin: str) -> None:
        known = self._quotas.get(kind)
        if known is None or known.limit != limit:
            self._news[kind] = (limit, window_seconds)
            self._tell_now()
        super()._set_quota(kind, limit, window_seconds, origin)

    def _disbelieve(self, kind: str, what: str) -> None:
        if kind == "tokens" and kind not in self._quotas:
            self._news[kind] = (0.0, 60.0)
        super()._disbelieve(kind, what)

    def _moved(self, now: float, move: Move | None) -> None:
        super()._moved(now, move)
        if move is not None:
            self._pace_moved = self._pace_moved or move != "wall"
            self._tell_now()


_ACCOUNT: TypeAdapter[Account] = TypeAdapter(Account)


def exchanged_in(store: TurnStore, account: str) -> Exchange:
    """What takes asks of an account through the store.

    Raises (when called):
        StoreError: The store cannot be used.
    """

    async def exchange(ask: Ask) -> Grant | None:
        if ask.silent and not await store.look(is_shared(account)):
            return None
        return await store.write(exchanged(account, partial(answered, ask)))

    return exchange


def answered(ask: Ask, text: str, now: float) -> tuple[str, Grant]:
    """What an account's row says after an ask at that time of its clock, and what is granted."""
    try:
        account = _ACCOUNT.validate_json(text) if text else Account()
    except ValidationError:
        # Damaged, or of another version: what it knew is found out again.
        account = Account()
    grant = account.exchange(now, ask)
    return _ACCOUNT.dump_json(account).decode(), grant
