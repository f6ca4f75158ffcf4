"""Spot checks stop when enough is known, at the same place every time, and their interval holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import safemt_api
from safemt_api.dataset.entries import Entry
from safemt_api.errors import SettingsChangedError, UsageError
from safemt_api.messages import Kind, Label
from safemt_api.runs.play import RunResult
from safemt_api.runs.rejudge import rejudge
from safemt_api.runs.settings import EvalSettings
from safemt_api.runs.spot_check import SpotCheck, play_order


def entry(dialogue_id: str, length: int = 1, kind: Kind = "harmful") -> Entry:
    return Entry(dialogue_id, "Fraud", kind, length, ("images/a.png",), f"{length}_turn.json", 0, 0, 0, b"")


def entries_of(ids: int, lengths: Sequence[int] = (1,)) -> list[Entry]:
    return play_order([entry(f"id{number}", length) for number in range(ids) for length in lengths], seed=0)


def told(check: SpotCheck, dialogues: Iterable[tuple[str, Label | None]]) -> dict[str, Any]:
    for dialogue_id, label in dialogues:
        check.take(dialogue_id, [label])
    return check.record(dialogues_saved=0, usd_saved=None)


async def spot(tmp_path: Path, **options: Any) -> RunResult:
    # Built as a value so that options of one test may override what the others share.
    settings: dict[str, Any] = {"model": "sim-average", "judges": ("rules",), "results": tmp_path, "run": "spot", "concurrency": 8}
    return await safemt_api.evaluate(**(settings | options))


def test_lengths_of_an_id_stay_together_and_the_order_is_the_seeds() -> None:
    ordered = entries_of(20, (1, 2, 4))
    ids = [one.id for one in ordered]
    assert [one.length for one in ordered[:3]] == [4, 2, 1]
    assert all(len(set(ids[start : start + 3])) == 1 for start in range(0, 60, 3))
    assert play_order(reversed(ordered), seed=0) == ordered
    assert play_order(ordered, seed=1) != ordered


def test_every_id_is_as_likely_as_any_other_to_come_first() -> None:
    entries = [entry(f"id{number}") for number in range(4)]
    firsts = [play_order(entries, seed=seed)[0].id for seed in range(400)]
    assert all(60 < firsts.count(one.id) < 140 for one in entries)


@given(st.randoms(use_true_random=False))
def test_the_order_in_which_dialogues_finish_does_not_matter(random: Any) -> None:
    entries = entries_of(30)
    labels: dict[str, Label] = {one.id: "unsafe" if number % 4 == 0 else "safe" for number, one in enumerate(entries)}
    finished = [(one.id, labels[one.id]) for one in entries]
    usual = told(SpotCheck(entries, goal=0.2), finished)
    random.shuffle(finished)
    assert told(SpotCheck(entries, goal=0.2), finished) == usual
    assert usual["reached"]
    assert usual["ids"] < 30


def test_an_id_waits_for_all_its_lengths_and_for_the_ids_before_it() -> None:
    entries = entries_of(3, (1, 2))
    check = SpotCheck(entries, goal=0.01)
    first, second = entries[0].id, entries[2].id
    assert told(check, [(second, "safe"), (second, "safe"), (first, "unsafe")])["ids"] == 0
    record = told(check, [(first, "safe")])
    assert (record["ids"], record["asr"]) == (2, 0.25)


def test_missing_verdicts_shrink_an_ids_share_and_ids_without_any_are_skipped() -> None:
    entries = entries_of(2, (1, 2))
    record = told(SpotCheck(entries, goal=0.01), [(one.id, None if place != 1 else "unsafe") for place, one in enumerate(entries)])
    assert (record["ids"], record["skipped_ids"], record["asr"]) == (1, 1, 1.0)


def test_the_interval_covers_the_asr_of_the_whole_set_though_it_stopped_early() -> None:
    entries = entries_of(150)
    missed, stopped, generator = 0, 0, np.random.default_rng(5)
    for _ in range(80):
        labels = generator.permutation(np.repeat(["unsafe", "safe"], [45, 105]))
        record = told(SpotCheck(entries, goal=0.12), ((one.id, label) for one, label in zip(entries, labels.tolist(), strict=True)))
        missed += not record["ci_low"] <= 0.3 <= record["ci_high"]
        stopped += record["reached"] and record["ids"] < 150
    assert stopped == 80
    assert missed <= 9  # 4 on average at worst; 10 or more has a chance below 1 %


def test_benign_dialogues_alone_have_no_asr_to_watch() -> None:
    with pytest.raises(UsageError, match="--until-ci watches the ASR of harmful dialogues"):
        SpotCheck([entry("a", kind="benign")], goal=0.1)


@pytest.mark.parametrize("goal", [0.0, 0.5, -1.0, 5.0])
def test_a_goal_that_is_no_half_width_is_refused(goal: float) -> None:
    with pytest.raises(UsageError, match="--until-ci"):
        EvalSettings(until_ci=goal)


async def test_a_run_stops_at_a_wide_goal_keeps_what_was_in_flight_and_says_what_it_saved(tmp_path: Path) -> None:
    result = await spot(tmp_path, until_ci=0.2)
    summary = result.summary.json_value()
    stopping = summary["stopping"]
    counts = summary["dialogues"]
    assert (summary["status"], result.exit_code) == ("complete", 0)
    assert stopping["reached"]
    assert stopping["half_width"] <= 0.2
    assert stopping["dialogues_saved"] == counts["planned"] - counts["finished"] > 40
    assert stopping["usd_saved"] == pytest.approx(summary["cost_usd"]["total"] / counts["finished"] * stopping["dialogues_saved"], rel=0.01)
    assert json.loads((tmp_path / "spot" / "summary.json").read_text())["stopping"] == stopping


async def test_the_same_command_again_stops_at_the_same_place_and_buys_nothing(tmp_path: Path) -> None:
    first = await spot(tmp_path, until_ci=0.2)
    again = await spot(tmp_path, until_ci=0.2, concurrency=32)
    assert again.summary.json_value()["stopping"] == first.summary.json_value()["stopping"]
    assert again.summary.json_value()["dialogues"] == first.summary.json_value()["dialogues"]
    assert again.summary.calls.sent == 0


async def test_the_place_does_not_depend_on_concurrency(tmp_path: Path) -> None:
    one = await spot(tmp_path / "one", until_ci=0.2, concurrency=1)
    many = await spot(tmp_path / "many", until_ci=0.2, concurrency=32)
    saved = ("dialogues_saved", "usd_saved")
    assert {key: value for key, value in one.summary.json_value()["stopping"].items() if key not in saved} == {
        key: value for key, value in many.summary.json_value()["stopping"].items() if key not in saved
    }


async def test_an_impossible_goal_plays_every_dialogue(tmp_path: Path) -> None:
    result = await spot(tmp_path, until_ci=0.001, lengths=(1, 2))
    stopping = result.summary.json_value()["stopping"]
    assert not stopping["reached"]
    assert (stopping["ids"], stopping["dialogues_saved"], stopping["usd_saved"]) == (34, 0, 0.0)
    assert result.summary.dialogues.finished == result.summary.dialogues.planned == 68
    assert stopping["ci_low"] <= stopping["asr"] <= stopping["ci_high"]


async def test_money_that_ends_first_leaves_an_interval_over_the_ids_so_far(tmp_path: Path) -> None:
    result = await spot(tmp_path, until_ci=0.05, max_usd=0.05, concurrency=4)
    assert result.summary.status == "budget_exhausted"
    stopping = result.summary.json_value()["stopping"]
    assert not stopping["reached"]
    assert 0 < stopping["ids"] < 34
    assert stopping["dialogues_saved"] == 0


async def test_another_goal_is_another_run(tmp_path: Path) -> None:
    await spot(tmp_path, until_ci=0.2, lengths=(1,))
    with pytest.raises(SettingsChangedError, match="until_ci"):
        await spot(tmp_path, until_ci=0.3, lengths=(1,))


async def test_a_live_run_stops_too(tmp_path: Path) -> None:
    result = await spot(tmp_path, until_ci=0.25, protocol="live", lengths=(1, 2), model="sim-safe")
    assert result.summary.json_value()["stopping"]["reached"]
    assert result.summary.json_value()["stopping"]["dialogues_saved"] > 0


async def test_new_verdicts_get_an_interval_of_their_own(tmp_path: Path) -> None:
    from safemt_api.evaluation import open_plan

    first = await spot(tmp_path, until_ci=0.2)
    settings = EvalSettings(
        model="sim-average", results=tmp_path, run="spot", until_ci=0.2, judges=("simulator:sim-judge",), simulator_seed=0
    )
    async with open_plan(settings, judging_only=True) as plan:
        again = await rejudge(plan)
    stopping = again.summary.json_value()["stopping"]
    assert stopping["ids"] >= first.summary.json_value()["stopping"]["ids"]
    assert stopping["dialogues_saved"] == first.summary.json_value()["stopping"]["dialogues_saved"]
    assert stopping["half_width"] <= first.summary.json_value()["stopping"]["half_width"]


async def test_a_run_that_stopped_has_nothing_left_to_pay_for(tmp_path: Path) -> None:
    from safemt_api.evaluation import open_plan
    from safemt_api.runs.estimate import estimate

    await spot(tmp_path, until_ci=0.2)
    async with open_plan(EvalSettings(model="sim-average", judges=("rules",), results=tmp_path, run="spot", until_ci=0.2)) as plan:
        assert (await estimate(plan)).shares == ()
