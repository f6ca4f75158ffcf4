"""The store in a real PostgreSQL: the same replies and the same cents as in a file, through restarts, rivals and wrong addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest

from safemt_api.errors import BudgetExhaustedError, StoreError, UsageError
from safemt_api.limits.budget import Ledger
from safemt_api.messages import Outcome, Reply
from safemt_api.store import postgresql
from safemt_api.store.connection import Connection, ServerAddress, server_address
from safemt_api.store.turns import TurnStore, looked_up, open_store
from tests.server import PASSWORD, Server, running_server

REPLY = Reply(Outcome.ANSWERED, "Words \x00 and \\ more.", raw='{"said": "\x00 \\\\x"}')


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for this module."""
    with running_server() as running:
        yield running


@pytest.fixture
def place(server: Server) -> ServerAddress:
    """An empty database."""
    return server.new_database()


async def keep(store: TurnStore, money: Ledger, key: str, cost_usd: float = 0.25) -> None:
    async with money.reserved(key=key, purpose="target", most_usd=0.5) as held:
        held.sent = True
        await store.put(key, request=b'{"a": "\\\\"}', reply=REPLY, cost_usd=cost_usd, also=money.settle(held, cost_usd))


def rows(place: ServerAddress, query: str) -> Any:
    return looked_up(place, lambda connection: connection.execute(query).fetchall())


async def test_a_reply_of_any_characters_comes_back_as_it_was(place: ServerAddress) -> None:
    async with open_store(place) as store:
        await store.put("k", request=b"{}", reply=REPLY, cost_usd=0.1)
        assert await store.get("none") is None
    async with open_store(place) as store:
        found = await store.get("k")
        assert found is not None
        assert (found.reply, found.cost_usd) == (REPLY, 0.1)
        first = await store.put("k", request=b"{}", reply=Reply(Outcome.ANSWERED, "later"), cost_usd=9.0)
        assert first == found


async def test_two_that_create_it_together_have_one_store(place: ServerAddress) -> None:
    ids = []

    async def one() -> None:
        async with open_store(place) as store:
            ids.append(store.id)

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(one)
    assert len(ids) == 6
    assert len(set(ids)) == 1


async def test_a_piece_that_fails_takes_no_other_with_it(place: ServerAddress) -> None:
    def torn(connection: Connection) -> None:
        connection.execute("INSERT INTO spending VALUES ('half', 1.0)")
        raise ZeroDivisionError

    async with open_store(place) as store:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(partial(store.put, f"k{number}", request=b"{}", reply=REPLY, cost_usd=None))
            with pytest.raises(ZeroDivisionError):
                await store.write(torn)
        assert await store.look(lambda connection: connection.execute("SELECT count(*) FROM replies").fetchone()[0]) == 20
        assert await store.look(lambda connection: connection.execute("SELECT count(*) FROM spending").fetchone()[0]) == 0


@pytest.mark.parametrize("mode", ["immediate", "fast"])
async def test_a_restart_under_load_is_waited_for_and_every_cent_is_booked_once(server: Server, place: ServerAddress, mode: str) -> None:
    done = 0
    async with open_store(place) as store:
        money = Ledger(store, run="run", ceiling_usd=1000.0)

        async def player(name: int) -> None:
            nonlocal done
            for number in range(40):
                await keep(store, money, f"{name} {number}")
                assert await store.get(f"{name} {number}") is not None
                done += 1

        async with anyio.create_task_group() as group:
            for name in range(12):
                group.start_soon(player, name)
            for goal in (60, 240):
                while done < goal:  # noqa: ASYNC110 (what is waited for is a count)
                    await anyio.sleep(0.01)
                await anyio.to_thread.run_sync(server.stop, mode)
                await anyio.sleep(0.3)
                await anyio.to_thread.run_sync(server.start)
        assert money.committed_usd() == pytest.approx(480 * 0.25)
    assert rows(place, "SELECT count(*), count(DISTINCT key) FROM charges WHERE state = 'settled'") == [(480, 480)]
    assert rows(place, "SELECT count(*) FROM charges WHERE state <> 'settled'") == [(0,)]
    assert rows(place, "SELECT count(*) FROM replies") == [(480,)]
    assert rows(place, "SELECT count(*) FROM writers") == [(0,)]


