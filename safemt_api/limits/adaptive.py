"""What is learnt from successes and 429s alone: how many calls at once, and how fast. Pure: time is an argument.

How many at once: additive increase, multiplicative decrease (Chiu and Jain 1989), with three guards: growth only while the limit is what
holds calls back, one cut per cool-down however many 429s arrive, and a cool-down of our own that no Retry-After can stretch.

How fast: ``limits.refusals`` tells what 429s mean, ``AdaptiveRate`` what follows from it.

What a constant says of half or twice its value was measured on the vendors of ``python -m benchmarks.pace`` that announce nothing: five
kinds of quota at 60, 500 and 1,200 a minute, and stray refusals over three seeds. As they stand 91 % of the worst quota is used at 4.0 %
429s (12.8 % at worst), and stray refusals take 1.24 times what they alone cost (1.57 at worst). *No matter* means that none of these
figures moved between half and twice the value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from math import sqrt
from typing import Literal

from safemt_api.limits.refusals import RefusalShare, Sent, Sequence, Trial

Move = Literal["wall", "slower", "chance"]
"""What a call's end changed: everything held, the pace lowered (or found after a wall), or given back because 429s are chance."""

START_CONCURRENCY = 8
"""At 4, 72 % of the worst quota and 2.2 times for stray refusals; at 16, 19 % 429s at worst."""
CUT_CONCURRENCY = 0.7
"""No matter for what is used (the rate holds it); 0.4 has slightly more 429s, 0.85 is slower where refusals are stray (1.62)."""
COOLDOWN_SECONDS = 3.0
"""No matter: one burst of refusals comes within a second, and two cuts for it would be one too many."""
SATURATED_SHARE = 0.8
"""No matter; below all of the limit because calls end while others begin."""
OVERLOADS = 3
"""So many overloads without an answer between them are the vendor's state; a lone one may be chance."""

UNKNOWN_SPACING_SECONDS = 0.5
"""Until the first answer tells anything: one call each half second, so that a small quota is not run over at once. A 429 tells nothing yet:
going freely after one cost a quota of 60 a minute twenty refusals in a second. At 0.25, 81 % of the worst quota; at 1, 64 %."""

WALL_CHANCE = 0.001
"""Refusals in a row less likely than this by chance are a wall: once in a thousand calls one is seen where none is, for a second or two.
Twice as likely, stray refusals take 4.3 times at worst; half as likely, 15 % 429s at worst."""
WALL_WAIT_SECONDS = 2.0
"""A vendor that asks for a wait this long speaks of a quota; so long it is held before one call tries whether all were meant. Stray
refusals that ask for waits take 5.7 times at worst at 1 s, and 3.0 times at 4 s."""
WAIT_ODDS = 0.02
"""So much less likely is chance where such a wait is asked for: a lone first one is a wall, as it is with most vendors. At 0.01 no matter,
at 0.04 slightly better for stray refusals, and a lone first one would be no wall any more."""
ROUNDED_SECONDS = 1.0
"""Waits are asked for in whole seconds: an answer this much before the end does not refute them. No matter."""
FIRST_HOLD_SECONDS = 1.0
"""Both sides are worse: 16.5 % 429s at worst at 0.5 s (4.9 % in all), 15.8 % at 2 s, and stray refusals 1.68 times."""
LONGEST_HOLD_SECONDS = 12.0
"""At 6 s more 429s (4.2 %), at 24 s fewer (3.8 %) and a little less used: a fifth of the longest window."""

FIRST_CUT_RATE = 0.65
"""At 0.3 only 60 % of the worst quota is used, at 0.83 87 %; 429s fall from 4.4 % to 3.0 % the other way."""
LEAST_AFTER_CUT = 0.5
"""At 0.75, 18.5 % 429s at worst; at 0.2 no matter."""
WINDOW_SECONDS = 60.0
"""Quotas are counted by the minute."""
WINDOW_SHARE = 0.985
"""Of what passed in the window: a little less, because calls reach the vendor unevenly."""
LEAST_PASSED = 6
"""Fewer answers in a minute say nothing of a quota: after an outage the pace would be a call a minute, and stay so."""
QUOTA_SHARE = 0.9
"""A quota that the vendor named is not cut below this by what passed: the headers are the better witness."""
SLOWEST_PER_SECOND = 0.02
"""Slower than a call in 50 s nothing is learnt any more."""

