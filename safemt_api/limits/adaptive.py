"""What is learnt from successes and 429s alone: how many calls at once, and how fast. Pure: time is an argument.

Additive increase, multiplicative decrease (Chiu and Jain 1989), with three guards: growth only while the limit is what holds calls back,
one cut per cool-down however many 429s arrive, and a cool-down of our own that no Retry-After can stretch.
"""

from __future__ import annotations

from collections import deque

START_CONCURRENCY = 8
CUT_CONCURRENCY = 0.7
COOLDOWN_SECONDS = 3.0
SATURATED_SHARE = 0.8

FIRST_CUT_RATE = 0.7
STEADY_CUT_RATE = 0.95
PROBE_SHARE_PER_SECOND = 0.005
WINDOWED_PROBE_SHARE_PER_SECOND = 0.0003
GROWTH_DOUBLING_SECONDS = 10.0
GROWTH_DOUBLINGS = 3.0
STEADY_AFTER_SECONDS = 12.0
MEASURE_SECONDS = 5.0
WINDOW_SECONDS = 60.0
WINDOW_SHARE = 0.985
STEADY_HOLD_SECONDS = 0.25
FIRST_HOLD_SECONDS = 1.0
LONGEST_HOLD_SECONDS = 12.0
STRAY_429S = 3
QUOTA_SHARE = 0.9
UNKNOWN_SPACING_SECONDS = 0.5
"""Until the first answer tells anything: one call each half second, so that a small quota is not run over at once."""


