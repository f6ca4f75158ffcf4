"""Whole runs in shards, over real sockets: together they are the run of one process, whatever is killed, and nothing is bought twice."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import polars as pl
import pytest

from safemt_api.errors import NothingPlayedError, RunBusyError, SettingsChangedError, UsageError
from safemt_api.evaluation import evaluate, open_plan
from safemt_api.loaded import load_run
from safemt_api.runs.attempt import SILENT_SECONDS, enter_run
from safemt_api.runs.folder import settings_of
from safemt_api.runs.overview import overview
from safemt_api.runs.play import RunResult
from safemt_api.runs.rejudge import rejudge
from safemt_api.runs.removal import collect_garbage, find_garbage, forget, look_at, remove
from safemt_api.runs.settings import EvalSettings
from safemt_api.store.shards import taken
from safemt_api.store.turns import STORE_FILE, open_store

BASE: dict[str, Any] = {"model": "sim-average", "lengths": (1, 2), "sample": 12, "judges": ("simulator:sim-judge",)}
KEYS = ("dialogue_id", "length", "repeat", "turn")
SAME = (
    *("asr_by_turn", "safety_index", "by_method", "by_source", "coverage", "outcomes", "verdicts", "dialogues", "cost_usd", "status"),
    *("usage", "calls", "tiers"),
)


async def shard(results: Path, part: int, parts: int = 4, **options: Any) -> RunResult:
    return await evaluate(**{**BASE, "run": "r", "results": results, "shard": f"{part}/{parts}", **options})


async def all_at_once(results: Path, parts: int = 4, **options: Any) -> list[RunResult]:
    found: list[RunResult] = []

    async def play(part: int) -> None:
        found.append(await shard(results, part, parts, **options))

    async with anyio.create_task_group() as group:
        for part in range(1, parts + 1):
            group.start_soon(play, part)
    return found


def verdicts(folder: Path) -> list[tuple[Any, ...]]:
    frame = pl.read_parquet(folder / "verdicts.parquet").select(*KEYS, "judge", "label", "reason", "counts")
    return sorted(frame.rows(), key=str)


def replies(folder: Path) -> list[tuple[Any, ...]]:
    return sorted(pl.read_parquet(folder / "transcripts.parquet").select(*KEYS, "run", "reply_text", "messages").rows(), key=str)


def figures(found: RunResult) -> dict[str, Any]:
    value = found.summary.json_value()
    return {name: value[name] for name in SAME}


async def test_four_shards_at_once_are_the_run_of_one_process(tmp_path: Path) -> None:
    one = await evaluate(**BASE, run="r", results=tmp_path / "one")
    found = await all_at_once(tmp_path / "four")
    whole = [result for result in found if result.standing is not None and result.standing.all_over]
    assert [result.folder for result in whole] == [tmp_path / "four" / "r"]
    assert figures(whole[0]) == figures(one)
    assert whole[0].summary.calls.sent == one.summary.calls.sent
    assert verdicts(whole[0].folder) == verdicts(one.folder)
    assert replies(whole[0].folder) == replies(one.folder)
    assert sorted(folder.name for folder in (tmp_path / "four" / "r" / "shards").iterdir()) == [f"{n}-of-4" for n in range(1, 5)]
    (listed,) = overview(tmp_path / "four")
    assert (listed.run, listed.state, listed.planned, listed.finished, listed.shards, listed.shards_over) == ("r", "finished", 24, 24, 4, 4)


async def test_a_shard_that_is_played_twice_buys_nothing_and_keeps_the_whole_run(tmp_path: Path) -> None:
    whole = next(result for result in await all_at_once(tmp_path, 2) if result.folder.name == "r")
    again = await shard(tmp_path, 1, 2)
    assert again.folder == whole.folder
    # The judges were tried once, by whichever shard was first; a shard that is played again does without.
    of_calls = dict.fromkeys(("calls", "usage", "tiers"))
    assert figures(again) | of_calls == figures(whole) | of_calls
    assert again.summary.calls.sent < whole.summary.calls.sent
    assert verdicts(again.folder) == verdicts(whole.folder)


async def test_a_report_in_between_counts_what_is_played_and_calls_nothing_else_safe(tmp_path: Path) -> None:
    first = await shard(tmp_path, 1, 3)
    assert first.standing is not None
    assert (first.standing.over, first.standing.parts) == (1, 3)
    assert first.folder == tmp_path / "r" / "shards" / "1-of-3"
    run = load_run("r", results=tmp_path)
    assert run.summary.status == "interrupted"
    assert (run.summary.dialogues.planned, run.summary.dialogues.finished) == (24, 8)
    assert run.summary.cost_usd.total == first.summary.cost_usd.total
    assert sum(row.unsafe + row.safe for row in run.summary.asr_by_turn) == 8
    (listed,) = overview(tmp_path)
    assert (listed.state, listed.planned, listed.finished, listed.shards_over) == ("interrupted", 24, 8, 1)
    assert listed.spent_usd == first.summary.cost_usd.total


async def test_the_other_machines_need_no_folder_of_this_one(tmp_path: Path) -> None:
    for part in (1, 2, 3):
        found = await shard(tmp_path, part, 3)
        if part < 3:
            shutil.rmtree(tmp_path / "r")
    assert found.folder == tmp_path / "r"
    assert (found.summary.status, found.summary.dialogues.finished) == ("complete", 24)
    assert found.summary.cost_usd.total == (await evaluate(**BASE, run="r", results=tmp_path / "one")).summary.cost_usd.total


async def test_whoever_did_not_put_the_run_together_reads_it_whole_all_the_same(tmp_path: Path) -> None:
    found = await all_at_once(tmp_path, 2)
    whole = next(result for result in found if result.folder.name == "r")
    manifest = json.loads((whole.folder / "run.json").read_text())
    for name in ("summary.json", "transcripts.parquet", "verdicts.parquet"):
        (whole.folder / name).unlink()
    (whole.folder / "run.json").write_text(json.dumps({name: manifest[name] for name in manifest if name not in ("ended_utc", "files")}))
    run = load_run("r", results=tmp_path)
    assert (run.summary.status, run.summary.unfinished) == ("complete", None)
    assert (run.summary.cost_usd.total, run.safety_index) == (whole.summary.cost_usd.total, whole.summary.safety_index)


async def test_a_shard_with_other_settings_is_refused_with_the_difference_wherever_the_others_ran(tmp_path: Path) -> None:
    await shard(tmp_path, 1, 3)
    shutil.rmtree(tmp_path / "r")
    with pytest.raises(SettingsChangedError, match=r"its other shards.*\n  system: null → \"Be brief\.\""):
        await shard(tmp_path, 2, 3, system="Be brief.")
    with pytest.raises(SettingsChangedError, match="parts: 3 → 4"):
        await shard(tmp_path, 2, 4)
    with pytest.raises(UsageError, match="the run has 12 ids, so there can be 12 parts at most"):
        await shard(tmp_path, 2, 13)


async def test_a_run_is_in_shards_or_in_one_piece(tmp_path: Path) -> None:
    await shard(tmp_path, 1, 2)
    with pytest.raises(UsageError, match="run 'r' is played in 2 shards: give --shard I/2"):
        await evaluate(**BASE, run="r", results=tmp_path)
    await evaluate(**BASE, run="whole", results=tmp_path)
    with pytest.raises(UsageError, match="run 'whole' was begun in one piece"):
        await shard(tmp_path, 1, 2, run="whole")


async def test_a_shard_goes_on_by_its_folder(tmp_path: Path) -> None:
    await shard(tmp_path, 2, 2)
    settings = settings_of("r/shards/2-of-2", tmp_path)
    assert (settings.run, settings.shard) == ("r", "2/2")
    again = await evaluate(settings)
    assert again.summary.calls.sent == 0


async def test_one_ceiling_holds_over_all_shards(tmp_path: Path) -> None:
    for part in (1, 2, 3):
        found = await shard(tmp_path, part, 3, max_usd=0.03, concurrency=1)
    assert found.folder == tmp_path / "r"
    assert (found.exit_code, found.summary.status) == (3, "budget_exhausted")
    assert 0.0 < (found.summary.cost_usd.total or 0.0) <= 0.03
    assert found.summary.dialogues.finished < 24
    for part in (1, 2, 3):
        found = await shard(tmp_path, part, 3, max_usd=5.0)
    assert (found.exit_code, found.summary.status, found.summary.dialogues.finished) == (0, "complete", 24)


async def test_a_shard_that_plays_elsewhere_is_busy_until_it_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EvalSettings(**BASE, run="r", results=tmp_path, shard="1/2")
    async with open_plan(settings) as plan, open_store(tmp_path / STORE_FILE) as store, anyio.create_task_group() as group:
        await enter_run(plan, 2, store)

        async def beat() -> None:
            while True:
                await store.write(taken("r", 1, id="x", place="elsewhere:/r", player="process 7 on elsewhere"))
                await anyio.sleep(0.05)

        group.start_soon(beat)
        with pytest.raises(RunBusyError, match="run 'r 1/2' is being played by process 7 on elsewhere"):
            await shard(tmp_path, 1, 2)
        group.cancel_scope.cancel()
    assert SILENT_SECONDS > 2
    monkeypatch.setattr("safemt_api.runs.attempt.SILENT_SECONDS", 0.3)
    assert (await shard(tmp_path, 1, 2)).exit_code == 0


async def test_new_verdicts_over_a_whole_run_add_to_what_its_shards_spent(tmp_path: Path) -> None:
    whole = next(result for result in await all_at_once(tmp_path, 2) if result.folder.name == "r")
    async with open_plan(
        EvalSettings(**{**BASE, "judges": ("guard:simulator:sim-guard",)}, run="r", results=tmp_path), judging_only=True
    ) as plan:
        again = await rejudge(plan)
    assert again.summary.judge == "guard:simulator:sim-guard"
    assert (again.summary.cost_usd.judge or 0.0) >= (whole.summary.cost_usd.judge or 0.0)
    assert load_run("r", results=tmp_path).summary.judge == "guard:simulator:sim-guard"


async def test_gc_keeps_what_shards_of_any_machine_use_and_rm_lets_the_store_forget_them(tmp_path: Path) -> None:
    await all_at_once(tmp_path, 2)
    shutil.rmtree(tmp_path / "r" / "shards")
    assert (await find_garbage(tmp_path)).unused.replies == 0
    doomed = look_at("r", tmp_path)
    assert (doomed.arms, doomed.sharded) == ((), ("r",))
    await forget(doomed)
    remove(doomed)
    assert await collect_garbage(tmp_path) > 0
    assert (await shard(tmp_path, 1, 3)).summary.calls.sent > 0


def started(results: Path, part: int, parts: int) -> subprocess.Popen[bytes]:
    words = (
        f"eval --run r --results {results} --model sim-average --lengths 1,2 --sample 12 --judge simulator:sim-judge --shard {part}/{parts}"
    )
    slowly = "--sim-latency-seconds 0.2 --concurrency 2"
    return subprocess.Popen([sys.executable, "-m", "safemt_api", *words.split(), *slowly.split()], stderr=subprocess.PIPE)


def killed_at_random(results: Path, chance: random.Random) -> int:
    """Four shards are started and killed some seconds later; how many of them had not ended."""
    running = [started(results, part, 4) for part in range(1, 5)]
    time.sleep(chance.uniform(2.0, 5.0))
    kills = sum(process.poll() is None for process in running)
    for process in running:
        process.kill()
        process.communicate()
    return kills


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_shards_killed_at_random_and_started_again_end_as_the_run_of_one_process(tmp_path: Path) -> None:
    one = anyio.run(partial(evaluate, **BASE, run="r", results=tmp_path / "one"))
    results, chance, kills = tmp_path / "killed", random.Random(14), 0
    while kills < 6:
        kills += killed_at_random(results, chance)
        if (results / "r" / "run.json").exists():
            with suppress(NothingPlayedError):
                assert load_run("r", results=results).summary.dialogues.finished <= 24
    ended = [started(results, part, 4) for part in range(1, 5)]
    assert [(process.communicate(timeout=300), process.returncode)[1] for process in ended] == [0, 0, 0, 0]
    run = load_run("r", results=results)
    assert (run.summary.status, run.summary.dialogues.finished) == ("complete", 24)
    assert run.summary.safety_index == one.summary.safety_index
    assert verdicts(results / "r") == verdicts(one.folder)
    with closing(sqlite3.connect(results / STORE_FILE)) as connection:
        keys, bought = connection.execute("SELECT count(DISTINCT key), count(*) FROM charges WHERE state = 'settled'").fetchone()
        (record,) = connection.execute("SELECT record FROM shards WHERE part = 1").fetchone()
    # Beside what a killed process had in flight: two dialogues, each with a call of the target or of its judge.
    assert bought - keys <= kills * 2
    assert keys == one.summary.calls.sent
    assert json.loads(record)["summary"]["status"] == "complete"