@dataclass
class Torn:
    """Loses the connection around the COMMIT of a transaction, after it has got through or before."""

    through: bool
    left: int = 3

    def __call__(self, raw: Any, query: Any, *more: Any, **others: Any) -> Any:
        if query != b"COMMIT" or not self.left:
            return self.execute(raw, query, *more, **others)
        self.left -= 1
        if self.through:
            self.execute(raw, query, *more, **others)
        raw.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    execute = staticmethod(psycopg.Connection.execute)


@pytest.mark.parametrize("through", [True, False])
async def test_a_commit_whose_answer_was_lost_is_settled_exactly(
    place: ServerAddress, monkeypatch: pytest.MonkeyPatch, through: bool
) -> None:
    ran = 0

    def work(connection: Connection) -> int:
        nonlocal ran
        ran += 1
        found = connection.execute(
            "INSERT INTO spending VALUES ('run', 1.0) ON CONFLICT (run) DO UPDATE SET committed_usd = spending.committed_usd + 1.0"
            " RETURNING committed_usd"
        )
        return int(found.fetchone()[0])

    async with open_store(place) as store:
        torn = Torn(through)
        monkeypatch.setattr(psycopg.Connection, "execute", lambda raw, query, *more, **others: torn(raw, query, *more, **others))  # noqa: PLW0108 (bound as a method)
        assert await store.write(work) == 1
        assert torn.left == 0
        assert await store.write(work) == 2
    assert ran == (2 if through else 5)
    assert rows(place, "SELECT committed_usd FROM spending") == [(2.0,)]


async def test_a_server_that_stays_away_is_one_sentence(server: Server, place: ServerAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "AWAY_SECONDS", 0.5)
    async with open_store(place) as store:
        await store.put("k", request=b"{}", reply=REPLY, cost_usd=None)
        await anyio.to_thread.run_sync(server.stop)
        try:
            with pytest.raises(StoreError, match=r"does not answer .*; check the address .* nothing is lost") as caught:
                await store.put("late", request=b"{}", reply=REPLY, cost_usd=None)
            assert PASSWORD not in str(caught.value)
            assert store.statistics().away_seconds is not None
        finally:
            await anyio.to_thread.run_sync(server.start)
        await store.put("late", request=b"{}", reply=REPLY, cost_usd=None)
        assert store.statistics().away_seconds is None


