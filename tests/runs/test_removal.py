"""What is removed is what was said; no reply goes that a run here may need, whoever paid for it, and nothing goes under anyone's hands."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import RunBusyError, StoreError, UsageError
from safemt_api.evaluation import evaluate
from safemt_api.runs.folder import VERDICTS_FILE, playing, scratch
from safemt_api.runs.play import RunResult
from safemt_api.runs.removal import collect_garbage, find_garbage, look_at, remove
from safemt_api.store.migrations import MIGRATIONS, migrate
from safemt_api.store.turns import STORE_FILE, open_store


async def played(results: Path, run: str, sample: int, **options: Any) -> RunResult:
    return await evaluate(
        model="sim-brittle", lengths=(1,), sample=sample, judges="simulator:sim-judge", run=run, results=results, **options
    )


def execute(results: Path, *statements: str) -> None:
    with closing(sqlite3.connect(results / STORE_FILE)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def replies(results: Path) -> int:
    with closing(sqlite3.connect(results / STORE_FILE)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM replies").fetchone()
    return int(count)


async def test_only_what_no_run_here_uses_is_freed_and_what_was_spent_stays_booked(tmp_path: Path) -> None:
    small, large = await played(tmp_path, "small", 2), await played(tmp_path, "large", 4)
    assert large.summary.calls.from_store > 0
    assert (await find_garbage(tmp_path)).unused.replies == 0
    remove(look_at("large", tmp_path))
    found = await find_garbage(tmp_path)
    assert (found.unused.replies, found.unused.users, found.undecided) == (large.summary.calls.sent, ("large",), ())
    assert found.unused.cost_usd == pytest.approx(large.summary.cost_usd.total, abs=1e-5)
    assert await collect_garbage(tmp_path) == found.unused.replies
    assert replies(tmp_path) == small.summary.calls.sent
    assert (await played(tmp_path, "small", 2)).summary.calls.sent == 0
    async with open_store(tmp_path / STORE_FILE) as store:
        spent = store.read(lambda connection: connection.execute("SELECT sum(committed_usd) FROM spending").fetchone()[0])
    totals = (small.summary.cost_usd.total, large.summary.cost_usd.total)
    assert spent == pytest.approx(sum(one or 0.0 for one in totals), abs=1e-5)


async def test_a_reply_that_a_run_took_from_the_store_outlives_the_run_that_paid_for_it(tmp_path: Path) -> None:
    await played(tmp_path, "payer", 4)
    second = await played(tmp_path, "second", 2)
    assert second.summary.calls.sent == 0
    remove(look_at("payer", tmp_path))
    assert await collect_garbage(tmp_path) > 0
    again = await played(tmp_path, "second", 2)
    assert (again.summary.calls.sent, again.summary.asr_by_turn) == (0, second.summary.asr_by_turn)


async def test_runs_of_before_uses_were_noted_keep_all_that_they_may_have_used_until_they_are_resumed(tmp_path: Path) -> None:
    await played(tmp_path, "payer", 4)
    await played(tmp_path, "older", 2)
    remove(look_at("payer", tmp_path))
    execute(tmp_path, "DELETE FROM uses", "UPDATE runs SET uses_noted = 0")
    found = await find_garbage(tmp_path)
    assert found.unused.replies == 0
    assert "older was played by an older version" in found.undecided[0]
    assert await collect_garbage(tmp_path) == 0
    # What was bought long after it ended it cannot have used.
    execute(tmp_path, "UPDATE replies SET created_utc = '2999-01-01T00:00:00.000+00:00' WHERE key = (SELECT min(key) FROM replies)")
    assert await collect_garbage(tmp_path) == 1
    assert (await played(tmp_path, "older", 2)).summary.calls.sent <= 1
    found = await find_garbage(tmp_path)
    assert found.undecided == ()
    assert found.unused.replies > 0


async def test_a_killed_run_keeps_everything_and_is_named(tmp_path: Path) -> None:
    await played(tmp_path, "payer", 4)
    killed = await played(tmp_path, "killed", 2)
    remove(look_at("payer", tmp_path))
    execute(tmp_path, "UPDATE runs SET uses_noted = 0 WHERE name = 'killed'")
    scratch(killed.folder, VERDICTS_FILE).write_text("")
    found = await find_garbage(tmp_path)
    assert (found.unused.replies, "killed has not come to its end" in found.undecided[0]) == (0, True)
    before = replies(tmp_path)
    assert (await collect_garbage(tmp_path), replies(tmp_path)) == (0, before)


async def test_nothing_is_freed_or_removed_while_somebody_is_at_work(tmp_path: Path) -> None:
    seen: list[str] = []

    async def watch(_: object) -> None:
        for look in (find_garbage, collect_garbage):
            with pytest.raises(RunBusyError, match="being played by process"):
                await look(tmp_path)
        with pytest.raises(RunBusyError):
            remove(look_at("r", tmp_path))
        seen.append("refused")

    result = await played(tmp_path, "r", 6, watch=watch, simulator_latency_seconds=0.3)
    assert (seen, result.summary.status) == (["refused"], "complete")
    assert result.folder.is_dir()


async def test_a_run_whose_file_is_damaged_keeps_every_reply(tmp_path: Path) -> None:
    result = await played(tmp_path, "r", 2)
    (result.folder / "run.json").write_text("{")
    for look in (find_garbage, collect_garbage):
        with pytest.raises(StoreError, match=r"run\.json"):
            await look(tmp_path)
    assert replies(tmp_path) == result.summary.calls.sent


def test_what_would_go_is_told_file_by_file_and_a_studys_arm_as_one(tmp_path: Path) -> None:
    for arm in ("a", "b"):
        (tmp_path / "s" / arm).mkdir(parents=True)
        (tmp_path / "s" / arm / "run.json").write_text(json.dumps({"schema": 1, "identity": {}}))
    (tmp_path / "s" / "study.json").write_text("{}")
    (tmp_path / "s" / "a" / "my-labels.csv").write_text("words")
    (tmp_path / "s" / "a" / "report.html").write_text("words")
    whole, one = look_at("s", tmp_path), look_at("s/a", tmp_path)
    assert (whole.arms, whole.study, whole.foreign) == (("a", "b"), None, ("a/my-labels.csv",))
    assert (one.arms, one.study, one.foreign, one.files) == ((), "s", ("my-labels.csv",), 3)
    with playing(tmp_path / "s" / "b", "s/b"), pytest.raises(RunBusyError):
        remove(whole)
    assert (tmp_path / "s" / "a" / "run.json").is_file()
    remove(whole)
    assert not (tmp_path / "s").exists()
    with pytest.raises(UsageError, match="no run called 's'"):
        look_at("s", tmp_path)


async def test_a_store_of_before_uses_were_noted_is_brought_up_to_date(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.sqlite", isolation_level=None)) as connection:
        connection.execute("PRAGMA application_id = 1398884692")
        migrate(connection, tmp_path, MIGRATIONS[:4])
        connection.execute("INSERT INTO runs VALUES ('id-1', 'r', '2026-01-01')")
        connection.execute("PRAGMA application_id = 0x53614D54")
    async with open_store(tmp_path / "old.sqlite") as store:
        rows = store.read(lambda connection: connection.execute("SELECT id, name, uses_noted FROM runs").fetchall())
    assert rows == [("id-1", "r", 0)]
