"""The leaderboard of a study: only what all arms hold counts, and an arm that says too little has no rank."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from safemt_api.studies.effects import ArmFrames
from safemt_api.studies.leaderboard import leaderboard
from safemt_api.studies.record import Board

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
