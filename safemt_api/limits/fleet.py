"""Several addresses of the same model: each call goes to the one with the fewest calls in flight.

An address that fails at the connection is set aside for a while that doubles with each failure, and its calls go to the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

import anyio

from safemt_api.errors import ConnectionFailedError, ServerError

T = TypeVar("T")

FIRST_ASIDE_SECONDS = 1.0
LONGEST_ASIDE_SECONDS = 60.0


class EndpointStatistics(NamedTuple):
    """One address: calls in flight, calls that failed at the connection, and whether it is set aside now."""

    url: str
    in_flight: int
    failures: int
    set_aside: bool


class Endpoint(Generic[T]):
    """One address with whatever talks to it."""

    __slots__ = ("_aside_since", "_in_row", "aside_until", "failures", "in_flight", "sender", "url")

    def __init__(self, url: str, sender: T) -> None:
        self.url, self.sender = url, sender
        self.in_flight = self.failures = self._in_row = 0
        self.aside_until = self._aside_since = float("-inf")

    def succeeded(self) -> None:
        """It answers: no longer set aside."""
        self._in_row = 0
        self.aside_until = float("-inf")

    def failed(self, now: float, *, began: float) -> None:
        """It does not answer: set it aside, longer each time. Calls that were under way when it was set aside fail of the same cause."""
        self.failures += 1
        if began < self._aside_since:
            return
        self._aside_since = now
        self.aside_until = now + min(LONGEST_ASIDE_SECONDS, FIRST_ASIDE_SECONDS * 2.0**self._in_row)
        self._in_row += 1


class Fleet(Generic[T]):
    """The addresses of one account."""

    def __init__(self, endpoints: Sequence[Endpoint[T]]) -> None:
        self._endpoints = tuple(endpoints)

    @contextmanager
    def endpoint(self) -> Iterator[Endpoint[T]]:
        """The best address now; its success or failure is noted when the block ends.

        With every address set aside, the one whose time is nearest is tried: one address alone is never locked out.
        """
        now = anyio.current_time()
        ready = [endpoint for endpoint in self._endpoints if endpoint.aside_until <= now]
        chosen = min(ready, key=lambda one: one.in_flight) if ready else min(self._endpoints, key=lambda one: one.aside_until)
        chosen.in_flight += 1
        try:
            yield chosen
        except (ConnectionFailedError, ServerError) as error:
            # An empty or unreadable reply comes from a server that works; only one that says it fails, or says nothing, is set aside.
            if isinstance(error, ConnectionFailedError) or (error.status or 0) >= 500:
                chosen.failed(anyio.current_time(), began=now)
            raise
        else:
            chosen.succeeded()
        finally:
            chosen.in_flight -= 1

    def statistics(self) -> tuple[EndpointStatistics, ...]:
        """Each address's state now."""
        now = anyio.current_time()
        return tuple(EndpointStatistics(one.url, one.in_flight, one.failures, one.aside_until > now) for one in self._endpoints)
