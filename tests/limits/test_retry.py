"""When a call is tried again, after what wait, and when it is not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from safemt_api.errors import (
    AccountError,
    CallError,
    ConnectionFailedError,
    DialogueError,
    RateLimitedError,
    RetriesExhaustedError,
    ServerError,
    TransientError,
)
from safemt_api.limits.retry import Attempts, RetryPolicy, wait_seconds

Virtually = Callable[[Callable[[], Awaitable[Any]]], Any]


class Tries:
    """A call that fails as told, then succeeds; notes when it was tried."""

    def __init__(self, failures: Iterator[BaseException] | list[BaseException]) -> None:
        self.failures, self.times, self.sleeps = iter(failures), list[float](), 0

    async def run(self, policy: RetryPolicy | None = None, *, seconds: float = 0.0, jitter: float = 0.5) -> str:
        attempts = Attempts(policy or RetryPolicy(), jitter=lambda: jitter)
        async for attempt in attempts.retrying(self.note):
            with attempt:
                self.times.append(anyio.current_time())
                await anyio.sleep(seconds)
                failure = next(self.failures, None)
                if failure is not None:
                    raise failure
                return "answered"
        raise AssertionError

    def note(self, _: object) -> None:
        self.sleeps += 1

    @property
    def waits(self) -> list[float]:
        return [round(later - earlier, 6) for earlier, later in zip(self.times, self.times[1:], strict=False)]


def forever(make: Callable[[int], BaseException]) -> Iterator[BaseException]:
    number = 0
    while True:
        yield make(number)
        number += 1


def server(number: int = 0, status: int = 503) -> ServerError:
    return ServerError(f"failed {number}", status=status)


def test_a_call_that_succeeds_is_tried_once(virtually: Virtually) -> None:
    tries = Tries([])
    assert virtually(tries.run) == "answered"
    assert (len(tries.times), tries.sleeps) == (1, 0)


def test_waits_double_up_to_the_longest(virtually: Virtually) -> None:
    tries = Tries([server(number) for number in range(7)])
    policy = RetryPolicy(longest_wait_seconds=10.0)
    assert virtually(lambda: tries.run(policy)) == "answered"
    assert tries.waits == [1, 2, 4, 8, 10, 10, 10]
    assert tries.sleeps == 7


@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_jitter_stays_within_half_of_the_wait(virtually: Virtually, jitter: float) -> None:
    tries = Tries([server()])
    virtually(lambda: tries.run(jitter=jitter))
    assert 0.5 <= tries.waits[0] < 1.5


def test_failures_of_its_own_end_at_the_cap_on_attempts(virtually: Virtually) -> None:
    tries = Tries(forever(server))
    with pytest.raises(RetriesExhaustedError, match="gave up after 8 attempts") as caught:
        virtually(tries.run)
    assert len(tries.times) == 8
    assert caught.value.status == 503
    assert isinstance(caught.value, DialogueError)


def test_being_told_to_slow_down_is_no_failure_of_the_call(virtually: Virtually) -> None:
    tries = Tries([RateLimitedError("slow down", status=429) for _ in range(15)])
    assert virtually(lambda: tries.run(RetryPolicy(longest_wait_seconds=20.0))) == "answered"


def test_the_cap_on_elapsed_time_ends_even_patient_tries(virtually: Virtually) -> None:
    tries = Tries(forever(lambda _: RateLimitedError("slow down", status=429)))
    with pytest.raises(RetriesExhaustedError):
        virtually(tries.run)
    elapsed = tries.times[-1] - tries.times[0]
    assert 900 <= elapsed <= 900 + 90


def test_slow_failures_end_by_elapsed_time_before_the_cap_on_attempts(virtually: Virtually) -> None:
    tries = Tries(forever(server))
    with pytest.raises(RetriesExhaustedError, match=r"after 2 attempts in 1[0-9]{3} s"):
        virtually(lambda: tries.run(seconds=600.0))


def test_the_vendors_wait_is_honoured(virtually: Virtually) -> None:
    tries = Tries([RateLimitedError("slow down", status=429, retry_after_seconds=123.0), server()])
    virtually(lambda: tries.run(jitter=0.25))
    assert tries.waits[0] == 123.25


def test_a_wait_of_zero_is_a_short_one(virtually: Virtually) -> None:
    tries = Tries([RateLimitedError("slow down", retry_after_seconds=0.0), RateLimitedError("slow down", retry_after_seconds=-5.0)])
    virtually(tries.run)
    assert all(0 <= wait <= 1 for wait in tries.waits)


@pytest.mark.parametrize("asked", [float("nan"), float("inf") * -1, -1e9])
def test_a_wait_that_is_none_gives_way_to_our_own(asked: float) -> None:
    error = RateLimitedError("slow down", retry_after_seconds=asked)
    assert wait_seconds(RetryPolicy(), error, 1, 0.5) == 1.0


def test_the_limiter_holds_the_pace_so_a_429_alone_does_not_double_the_wait() -> None:
    waits = [wait_seconds(RetryPolicy(), RateLimitedError("slow down"), attempts, 0.5) for attempts in (1, 8, 9, 10)]
    assert waits == [1.0, 1.0, 2.0, 4.0]


def test_a_wait_beyond_the_cap_stops_the_account_at_once(virtually: Virtually) -> None:
    tries = Tries([RateLimitedError("come back tomorrow", retry_after_seconds=86_400.0)])
    with pytest.raises(AccountError, match=r"asks to wait 1440 minutes.*come back tomorrow.*resume"):
        virtually(tries.run)
    assert len(tries.times) == 1


def test_the_same_500_three_times_is_the_dialogues_own_failure(virtually: Virtually) -> None:
    tries = Tries(forever(lambda _: ServerError("boom", status=500, code="internal")))
    with pytest.raises(DialogueError, match="boom"):
        virtually(tries.run)
    assert len(tries.times) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda number: ServerError(f"boom {number}", status=500),
        lambda number: ServerError("boom", status=503),
        lambda number: ServerError("boom", status=500) if number % 3 else RateLimitedError("slow"),
        lambda number: ConnectionFailedError("reset", connected=True, maybe_billed=True),
    ],
)
def test_other_failures_are_tried_more_often(virtually: Virtually, make: Callable[[int], TransientError]) -> None:
    tries = Tries(forever(make))
    with pytest.raises(RetriesExhaustedError):
        virtually(tries.run)
    assert len(tries.times) >= 8


@pytest.mark.parametrize("error", [DialogueError("too long"), AccountError("no credit"), RuntimeError("a defect")])
def test_what_is_not_transient_is_raised_as_it_is_and_never_tried_again(virtually: Virtually, error: Exception) -> None:
    tries = Tries([error])
    with pytest.raises(type(error)) as caught:
        virtually(tries.run)
    assert caught.value is error
    assert len(tries.times) == 1


def test_a_cancellation_is_no_failure_to_retry(virtually: Virtually) -> None:
    tries = Tries([])

    async def main() -> bool:
        with anyio.move_on_after(5) as scope:
            await tries.run(seconds=100)
        return scope.cancelled_caught

    assert virtually(main)
    assert len(tries.times) == 1


def test_that_a_call_may_have_been_billed_is_kept_when_it_is_given_up(virtually: Virtually) -> None:
    tries = Tries(forever(lambda _: ConnectionFailedError("reset", connected=True, maybe_billed=True)))
    with pytest.raises(CallError) as caught:
        virtually(tries.run)
    assert caught.value.maybe_billed
