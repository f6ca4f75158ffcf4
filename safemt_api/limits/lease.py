"""One account's pace, handed out ahead to several processes. Pure: time is an argument.

What all processes know of an account is one small state: its quotas with what was taken of them, who takes part, and how fast it may be
called where no quota is announced. A process asks each second or so, in one transaction of the store, and is given *tickets*: each is the
right to send one call from a moment on, within ``TICKET_SECONDS``. Tickets are cut from the quota's own even spacing, one after another
whoever asks, so that many processes together go just as one alone would; nobody's share has to be worked out from a number of workers.

    asked    ──► what was done with earlier tickets (used when, with how many real tokens, or not at all), what waits, what the vendor said
    granted  ◄── tickets, how fast the account may go, how long everything is to be held because another process met a wall

Never more than the limit goes out in any window: a ticket counts from its first moment, and as used at its last one until its process has
told when it really was. So a process that dies takes with it what it held, a second or two of its share, and no more.

Where the account is too small for all, each process holds at most its fair part of the next second: who wants less than that gets it all,
and the others share the rest evenly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import floor
from typing import Annotated, NamedTuple

from pydantic import Field

from safemt_api.limits.adaptive import UNKNOWN_SPACING_SECONDS
from safemt_api.limits.quota import BURST_SECONDS, WINDOW_MARGIN

TICKET_SECONDS = 1.5
"""A ticket may be used so long after its first moment: long enough for a slow commit, short enough that a dead process takes little."""
AHEAD_SECONDS = 1.75
"""So far ahead tickets are handed out: asked for when half are used, none runs out of them on a busy machine either."""
MOST_AHEAD_SECONDS = 60.0
"""Where the quota is so slow that not each process gets a ticket in that time, they take turns, at most this far ahead."""
MOST_TICKETS = 500
MEMBER_SECONDS = 5.0
"""A process that has not asked for so long takes part no more; one that lives asks each second."""
BIN_SECONDS = 0.25
"""What was taken is counted by quarter seconds: 245 numbers hold a minute."""
CLOCK_BACK_SECONDS = 1.0
"""An account's clock that stands further back than when it was last looked at (a restart) begins anew."""
HELD_SECONDS = 3.0
"""So long others hold still for a process that met a wall and has not said since that it is over: for several of its looks."""
FORGOTTEN_SECONDS = 120.0
"""What nobody has looked at for so long says nothing of the account any more."""
UNKNOWN_LIMIT = (60.0 / UNKNOWN_SPACING_SECONDS, 60.0)
"""Until the first answer to anyone tells anything, all processes together go as slowly as one alone would."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0)]


@dataclass
class Shared:
    """A quota as the store keeps it: evenly spaced (a GCRA), and counted over a sliding window; see ``limits.quota``."""

    limit: Positive
    window_seconds: Positive
    next: Finite = float("-inf")
    taken: dict[int, Finite] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # No time of an account's clock is before its machine's start, and JSON knows no infinity.
        self.next = max(self.next, -1e9)

    @property
    def per_second(self) -> float:
        """The even rate that just fills the quota."""
        return self.limit / (self.window_seconds * WINDOW_MARGIN)

    def resize(self, now: float, limit: float, window_seconds: float) -> None:
        """Another limit was told; what was taken stays counted, but no wait of the old one is longer than a window of the new."""
        if (limit, window_seconds) != (self.limit, self.window_seconds):
            self.limit, self.window_seconds = limit, window_seconds
            self.next = min(self.next, now + window_seconds * WINDOW_MARGIN)

    def forget(self, now: float) -> None:
        """Drop what has left the window."""
        left = now - self.window_seconds * WINDOW_MARGIN
        self.taken = {number: amount for number, amount in self.taken.items() if _end(number) > left}

    def free_at(self, now: float, amount: float) -> float:
        """When ``amount`` may be used, now at the earliest; an amount above the whole limit counts as the limit."""
        burst_seconds = BURST_SECONDS if self.per_second * BURST_SECONDS >= 1.0 else 0.0
        free = max(now, self.next - burst_seconds)
        excess = sum(self.taken.values()) + min(amount, self.limit) - self.limit
        for number in sorted(self.taken):
            if excess <= 1e-9:
                break
            excess -= self.taken[number]
            free = max(free, _end(number) + self.window_seconds * WINDOW_MARGIN)
        return free

    def take(self, at: float, amount: float) -> None:
        """Use it from then on; it counts at the last moment at which it may be used, until ``told`` otherwise."""
        self.next = max(self.next, at) + self.seconds(amount)
        self.counted(at + TICKET_SECONDS, amount)

    def seconds(self, amount: float) -> float:
        """How much of the account's time it takes; more than the whole quota takes a window."""
        return min(amount, self.limit) / self.per_second

    def counted(self, time: float, amount: float) -> None:
        """Count so much at that time."""
        number = floor(time / BIN_SECONDS)
        self.taken[number] = max(0.0, self.taken.get(number, 0.0) + amount)

    def told(self, changes: Iterable[tuple[float, float]]) -> None:
        """What really became of earlier tickets: amounts to add at times; what comes back may be taken anew."""
        more, last = 0.0, self.next
        for time, amount in changes:
            more, last = more + amount, max(last, time)
            if floor(time / BIN_SECONDS) in self.taken or amount > 0.0:
                self.counted(time, amount)
        self.next = (last if more > 0.0 else self.next) + more / self.per_second


