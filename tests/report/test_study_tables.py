"""The study in the terminal: every rank with its range, every effect with its interval, and one sentence for what is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from safemt_api import words
from safemt_api.report.study_tables import study_sentences
from safemt_api.report.views import study_report
from safemt_api.studies.arms import Arm, Study
from safemt_api.studies.measurement import measure_study
from safemt_api.studies.record import ArmState, Board, Place, SafetyIndexFigures, StudyRecord

MakeRun = Callable[..., Path]


def change(file: Path, **facts: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def shown(what: RenderableType, width: int = 80) -> str:
    console = Console(width=width, record=True, force_terminal=False, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


@pytest.fixture
def record(make_run: MakeRun) -> StudyRecord:
    for name, base in (("gpt-6-luna", 0.5), ("gpt-6-luna+policy-openai-gpt-6-luna", 0.1), ("broken", 0.3), ("guarded", 0.2)):
        made = make_run(f"paper/{name}", base=base, step=0.05, seed=4, ids_each=12)
        change(made / "run.json", settings={"max_failures": 0.5 if name != "broken" else 0.001})
    arms = (
        Arm("gpt-6-luna"),
        Arm("gpt-6-luna+policy-openai-gpt-6-luna", {}, "gpt-6-luna"),
        Arm("broken", {}, "gpt-6-luna"),
        Arm("gone", {}, "gpt-6-luna"),
        Arm("guarded", {}, "gone"),
    )
    states = {"gone": ArmState("left out", "vendor: the account is \x1b[31mclosed")}
    return measure_study(made.parent, Study("paper", arms, max_usd=5.0), states, planned_ids=44, resamples=300)


def test_a_rank_stands_with_its_range_and_an_effect_with_its_interval(record: StudyRecord) -> None:
    said = shown(study_report(record))
    row = record.leaderboard[0].rows[0]
    assert f"{row.rank} ({row.best})" in said or f"{row.rank} ({row.best}–{row.worst})" in said
    effect = record.effects[0]
    assert effect.asr is not None
    assert words.percent(effect.asr.before) in said
    assert words.percent(effect.asr.after) in said
    assert f"{100 * (effect.asr.difference.ci_low or 0):+.1f} to {100 * (effect.asr.difference.ci_high or 0):+.1f}" in said
    assert f"{effect.prevented}" in said
    assert effect.asr_by_turn is not None
    for turn in effect.asr_by_turn:
        assert f"{100 * (turn.asr_before or 0):.0f} → {100 * (turn.asr_after or 0):.0f}" in said


def test_every_line_fits_eighty_columns(record: StudyRecord) -> None:
    said = shown(study_report(record))
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said
    for heading in ("rank", "95% interval", "prevented", "introduced", "points", "complete", "missing", "spent"):
        assert heading in said


def test_what_is_not_there_has_one_sentence_each(record: StudyRecord) -> None:
    said = " ".join(shown(study_report(record), width=400).split())
    assert "5 arms, 44 of 44 planned ids in all of them" in said
    assert "of at most $5.00 spent" in said
    assert "Left out: gone (vendor: the account is" in said
    assert "\x1b" not in said
    assert "broken against gpt-6-luna: effect not claimed:" in said
    assert "guarded against gone: effect not claimed: gone is left out." in said
    assert "gone against" not in said.replace("against gone", "")
    assert "dialogues of broken failed, lack a verdict or went without their moderator, more than --max-failures 0.001 allows." in said


def test_a_study_of_which_nothing_is_played_says_so(tmp_path: Path) -> None:
    record = measure_study(tmp_path, Study("paper", (Arm("a"),)), {}, resamples=10)
    assert shown(study_report(record)) == (
        "Study paper (partial): 1 arm, 0 ids in all of them, $0.00 spent\nLeft out: a (nothing of it was played).\n"
    )


def test_an_index_above_its_own_bounds_is_said() -> None:
    index = SafetyIndexFigures(value=0.9, if_missing_low=0.5, if_missing_high=0.8, complete_ids=3, ids=4)
    board = Board(protocol="scripted", judge="rules", rows=(Place(arm="a", rank=1, best=1, worst=1, safety_index=index),))
    record = StudyRecord(study="s", status="complete", arms=(), leaderboard=(board,))
    assert list(study_sentences(record)) == [
        "a: 3 of 4 ids complete, bounds 0.500–0.800; the value lies above them: ids that lack a verdict waver more than the complete ones."
    ]
