"""Several addresses: the least busy one gets the next call, one that fails at the connection is set aside and comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Any

import anyio
import pytest

from safemt_api.errors import ConnectionFailedError, DialogueError, RateLimitedError, ServerError
from safemt_api.limits.fleet import Endpoint, Fleet

Virtually = Callable[[Callable[[], Awaitable[Any]]], Any]


def fleet_of(*names: str) -> Fleet[str]:
    return Fleet([Endpoint(name, name) for name in names])


def fail(fleet: Fleet[str], error: Exception) -> str:
    with pytest.raises(type(error)), fleet.endpoint() as endpoint:
        raise error
    return endpoint.url


async def fleet_is_whole(fleet: Fleet[str]) -> None:
    while any(one.set_aside for one in fleet.statistics()):  # noqa: ASYNC110 (what is tested is that time alone ends it)
        await anyio.sleep(0.25)


def chosen(fleet: Fleet[str]) -> str:
    with fleet.endpoint() as endpoint:
        return endpoint.sender


DEAD = ConnectionFailedError("refused", connected=False, maybe_billed=False)


def test_each_call_goes_to_the_address_with_the_fewest_in_flight(virtually: Virtually) -> None:
    async def main() -> list[str]:
        fleet = fleet_of("a", "b", "c")
        with ExitStack() as stack:
            return [stack.enter_context(fleet.endpoint()).url for _ in range(7)]

    assert virtually(main) == ["a", "b", "c", "a", "b", "c", "a"]


def test_a_finished_call_makes_room(virtually: Virtually) -> None:
    async def main() -> str:
        fleet = fleet_of("a", "b")
        with fleet.endpoint():
            assert chosen(fleet) == "b"
            return chosen(fleet)

    assert virtually(main) == "b"


@pytest.mark.parametrize("error", [DEAD, ServerError("broken", status=503)])
def test_an_address_that_fails_is_set_aside_and_comes_back(virtually: Virtually, error: Exception) -> None:
    async def main() -> None:
        fleet = fleet_of("a", "b")
        assert fail(fleet, error) == "a"
        assert [one.set_aside for one in fleet.statistics()] == [True, False]
        assert {chosen(fleet) for _ in range(5)} == {"b"}
        await anyio.sleep(1.01)
        assert chosen(fleet) == "a"
        assert fleet.statistics()[0].failures == 1

    virtually(main)


def test_the_time_aside_doubles_up_to_a_minute_and_a_success_ends_it(virtually: Virtually) -> None:
    async def main() -> list[int]:
        fleet, times = fleet_of("a", "b"), []
        for _ in range(9):
            assert fail(fleet, DEAD) == "a"
            started = anyio.current_time()
            await fleet_is_whole(fleet)
            times.append(round(anyio.current_time() - started))
        assert chosen(fleet) == "a"
        fail(fleet, DEAD)
        await anyio.sleep(1.01)
        assert not fleet.statistics()[0].set_aside
        return times

    assert virtually(main) == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_all_calls_that_a_dying_server_drops_are_one_failure(virtually: Virtually) -> None:
    async def main() -> None:
        fleet = fleet_of("a", "b")

        async def drop() -> None:
            with suppress(ConnectionFailedError), fleet.endpoint():
                await anyio.sleep(1.0)
                raise DEAD

        async with anyio.create_task_group() as group:
            for _ in range(16):
                group.start_soon(drop)
        assert [one.failures for one in fleet.statistics()] == [8, 8]
        # Counted one by one, eight failures would set each address aside for a minute.
        await anyio.sleep(1.01)
        assert not any(one.set_aside for one in fleet.statistics())

    virtually(main)


def test_one_address_alone_is_never_locked_out(virtually: Virtually) -> None:
    async def main() -> None:
        fleet = fleet_of("a")
        fail(fleet, DEAD)
        assert chosen(fleet) == "a"

    virtually(main)


@pytest.mark.parametrize("error", [RateLimitedError("slow"), DialogueError("too long"), RuntimeError("a defect")])
def test_other_failures_set_nothing_aside_and_free_the_place(virtually: Virtually, error: Exception) -> None:
    async def main() -> None:
        fleet = fleet_of("a", "b")
        assert fail(fleet, error) == "a"
        assert [(one.in_flight, one.set_aside, one.failures) for one in fleet.statistics()] == [(0, False, 0)] * 2

    virtually(main)


def test_an_unreadable_reply_sets_no_address_aside(virtually: Virtually) -> None:
    async def main() -> None:
        fleet = fleet_of("a", "b")
        assert fail(fleet, ServerError("empty reply", code="unusable_reply", maybe_billed=True)) == "a"
        assert not any(one.set_aside for one in fleet.statistics())

    virtually(main)