def _end(number: int) -> float:
    return (number + 1) * BIN_SECONDS


@dataclass
class Member:
    """A process that takes part, as it last said: how much of the account's time it wants in the next moment, and what it does.

    ``at_once`` is how many calls it may have under way where the vendor says how many there may be; ``lacks``: it wants more.
    """

    seen: Finite
    wants_seconds: Finite = 0.0
    wants_per_second: Finite = 0.0
    sent_per_second: Finite = 0.0
    in_flight: int = 0
    at_once: int = 0
    lacks: bool = False
    own_limits: dict[str, Positive] = field(default_factory=dict)


class Change(NamedTuple):
    """What became of tickets: so many requests and tokens more (or less) at that time of the account's clock."""

    time: float
    requests: float
    tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a process tells and wants.

    Attributes:
        owner: Its name, new with each start.
        sizes: Tokens of the calls that it wants to send next, in order.
        held: Tokens of the tickets that it still holds.
        changes: What became of others.
        limits: Quotas that the vendor announced to it since it last asked: limit and window, by kind; a limit of 0 takes one back.
        own_limits: What its user gave (a minute), by kind: the least of all processes' holds, whatever is announced.
        sent_per_second: How fast it calls.
        in_flight: Calls under way.
        waiting: Calls that want to be.
        published_at_once: How many calls the vendor lets be under way at once, where it says so.
        holds_seconds: It has met a wall, and nothing should go for so long.
        blocked_seconds: The vendor announced that nothing is left, for so long.
        pace: Calls a second that it takes the account to bear, where it has found that out; ``None``: nothing holds it back.
        moved: It has just found that out anew, knowing ``version``.
        version: Of the pace that it goes by.
        unknown: It has had no answer yet that tells anything of an account that may have a quota.
        leaves: It takes part no more.
    """

    owner: str
    sizes: tuple[float, ...] = ()
    held: tuple[float, ...] = ()
    changes: tuple[Change, ...] = ()
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    own_limits: Mapping[str, float] = field(default_factory=dict)
    sent_per_second: float = 0.0
    in_flight: int = 0
    waiting: int = 0
    published_at_once: int | None = None
    holds_seconds: float = 0.0
    blocked_seconds: float = 0.0
    pace: float | None = None
    moved: bool = False
    version: int = 0
    unknown: bool = False
    leaves: bool = False

    @property
    def silent(self) -> bool:
        """Whether it knows nothing that others would have to know."""
        told = self.limits or self.own_limits or self.changes or self.moved or self.version or self.published_at_once is not None
        return not (told or self.unknown or self.holds_seconds or self.blocked_seconds)


class Ticket(NamedTuple):
    """The right to send one call of so many tokens from a time of the account's clock on."""

    at: float
    tokens: float


