"""When to try again, and after what wait: small callables of the attempt, for tenacity. Nothing else in the project retries a call.

Time is ``anyio.current_time()``, so that a virtual clock can test it; tenacity's own stops read the machine's clock and are not used.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from safemt_api.errors import (
    AccountError,
    CallError,
    ConnectionFailedError,
    NoCapacityError,
    RateLimitedError,
    RetriesExhaustedError,
    ServerError,
    TransientError,
    UnansweredRowError,
)
from safemt_api.messages import Reply

PASSING_STATUSES = frozenset({None, 408, 409, 429, 502, 503, 504, 529})
"""Failures of the moment by their nature, however often they look the same."""

SAME_FAILURES = 3
"""The same 5xx this many times in a row is the dialogue's own failure: a deterministic 500 was once retried for 24 days."""

PACED_ATTEMPTS = 8
"""The limiter holds the pace after 429s, so a call that got one comes back after a moment; eight in a row are more than that."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Caps of one call.

    Being told to slow down, or having no network, is no failure of the call: such tries count against the elapsed time and a wider cap.
    """

    attempts: int = 8
    patient_attempts: int = 60
    elapsed_seconds: float = 900.0
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0


DEFAULT_RETRY_POLICY = RetryPolicy()


class Attempts:
    """The tries of one call: how many, since when, and what went wrong last; ``singly``: it has been in a batch in vain."""

    def __init__(self, policy: RetryPolicy, jitter: Callable[[], float] = random.random) -> None:
        self._policy, self._jitter = policy, jitter
        self._started = anyio.current_time()
        self._queued_seconds = 0.0
        self._waiting_since = self._started
        self._left_at = self._started
        self._without_room_since: float | None = None
        self._without_room = 0
        self.singly = False
        self.failures: list[CallError] = []

    def retrying(self, before_sleep: Callable[[RetryCallState], None]) -> AsyncRetrying:
        """A tenacity loop over the policy.

        Raises (from the loop):
            RetriesExhaustedError: A cap was reached.
            AccountError: The vendor asks for a wait longer than the cap on elapsed time.
        """
        return AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            wait=lambda state: wait_seconds(self._policy, _error(state), self._without_room or state.attempt_number, self._jitter()),
            stop=self._stop,
            sleep=anyio.sleep,
            before_sleep=before_sleep,
            retry_error_callback=self._give_up,
        )

    def waits(self) -> None:
        """The next try waits for its turn from here (pace, money): no fault of the call, so that it counts against no cap.

        Nor does a try in a tier that had no room, with the wait after it.
        """
        self._waiting_since = self._left_at if self._without_room else anyio.current_time()

    def leaves(self) -> None:
        """It goes out now."""
        self._left_at = anyio.current_time()
        self._queued_seconds += self._left_at - self._waiting_since

    def seconds_without_room(self) -> float:
        """For how long by now the tier that was asked for has had no room, one try after another."""
        return 0.0 if self._without_room_since is None else anyio.current_time() - self._without_room_since

    def told(self, reply: Reply) -> Reply:
        """The reply with how many tries it took, and how long the call waited beside the latency of the last one."""
        waited = max(0.0, anyio.current_time() - self._started - reply.latency_seconds)
        return replace(reply, attempts=len(self.failures) + 1, waited_seconds=round(waited, 3))

    def _stop(self, state: RetryCallState) -> bool:
        error = _error(state)
        if isinstance(error, NoCapacityError):
            self._without_room += 1
            self._without_room_since = self._left_at if self._without_room_since is None else self._without_room_since
            return False
        self._without_room, self._without_room_since = 0, None
        if isinstance(error, UnansweredRowError):
            return False
        self.failures.append(error)
        too_long = isinstance(error, TransientError) and (error.retry_after_seconds or 0.0) > self._policy.elapsed_seconds
        patient = sum(
            isinstance(failure, RateLimitedError) or (isinstance(failure, ConnectionFailedError) and not failure.connected)
            for failure in self.failures
        )
        too_many = patient >= self._policy.patient_attempts or len(self.failures) - patient >= self._policy.attempts
        return too_long or too_many or self.same_failure() or self._elapsed() >= self._policy.elapsed_seconds

    def same_failure(self) -> bool:
        """Whether the last failures are one and the same server error."""
        last = self.failures[-SAME_FAILURES:]
        deterministic = [failure for failure in last if isinstance(failure, ServerError) and failure.status not in PASSING_STATUSES]
        return len(deterministic) == SAME_FAILURES and len({(failure.code, str(failure)) for failure in deterministic}) == 1

    def _give_up(self, state: RetryCallState) -> None:
        error = _error(state)
        if isinstance(error, TransientError) and (error.retry_after_seconds or 0.0) > self._policy.elapsed_seconds:
            minutes = (error.retry_after_seconds or 0.0) / 60.0
            raise AccountError(f"the provider asks to wait {minutes:.0f} minutes ({error}); resume then with the same command") from error
        raise RetriesExhaustedError(len(self.failures), self._elapsed(), error) from error

    def _elapsed(self) -> float:
        return anyio.current_time() - self._started - self._queued_seconds


def wait_seconds(policy: RetryPolicy, error: CallError, attempts: int, jitter: float) -> float:
    """The wait after so many attempts of one call, the last of which ended like this; ``jitter`` between 0 and 1."""
    asked = error.retry_after_seconds if isinstance(error, TransientError) else None
    if asked is not None and isfinite(asked) and asked >= 0.0:
        return asked + jitter * policy.first_wait_seconds
    doublings = max(0, attempts - PACED_ATTEMPTS) if isinstance(error, RateLimitedError) else attempts - 1
    return min(policy.longest_wait_seconds, policy.first_wait_seconds * 2.0**doublings) * (0.5 + jitter)


def _error(state: RetryCallState) -> CallError:
    outcome = state.outcome
    error = outcome.exception() if outcome is not None else None
    if not isinstance(error, CallError):
        raise TypeError(f"only call errors are retried, not {error!r}")
    return error
