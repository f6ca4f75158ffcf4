"""What shards of a run leave in the store for each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from safemt_api.store.shards import (
    Fence,
    Sharded,
    Standing,
    beaten,
    begun,
    ended,
    forgotten,
    line_places,
    lines_at,
    parts_of,
    sharded,
    taken,
    trial_over,
    trial_turn,
)
from safemt_api.store.turns import TurnStore, open_store

RUN = Sharded("r", "id1", "id1", 2, {"model": "m"}, {"run": "r"})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TurnStore]:
    """An empty store."""
    async with open_store(tmp_path / "turns.sqlite") as opened:
        yield opened


async def take(store: TurnStore, part: int, place: str = "here") -> Fence:
    found = await store.write(taken("r", part, id=f"part{part}", place=place, player="process 1"))
    return Fence("r", found.part, found.attempt)


async def test_the_first_shard_enters_the_run_and_the_others_find_it_so(store: TurnStore) -> None:
    assert store.read(sharded("r")) is None
    assert await store.write(begun(RUN)) == RUN
    other = RUN._replace(id="id2", purse="id2", parts=3)
    assert await store.write(begun(other)) == RUN
    assert store.read(sharded("r")) == RUN


async def test_a_part_keeps_the_id_of_its_books_and_an_attempt_that_was_replaced_is_refused(store: TurnStore) -> None:
    await store.write(begun(RUN))
    first = await take(store, 1)
    assert await store.write(beaten(first, {"finished": 1}, (b"", b"")))
    again = await store.write(taken("r", 1, id="another", place="there", player="process 2"))
    assert (again.id, again.attempt, again.place, again.counts) == ("part1", 2, "there", {"finished": 1})
    assert not await store.write(beaten(first, {"finished": 9}, (b"{}\n", b"")))
    assert store.read(line_places("r")) == []
    assert store.read(parts_of("r"))[0].counts == {"finished": 1}


async def test_rows_come_back_as_they_were_handed_in_the_latest_attempt_first_until_it_has_ended(store: TurnStore) -> None:
    await store.write(begun(RUN))
    first = await take(store, 1)
    await store.write(beaten(first, {}, (b'{"a":1}\n', b"")))
    await store.write(beaten(first, {}, (b'{"a":2}\n', b'{"v":"\xc3\xa9"}\n')))
    second = await take(store, 1)
    await store.write(beaten(second, {}, (b'{"a":3}\n', b"")))

    def rows() -> list[tuple[int, bytes, bytes]]:
        found = [store.read(lines_at("r", place)) for place in store.read(line_places("r"))]
        return [(one.attempt, one.transcripts, one.verdicts) for one in found if one is not None]

    assert rows() == [(2, b'{"a":3}\n', b""), (1, b'{"a":1}\n', b""), (1, b'{"a":2}\n', b'{"v":"\xc3\xa9"}\n')]
    await store.write(ended(second, "over", {"summary": {}}))
    assert rows() == [(2, b'{"a":3}\n', b"")]


async def test_exactly_one_of_those_that_end_together_finds_that_all_are_over(store: TurnStore) -> None:
    run = RUN._replace(parts=8)
    await store.write(begun(run))
    fences = [await take(store, part) for part in range(1, 9)]
    found: list[Standing] = []

    async def end(fence: Fence) -> None:
        found.append(await store.write(ended(fence, "over", {})))

    async with anyio.create_task_group() as group:
        for fence in fences:
            group.start_soon(end, fence)
    assert [one for one in found if one.all_over] == [Standing(8, 8)]


async def test_what_was_interrupted_is_not_over_and_keeps_the_record_of_before(store: TurnStore) -> None:
    await store.write(begun(RUN))
    fence = await take(store, 1)
    await store.write(ended(fence, "over", {"summary": {"status": "complete"}}))
    again = await take(store, 1)
    assert await store.write(ended(again, "interrupted")) == Standing(0, 2)
    assert store.read(parts_of("r"))[0].record == {"summary": {"status": "complete"}}


async def test_one_at_a_time_tries_the_judges_until_one_trial_was_good(store: TurnStore) -> None:
    await store.write(begun(RUN))
    assert await store.write(trial_turn("r", "a")) == "mine"
    assert await store.write(trial_turn("r", "b")) == "taken"
    await store.write(trial_over("r", "a", good=False))
    assert await store.write(trial_turn("r", "b")) == "mine"
    await store.write(trial_over("r", "b", good=True))
    assert await store.write(trial_turn("r", "c")) == "done"


async def test_a_run_that_is_forgotten_leaves_nothing(store: TurnStore) -> None:
    await store.write(begun(RUN))
    await store.write(beaten(await take(store, 1), {}, (b"{}\n", b"{}\n")))
    await store.write(forgotten("r"))
    assert (store.read(sharded("r")), store.read(parts_of("r")), store.read(line_places("r"))) == (None, [], [])