async def test_two_processes_share_one_ceiling(server: Server, place: ServerAddress) -> None:
    script = """
import sys, anyio
from safemt_api.errors import BudgetExhaustedError
from safemt_api.limits.budget import Ledger
from safemt_api.store.connection import server_address
from safemt_api.store.turns import open_store

async def main():
    async with open_store(server_address(sys.argv[1])) as store:
        money, bought = Ledger(store, run="run", ceiling_usd=2.0), 0
        try:
            for number in range(100):
                async with money.reserved(key=f"{sys.argv[2]} {number}", purpose="target", most_usd=0.07) as held:
                    held.sent = True
                    await store.write(money.settle(held, 0.07))
                    bought += 1
        except BudgetExhaustedError:
            print(bought)

anyio.run(main)
"""
    environment = {**os.environ, "PGPASSWORD": PASSWORD}
    players = [
        subprocess.Popen([sys.executable, "-c", script, str(place), name], env=environment, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
        for name in "ab"
    ]
    bought = [int(player.communicate(timeout=50)[0]) for player in players]
    assert sum(bought) == 28
    assert rows(place, "SELECT committed_usd FROM spending")[0][0] == pytest.approx(28 * 0.07)


async def test_a_process_that_is_killed_leaves_what_it_committed_and_nothing_else(place: ServerAddress) -> None:
    script = """
import os, signal, sys, anyio
from safemt_api.store.connection import server_address
from safemt_api.store.turns import open_store

async def main():
    async with open_store(server_address(sys.argv[1])) as store:
        await store.write(lambda connection: connection.execute("INSERT INTO spending VALUES ('kept', 1.0)") and None)
        def killed(connection):
            connection.execute("INSERT INTO spending VALUES ('half', 1.0)")
            os.kill(os.getpid(), signal.SIGKILL)
        await store.write(killed)

anyio.run(main)
"""
    environment = {**os.environ, "PGPASSWORD": PASSWORD}
    ended = await anyio.run_process([sys.executable, "-c", script, str(place)], env=environment, check=False)
    assert ended.returncode == -9
    async with open_store(place) as store:
        with anyio.fail_after(10):
            await store.put("k", request=b"{}", reply=REPLY, cost_usd=None)
    assert rows(place, "SELECT run FROM spending") == [("kept",)]


async def opened(place: ServerAddress) -> str:
    with pytest.raises(StoreError) as caught:
        async with open_store(place):
            pass
    said = str(caught.value)
    assert "\n" not in said
    assert PASSWORD not in said
    assert "wrong-pass" not in said
    return said


async def test_what_keeps_a_server_from_being_used_is_one_sentence_with_a_cure(server: Server, place: ServerAddress) -> None:
    name = str(place).rpartition("/")[2]
    assert "does not answer" in await opened(server_address("postgresql://owner@127.0.0.1:1/x"))
    assert "refuses the password; set PGPASSWORD" in await opened(server.address(name, password="wrong-pass"))
    assert "wants a password; set PGPASSWORD" in await opened(server_address(str(place)))
    assert "has no such database; check the address's end" in await opened(server.address("nowhere"))
    server.sql("DROP ROLE IF EXISTS guest")
    server.sql(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    assert "does not let this user make or use its tables; grant CREATE" in await opened(server.address(name, user="guest"))
    server.sql("CREATE SCHEMA safemt CREATE TABLE other (x int)", name)
    assert "of another program; give another database" in await opened(place)


async def test_a_database_with_other_tables_is_fine_and_a_newer_store_is_refused(server: Server, place: ServerAddress) -> None:
    name = str(place).rpartition("/")[2]
    server.sql("CREATE TABLE replies (x int)", name)
    async with open_store(place):
        pass
    server.sql("INSERT INTO safemt.migrations VALUES ('m999_later', 'now')", name)
    assert "was written by a newer version of safemt-api (it holds m999_later)" in await opened(place)


async def test_a_read_only_server_is_one_sentence(server: Server, place: ServerAddress) -> None:
    name = str(place).rpartition("/")[2]
    async with open_store(place):
        pass
    server.sql(f"ALTER DATABASE {name} SET default_transaction_read_only TO on")
    async with open_store(place) as store:
        with pytest.raises(StoreError, match="is a read-only standby; give the address of the primary"):
            await store.put("k", request=b"{}", reply=REPLY, cost_usd=None)


async def test_a_ceiling_ends_a_run_as_with_a_file(place: ServerAddress) -> None:
    async with open_store(place) as store:
        money = Ledger(store, run="run", ceiling_usd=1.0)
        for number in range(3):
            await keep(store, money, str(number))
        with pytest.raises(BudgetExhaustedError):
            await keep(store, Ledger(store, run="run", ceiling_usd=1.2), "4")


@pytest.mark.parametrize(
    ("given", "url", "password"),
    [
        ("postgresql://me:p%40ss@host:5433/db?sslmode=require", "postgresql://me@host:5433/db?sslmode=require", "p@ss"),
        ("postgres://host/db?password=word&user=me", "postgresql://host/db?user=me", "word"),
        ("postgresql:///db?service=lab", "postgresql:///db?service=lab", None),
    ],
)
def test_the_password_is_no_part_of_the_address(given: str, url: str, password: str | None) -> None:
    address = server_address(given)
    assert (str(address), address.password) == (url, password)
    assert server_address(address) is address


@pytest.mark.parametrize("given", ["mysql://me:word@host/db", "results/turns.sqlite", "", "postgresql"])
def test_what_is_no_address_is_not_repeated(given: str) -> None:
    with pytest.raises(UsageError, match="is no server's address: give postgresql://") as caught:
        server_address(given)
    assert "word" not in str(caught.value)