MEASURE_SECONDS = 5.0
"""The pace is what went out in so long a time: a second holds too few calls of a slow quota."""
LEAST_MEASURED_SECONDS = 0.25
"""A burst at the very start is no pace of a thousand a second."""
SENT_KEPT = 500
"""More than what goes out in ``MEASURE_SECONDS`` at the fastest that one process sends (some 100 a second)."""

EPOCH_CALLS = 40
"""A share of 429s is looked at after so many calls: one of 2 % is not told from one of 5 % by fewer."""
LEAST_EPOCH_CALLS = 12
"""Or, where calls go slowly, after what goes in ``EPOCH_SECONDS``, but not fewer than this."""
EPOCH_SECONDS = 10.0
"""At 20 s, 14.2 % 429s at worst; at 5 s no matter."""
LEAST_REFUSED, LEAST_REFUSED_AT_FIRST = 2, 4
"""Fewer in an epoch are not acted on; while nothing holds the pace yet, a run of 200 calls at 10 % stray took twice as long with two. At 4,
82 % of the worst quota is used."""
TOLERATED_SHARE = 0.02
"""At 0.01, 87 % of the worst quota; at 0.04 no matter: above the 1 % that a pace just below the quota meets."""
CHANCE_DEVIATIONS = 3.0
"""So far above the share that was found to be chance an epoch must be; at 1.5 stray refusals take 1.28 times instead of 1.24."""
CHANCE_WEIGHT = 0.3
"""How quickly the share that is taken for chance follows what is seen. No matter."""
CHANCE_SECONDS = 60.0
"""So long a share is taken for chance; then one more trial, some seconds at a third less pace, finds out where that was wrong."""
LEAST_KEPT_RATE = 0.15
"""However much is refused, this much of the pace is kept: of less too little is learnt in time. No matter."""
BELOW_WHAT_PASSED = 0.97
"""A little below what was let through, so that the queue at the vendor empties; at 0.94 the cuts are so deep that growth overshoots
(19.7 % 429s at worst), at 0.985 no worse."""
SLOWEST_TRIAL_PER_SECOND = 0.3
"""Seven calls at this pace are the longest that a run waits for a stage of a trial; at 0.5, quotas of 20 a minute were taken for chance."""

PROBE_SHARE_PER_SECOND = 0.005
"""How much a pace that holds calls back creeps up each second: at twice that 66 % of the worst quota and 17.7 % 429s, at half 84 %."""
WINDOWED_PROBE_SHARE_PER_SECOND = 0.0003
"""The same at a quota by the window, where going over it costs the rest of the window. No matter within three minutes."""
GROWTH_DOUBLING_SECONDS = 10.0
"""At 20 s, 89 % of the worst quota; at 5 s no matter."""
GROWTH_DOUBLINGS = 1.5
"""At 3, buckets of 60 a minute were run over every half minute (54 % used, 22 % 429s); at 0.75, 79 % of the worst quota."""
UNDOUBTED_SECONDS = 90.0
"""No window is longer than a minute: a pace that met no 429 for this long is below the quota, and grows faster and faster."""
MOST_DOUBLINGS = 8.0
"""Some 130 % a second at most: out of any mistake within seconds. No matter."""


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
        self._before: float | None = None

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
        return self._overloads >= OVERLOADS and self.cut(now)

    def trust(self) -> None:
        """A quota is known, and its pace protects the account: no need to feel the way up from a few calls at once."""
        if self._slow_start:
            self.limit = float(self.most)

    def cut(self, now: float) -> bool:
        """Too many at once; true when the limit shrank (at most once per cool-down)."""
        self._successes = self._peak = 0
        if now - self._last_cut < COOLDOWN_SECONDS:
            return False
        if self._slow_start:
            self._before = self.limit
        self._slow_start = False
        self._last_cut = now
        self.limit = max(1.0, self.limit * CUT_CONCURRENCY)
        return True

    def restore(self) -> None:
        """The cuts were for nothing: on from where they began, doubling again."""
        self._slow_start, self._last_cut = True, float("-inf")
        self.limit = max(self.limit, self._before or 0.0)


