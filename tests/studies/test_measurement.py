"""A study measured from its arms' folders: who is ranked with whom, what is left out, and what cannot be claimed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from safemt_api.errors import StoreError
from safemt_api.metrics.comparison import compare
from safemt_api.metrics.frames import score_frame
from safemt_api.metrics.ranks import ranks
from safemt_api.runs.record import read_run
from safemt_api.studies.arms import Arm, Study
from safemt_api.studies.effects import ArmFrames
from safemt_api.studies.measurement import counted_arms, leaderboard, measure_again, measure_study
from safemt_api.studies.record import ArmState, Board, read_study

MakeRun = Callable[..., Path]
FEW = 300


def study_of(*arms: Arm) -> Study:
    return Study("paper", arms, max_usd=9.0)


def change(file: Path, **facts: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


@pytest.fixture
def arms(make_run: MakeRun) -> Path:
    """Three arms of the same ids: a weak model, the same with a moderator, and another model."""
    for name, base, model in (("plain", 0.5, "weak"), ("guarded", 0.1, "weak"), ("other", 0.3, "strong")):
        made = make_run(f"paper/{name}", base=base, step=0.05, model=model, seed=4, ids_each=12)
        change(made / "run.json", settings={"max_failures": 0.5})
    return made.parent


def test_a_study_is_ranked_compared_and_written(arms: Path) -> None:
    study = study_of(Arm("plain"), Arm("guarded", {"moderator": "policy:x"}, "plain"), Arm("other", {}, "plain"))
    record = measure_study(arms, study, {"plain": ArmState("complete")}, study_id="0123", planned_ids=44, resamples=FEW)
    frames = {name: score_frame(read_run(arms / name).verdicts) for name in ("plain", "guarded", "other")}
    expected = ranks(frames, resamples=FEW)
    (board,) = record.leaderboard
    assert {row.arm: (row.rank, row.best, row.worst) for row in board.rows} == {
        name: (one.rank, one.best, one.worst) for name, one in expected.items()
    }
    assert [row.rank for row in board.rows] == sorted(row.rank or 0 for row in board.rows)
    assert [(one.arm, one.reference) for one in record.effects] == [("guarded", "plain"), ("other", "plain")]
    compared = compare(frames["plain"], frames["guarded"], resamples=FEW)
    pooled = record.effects[0].asr
    assert pooled is not None
    assert (pooled.before, pooled.after, pooled.p_value) == (compared.asr_a, compared.asr_b, compared.p_value)
    assert (pooled.p_holm or 0) > compared.p_value
    assert record.ids.common == 44
    assert (record.status, record.max_usd, record.id) == ("complete", 9.0, "0123")
    assert record.spent_usd == pytest.approx(sum(row.spent_usd or 0 for row in board.rows))
    assert record.started_utc == "2026-11-21T10:00:00+00:00"
    assert record.arms[1].model_dump()["given"] == {"moderator": "policy:x"}
    record.write(arms)
    assert read_study(arms) == record


def test_an_arm_that_is_left_out_is_in_no_figure_and_shrinks_none(arms: Path, make_run: MakeRun) -> None:
    change(make_run("paper/dead", ids_each=1, lengths=(1,)) / "run.json", settings={"max_failures": 0.5})
    study = study_of(Arm("plain"), Arm("dead", {}, "plain"), Arm("guarded", {}, "dead"))
    record = measure_study(arms, study, {"dead": ArmState("left out", "the account is closed")}, resamples=FEW)
    assert [row.arm for board in record.leaderboard for row in board.rows] == ["guarded", "plain"]
    assert record.leaderboard[0].ids == 44
    assert [one.not_claimed for one in record.effects] == ["not claimed: dead is left out"] * 2
    assert [(arm.state, arm.sentence) for arm in record.arms] == [("complete", ""), ("left out", "the account is closed"), ("complete", "")]
    assert record.status == "partial"


def test_an_arm_of_which_nothing_can_be_read_is_left_out_whatever_was_said(arms: Path) -> None:
    (arms / "other" / "verdicts.parquet").write_bytes(b"torn")
    study = study_of(Arm("plain"), Arm("other", {}, "plain"), Arm("never", {}, "plain"))
    record = measure_study(arms, study, {"other": ArmState("complete")}, resamples=FEW)
    assert [arm.state for arm in record.arms] == ["complete", "left out", "left out"]
    assert "verdicts.parquet" in record.arms[1].sentence
    assert record.arms[2].sentence == "nothing of it was played"


def test_arms_under_another_judge_are_neither_ranked_together_nor_compared(arms: Path, make_run: MakeRun) -> None:
    made = make_run("paper/rejudged", judge="openai:gpt-6-luna", ids_each=12, seed=4)
    change(made / "run.json", settings={"max_failures": 0.5})
    record = measure_study(arms, study_of(Arm("plain"), Arm("rejudged", {}, "plain"), Arm("other", {}, "plain")), {}, resamples=FEW)
    assert [[row.arm for row in board.rows] for board in record.leaderboard] == [["other", "plain"], ["rejudged"]]
    assert [board.judge for board in record.leaderboard] == ["baseline judge (rules)", "openai:gpt-6-luna"]
    assert (record.effects[0].not_claimed or "").startswith("not claimed: judge: rules, but rejudged has openai:gpt-6-luna")
    assert record.effects[1].not_claimed is None


def test_what_arms_differ_in_on_purpose_keeps_them_together(arms: Path) -> None:
    for name, system in (("plain", None), ("guarded", "Be careful."), ("other", "Be bold.")):
        identity = {"system": system, "parameters": {"temperature": float(len(name))}, "dataset": "same"}
        change(arms / name / "run.json", identity=identity)
    record = measure_study(arms, study_of(Arm("plain"), Arm("guarded", {}, "plain"), Arm("other", {}, "plain")), {}, resamples=FEW)
    assert len(record.leaderboard) == 1
    assert [one.not_claimed for one in record.effects] == [None, None]
    change(arms / "other" / "run.json", identity={"dataset": "changed"})
    record = measure_study(arms, study_of(Arm("plain"), Arm("guarded", {}, "plain"), Arm("other", {}, "plain")), {}, resamples=FEW)
    assert [len(board.rows) for board in record.leaderboard] == [2, 1]


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (("complete", "complete"), "complete"),
        (("complete", "partial"), "partial"),
        (("budget_exhausted", "partial"), "budget_exhausted"),
        (("budget_exhausted", "interrupted"), "interrupted"),
    ],
)
def test_the_study_ends_as_its_arms_do(arms: Path, states: tuple[Any, Any], status: str) -> None:
    said = {name: ArmState(state) for name, state in zip(("plain", "other"), states, strict=True)}
    assert measure_study(arms, study_of(Arm("plain"), Arm("other")), said, resamples=FEW).status == status


def test_live_arms_have_effects_by_turn(make_run: MakeRun) -> None:
    for name, base in (("plain", 0.5), ("guarded", 0.1)):
        made = make_run(f"paper/{name}", protocol="live", base=base, lengths=(1, 2), ids_each=8, seed=2)
        change(made / "run.json", settings={"max_failures": 0.5})
    record = measure_study(made.parent, study_of(Arm("plain"), Arm("guarded", {}, "plain")), {}, resamples=FEW)
    (found,) = record.effects
    assert found.test == "exact randomisation within ids"
    assert [turn.turn for turn in found.asr_by_turn or ()] == [1, 2]
    assert [turn.turn for turn in record.leaderboard[0].rows[0].asr_by_turn] == [1, 2]


def test_a_study_is_measured_again_as_its_arms_are_now(arms: Path, make_run: MakeRun) -> None:
    study = study_of(Arm("plain"), Arm("guarded", {"moderator": "x"}, "plain"), Arm("other", {}, "plain"), Arm("late", {}, "plain"))
    before = measure_study(arms, study, {"other": ArmState("left out", "no account")}, study_id="0123", planned_ids=50, resamples=FEW)
    before.write(arms)
    assert measure_again(arms, resamples=FEW).arms[2].state == "complete", "it has been played to its end since"
    change(arms / "other" / "summary.json", status="partial")
    late = make_run("paper/late", ids_each=12, seed=4)
    change(late / "run.json", settings={"max_failures": 0.5})
    again = measure_again(arms, resamples=FEW)
    assert [(arm.state, arm.sentence) for arm in again.arms[2:]] == [("left out", "no account"), ("complete", "")]
    assert (again.id, again.ids.planned, again.max_usd) == ("0123", 50, 9.0)
    assert again.references == before.references
    assert again.arms[1].given == {"moderator": "x"}
    assert again.effects[0] == before.effects[0].model_copy(
        update={"asr": again.effects[0].asr, "asr_by_turn": again.effects[0].asr_by_turn}
    )
    found = counted_arms(arms)
    assert ([run.name for run in found.runs], found.left_out) == (["plain", "guarded", "late"], ["left out: other (no account)"])


def test_a_record_that_leads_elsewhere_is_refused(arms: Path) -> None:
    record = measure_study(arms, study_of(Arm("plain")), {}, resamples=FEW).json_value()
    record["arms"][0]["name"] = "../../elsewhere"
    (arms / "study.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match="names arms that cannot be"):
        measure_again(arms)


def test_an_arm_that_numbers_its_repeats_from_another_beginning_is_paired(arms: Path) -> None:
    study = study_of(Arm("plain"), Arm("guarded", {}, "plain"))
    before = measure_study(arms, study, {}, resamples=FEW)
    for name in ("transcripts", "verdicts"):
        frame = pl.read_parquet(arms / "guarded" / f"{name}.parquet").with_columns(repeat=pl.lit(3, dtype=pl.Int64))
        frame.write_parquet(arms / "guarded" / f"{name}.parquet")
    change(arms / "guarded" / "run.json", identity={"repeats": 1, "repeats_from": 2})
    after = measure_study(arms, study, {}, resamples=FEW)
    assert after.effects == before.effects
    assert after.leaderboard == before.leaderboard


def test_of_unlike_repeats_the_first_are_compared(arms: Path) -> None:
    study = study_of(Arm("plain"), Arm("guarded", {}, "plain"))
    once = measure_study(arms, study, {}, resamples=FEW)
    for name in ("transcripts", "verdicts"):
        file = arms / "guarded" / f"{name}.parquet"
        frame = pl.read_parquet(file)
        pl.concat([frame.with_columns(repeat=pl.lit(number, dtype=pl.Int64)) for number in (1, 2)]).write_parquet(file)
    for name, repeats in (("plain", 1), ("guarded", 2)):
        change(arms / name / "run.json", identity={"repeats": repeats})
    twice = measure_study(arms, study, {}, resamples=FEW)
    assert twice.effects[0].asr == once.effects[0].asr
    assert twice.effects[0].prevented == once.effects[0].prevented
    assert [(row.arm, row.rank, row.missing) for row in twice.leaderboard[0].rows] == [
        (row.arm, row.rank, row.missing) for row in once.leaderboard[0].rows
    ]


MakeArm = Callable[..., ArmFrames]
IDS = [f"id{number:02}" for number in range(40)]


def board(*arms: ArmFrames) -> Board:
    return leaderboard(arms, judge="rules", spent_usd={arm.name: 0.5 for arm in arms}, resamples=400, seed=0)


def alike(marks: str, count: int = 40) -> dict[str, str]:
    return dict.fromkeys(IDS[:count], marks)


def test_the_safest_stands_first_with_the_range_of_its_rank(make_arm: MakeArm) -> None:
    mixed = {one: "uu" if place % 2 else "ss" for place, one in enumerate(IDS)}
    nearly = {**mixed, **dict.fromkeys(IDS[0:6:2], "uu"), **dict.fromkeys(IDS[1:5:2], "ss")}
    found = board(make_arm("weak", alike("uu")), make_arm("mixed", mixed), make_arm("nearly", nearly), make_arm("safe", alike("ss")))
    assert [row.arm for row in found.rows] == ["safe", "mixed", "nearly", "weak"]
    assert [(row.rank, row.best, row.worst) for row in found.rows] == [(1, 1, 1), (2, 2, 3), (3, 2, 3), (4, 4, 4)]
    assert (found.ids, found.lengths, found.protocol) == (40, (1, 2), "scripted")
    assert found.rows[1].asr_by_turn[0].asr == pytest.approx(0.5)
    assert found.rows[0].cost_per_dialogue_usd == pytest.approx(0.01)
    assert found.rows[0].spent_usd == 0.5


def test_every_figure_is_over_what_all_arms_hold(make_arm: MakeArm) -> None:
    # The longer arm failed only where the shorter one has not been yet: dialogue by dialogue, not id by id.
    further = {**alike("ss", 10), **dict.fromkeys(IDS[10:20], "uu"), IDS[0]: "su"}
    shorter = {**alike("ss", 10), IDS[0]: "s "}
    found = board(make_arm("further", further), make_arm("shorter", shorter))
    assert found.ids == 10
    assert [row.rank for row in found.rows] == [1, 1]
    for row in found.rows:
        assert [(turn.unsafe, turn.safe) for turn in row.asr_by_turn] == [(0, 10), (0, 9)]


def test_an_arm_of_which_too_much_is_missing_has_figures_but_no_rank(make_arm: MakeArm) -> None:
    found = board(
        make_arm("broken", {**alike("ss", 36), **dict.fromkeys(IDS[36:], "s.")}, max_failures=0.04), make_arm("weak", alike("uu"))
    )
    assert [(row.arm, row.rank) for row in found.rows] == [("weak", 1), ("broken", None)]
    assert found.rows[1].not_ranked.startswith("4 of 80 dialogues of broken failed")
    assert found.rows[1].missing == 4


def test_arms_without_a_common_dialogue_have_no_figures(make_arm: MakeArm) -> None:
    found = board(make_arm("one", {"a": "ss"}), make_arm("two", {"b": "ss"}))
    assert found.ids == 0
    assert [(row.arm, row.rank, row.asr_by_turn) for row in found.rows] == [("one", None, ()), ("two", None, ())]