class Grant(NamedTuple):
    """What a process is given, at ``now`` of the account's clock.

    ``bound``: nothing goes without a ticket. ``limits`` are the quotas that hold (limit and window, by kind), ``share`` its part of the
    account's pace, ``held_seconds`` how long it sends nothing because of others, ``at_once`` how many of its calls may be under way,
    ``free_seconds`` when asking again can bring more.
    """

    now: float
    tickets: tuple[Ticket, ...] = ()
    bound: bool = False
    limits: Mapping[str, tuple[float, float]] = {}
    version: int = 0
    pace: float | None = None
    share: float = 1.0
    held_seconds: float = 0.0
    at_once: int | None = None
    free_seconds: float = 0.0
    known: bool = True


@dataclass
class Account:
    """What all processes know of one account; ``seen`` is when it was last looked at."""

    seen: Finite = -1e9
    quotas: dict[str, Shared] = field(default_factory=dict)
    announced: dict[str, tuple[Positive, Positive]] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    pace: Positive | None = None
    version: int = 0
    known: bool = False
    wall_of: str = ""
    wall_until: Finite = -1e9
    blocked_until: Finite = -1e9

    def exchange(self, now: float, ask: Ask) -> Grant:
        """Take in what a process tells, and grant what it wants as far as there is room."""
        if not self.seen - CLOCK_BACK_SECONDS <= now <= self.seen + FORGOTTEN_SECONDS:
            self.quotas, self.announced, self.members, self.known = {}, {}, {}, False
            self.pace, self.version = None, self.version + 1
            self.wall_until = self.blocked_until = now
        self.seen = now
        self.members = {name: one for name, one in self.members.items() if now - one.seen <= MEMBER_SECONDS}
        self._learn(now, ask)
        self._settle_pace(now, ask)
        if ask.leaves:
            self.members.pop(ask.owner, None)
            return Grant(now, version=self.version)
        me = self.members.setdefault(ask.owner, Member(now))
        me.seen, me.sent_per_second, me.in_flight = now, ask.sent_per_second, ask.in_flight
        me.wants_seconds = sum(map(self._seconds, (*ask.held, *ask.sizes)))
        me.wants_per_second = ask.sent_per_second + ask.waiting
        self._let_at_once(me, ask)
        held_until = max(self.blocked_until, self.wall_until if self.wall_of != ask.owner else now)
        tickets = self._cut(max(now, held_until), ask)
        return Grant(
            now=now,
            tickets=tickets,
            bound=bool(self.quotas),
            limits={kind: (quota.limit, quota.window_seconds) for kind, quota in self.quotas.items() if kind != "unknown"},
            version=self.version,
            pace=self.pace,
            share=self._share(ask.owner),
            held_seconds=max(0.0, held_until - now),
            at_once=None if ask.published_at_once is None else me.at_once,
            free_seconds=max(0.0, max((quota.next for quota in self.quotas.values()), default=now) - AHEAD_SECONDS - now),
            known=self.known,
        )

    def _learn(self, now: float, ask: Ask) -> None:
        self.announced = {kind: told for kind, told in {**self.announced, **ask.limits}.items() if min(told) > 0.0}
        if ask.own_limits:
            self.members.setdefault(ask.owner, Member(now)).own_limits = dict(ask.own_limits)
        self.known = self.known or not ask.unknown or bool(self.announced)
        for kind in ("requests", "tokens", "unknown"):
            own = [member.own_limits[kind] for member in self.members.values() if kind in member.own_limits]
            told = UNKNOWN_LIMIT if kind == "unknown" and not self.known else self.announced.get(kind)
            holds = (min(own), 60.0) if own else told
            if holds is None:
                self.quotas.pop(kind, None)
            else:
                self.quotas.setdefault(kind, Shared(*holds)).resize(now, *holds)
        for kind, quota in self.quotas.items():
            quota.forget(now)
            quota.told((change.time, change.tokens if kind == "tokens" else change.requests) for change in ask.changes)
        self.blocked_until = max(self.blocked_until, now + ask.blocked_seconds) if ask.blocked_seconds else self.blocked_until

    def _settle_pace(self, now: float, ask: Ask) -> None:
        """One process finds out how fast the account may go, and all go by that: who has not heard of the last change changes nothing."""
        if ask.holds_seconds and (self.wall_of in ("", ask.owner) or self.wall_until < now):
            self.wall_of, self.wall_until = ask.owner, now + max(ask.holds_seconds, HELD_SECONDS)
        elif not ask.holds_seconds and self.wall_of == ask.owner:
            self.wall_of, self.wall_until = "", now
        if ask.version != self.version:
            return
        if ask.moved:
            self.pace, self.version = ask.pace, self.version + 1
        elif self.pace is not None:
            # It has grown since: as much for all, however many find so.
            self.pace = None if ask.pace is None else max(self.pace, ask.pace)

    def _let_at_once(self, me: Member, ask: Ask) -> None:
        """How many calls it may have under way: what others were given, and may use, is not there."""
        if ask.published_at_once is None:
            return
        others = [member for member in self.members.values() if member is not me]
        spare = ask.published_at_once - sum(max(member.at_once, member.in_flight) for member in others)
        wanted = 2 * (ask.in_flight + ask.waiting) + 1  # room for what comes before it asks again
        if any(member.lacks for member in others):
            spare = min(spare, max(1, ask.published_at_once // len(self.members)))
        me.at_once = max(0, min(spare, wanted))
        me.lacks = me.at_once < ask.in_flight + ask.waiting

    def _seconds(self, tokens: float) -> float:
        """How much of the account's time one call takes."""
        parts = (quota.seconds(_amount(kind, tokens)) for kind, quota in self.quotas.items())
        return max(parts, default=0.0)

    def _share(self, owner: str) -> float:
        """Its part of the pace: by what each wants, or where nothing holds it, by what each sends."""
        if self.pace is not None:
            wants = {name: member.wants_per_second / self.pace for name, member in self.members.items()}
            parts = fair_parts(wants, 1.0)
            return parts[owner] + (1.0 - sum(parts.values())) / len(parts)
        sent = sum(member.sent_per_second for member in self.members.values())
        return self.members[owner].sent_per_second / sent if sent and self.members[owner].sent_per_second else 1.0 / len(self.members)

    def _cut(self, start: float, ask: Ask) -> tuple[Ticket, ...]:
        if not self.quotas:
            return ()
        # All that wait get one at least, however slow the quota is: they take turns.
        longest = max(map(self._seconds, ask.sizes), default=0.0)
        ahead = min(MOST_AHEAD_SECONDS, max(AHEAD_SECONDS, len(self.members) * longest))
        fair = fair_parts({name: member.wants_seconds for name, member in self.members.items()}, ahead)
        left = fair[ask.owner] - sum(map(self._seconds, ask.held))
        tickets: list[Ticket] = []
        for tokens in ask.sizes[:MOST_TICKETS]:
            seconds = self._seconds(tokens)
            first = not (tickets or ask.held)
            at = max(quota.free_at(start, _amount(kind, tokens)) for kind, quota in self.quotas.items())
            if at > start + ahead or (seconds > left + 1e-9 and not first):
                break
            for kind, quota in self.quotas.items():
                quota.take(at, _amount(kind, tokens))
            tickets.append(Ticket(at, tokens))
            left -= seconds
        return tuple(tickets)


def fair_parts(wants: Mapping[str, float], room: float) -> dict[str, float]:
    """Who wants less than an even part of the room gets it all, the rest share evenly (max-min fairness); all together at most the room."""
    parts, left = dict[str, float](), room
    for done, (name, wanted) in enumerate(sorted(wants.items(), key=lambda one: one[1])):
        parts[name] = min(wanted, left / (len(wants) - done))
        left -= parts[name]
    return parts


def _amount(kind: str, tokens: float) -> float:
    return tokens if kind == "tokens" else 1.0
