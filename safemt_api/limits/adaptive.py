"""What is learnt from successes and 429s alone: how many calls at once, and how fast. Pure: time is an argument.

Additive increase, multiplicative decrease (Chiu and Jain 1989), with three guards: growth only while the limit is what holds calls back,
one cut per cool-down however many 429s arrive, and a cool-down of our own that no Retry-After can stretch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

START_CONCURRENCY = 8
CUT_CONCURRENCY = 0.7
COOLDOWN_SECONDS = 3.0
SATURATED_SHARE = 0.8

FIRST_CUT_RATE = 0.65
LEAST_KEPT_RATE = 0.5
BELOW_WHAT_PASSED = 0.98
PROBE_SHARE_PER_SECOND = 0.005
WINDOWED_PROBE_SHARE_PER_SECOND = 0.0003
GROWTH_DOUBLING_SECONDS = 10.0
GROWTH_DOUBLINGS = 3.0
MEASURE_SECONDS = 5.0
WINDOW_SECONDS = 60.0
WINDOW_SHARE = 0.985
FIRST_HOLD_SECONDS = 1.0
LONGEST_HOLD_SECONDS = 12.0
STREAK = 3
"""So many refusals without an answer between them are a wall; a lone one may be chance."""
SLOW_STREAK = 2
SLOW_PER_SECOND = 3.0
WALL_WAIT_SECONDS = 2.0
"""A vendor that asks for a wait this long speaks of a quota, not of chance."""
QUOTA_SHARE = 0.9
UNKNOWN_SPACING_SECONDS = 0.5
"""Until the first answer tells anything: one call each half second, so that a small quota is not run over at once."""

EPOCH_CALLS = 40
LEAST_EPOCH_CALLS = 12
EPOCH_SECONDS = 10.0
TOLERATED_SHARE = 0.02
NOISE_MARGIN = 1.5
TRIED_ENOUGH = 0.75
NOT_HELPED = 0.6


class AdaptiveConcurrency:
    """How many calls may be in flight: doubling until the first cut, then one (or 5 %) more each clean round."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(most, START_CONCURRENCY))
        self._slow_start = True
        self._successes = 0
        self._peak = 0
        self._last_cut = float("-inf")
        self._overloads = 0

    def admitted(self, in_flight: int) -> None:
        """A call has taken a slot; measured here because at release the peak is one too low."""
        self._peak = max(self._peak, in_flight)

    def succeeded(self, now: float) -> bool:
        """Count a success; true when the limit grew."""
        self._overloads = 0
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

    def overloaded(self, now: float) -> bool:
        """The vendor says that it has too much to do; several such answers in a row shrink the limit."""
        self._overloads += 1
        return self._overloads >= STREAK and self.cut(now)

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


class LossWatch:
    """Tells 429s that come from going too fast from those that come whatever the pace (capacity that others share).

    Calls are counted in epochs. An epoch with more 429s than tolerated asks for a slower pace; when the pace has gone down by a quarter and
    the share of 429s has hardly moved, slowing down is no cure: the pace is given back and that share is taken as the noise of this vendor.
    """

    def __init__(self) -> None:
        self.noise_share = 0.0
        self._answered = self._limited = 0
        self._trial: tuple[float, float] | None = None

    def restart(self) -> None:
        """The pace has changed: what was counted before says nothing of it."""
        self._answered = self._limited = 0

    def count(self, *, limited: bool, pace: Callable[[], float]) -> float | None:
        """Count a call at this pace (calls a second); the pace to go on with, where an epoch ended that asks for another."""
        self._limited += limited
        self._answered += not limited
        counted = self._answered + self._limited
        if not self._limited:
            # The usual case, and cheap: measuring the pace looks at every answer of the last two minutes.
            if counted >= EPOCH_CALLS:
                self.restart()
                self._trial = None
            return None
        per_second = pace()
        if counted < max(LEAST_EPOCH_CALLS, min(EPOCH_CALLS, per_second * EPOCH_SECONDS)):
            return None
        share = self._limited / counted
        self.restart()
        if share <= TOLERATED_SHARE + NOISE_MARGIN * self.noise_share:
            self._trial = None
            return None
        return self._slower(share, per_second)

    def _slower(self, share: float, per_second: float) -> float:
        if self._trial is not None and per_second <= TRIED_ENOUGH * self._trial[0]:
            (before, first_share), self._trial = self._trial, None
            if share > NOT_HELPED * first_share:
                self.noise_share = share
                return before
        if self._trial is None:
            self._trial = (per_second, share)
        return per_second * max(LEAST_KEPT_RATE, 1.0 - share) * BELOW_WHAT_PASSED