def pace_of(times: Collection[float], now: float) -> float:
    """Events a second: over the last second where that holds enough of them, otherwise over the last five."""
    for seconds in (1.0, MEASURE_SECONDS):
        recent = [time for time in times if time >= now - seconds]
        if len(recent) >= LEAST_EPOCH_CALLS:
            break
    return max(1, len(recent)) / max(LEAST_MEASURED_SECONDS, now - min(recent, default=now))


class AdaptiveRate:
    """How many calls a second, where the vendor names no quota (or not the one that binds); ``None`` while nothing holds the pace.

    At a wall everything is held for a moment, and single probes go, further apart each time, until one is answered (as many probes each
    time as chance would not let all fail). A block that one probe ends was a bucket running dry, and the pace goes on somewhat below what
    it was; one that takes more was a window used up, and what passed in the minute before it is the quota. Apart from walls, a share of
    429s above chance slows the pace by that share. Every slowing down is a trial: where it does not help, the pace before it is given
    back. A pace that holds calls back creeps up, slowly near what is believed to be the quota, faster the longer no 429 comes.

    The pace is the account's. Where others call it too, ``share`` is this process's part of its calls: so many of them are seen here.
    """

    def __init__(self) -> None:
        self.per_second: float | None = None
        self.quota_per_second: float | None = None
        self.share = 1.0
        self.chance_share = 0.0
        self._answered: deque[float] = deque()
        self._recent = RefusalShare()
        self._trial: Trial | None = None
        self._former: tuple[float, float | None] = (float("-inf"), None)
        self._chance_since = float("-inf")
        self._sequence = Sequence()
        self._sent: deque[float] = deque(maxlen=SENT_KEPT)
        self._epoch_refused = self._epoch_answered = 0
        self.known = False
        self._began: float | None = None
        self._next = float("-inf")
        self._blocked_at: float | None = None
        self._hold_seconds = FIRST_HOLD_SECONDS
        self._failed_rounds = self._failed_probes = 0
        self._probing = self._windowed = self._weak = False
        self._cut_at = self._asked_until = float("-inf")
        self._waits_mean_little = False
        self._streak = 0
        self._grown_at = 0.0
        self._held_back = False

    def trust(self) -> None:
        """There is no unknown quota to be careful of: go freely from the first call on."""
        self.known = True

    def wait_seconds(self, now: float) -> float:
        """How long until the next call may go; infinite while a probe is out."""
        if self._probing:
            return float("inf")
        wait = max(0.0, self._next - now)
        self._held_back = self._held_back or wait > 0.0
        return wait

    def take(self, now: float) -> Sent:
        """A call goes now."""
        if self._began is None:
            self._began = now
        if self._blocked_at is not None:
            self._probing = True
        elif not self.known:
            self._next = now + UNKNOWN_SPACING_SECONDS
        elif self.per_second is not None:
            self._next = max(self._next, now) + 1.0 / (self.per_second * self.share)
            self._grow(now, self.per_second)
        call = Sent(now)
        self._sequence.append(call)
        self._sent.append(now)
        return call

    def blocked_seconds(self, now: float) -> float:
        """For how long nothing should go, by what is known now; 0 unless a wall was met."""
        return 0.0 if self._blocked_at is None else max(FIRST_HOLD_SECONDS, self._next - now)

    def adopt(self, now: float, per_second: float | None) -> None:
        """Another process has found the account's pace: on with it, and whatever was tried here is over."""
        if self._blocked_at is not None:
            self._blocked_at, self._probing, self._next = None, False, now
        self._trial = None
        self._set(now, per_second)

    def succeeded(self, now: float, call: Sent) -> Move | None:
        """A call was answered; what that changed."""
        call.outcome = "answered"
        if not self.known:
            self.known, self._next = True, float("-inf")
        self._answered.append(call.admitted_at)
        while self._answered[0] < now - 2.0 * WINDOW_SECONDS and len(self._answered) > 1:
            self._answered.popleft()
        if self._blocked_at is not None and call.admitted_at > self._blocked_at:
            if call.admitted_at < self._asked_until - ROUNDED_SECONDS:
                # Answered before the wait is over that was asked for: that was one call's, and nothing is wrong with the pace.
                self._waits_mean_little = True
                self._blocked_at, self._probing, self._next = None, False, now
                self._set(now, self.per_second)
                return "chance"
            return self._unblock(now, self._blocked_at)
        return self._look(now)

    def failed(self, now: float, call: Sent) -> Move | None:
        """A call ended otherwise (refused by itself, 5xx, connection): it says nothing of the pace, but that it need not be felt out."""
        call.outcome = "failed"
        if not self.known:
            self.known, self._next = True, float("-inf")
        if self._blocked_at is not None and call.admitted_at > self._blocked_at:
            self._probing = False
        return self._look(now)

    def limited(self, now: float, call: Sent, retry_after_seconds: float | None) -> Move | None:
        """A 429; what that changed."""
        asked = 0.0 if retry_after_seconds is None else min(retry_after_seconds, LONGEST_HOLD_SECONDS)
        self._sequence.refused(now, call, asked)
        if self._blocked_at is not None and call.admitted_at > self._blocked_at:
            self._probing = False
            self._failed_probes += 1
            if self._failed_probes >= self._recent.probes():
                self._failed_probes = 0
                self._failed_rounds += 1
                self._hold_seconds = min(self._hold_seconds * 2.0, LONGEST_HOLD_SECONDS)
                self._next = now + max(asked, self._hold_seconds)
        if call.told:
            return self._count(now, call)
        return self._look(now)

    def _look(self, now: float) -> Move | None:
        moves = [self._count(now, call) for call in self._sequence.decided(now)]
        return next((move for move in moves if move is not None), None)

    def _count(self, now: float, call: Sent) -> Move | None:
        if call.outcome == "failed" or call.admitted_at <= self._cut_at or self._blocked_at is not None:
            return None
        if call.outcome == "answered":
            self._recent.count(refused=self._streak, answered=1)
            self._streak = 0
            return self._counted(now, refused=False)
        self._streak += 1
        speaks_of_a_quota = call.asked_seconds >= WALL_WAIT_SECONDS and not (self.chance_share or self._waits_mean_little or self._trial)
        likely = self._recent.chance(self._streak) * (WAIT_ODDS if speaks_of_a_quota else 1.0)
        if likely >= WALL_CHANCE or (self._streak == 1 and not speaks_of_a_quota):
            return self._counted(now, refused=True)
        self._blocked_at, self._failed_rounds, self._failed_probes = now, 0, 0
        self._hold_seconds = FIRST_HOLD_SECONDS
        self._asked_until = now + call.asked_seconds
        self._next = now + max(min(call.asked_seconds, WALL_WAIT_SECONDS), self._hold_seconds)
        return "wall"

    def _unblock(self, now: float, blocked_at: float) -> Move:
        self._windowed = self._windowed or self._failed_rounds > 1
        rate = self._after_wall(now, blocked_at)
        if rate is not None:
            rate = max(rate, (self.quota_per_second or 0.0) * QUOTA_SHARE)
        if self._trial is None:
            self._trial = Trial(self._pace_before(now), *self._recent.counts(also_refused=1))
        self._blocked_at, self._probing, self._next = None, False, now
        self._set(now, rate)
        return "slower"

    def _after_wall(self, now: float, blocked_at: float) -> float | None:
        """The pace by what passed before the wall; ``None`` where that says nothing of a quota."""
        before = self.per_second or self._measured(blocked_at, MEASURE_SECONDS)
        passed = sum(1 for time in self._answered if blocked_at - WINDOW_SECONDS <= time <= blocked_at)
        seen_seconds = min(WINDOW_SECONDS, now - (now if self._began is None else self._began))
        self._weak = seen_seconds < WINDOW_SECONDS
        if now - blocked_at > WINDOW_SECONDS + LONGEST_HOLD_SECONDS:
            # Longer than any window lasts: an outage, and the pace before it was no cause.
            self._windowed = False
            return self.per_second
        if not self._windowed:
            kept = max(self._measured(blocked_at, MEASURE_SECONDS), before * LEAST_AFTER_CUT)
            return min(before, kept) * FIRST_CUT_RATE if passed else None
        if passed < (LEAST_EPOCH_CALLS if self._weak else LEAST_PASSED):
            return None
        return min(before, passed / self.share / seen_seconds * WINDOW_SHARE)

    def _counted(self, now: float, *, refused: bool) -> Move | None:
        self._epoch_refused += refused
        self._epoch_answered += not refused
        if self._trial is not None:
            self._trial.count(refused=refused)
            verdict = self._trial.verdict()
            if verdict == "cured":
                self._former, self._trial = (now, self._trial.before), None
            elif verdict == "chance":
                self.chance_share, self._chance_since = self._trial.share_in_all, now
                before, self._trial, self._windowed = self._trial.before, None, False
                self._set(now, before)
                self._next = now
                return "chance"
            elif verdict is not None:
                return self._slower(now, self._trial.share)
        return self._epoch_ended(now) if self._trial is None else None

    def _epoch_ended(self, now: float) -> Move | None:
        counted = self._epoch_refused + self._epoch_answered
        # The usual case first, and cheap: measuring the pace looks at every call of the last seconds.
        enough: float = EPOCH_CALLS
        if self._epoch_refused:
            enough = max(LEAST_EPOCH_CALLS, min(EPOCH_CALLS, self._pace(now) * self.share * EPOCH_SECONDS))
        few = 0 < self._epoch_refused < (LEAST_REFUSED if self.per_second else LEAST_REFUSED_AT_FIRST)
        if counted < (2 * EPOCH_CALLS if few else enough):
            return None
        share = self._epoch_refused / counted
        if now - self._chance_since > CHANCE_SECONDS:
            self.chance_share = 0.0
        spread = sqrt(self.chance_share * (1.0 - self.chance_share) / counted)
        if share > TOLERATED_SHARE + self.chance_share + CHANCE_DEVIATIONS * spread:
            return self._slower(now, share)
        self._epoch_refused = self._epoch_answered = 0
        self.chance_share += (share - self.chance_share) * CHANCE_WEIGHT if self.chance_share else 0.0
        return None

    def _slower(self, now: float, share: float) -> Move:
        rate = self._pace(now) * max(LEAST_KEPT_RATE, 1.0 - share) * BELOW_WHAT_PASSED
        if self._trial is None:
            # Faster than in the last trial more is refused than in it: that was no chance.
            self.chance_share = 0.0
            self._trial = Trial(self._pace_before(now), self._epoch_refused, self._epoch_answered)
        else:
            # A few calls tell the share only roughly, and the stage is worth nothing if it is too fast for the quota after all.
            rate *= max(0.5, 1.0 - sqrt(share / (1.0 - share) / self._trial.calls) if share < 1.0 else 0.5)
            rate = max(rate, min(self._pace(now), SLOWEST_TRIAL_PER_SECOND))
            self._trial.next_stage()
        self._set(now, rate)
        return "slower"

    def _pace_before(self, now: float) -> float | None:
        """The pace to return to: that of the last trial where it ended a moment ago."""
        ended, before = self._former
        return before if now - ended < CHANCE_SECONDS else self.per_second

    def _pace(self, now: float) -> float:
        """Calls a second that go out."""
        if self.per_second or self.quota_per_second:
            return self.per_second or self.quota_per_second or 0.0
        return pace_of(self._sent, now) / self.share

    def _set(self, now: float, per_second: float | None) -> None:
        self.per_second = None if per_second is None else max(SLOWEST_PER_SECOND, per_second)
        self._cut_at = self._grown_at = now
        self._streak = self._epoch_refused = self._epoch_answered = 0
        self._held_back = False

    def _measured(self, end: float, span_seconds: float) -> float:
        recent = [time for time in self._answered if end - span_seconds <= time <= end]
        return max(1.0, len(recent)) / max(1.0, end - recent[0] if recent else 1.0) / self.share

    def _grow(self, now: float, per_second: float) -> None:
        # Not while a trial is on: past the quota again, its refusals would look like chance.
        if self._held_back and self._trial is None:
            share = WINDOWED_PROBE_SHARE_PER_SECOND if self._windowed and not self._weak else PROBE_SHARE_PER_SECOND
            unharmed = now - self._cut_at
            doublings = min(GROWTH_DOUBLINGS, unharmed / GROWTH_DOUBLING_SECONDS)
            doublings += max(0.0, unharmed - UNDOUBTED_SECONDS) / GROWTH_DOUBLING_SECONDS
            share *= 2.0 ** min(MOST_DOUBLINGS, doublings)
            grown = per_second * (1.0 + share * min(now - self._grown_at, max(5.0, 2.0 / per_second)))
            reached = self.quota_per_second is not None and grown >= self.quota_per_second
            self.per_second = None if reached else grown
        self._grown_at = now
        self._held_back = False
