"""The turn store keeps what it was given: through group commits, cancellations, other processes, full disks and torn files."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from safemt_api.errors import StoreError, UsageError
from safemt_api.messages import Outcome, Reply
from safemt_api.store import sqlite
from safemt_api.store.connection import Connection, Dialect
from safemt_api.store.migrations import MIGRATIONS, migrate
from safemt_api.store.records import reply_to_json
from safemt_api.store.sqlite import APPLICATION_ID, SqliteDatabase, connect
from safemt_api.store.turns import STORE_FILE, TurnStore, open_store

Make = Callable[..., Reply]
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store of a test lies."""
    return tmp_path / "results" / STORE_FILE


def writer_of(store: TurnStore) -> sqlite3.Connection:
    assert isinstance(store._database, SqliteDatabase)
    return store._database.writer


async def put(store: TurnStore, key: str, reply: Reply, cost_usd: float | None = 0.5) -> None:
    await store.put(key, request=b'{"model":"x"}', reply=reply, cost_usd=cost_usd)


def rows(path: Path) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT key, request FROM replies"))


@pytest.mark.parametrize(
    "text", ["", "plain", "nul \x00 inside", "\u2028 \ufffd \U0001f600 اَلْعَرَبِيَّةُ", "'; DROP TABLE replies; --", "x" * 200_000]
)
async def test_a_reply_comes_back_as_it_was_put(path: Path, reply: Make, text: str) -> None:
    async with open_store(path) as store:
        await put(store, "k", reply(text, raw=text))
        found = await store.get("k")
    assert found is not None
    assert found.reply == reply(text, raw=text)
    assert found.cost_usd == 0.5


async def test_an_unknown_key_has_no_reply(path: Path) -> None:
    async with open_store(path) as store:
        assert await store.get("k") is None


async def test_replies_are_there_when_the_store_is_opened_again(path: Path, reply: Make) -> None:
    async with open_store(path) as store:
        await put(store, "k", reply("first"), cost_usd=None)
    async with open_store(path) as store:
        found = await store.get("k")
    assert found is not None
    assert (found.reply.text, found.cost_usd) == ("first", None)


async def test_the_first_reply_to_a_key_stays(path: Path, reply: Make) -> None:
    async with open_store(path) as store:
        await put(store, "k", reply("first"))
        await put(store, "k", reply("second"))
        found = await store.get("k")
    assert found is not None
    assert found.reply.text == "first"