class AdaptiveRate:
    """How many calls a second, where the vendor names no quota (or not the one that binds).

    Free until 429s come. Several in a row are a wall: everything is held for a moment, and single probes go, further apart each time, until
    one is answered. A block that one probe ends was a bucket running dry, and the pace goes on somewhat below what it was; one that takes
    more was a window used up, and what passed in the minute before it is the quota. Apart from walls, a share of 429s above what is
    tolerated slows the pace by that share (``LossWatch``), and the pace creeps up while it is what holds calls back.
    """

    def __init__(self) -> None:
        self.per_second: float | None = None
        self.quota_per_second: float | None = None
        self._answered: deque[float] = deque()
        self._loss = LossWatch()
        self._known = False
        self._next = float("-inf")
        self._blocked_at: float | None = None
        self._hold_seconds = FIRST_HOLD_SECONDS
        self._failed_probes = 0
        self._probing = self._windowed = False
        self._cut_at = float("-inf")
        self._streak = 0
        self._grown_at = 0.0
        self._held_back = False

    def trust(self) -> None:
        """There is no unknown quota to be careful of: go freely from the first call on."""
        self._known = True

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
        """A call was answered; true when that changed the pace."""
        if not self._known:
            self._known, self._next = True, float("-inf")
        self._answered.append(admitted_at)
        while self._answered[0] < now - 2.0 * WINDOW_SECONDS and len(self._answered) > 1:
            self._answered.popleft()
        if self._blocked_at is not None:
            return admitted_at > self._blocked_at and self._unblock(now, self._blocked_at)
        if admitted_at <= self._cut_at:
            return False
        self._streak = 0
        return self._counted(now, limited=False)

    def failed(self, admitted_at: float) -> None:
        """A call ended otherwise (refused by itself, 5xx, connection): it says nothing of the pace, but that it need not be felt out."""
        if not self._known:
            self._known, self._next = True, float("-inf")
        if self._blocked_at is not None and admitted_at > self._blocked_at:
            self._probing = False

    def limited(self, now: float, admitted_at: float, retry_after_seconds: float | None) -> bool:
        """A 429; true when it began a block or changed the pace."""
        self._known = True
        asked = 0.0 if retry_after_seconds is None else min(retry_after_seconds, LONGEST_HOLD_SECONDS)
        if self._blocked_at is not None:
            if admitted_at > self._blocked_at:
                self._probe_failed(now, asked)
            return False
        if admitted_at <= self._cut_at:
            return False
        self._streak += 1
        if asked < WALL_WAIT_SECONDS and self._streak < (STREAK if self._pace(now) > SLOW_PER_SECOND else SLOW_STREAK):
            return self._counted(now, limited=True)
        self._blocked_at, self._failed_probes = now, 0
        self._hold_seconds = FIRST_HOLD_SECONDS
        self._next = now + max(asked, self._hold_seconds)
        return True

    def _counted(self, now: float, *, limited: bool) -> bool:
        slower = self._loss.count(limited=limited, pace=partial(self._pace, now))
        if slower is None:
            return False
        self._set(now, slower)
        return True

    def _pace(self, now: float) -> float:
        return self.per_second or self.quota_per_second or self._measured(now, MEASURE_SECONDS)

    def _probe_failed(self, now: float, asked: float) -> None:
        self._probing = False
        self._failed_probes += 1
        self._hold_seconds = min(self._hold_seconds * 2.0, LONGEST_HOLD_SECONDS)
        self._next = now + max(asked, self._hold_seconds)

    def _unblock(self, now: float, blocked_at: float) -> bool:
        before = self.per_second or self._measured(blocked_at, MEASURE_SECONDS)
        self._windowed = self._windowed or self._failed_probes > 1
        if self._windowed:
            rate = min(before, self._in_window(blocked_at) / WINDOW_SECONDS * WINDOW_SHARE)
        else:
            rate = min(before, max(self._measured(blocked_at, MEASURE_SECONDS), before * LEAST_KEPT_RATE)) * FIRST_CUT_RATE
        rate = max(rate, (self.quota_per_second or 0.0) * QUOTA_SHARE)
        self._blocked_at, self._probing, self._next = None, False, now
        self._set(now, rate)
        return True

    def _set(self, now: float, per_second: float) -> None:
        self.per_second = max(0.02, per_second)
        self._cut_at = self._grown_at = now
        self._streak = 0
        self._loss.restart()
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
        self._grown_at = now
        self._held_back = False
