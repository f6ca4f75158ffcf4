"""The arithmetic of pace: one quota, used smoothly and never exceeded in any window. Pure: time is an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

BURST_SECONDS = 0.1
"""How much may go at once after a pause, as time's worth of quota: enough to hide a timer's coarseness, far from a minute's worth."""

WINDOW_MARGIN = 1.01
"""The window is taken this much longer than the vendor's, because calls reach the vendor with jitter of the network."""


@dataclass(slots=True)
class Taken:
    """One use of a quota, kept until it leaves the window so that its amount can be corrected."""

    time: float
    amount: float


class Quota:
    """``limit`` per ``window_seconds``: evenly spaced (a GCRA), and counted exactly over a sliding window.

    The spacing keeps the use smooth from the first second on; the count makes "never more than the limit in any window" hold whatever
    the spacing did (amounts corrected upwards, a limit that was lowered).
    """

    def __init__(self, limit: float, window_seconds: float = 60.0) -> None:
        self.limit, self.window_seconds = limit, window_seconds * WINDOW_MARGIN
        self._log: deque[Taken] = deque()
        self._used = 0.0
        self._next = float("-inf")

    @property
    def per_second(self) -> float:
        """The even rate that just fills the quota."""
        return self.limit / self.window_seconds

    def wait_seconds(self, now: float, amount: float) -> float:
        """How long until ``amount`` may be used; 0 when it may be now. An amount above the whole limit counts as the limit."""
        self._forget(now)
        burst_seconds = BURST_SECONDS if self.per_second * BURST_SECONDS >= 1.0 else 0.0
        return max(0.0, self._next - burst_seconds - now, self._window_wait(now, min(amount, self.limit)))

    def take(self, now: float, amount: float) -> Taken:
        """Use it now; the caller has waited ``wait_seconds``."""
        taken = Taken(now, amount)
        self._log.append(taken)
        self._used += amount
        self._next = max(self._next, now) + self._spacing_seconds(amount)
        return taken

    def correct(self, taken: Taken, amount: float) -> None:
        """Replace an estimate by the real amount."""
        difference = amount - taken.amount
        taken.amount = amount
        self._next += self._spacing_seconds(amount) - self._spacing_seconds(amount - difference)
        if self._log and self._log[0].time <= taken.time:
            self._used += difference

    def resize(self, limit: float, window_seconds: float) -> None:
        """The vendor told another limit; what was used stays counted, but no wait of the old one is longer than a window of the new."""
        self.limit, self.window_seconds = limit, window_seconds * WINDOW_MARGIN
        self._next = min(self._next, max((taken.time for taken in self._log), default=self._next) + self.window_seconds)

    def _spacing_seconds(self, amount: float) -> float:
        # More than the whole quota at once cannot be spaced by it: such a call takes a window, as ``wait_seconds`` has it.
        return min(amount, self.limit) / self.per_second

    def _forget(self, now: float) -> None:
        while self._log and self._log[0].time <= now - self.window_seconds:
            self._used -= self._log.popleft().amount

    def _window_wait(self, now: float, amount: float) -> float:
        excess = self._used + amount - self.limit
        if excess <= 1e-9 or not self._log:
            return 0.0
        for taken in self._log:
            excess -= taken.amount
            if excess <= 1e-9:
                break
        return max(0.0, taken.time + self.window_seconds - now)