async def test_a_put_is_synced_when_it_returns(path: Path, reply: Make) -> None:
    async with open_store(path) as store:
        await put(store, "k", reply())
        assert rows(path) == {"k": '{"model":"x"}'}
        assert store.read(lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0]) == 2
        assert store.read(lambda connection: connection.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"


async def test_many_puts_at_once_share_commits(path: Path, reply: Make) -> None:
    async with open_store(path) as store:
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(put, store, f"k{number}", reply(str(number)))
        statistics = store.statistics()
        assert all([await store.get(f"k{number}") is not None for number in range(200)])
    assert statistics.writes == 200
    assert statistics.commits < 20


async def test_a_cancelled_put_is_kept(path: Path, reply: Make) -> None:
    async with open_store(path) as store:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await put(store, "k", reply())
        assert await store.get("k") is not None


async def test_a_cancellation_while_puts_wait_loses_nothing(path: Path, reply: Make) -> None:
    async with open_store(path) as store:
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(put, store, f"k{number}", reply())
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        handed_over = store.statistics().writes
        there = sum([await store.get(f"k{number}") is not None for number in range(50)])
    assert there == handed_over == 50


async def test_what_a_work_returns_comes_back_and_what_it_raises_too(path: Path) -> None:
    def work(connection: Connection) -> int:
        return int(connection.execute("SELECT 41 + 1").fetchone()[0])

    def defect(connection: Connection) -> None:
        raise LookupError("a defect")

    async with open_store(path) as store:
        assert await store.write(work) == 42
        with pytest.raises(LookupError, match="a defect"):
            await store.write(defect)
        assert await store.write(work) == 42


async def test_one_work_that_fails_does_not_take_the_others_with_it(path: Path, reply: Make) -> None:
    def defect(connection: Connection) -> None:
        connection.execute("INSERT INTO replies VALUES ('half', '', '', '', '', 0, NULL)")
        raise LookupError("a defect")

    failures = []

    async def fail(store: TurnStore) -> None:
        try:
            await store.write(defect)
        except LookupError as error:
            failures.append(error)

    async with open_store(path) as store:
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(put, store, f"k{number}", reply())
            group.start_soon(fail, store)
            for number in range(10, 20):
                group.start_soon(put, store, f"k{number}", reply())
        assert all([await store.get(f"k{number}") is not None for number in range(20)])
        assert await store.get("half") is None
    assert len(failures) == 1


async def test_an_error_inside_the_block_comes_out_as_it_is(path: Path) -> None:
    with pytest.raises(UsageError, match="wrong option"):
        async with open_store(path):
            raise UsageError("wrong option")


async def test_a_cancelled_block_ends_as_cancelled_and_keeps_all(path: Path, reply: Make) -> None:
    with anyio.move_on_after(0.1) as scope:
        async with open_store(path) as store:
            await put(store, "k", reply())
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert list(rows(path)) == ["k"]


WRITER = """
import sys, anyio
from pathlib import Path
from safemt_api.messages import Outcome, Reply
from safemt_api.store.turns import open_store

async def main(path, name, count, start):
    import time
    while time.time() < start:
        pass
    async with open_store(path) as store:
        print("open", flush=True)
        for number in range(count):
            await store.put(f"{name}{number}", request=b"{}", reply=Reply(Outcome.ANSWERED, name), cost_usd=None)
            await store.put(f"both{number}", request=b"{}", reply=Reply(Outcome.ANSWERED, name), cost_usd=None)
            print(number, flush=True)

anyio.run(main, Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
"""


def start_writer(path: Path, name: str, count: int, *, start: float = 0.0) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", WRITER, str(path), name, str(count), str(start)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_create_the_same_store_at_the_same_moment_share_it(path: Path) -> None:
    path.parent.mkdir()
    start = time.time() + 1.5
    writers = [start_writer(path, name, 20, start=start) for name in "abc"]
    for writer in writers:
        _, complaint = writer.communicate(timeout=50)
        assert (writer.returncode, complaint) == (0, "")
    assert set(rows(path)) == {f"{name}{number}" for name in ("a", "b", "c", "both") for number in range(20)}


def test_creating_in_many_threads_at_once_never_fails(path: Path) -> None:
    import threading

    failures: list[Exception] = []
    gate = threading.Barrier(8)

    def create(target: Path) -> None:
        gate.wait()
        try:
            connect(target).close()
        except Exception as error:  # noqa: BLE001 (whatever it is, the test names it)
            failures.append(error)

    for attempt in range(10):
        threads = [threading.Thread(target=create, args=(path.with_name(f"{attempt}.sqlite"),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_killed_writer_loses_nothing_that_it_acknowledged(path: Path) -> None:
    writer = start_writer(path, "a", 100_000)
    assert writer.stdout is not None
    for line in writer.stdout:
        if line.strip() == "30":
            break
    writer.kill()
    rest = writer.stdout.read().split()
    writer.communicate()
    acknowledged = int(rest[-1]) if rest and rest[-1].isdigit() else 30
    assert {f"a{number}" for number in range(acknowledged + 1)} <= set(rows(path))


async def test_a_locked_store_is_an_error_with_a_cure(path: Path, reply: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.05)
    async with open_store(path) as store:
        await put(store, "k", reply())
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked by another program; close that program"):
                await put(store, "late", reply())
            connect(path).close()  # what is there can be read by whoever opens it now
            assert await store.get("k") is not None
            other.execute("ROLLBACK")
        await put(store, "late", reply())
        assert await store.get("late") is not None


async def test_a_store_that_cannot_be_written_is_an_error_and_keeps_what_it_has(path: Path, reply: Make) -> None:
    async with open_store(path) as store:
        await put(store, "k", reply())
        writer_of(store).execute("PRAGMA query_only = ON")
        with pytest.raises(StoreError, match=r"read-only.*make the file and its folder writable"):
            await put(store, "late", reply())
        assert await store.get("k") is not None
        assert await store.get("late") is None


async def test_a_full_disk_is_an_error_and_damages_nothing(path: Path, reply: Make) -> None:
    async with open_store(path) as store:
        await put(store, "k", reply())
        (pages,) = writer_of(store).execute("PRAGMA page_count").fetchone()
        writer_of(store).execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StoreError, match=r"disk is full.*free some space.*nothing is lost"):
            await put(store, "huge", reply("x" * 100_000))
        await put(store, "small", reply("fits"))
        assert await store.get("huge") is None
        assert store.read(lambda connection: connection.execute("PRAGMA integrity_check").fetchone()[0]) == "ok"
    assert set(rows(path)) == {"k", "small"}


def test_a_folder_in_the_files_place_is_an_error_with_a_cure(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be opened; check that the folder exists"):
        connect(path)


def test_a_file_in_the_folders_place_is_an_error_with_a_cure(path: Path) -> None:
    path.parent.write_text("a file")
    with pytest.raises(StoreError, match=r"the folder cannot be made.*--results"):
        connect(path)


@pytest.mark.parametrize("content", [b"this is no database, but words " * 100, b"SQLite format 3\x00" + b"\xff" * 4000])
def test_a_file_that_is_no_database_is_an_error_and_stays_as_it_is(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged|no database"):
        connect(path)
    assert path.read_bytes() == content


async def read_all(path: Path) -> None:
    async with open_store(path) as store:
        for number in range(50):
            await store.get(f"k{number}")


async def test_a_truncated_store_is_an_error_and_stays_as_it_is(path: Path, reply: Make) -> None:
    async with open_store(path) as store:
        for number in range(50):
            await put(store, f"k{number}", reply("x" * 3000))
    before = halve(path)
    with pytest.raises(StoreError, match="damaged"):
        await read_all(path)
    assert content_of(path) == before


def halve(path: Path) -> bytes:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 100])
    return content_of(path)


def content_of(path: Path) -> bytes:
    return path.read_bytes()


DAMAGES = (
    "UPDATE replies SET reply = replace(reply, 'Words', 'Wards')",
    "UPDATE replies SET reply = '{'",
    "UPDATE replies SET reply = CAST(x'7bff' AS TEXT)",
    "UPDATE replies SET raw = NULL",
    "UPDATE replies SET raw = raw || ' '",
    "UPDATE replies SET cost_usd = cost_usd / 10",
    "UPDATE replies SET cost_usd = NULL",
    "UPDATE replies SET key = 'k', checksum = 'x'",
)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_reply_is_none_and_the_next_one_takes_its_place(path: Path, reply: Make, damage: str) -> None:
    async with open_store(path) as store:
        await put(store, "k", reply())
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(damage).rowcount == 1
    async with open_store(path) as store:
        assert await store.get("k") is None
        await put(store, "k", reply("anew"))
        found = await store.get("k")
        assert store.statistics().damaged == 1
    assert found is not None
    assert found.reply.text == "anew"


async def test_a_reply_moved_under_another_key_is_damaged(path: Path, reply: Make) -> None:
    async with open_store(path) as store:
        await put(store, "a", reply())
        await store.write(lambda connection: connection.execute("UPDATE replies SET key = 'b'"))
        assert await store.get("b") is None


async def test_a_row_of_an_older_version_has_no_checksum_and_must_only_be_readable(path: Path) -> None:
    row = "INSERT INTO replies (key, created_utc, request, reply, cost_usd) VALUES (?, '', '{}', ?, 0)"
    async with open_store(path) as store:
        await store.write(lambda connection: connection.execute(row, ("good", '{"outcome":"answered","text":"kept","usage":null}')))
        await store.write(lambda connection: connection.execute(row, ("bad", "{")))
        found = await store.get("good")
        assert await store.get("bad") is None
    assert found is not None
    assert found.reply.text == "kept"


async def test_a_store_has_an_id_of_its_own_that_stays(path: Path, tmp_path: Path) -> None:
    async with open_store(path) as store, open_store(tmp_path / "other" / STORE_FILE) as other:
        first = store.id
        assert len(first) == 32
        assert other.id != first
    async with open_store(path) as store:
        assert store.id == first


def test_a_database_of_another_program_is_refused_and_not_touched(path: Path) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (a)")
        other.commit()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="database of another program; move it away"):
        connect(path)
    assert path.read_bytes() == before


def test_a_store_of_a_newer_version_is_refused_and_not_touched(path: Path) -> None:
    with contextlib.closing(connect(path)) as connection:
        connection.execute("INSERT INTO migrations VALUES ('m900_from_the_future', 'then')")
    with pytest.raises(StoreError, match=r"newer version.*m900_from_the_future.*upgrade safemt-api"):
        connect(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM migrations").fetchone() == (len(MIGRATIONS) + 1,)


@pytest.mark.parametrize("old", range(len(MIGRATIONS) + 1))
async def test_every_older_schema_is_brought_up_to_date_with_its_replies(path: Path, reply: Make, old: int) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(connection, path, MIGRATIONS[:old])
        if old:
            row = ("old", "then", "{}", '{"outcome":"answered","text":"kept","usage":null}', None, 0.5)
            connection.execute("INSERT INTO replies (key, created_utc, request, reply, raw, cost_usd) VALUES (?, ?, ?, ?, ?, ?)", row)
    async with open_store(path) as store:
        await put(store, "new", reply())
        names = store.read(lambda connection: [name for (name,) in connection.execute("SELECT name FROM migrations ORDER BY name")])
        found = await store.get("old")
        tables = store.read(
            lambda connection: {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        )
    assert names == [migration.__name__ for migration in MIGRATIONS]
    assert {"replies", "charges", "spending"} <= tables
    assert (found.reply.text if found else None) == ("kept" if old else None)


def test_a_migration_that_fails_leaves_the_old_schema(path: Path) -> None:
    def m003_broken(connection: Connection, _sql: Dialect) -> None:
        connection.execute("CREATE TABLE half (a)")
        raise sqlite3.OperationalError("no more")

    with contextlib.closing(connect(path)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="no more"):
            migrate(connection, path, (*MIGRATIONS, m003_broken))
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
    connect(path).close()


def lay_out(folder: Path, main: bytes, log: bytes) -> Path:
    folder.mkdir()
    (folder / STORE_FILE).write_bytes(main)
    (folder / f"{STORE_FILE}-wal").write_bytes(log)
    return folder / STORE_FILE


async def test_a_torn_log_gives_a_beginning_of_the_acknowledged_replies(path: Path, reply: Make, tmp_path: Path) -> None:
    async with open_store(path) as store:
        for number in range(40):
            await put(store, f"k{number:02}", reply("x" * random.Random(number).randrange(20, 6000)))
        wal = path.with_name(path.name + "-wal")
        main, log = content_of(path), content_of(wal)
    assert len(log) > 100_000
    draws = random.Random(7)
    counts = []
    for attempt, cut in enumerate([0, 1, 31, 32, 33, len(log), *(draws.randrange(len(log)) for _ in range(25))]):
        torn = lay_out(tmp_path / f"torn{attempt}", main, log[:cut])
        async with open_store(torn) as store:
            found = store.read(lambda connection: [key for (key,) in connection.execute("SELECT key FROM replies ORDER BY key")])
            assert found == [f"k{number:02}" for number in range(len(found))]
            assert all([await store.get(key) is not None for key in found])
            await put(store, "more", reply())
        counts.append(len(found))
        shutil.rmtree(torn.parent)
    assert counts[5] == 40
    assert counts[0] == 0
    assert len(set(counts)) > 10


def test_the_outcome_of_a_reply_is_stored_by_name() -> None:
    assert reply_to_json(Reply(Outcome.REFUSED)).find('"refused"') > 0
