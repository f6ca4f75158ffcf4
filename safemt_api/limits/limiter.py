"""One account's pace: requests a minute, tokens a minute and calls at once, held together.

A limiter belongs to an account (profile, key, endpoint) and is shared by whoever calls it: target, judge, moderator. It knows callables
and clocks, not vendors. Quotas come from the user (``--rpm``, ``--tpm``), from response headers, or, where there are none, from 429s alone.
A call that sleeps between two tries holds no slot, and a reply from the store takes none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

import anyio

from safemt_api.limits.adaptive import AdaptiveConcurrency, AdaptiveRate, Move
from safemt_api.limits.quota import Quota, Taken
from safemt_api.limits.refusals import Sent

MAX_HISTORY = 500
HOLD_SECONDS = 1.0
LONGEST_HOLD_SECONDS = 10.0
ADMITTED_KEPT = 1000
LONGEST_PACED_WINDOW_SECONDS = 600.0

NOT_BELIEVED = "is not believed"
"""How an entry of the history ends that tells of a vendor's word not acted on; the report looks for it."""

MOVES: Mapping[Move, str] = {"wall": "429", "slower": "pace after 429s", "chance": "429s by chance"}


class Hint(Protocol):
    """What a vendor's headers said of one quota (``adapters.base.QuotaHint``)."""

    @property
    def kind(self) -> str: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def remaining(self) -> int | None: ...
    @property
    def reset_seconds(self) -> float | None: ...
    @property
    def window_seconds(self) -> float: ...


class Change(NamedTuple):
    """One move of the limit, for the run's record."""

    at_seconds: float
    concurrency: int
    requests_per_minute: float | None
    cause: str


class LimiterStatistics(NamedTuple):
    """What the limiter is doing now.

    ``requests_per_minute`` is ``None`` while nothing holds the pace; ``held_seconds`` is how long the next call has waited by now, where
    none is in flight.
    """

    in_flight: int
    waiting: int
    concurrency: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    rate_limited: int
    held_seconds: float


class Slot:
    """A place among the calls in flight, with what it took from the quotas."""

    __slots__ = ("_limiter", "_sent", "_settled", "_tokens")

    def __init__(self, limiter: Limiter, sent: Sent, tokens: Taken | None) -> None:
        self._limiter, self._sent, self._tokens = limiter, sent, tokens
        self._settled = False

    def succeeded(self, *, tokens: int | None, hints: Sequence[Hint] = ()) -> None:
        """The call was answered: correct the token estimate and learn from the headers."""
        self._settled = True
        self._limiter._succeeded(self._sent, self._tokens, tokens, hints)

    def rate_limited(self, retry_after_seconds: float | None) -> None:
        """The vendor said 429."""
        self._settled = True
        self._limiter._rate_limited(self._sent, retry_after_seconds)

    def overloaded(self) -> None:
        """The vendor said that it is overloaded (503, 529): fewer at once, same pace."""
        if self._limiter._concurrency.overloaded(anyio.current_time()):
            self._limiter._note("overloaded")

    def disbelieve(self, kind: str, what: str) -> None:
        """The vendor said something that makes no sense: not acted on, and said once for each ``kind``."""
        self._limiter._disbelieve(kind, what)

    def close(self) -> None:
        """The call is over; without a word on it, it told nothing of the pace."""
        if not self._settled:
            self._limiter._failed(self._sent)


