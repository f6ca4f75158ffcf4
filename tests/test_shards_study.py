"""A study in shards: every arm's part is played in each shard, and the last one writes the study of one process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest

from safemt_api.errors import UsageError
from safemt_api.runs.overview import overview
from safemt_api.runs.removal import find_garbage, forget, look_at, remove
from safemt_api.studies.measurement import measure_again
from safemt_api.studies.play import StudyResult, study

VARY = {"target": ["simulator:sim-average", "simulator:sim-brittle"]}
SHARED: dict[str, Any] = {"sample": 9, "lengths": (1, 2), "judges": ("simulator:sim-judge",)}


async def play(results: Path, shard: str | None, **options: Any) -> StudyResult:
    return await study(vary=VARY, name="s", results=results, shard=shard, **SHARED, **options)


def figures(found: StudyResult) -> dict[str, Any]:
    value = found.record.json_value()
    for effect in value["effects"]:
        for burden in effect["per_dialogue"].values():
            burden["latency_seconds"] = None  # how long replies took is another time another
    return {name: value[name] for name in ("status", "leaderboard", "effects", "ids")}


async def test_the_last_shard_writes_the_study_of_one_process(tmp_path: Path) -> None:
    one = await play(tmp_path / "one", None)
    found: list[StudyResult] = []

    async def one_of_three(part: int) -> None:
        found.append(await play(tmp_path / "three", f"{part}/3"))

    async with anyio.create_task_group() as group:
        for part in (1, 2, 3):
            group.start_soon(one_of_three, part)
    assert [result.exit_code for result in found] == [0, 0, 0]
    (whole,) = [result for result in found if result.standing is not None and result.standing.all_over]
    assert figures(whole) == figures(one)
    assert whole.record.spent_usd == pytest.approx(one.record.spent_usd, abs=1e-5)
    again = await play(tmp_path / "three", "2/3")
    assert figures(again) == figures(whole)
    assert again.record.spent_usd == whole.record.spent_usd


async def test_shards_on_other_machines_share_purse_and_report(tmp_path: Path) -> None:
    for part in (1, 2, 3):
        found = await play(tmp_path, f"{part}/3", max_usd=5.0)
        if part == 1:
            assert found.standing is not None
            assert (found.standing.over, found.standing.parts) == (1, 3)
            between = measure_again(tmp_path / "s")
            assert between is not None
            assert between.leaderboard[0].ids == 3
            shutil.rmtree(tmp_path / "s")
    assert (found.record.status, found.record.ids.common) == ("complete", 9)
    states = {one.run: (one.state, one.finished) for one in overview(tmp_path)}
    assert states == {"s": ("finished", 36), "s/sim-average": ("finished", 18), "s/sim-brittle": ("finished", 18)}
    assert (await find_garbage(tmp_path)).unused.replies == 0
    doomed = look_at("s", tmp_path)
    assert set(doomed.sharded) == {"s", "s/sim-average", "s/sim-brittle"}
    await forget(doomed)
    remove(doomed)
    assert (await find_garbage(tmp_path)).unused.replies > 0


async def test_what_no_study_in_shards_can_be_is_refused(tmp_path: Path) -> None:
    await play(tmp_path, "1/3")
    with pytest.raises(UsageError, match="the study s is played in 3 shards: give --shard I/3"):
        await play(tmp_path, "1/4")
    await play(tmp_path / "whole", None)
    with pytest.raises(UsageError, match="the study s was begun in one piece"):
        await play(tmp_path / "whole", "1/3")
    with pytest.raises(UsageError, match="ray cannot stand in a study"):
        await play(tmp_path / "ray", None, ray="local")
