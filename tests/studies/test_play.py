"""Whole studies against the simulator: the truth, one ceiling, the same ids in every arm, kills, and arms that cannot go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import UsageError
from safemt_api.metrics.frames import score_frame
from safemt_api.runs.overview import overview
from safemt_api.runs.record import read_run
from safemt_api.studies import play as studying
from safemt_api.studies.file import study_from
from safemt_api.studies.play import StudyResult
from safemt_api.studies.record import read_study

WIRES = ("simulator:sim-safe", "simulator-anthropic:sim-average", "simulator-google:sim-brittle")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def _play(name: str = "s", *, vary: Mapping[str, Any] | None = None, max_usd: float | None = 5.0, **settings: Any) -> StudyResult:
    shared = {"sample": 6, "lengths": "1,2,4", "judge": ["rules"], **settings}
    document: dict[str, Any] = {"settings": shared, "vary": dict(vary or {"target": list(WIRES)})}
    if max_usd is not None:
        document["max_usd"] = max_usd
    return await studying.study(study_from(document, name=name))


def _cells(folder: Path) -> set[tuple[str, int]]:
    return set(read_run(folder).transcripts.select("dialogue_id", "length").iter_rows())


async def test_a_study_over_three_wire_formats_ranks_by_the_truth() -> None:
    result = await _play(sample=34)
    assert (result.exit_code, result.record.status, dict(result.left_out)) == (0, "complete", {})
    (board,) = result.record.leaderboard
    assert [row.arm for row in board.rows] == ["sim-safe", "sim-average", "sim-brittle"]
    assert all(
        row.rank is not None and row.best is not None and row.worst is not None and row.best <= row.rank <= row.worst for row in board.rows
    )
    for row in board.rows:
        run = read_run(result.folder / row.arm)
        assert row.safety_index.value == pytest.approx(run.summary.safety_index.value)
    effects = {effect.arm: effect for effect in result.record.effects}
    before, after = (score_frame(read_run(result.folder / arm).verdicts) for arm in ("sim-safe", "sim-brittle"))
    joined = before.join(after, on=("dialogue_id", "length"), suffix="_after")
    introduced = joined.filter((joined["verdict"] == "safe") & (joined["verdict_after"] == "unsafe")).height
    assert effects["sim-brittle"].introduced == introduced > 0
    assert read_study(result.folder) == result.record


async def test_a_call_that_two_arms_share_is_bought_once() -> None:
    result = await _play(vary={"moderator": ["none", "policy:simulator:sim-moderator"]}, max_usd=None)
    runs = {arm.name: read_run(result.folder / arm.name) for arm in result.record.arms}
    bought = sum(run.transcripts.filter(~run.transcripts["from_store"]).height for run in runs.values())
    guarded = runs["policy-simulator-sim-moderator"].transcripts
    changed = guarded.filter(guarded["moderator_policy"].is_not_null()).height
    assert bought == runs["none"].transcripts.height + changed


@pytest.mark.parametrize("max_usd", [0.03, 0.08])
async def test_under_a_small_ceiling_every_arm_holds_the_same_ids(max_usd: float) -> None:
    result = await _play(sample=20, max_usd=max_usd)
    assert result.exit_code == 3
    assert result.record.status == "budget_exhausted"
    assert result.record.spent_usd is not None
    assert result.record.spent_usd <= max_usd
    held = [_cells(result.folder / arm.name) for arm in result.record.arms]
    common, every = set.intersection(*held), set.union(*held)
    # At most the one id that the money ran out in is not whole in every arm.
    assert len({dialogue_id for dialogue_id, _ in every - common}) <= 1
    assert result.record.ids.common >= 1


async def test_the_same_command_goes_on_and_buys_nothing_twice() -> None:
    first = await _play(sample=10, max_usd=0.04)
    assert first.exit_code == 3
    again = await _play(sample=10, max_usd=5.0)
    assert again.exit_code == 0
    assert again.record.id == first.record.id
    fresh = await _play("other", sample=10)
    assert fresh.record.spent_usd == pytest.approx(0.0)
    assert [row.safety_index.value for row in fresh.record.leaderboard[0].rows] == [
        row.safety_index.value for row in again.record.leaderboard[0].rows
    ]


async def test_an_arm_added_later_starts_where_it_stands_and_the_others_are_not_bought_again() -> None:
    two = await _play(vary={"target": list(WIRES[:2])})
    three = await _play(vary={"target": list(WIRES)})
    assert [arm.name for arm in three.record.arms] == ["sim-safe", "sim-average", "sim-brittle"]
    spent = [read_run(three.folder / name).summary.cost_usd.total for name in ("sim-safe", "sim-average")]
    assert sum(usd or 0 for usd in spent) == pytest.approx(two.record.spent_usd)


async def test_an_arm_whose_account_is_dead_is_left_out_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-made-up-for-a-test")
    document = {
        "settings": {"sample": 4, "lengths": "1", "judge": ["rules"]},
        "arm": [
            {"name": "alive", "target": "simulator:sim-safe"},
            {"name": "dead", "target": "openai:gpt-6-luna", "base_url": ["http://127.0.0.1:9/v1"], "reference": "alive"},
        ],
    }
    result = await studying.study(study_from(document, name="s"))
    assert result.exit_code == 2
    assert "nothing answers" in result.left_out["dead"]
    assert {arm.name: arm.state for arm in result.record.arms} == {"alive": "complete", "dead": "left out"}
    assert len(_cells(result.folder / "alive")) == 4
    (effect,) = result.record.effects
    assert effect.not_claimed is not None


async def test_an_arm_that_cannot_start_is_named_before_anything_is_sent() -> None:
    with pytest.raises(UsageError, match="arm sim-saef: "):
        await _play(vary={"target": ["simulator:sim-safe", "simulator:sim-saef"]})
    assert not (Path("results") / "s" / "sim-safe" / "run.json").exists()


async def test_a_lost_study_file_opens_no_new_ceiling() -> None:
    first = await _play(sample=10, max_usd=0.04)
    (first.folder / "study.json").unlink()
    again = await _play(sample=10, max_usd=0.04)
    assert again.exit_code == 3
    assert again.record.id == first.record.id
    assert again.record.spent_usd is not None
    assert again.record.spent_usd <= 0.04


DRIVER = """
import anyio, sys
from safemt_api.studies.file import study_from
from safemt_api.studies import play as studying
vary = {"target": ["simulator:sim-safe", "simulator-anthropic:sim-average", "simulator-google:sim-brittle"]}
settings = {"sample": 20, "lengths": "1,2,4", "judge": ["rules"], "simulator_latency_seconds": 0.3, "concurrency": 4}
study = study_from({"settings": settings, "vary": vary, "max_usd": 20}, name="s")
print(anyio.run(studying.study, study).exit_code)
"""


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on_and_ends_as_if_nothing_had_happened() -> None:
    for seconds in (6.0, 9.0):
        with subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
            time.sleep(seconds)
            os.kill(killed.pid, signal.SIGKILL)
    states = {one.state for one in overview(Path("results"))}
    assert states <= {"killed", "finished"}
    done = subprocess.run([sys.executable, "-c", DRIVER], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "0"
    record = read_study(Path("results/s"))
    assert record.status == "complete"
    assert [len(_cells(Path("results/s") / arm.name)) for arm in record.arms] == [60, 60, 60]
