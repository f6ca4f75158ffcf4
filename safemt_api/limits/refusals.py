"""What refusals (429s) say: chance, too fast, or a wall. Pure: time is an argument.

Three things to tell apart, each by what it predicts:

- *Chance*: each call is refused with the same probability, whatever our pace. Slowing down is no cure.
- *Too fast* (a bucket): the vendor answers R calls a second whatever we send; below R nothing is refused.
- *A wall* (a window used up, an outage): everything is refused for a while.

Refusals are counted in the order in which the calls went out (``Sequence``): they come at once, answers after seconds, so that in order of
arrival the first calls after any change of pace look refused one and all. A wall is a row of refusals that is too long for chance, by the
share refused of late (``RefusalShare``). Chance and too fast are told apart by going slower and looking (``Trial``).

The constants were chosen on the vendors of ``python -m benchmarks.pace``: five kinds of quota at four sizes, and 10, 30 and 50 % of stray
refusals at latencies of 0.05, 0.5 and 2 s, with and without Retry-After.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, lgamma, log
from typing import Literal

Outcome = Literal["answered", "refused", "failed"]
Verdict = Literal["cured", "slower", "chance"]

PRIOR_REFUSED, PRIOR_ANSWERED = 0.5, 10.0
"""Before anything is known: one call in twenty refused, and not at all sure of it. Four refusals at the very start are then a wall."""
REMEMBERED_CALLS = 60.0
"""A share that changes is believed after so many calls; at 30 the chance of a row at 50 % stray was off by a factor of three."""
PROBE_CHANCE = 0.1
MOST_PROBES = 5
"""As many probes in a row as chance would refuse all in one case of ten; at 50 % stray that is four, and more would only be a burst."""

REFUSAL_FADES = 0.9
"""A vendor whose refusals became quicker is believed after some twenty of them."""
PATIENCE = 2.0
LEAST_PATIENCE_SECONDS = 0.05
"""A call out for twice as long as refusals take (and a little) has been let through."""

CURED_REFUSED, CURED_ANSWERED = 2.0, 60.0
"""What a cure looks like: three calls in a hundred still refused, hardly more. Wider (0.5 to 10) took 40 calls to see a share of 30 %."""
LEAST_TRIAL_CALLS = 7
"""With fewer, the first refusal after a change of pace decides, and small buckets are taken for chance; with ten, single runs that saw a
wall where none was took up to twice as long."""
TRIAL_CALLS = 120
"""After so many the likelier holds. While they began anew each 40 calls, trials at 10 % stray never ended, and the pace fell and fell."""
DECIDED = 3.0
"""Log odds of 20 to 1."""
UNLIKELY = 2.0
"""Log odds of 7 to 1: a third share, neither the old one nor none, is kept as a possibility until then."""
LEAST_CHANCE_SHARE = 0.05
"""Fewer stray refusals than one in twenty are not worth a trial."""


@dataclass(slots=True)
class Sent:
    """A call that went out; ``outcome`` is ``None`` while nothing is known of it."""

    admitted_at: float
    outcome: Outcome | None = None
    asked_seconds: float = 0.0
    told: bool = False


class Sequence:
    """Outcomes in the order in which calls went out.

    Refusals come at once, answers after seconds: counted as they come, the first calls after any change would all be refused. So each
    waits for those before it, and one that is out for longer than refusals take is let through already.
    """

    def __init__(self) -> None:
        self._calls: deque[Sent] = deque()
        self._refusal_seconds = 0.0

    def append(self, call: Sent) -> None:
        """It goes out now."""
        self._calls.append(call)

    def refused(self, now: float, call: Sent, asked_seconds: float) -> None:
        """So long a refusal takes: the longest of late."""
        call.outcome, call.asked_seconds = "refused", asked_seconds
        self._refusal_seconds = max(now - call.admitted_at, REFUSAL_FADES * self._refusal_seconds)

    def decided(self, now: float) -> Iterator[Sent]:
        """Calls whose outcome is known now, and that of all before them."""
        while self._calls:
            head = self._calls[0]
            if head.outcome is None:
                if not self._refusal_seconds or now - head.admitted_at <= PATIENCE * self._refusal_seconds + LEAST_PATIENCE_SECONDS:
                    return
                head.told = True
                yield Sent(head.admitted_at, "answered")
            elif not head.told:
                yield head
            self._calls.popleft()


class RefusalShare:
    """What share of calls is refused of late, as a belief: a beta distribution with a memory of some sixty calls."""

    def __init__(self) -> None:
        self._refused = self._answered = 0.0

    def count(self, *, refused: int = 0, answered: int = 0) -> None:
        """Calls have ended; older ones fade."""
        kept = (1.0 - 1.0 / REMEMBERED_CALLS) ** (refused + answered)
        self._refused, self._answered = self._refused * kept + refused, self._answered * kept + answered

    def counts(self, *, also_refused: int) -> tuple[int, int]:
        """Refused and answered calls of late, whole numbers."""
        return round(self._refused) + also_refused, round(self._answered)

    def probes(self) -> int:
        """So many calls in a row as chance would hardly refuse all: one, where little is refused otherwise."""
        return min(MOST_PROBES, ceil(log(PROBE_CHANCE) / log(self.chance(1))))

    def chance(self, streak: int) -> float:
        """How likely so many refusals in a row are if each is chance."""
        refused, counted = PRIOR_REFUSED + self._refused, PRIOR_REFUSED + PRIOR_ANSWERED + self._refused + self._answered
        likely = 1.0
        for one in range(streak):
            likely *= (refused + one) / (counted + one)
        return likely


@dataclass
class Trial:
    """Going slower, once or several times, to see whether that helps.

    Under a quota the calls answered a second stay the same whatever we send, so at that pace nothing more is refused; under chance the
    share stays. ``before`` is the pace to return to if it was chance (``None``: none was held); ``refused`` and ``answered`` are the calls
    before this stage, ``..._since`` those of it.
    """

    before: float | None
    refused: int
    answered: int
    stages: int = 0
    refused_since: int = 0
    answered_since: int = 0

    def count(self, *, refused: bool) -> None:
        """A call has ended."""
        self.refused_since += refused
        self.answered_since += not refused

    def odds(self) -> tuple[float, float]:
        """Log odds of *the share of refusals is as before* to *it has gone*, and to *it is another*."""
        same, gone, another = (
            _log_likelihood(self.refused_since, self.answered_since, *prior)
            for prior in ((0.5 + self.refused, 0.5 + self.answered), (CURED_REFUSED, CURED_ANSWERED), (1.0, 1.0))
        )
        return same - gone, same - another

    @property
    def calls(self) -> int:
        """Calls since it began."""
        return self.refused_since + self.answered_since

    @property
    def share(self) -> float:
        """The share refused since."""
        return self.refused_since / max(1, self.calls)

    @property
    def share_in_all(self) -> float:
        """The share refused before and since."""
        return (self.refused + self.refused_since) / max(1, self.refused + self.answered + self.calls)

    def verdict(self) -> Verdict | None:
        """What is decided by now, if anything is."""
        if self.calls < LEAST_TRIAL_CALLS:
            return None
        gone, another = self.odds()
        if self.calls >= TRIAL_CALLS:
            return "cured" if gone <= 0.0 else "chance" if self.stages > 0 else "slower"
        if gone <= -DECIDED:
            return "cured"
        if (gone < DECIDED and gone - another < UNLIKELY) or self.share < LEAST_CHANCE_SHARE:
            return None
        # Two stages, since the share before the first may hold a burst that is used up by now, and is then no measure of the quota.
        return "chance" if gone >= DECIDED and self.stages > 0 and another > -UNLIKELY else "slower"

    def next_stage(self) -> None:
        """Slower still, by the share of this stage."""
        if self.odds()[1] > 0.0:
            self.refused, self.answered = self.refused + self.refused_since, self.answered + self.answered_since
        else:
            self.refused, self.answered = self.refused_since, self.answered_since
        self.refused_since = self.answered_since = 0
        self.stages += 1


def _log_likelihood(refused: int, answered: int, prior_refused: float, prior_answered: float) -> float:
    """Of one sequence of refusals and answers, if the share refused is a draw from that beta distribution."""
    return _log_beta(prior_refused + refused, prior_answered + answered) - _log_beta(prior_refused, prior_answered)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
