"""A run's books are its own, whatever it is called; those of older versions were kept under its name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from safemt_api.errors import ServerError
from safemt_api.limits.budget import Ledger
from safemt_api.store.books import entered, name_of, replies_bought
from safemt_api.store.turns import STORE_FILE, TurnStore, open_store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TurnStore]:
    """A store in which a run called "old" spent 0.75 dollars under an older version."""
    async with open_store(tmp_path / STORE_FILE) as opened:
        await spend(opened, "old", 0.5, key="a")
        await spend(opened, "old", 0.25, key="b")
        yield opened


async def spend(store: TurnStore, run: str, usd: float, *, key: str) -> None:
    money = Ledger(store, run=run, ceiling_usd=10.0)
    async with money.reserved(key=key, purpose="target", most_usd=1.0) as reservation:
        await store.write(money.settle(reservation, usd))


def committed(store: TurnStore, run: str) -> float:
    return Ledger(store, run=run, ceiling_usd=None).committed_usd()


async def test_what_was_booked_under_a_name_becomes_the_runs_own_once(store: TurnStore) -> None:
    await store.write(entered("id-1", "old"))
    assert (committed(store, "id-1"), committed(store, "old")) == (0.75, 0.0)
    assert Ledger(store, run="id-1", ceiling_usd=None).spent_usd()["target"] == 0.75
    await spend(store, "id-1", 0.25, key="c")
    await store.write(entered("id-1", "renamed"))
    await store.write(entered("id-2", "old"))
    assert (committed(store, "id-1"), committed(store, "id-2")) == (1.0, 0.0)


async def test_a_run_is_known_once_it_is_entered(store: TurnStore) -> None:
    assert store.read(name_of("id-1")) is None
    await store.write(entered("id-1", "new"))
    assert store.read(name_of("id-1")) == "new"
    assert committed(store, "id-1") == 0.0


async def test_replies_that_were_paid_for_are_counted_against_those_that_are_there(store: TurnStore) -> None:
    row = "INSERT INTO replies (key, created_utc, request, reply) VALUES ('a', '', '', '')"
    assert store.read(replies_bought("old")) == (2, 0)
    await store.write(lambda connection: connection.execute(row))
    money = Ledger(store, run="old", ceiling_usd=10.0)
    with pytest.raises(ServerError):
        async with money.reserved(key="never answered", purpose="target", most_usd=0.1):
            raise ServerError("half an answer", maybe_billed=True)
    await spend(store, "another", 0.1, key="z")
    assert store.read(replies_bought("old")) == (2, 1)
    assert store.read(replies_bought("unknown")) == (0, 0)