class Limiter:
    """See the module.

    ``requests_per_minute`` and ``tokens_per_minute`` given here are the user's word: headers do not change them. ``cautious`` feels its way
    up from a few calls at once; where the quota is given, or the server is the user's own, there is nothing to feel for.
    """

    def __init__(
        self, *, concurrency: int, requests_per_minute: float | None = None, tokens_per_minute: float | None = None, cautious: bool = True
    ) -> None:
        self._concurrency = AdaptiveConcurrency(concurrency)
        self._rate = AdaptiveRate()
        if not cautious or requests_per_minute is not None:
            self._concurrency.trust()
            self._rate.trust()
        self._fixed = {name for name, value in (("requests", requests_per_minute), ("tokens", tokens_per_minute)) if value is not None}
        self._quotas: dict[str, Quota] = {}
        if requests_per_minute is not None:
            self._quotas["requests"] = Quota(requests_per_minute)
        if tokens_per_minute is not None:
            self._quotas["tokens"] = Quota(tokens_per_minute)
        self._blocked_until = float("-inf")
        self._in_flight = self._arrived = self._rate_limited_count = 0
        self._queued: dict[int, int] = {}
        # Taken without a pause where it is free: else whoever has it would hold up all others for a turn of the event loop, call by call.
        self._turnstile = anyio.Lock(fast_acquire=True)
        self._changed = anyio.Event()
        self._started: float | None = None
        self._admitted: deque[float] = deque(maxlen=ADMITTED_KEPT)
        self._head_since: float | None = None
        self._disbelieved: set[str] = set()
        self.history: list[Change] = []

    def expect(self, *, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        """Hold what the vendor publishes, until its headers tell more; what the user gave stays."""
        for kind, limit in (("requests", requests_per_minute), ("tokens", tokens_per_minute)):
            if limit is not None and kind not in self._fixed:
                self._set_quota(kind, limit, 60.0, "published")

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[Slot]:
        """Wait for room, hold a place while the call is in flight. ``tokens``: expected input plus reserved output."""
        slot = await self._admit(tokens)
        try:
            yield slot
        finally:
            slot.close()
            self._in_flight -= 1
            self._wake()

    def statistics(self) -> LimiterStatistics:
        """What the limiter is doing now."""
        tokens = self._quotas.get("tokens")
        return LimiterStatistics(
            in_flight=self._in_flight,
            waiting=len(self._queued),
            concurrency=int(self._concurrency.limit),
            requests_per_minute=self._requests_per_minute(),
            tokens_per_minute=None if tokens is None else tokens.limit,
            rate_limited=self._rate_limited_count,
            held_seconds=0.0 if self._in_flight or self._head_since is None else anyio.current_time() - self._head_since,
        )

    def _requests_per_minute(self) -> float | None:
        quota = self._quotas.get("requests")
        rates = [rate for rate in (None if quota is None else quota.per_second, self._rate.per_second) if rate is not None]
        return min(rates) * 60.0 if rates else None

    async def _admit(self, tokens: int) -> Slot:
        number = self._arrived = self._arrived + 1
        self._queued[number] = tokens
        try:
            # A fair lock: first come, first served; only the head of the queue watches room and time.
            async with self._turnstile:
                self._head_since = anyio.current_time()
                while (wait := self._wait_seconds(tokens)) > 0:
                    changed = self._changed
                    with anyio.move_on_after(wait):
                        await changed.wait()
                return self._take(tokens)
        finally:
            del self._queued[number]
            if not self._turnstile.locked():
                self._head_since = None

    def _wait_seconds(self, tokens: int) -> float:
        if self._in_flight >= int(self._concurrency.limit):
            return float("inf")
        now = anyio.current_time()
        waits = [quota.wait_seconds(now, 1.0 if name == "requests" else tokens) for name, quota in self._quotas.items()]
        return max(0.0, self._blocked_until - now, self._rate.wait_seconds(now), *waits)

    def _take(self, tokens: int) -> Slot:
        now = anyio.current_time()
        if self._started is None:
            self._started = now
        self._in_flight += 1
        self._concurrency.admitted(self._in_flight)
        return Slot(self, self._rate.take(now), self._use(now, tokens))

    def _use(self, now: float, tokens: int) -> Taken | None:
        if "requests" in self._quotas:
            self._quotas["requests"].take(now, 1.0)
        else:
            self._admitted.append(now)
        return self._quotas["tokens"].take(now, tokens) if "tokens" in self._quotas else None

    def _succeeded(self, sent: Sent, taken: Taken | None, tokens: int | None, hints: Sequence[Hint]) -> None:
        now = anyio.current_time()
        if taken is not None and tokens is not None:
            self._correct(taken, tokens)
        self._moved(now, self._rate.succeeded(now, sent))
        if self._concurrency.succeeded(now):
            self._note("growth")
        for hint in hints:
            self._learn(now, hint, tokens)
        self._wake()

    def _correct(self, taken: Taken, tokens: int) -> None:
        if "tokens" in self._quotas:
            self._quotas["tokens"].correct(taken, tokens)

    def _learn(self, now: float, hint: Hint, tokens: int | None) -> None:
        kind = "requests" if hint.kind == "requests" else "tokens"
        if hint.window_seconds > LONGEST_PACED_WINDOW_SECONDS:
            return  # a day's quota is there to be used now, not to be spread over the day
        if kind == "tokens" and hint.limit is not None and hint.limit < (tokens or 0):
            if kind not in self._fixed:
                self._quotas.pop(kind, None)
            self._disbelieve(kind, f"a tokens quota of {hint.limit} that this very answer exceeds")
            return
        # Input and output quotas of one vendor are stricter than their sum; only the joint kinds are paced, the rest through 429s.
        if hint.kind in ("requests", "tokens") and kind not in self._fixed and hint.limit is not None and hint.limit > 0:
            self._set_quota(kind, float(hint.limit), hint.window_seconds, "from headers")
        if hint.remaining == 0 and hint.limit:
            # A vendor's reset tells when the bucket is full again, not when the next call fits: wait for one call's worth, then ask again.
            one = hint.window_seconds / hint.limit if kind == "requests" else HOLD_SECONDS
            self._blocked_until = max(self._blocked_until, now + min(one, hint.reset_seconds or one, LONGEST_HOLD_SECONDS))

    def _set_quota(self, kind: str, limit: float, window_seconds: float, origin: str) -> None:
        quota = self._quotas.get(kind)
        if quota is None:
            self._quotas[kind] = quota = Quota(limit, window_seconds)
            if kind == "requests":
                self._concurrency.trust()
                for time in self._admitted:
                    quota.take(time, 1.0)
            self._note(f"{kind} quota {origin}")
        elif quota.limit != limit:
            quota.resize(limit, window_seconds)
            self._note(f"{kind} quota {origin}")
        if kind == "requests":
            self._rate.quota_per_second = self._quotas[kind].per_second

    def _disbelieve(self, kind: str, what: str) -> None:
        if kind not in self._disbelieved:
            self._disbelieved.add(kind)
            self._record(f"{what} {NOT_BELIEVED}")

    def _rate_limited(self, sent: Sent, retry_after_seconds: float | None) -> None:
        now = anyio.current_time()
        self._rate_limited_count += 1
        self._moved(now, self._rate.limited(now, sent, retry_after_seconds))
        self._wake()

    def _failed(self, sent: Sent) -> None:
        now = anyio.current_time()
        self._moved(now, self._rate.failed(now, sent))

    def _moved(self, now: float, move: Move | None) -> None:
        if move == "wall":
            self._concurrency.cut(now)
        elif move == "chance":
            self._concurrency.restore()
        if move is not None:
            self._note(MOVES[move])

    def _note(self, cause: str) -> None:
        if len(self.history) < MAX_HISTORY:
            self._record(cause)

    def _record(self, cause: str) -> None:
        at = anyio.current_time() - (self._started or 0.0)
        self.history.append(Change(round(at, 3), int(self._concurrency.limit), self._requests_per_minute(), cause))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