class AdaptiveConcurrency:
    """How many calls may be in flight: doubling until the first cut, then one (or 5 %) more each clean round."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(most, START_CONCURRENCY))
        self._slow_start = True
        self._successes = 0
        self._peak = 0
        self._last_cut = float("-inf")

    def admitted(self, in_flight: int) -> None:
        """A call has taken a slot; measured here because at release the peak is one too low."""
        self._peak = max(self._peak, in_flight)

    def succeeded(self, now: float) -> bool:
        """Count a success; true when the limit grew."""
        if now - self._last_cut < COOLDOWN_SECONDS or self.limit >= self.most:
            return False
        self._successes += 1
        if self._successes < self.limit:
            return False
        saturated = self._peak >= SATURATED_SHARE * int(self.limit)
        self._successes = self._peak = 0
        if not saturated:
            return False
        step = self.limit if self._slow_start else max(1.0, 0.05 * self.limit)
        self.limit = min(float(self.most), self.limit + step)
        return True

    def trust(self) -> None:
        """A quota is known, and its pace protects the account: no need to feel the way up from a few calls at once."""
        if self._slow_start:
            self.limit = float(self.most)

    def cut(self, now: float) -> bool:
        """Too many at once; true when the limit shrank (at most once per cool-down)."""
        self._slow_start = False
        self._successes = self._peak = 0
        if now - self._last_cut < COOLDOWN_SECONDS:
            return False
        self._last_cut = now
        self.limit = max(1.0, self.limit * CUT_CONCURRENCY)
        return True


class AdaptiveRate:
    """How many calls a second, where the vendor names no quota (or not the one that binds).

    Free until the first 429. Then *blocked*: everything is held for a moment, and single probes go, further apart each time, until one is
    answered. A block that one probe ends was a bucket running dry, and the rate goes on somewhat below what it was; one that takes more
    was a window used up, and what passed in the minute before it is the quota. After that the rate creeps up while it is what holds calls
    back, and a lone 429 costs a few per cent and no block.
    """

    def __init__(self) -> None:
        self.per_second: float | None = None
        self.quota_per_second: float | None = None
        self._answered: deque[float] = deque()
        self._known = False
        self._next = float("-inf")
        self._blocked_at: float | None = None
        self._hold_seconds = FIRST_HOLD_SECONDS
        self._failed_probes = 0
        self._probing = self._windowed = False
        self._cut_at = float("-inf")
        self._strays = 0
        self._grown_at = 0.0
        self._held_back = False

    def wait_seconds(self, now: float) -> float:
        """How long until the next call may go; infinite while a probe is out."""
        if self._probing:
            return float("inf")
        wait = max(0.0, self._next - now)
        self._held_back = self._held_back or wait > 0.0
        return wait

    def take(self, now: float) -> None:
        """A call goes now."""
        if self._blocked_at is not None:
            self._probing = True
        elif not self._known:
            self._next = now + UNKNOWN_SPACING_SECONDS
        elif self.per_second is not None:
            self._next = max(self._next, now) + 1.0 / self.per_second
            self._grow(now, self.per_second)

    def succeeded(self, now: float, admitted_at: float) -> bool:
        """A call was answered; true when that ended a block, and so changed the rate."""
        if not self._known:
            self._known, self._next = True, float("-inf")
        self._answered.append(admitted_at)
        while self._answered[0] < now - 2.0 * WINDOW_SECONDS:
            self._answered.popleft()
        if self._blocked_at is None or admitted_at <= self._blocked_at:
            return False
        self._unblock(now, self._blocked_at)
        return True

    def failed(self, admitted_at: float) -> None:
        """A call failed otherwise (5xx, connection): a probe that says nothing of the pace."""
        if self._blocked_at is not None and admitted_at > self._blocked_at:
            self._probing = False

    def limited(self, now: float, admitted_at: float, retry_after_seconds: float | None) -> bool:
        """A 429; true when it began a block or cut the rate, false when it only confirmed what is known."""
        self._known = True
        asked = 0.0 if retry_after_seconds is None else min(retry_after_seconds, LONGEST_HOLD_SECONDS)
        if self._blocked_at is not None:
            if admitted_at > self._blocked_at:
                self._probe_failed(now, asked)
            return False
        if admitted_at <= self._cut_at:
            return False
        self._strays += 1
        if self.per_second is None:
            self.per_second = self.quota_per_second
        if self.per_second is not None and now - self._cut_at > STEADY_AFTER_SECONDS and self._strays < STRAY_429S:
            self._cut(now, self.per_second * STEADY_CUT_RATE)
            self._next = max(self._next, now + max(asked, STEADY_HOLD_SECONDS))
            return True
        self._blocked_at, self._failed_probes = now, 0
        self._hold_seconds = FIRST_HOLD_SECONDS
        self._next = now + max(asked, self._hold_seconds)
        return True

    def _probe_failed(self, now: float, asked: float) -> None:
        self._probing = False
        self._failed_probes += 1
        self._hold_seconds = min(self._hold_seconds * 2.0, LONGEST_HOLD_SECONDS)
        self._next = now + max(asked, self._hold_seconds)

    def _unblock(self, now: float, blocked_at: float) -> None:
        before = self.per_second or self._measured(blocked_at, MEASURE_SECONDS)
        self._windowed = self._windowed or self._failed_probes > 1
        if self._windowed:
            rate = min(before, self._in_window(blocked_at) / WINDOW_SECONDS * WINDOW_SHARE)
        else:
            rate = min(before, max(self._measured(blocked_at, MEASURE_SECONDS), before * 0.5)) * FIRST_CUT_RATE
        rate = max(rate, (self.quota_per_second or 0.0) * QUOTA_SHARE)
        self._blocked_at, self._probing, self._next = None, False, now
        self._cut(now, rate)

    def _cut(self, now: float, per_second: float) -> None:
        self.per_second = max(0.02, per_second)
        self._cut_at = self._grown_at = now
        self._strays = 0
        self._held_back = False

    def _in_window(self, end: float) -> int:
        return sum(1 for time in self._answered if end - WINDOW_SECONDS <= time <= end)

    def _measured(self, end: float, span_seconds: float) -> float:
        recent = [time for time in self._answered if end - span_seconds <= time <= end]
        return max(1.0, len(recent)) / max(1.0, end - recent[0] if recent else 1.0)

    def _grow(self, now: float, per_second: float) -> None:
        if self._held_back:
            share = WINDOWED_PROBE_SHARE_PER_SECOND if self._windowed else PROBE_SHARE_PER_SECOND
            share *= 2.0 ** min(GROWTH_DOUBLINGS, (now - self._cut_at) / GROWTH_DOUBLING_SECONDS)
            grown = per_second * (1.0 + share * min(now - self._grown_at, 5.0))
            reached = self.quota_per_second is not None and grown >= self.quota_per_second
            self.per_second = None if reached else grown
        if now - self._cut_at > STEADY_AFTER_SECONDS:
            self._strays = 0
        self._grown_at = now
        self._held_back = False
