"""One loop serves play and judging: in order, so many at a time, until it is enough, and what one raises ends all."""

from __future__ import annotations

import anyio
import pytest

from safemt_api.runs.workers import work_through


async def test_everything_is_worked_on_once_and_begun_in_order_so_many_at_a_time() -> None:
    begun: list[int] = []
    at_work: set[int] = set()
    most = 0

    async def work(one: int) -> int | None:
        nonlocal most
        begun.append(one)
        at_work.add(one)
        most = max(most, len(at_work))
        await anyio.sleep(0.01 * (one % 3))
        at_work.discard(one)
        return None if one % 5 == 0 else one

    done: list[int] = []

    def take(one: int) -> bool:
        done.append(one)
        return False

    await work_through(list(range(20)), work, take, workers=4)
    assert (begun, most) == (list(range(20)), 4)
    assert sorted(done) == [one for one in range(20) if one % 5]
    await work_through([], work, lambda _: False, workers=4)


async def test_when_it_is_enough_what_has_begun_ends_and_nothing_more_begins() -> None:
    begun: list[int] = []
    done: list[int] = []

    async def work(one: int) -> int:
        begun.append(one)
        await anyio.sleep(0.05 if one else 0.0)
        return one

    def take(one: int) -> bool:
        done.append(one)
        return one == 0

    await work_through(list(range(10)), work, take, workers=3)
    assert (begun, sorted(done)) == ([0, 1, 2], [0, 1, 2])


async def test_what_one_raises_ends_all() -> None:
    done: list[int] = []

    async def work(one: int) -> int:
        await anyio.sleep(0.01 * one)
        if one == 1:
            raise ValueError("no")
        await anyio.sleep(0.02)
        return one

    def take(one: int) -> bool:
        done.append(one)
        return False

    with pytest.raises(BaseExceptionGroup) as caught:
        await work_through([0, 1, 2, 3], work, take, workers=4)
    assert caught.group_contains(ValueError)
    assert done == []
