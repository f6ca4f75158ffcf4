"""The overview of a results folder: what is on disk tells each run's state, whatever ended it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from safemt_api.report.tables import brief_age
from safemt_api.report.views import run_list
from safemt_api.runs.folder import playing
from safemt_api.runs.overview import overview

SUMMARY: dict[str, Any] = {
    "schema": 1,
    "run": "a",
    "status": "complete",
    "model": "m",
    "protocol": "scripted",
    "judge": "rules",
    "moderator": None,
    "dialogues": {"planned": 4, "finished": 3, "failed": 1},
    "asr_by_turn": [{"turn": 1, "unsafe": 1, "safe": 2, "missing": 1}],
    "cost_usd": {"total": 0.5, "ceiling": 2.0},
}
MakeRun = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> MakeRun:
    def build(name: str, *, summary: dict[str, Any] | None = None, **manifest: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        said = {"schema": 1, "identity": {}, "started_utc": "2026-01-01T00:00:00+00:00", **manifest}
        (folder / "run.json").write_text(json.dumps(said))
        if summary is not None:
            (folder / "summary.json").write_text(json.dumps(SUMMARY | summary))
        return folder

    return build


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("complete", "finished"),
        ("interrupted", "interrupted"),
        ("budget_exhausted", "out of money"),
        ("partial", "stopped"),
    ],
)
def test_a_run_that_ended_is_what_its_summary_says(make: MakeRun, tmp_path: Path, status: str, state: str) -> None:
    make("a", summary={"status": status}, ended_utc="2026-01-01T00:01:00+00:00")
    (found,) = overview(tmp_path)
    assert (found.run, found.state, found.planned, found.finished, found.failed) == ("a", state, 4, 3, 1)
    assert found.asr == pytest.approx(1 / 3)
    assert (found.missing, found.spent_usd, found.ceiling_usd) == (1, 0.5, 2.0)


def test_a_run_with_a_player_is_running_and_a_run_without_end_was_killed(make: MakeRun, tmp_path: Path) -> None:
    folder = make("a", outline={"dialogues": {"planned": 7}, "model": "m"})
    assert [(one.state, one.planned) for one in overview(tmp_path)] == [("killed", 7)]
    with playing(folder, "a"):
        (found,) = overview(tmp_path)
    assert found.state == "running"
    assert found.player is not None
    assert "process" in found.player


def test_a_study_stands_above_its_arms_with_their_sums(make: MakeRun, tmp_path: Path) -> None:
    make("s/a", summary={})
    make("s/b", summary={"status": "budget_exhausted"})
    make("other", summary={})
    (tmp_path / "s" / "study.json").write_text("{}")
    found = {one.run: one for one in overview(tmp_path)}
    study = found["s"]
    assert (study.arms, study.state, study.planned, study.finished, study.missing, study.spent_usd) == (2, "out of money", 8, 6, 2, 1.0)
    names = list(found)
    assert names[names.index("s") :][:3] == ["s", "s/a", "s/b"]
    with playing(tmp_path / "s", "s"):
        assert next(one.state for one in overview(tmp_path) if one.run == "s") == "running"


def test_runs_of_a_folder_show_under_its_name(make: MakeRun, tmp_path: Path) -> None:
    make("study/arm", summary={})
    make(".hidden", summary={})
    (tmp_path / "link").symlink_to(tmp_path / "study")
    assert [one.run for one in overview(tmp_path)] == ["study/arm"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', "\x00"])
def test_a_damaged_run_is_listed_with_its_problem(make: MakeRun, tmp_path: Path, text: str) -> None:
    (make("a") / "run.json").write_text(text)
    make("b", summary={})
    states = {one.run: one.state for one in overview(tmp_path)}
    assert states == {"a": "damaged", "b": "finished"}


@pytest.mark.parametrize(
    ("summary", "place"),
    [({"asr_by_turn": [3]}, "asr_by_turn.0"), ({"dialogues": "x"}, "dialogues"), ({"status": "new"}, "status"), ({"schema": 2}, "newer")],
)
def test_a_summary_of_another_shape_is_damage_that_is_named(make: MakeRun, tmp_path: Path, summary: dict[str, Any], place: str) -> None:
    make("a", summary=summary)
    make("b", summary={})
    by_name = {one.run: one for one in overview(tmp_path)}
    assert (by_name["a"].state, by_name["b"].state) == ("damaged", "finished")
    assert place in str(by_name["a"].problem)


def test_the_table_is_readable_at_eighty_columns(make: MakeRun, tmp_path: Path) -> None:
    make("2026-01-01-anthropic-claude-haiku-5-5-scripted-1f2e3d", summary={})
    make("b" * 30, summary={"status": "budget_exhausted"})
    console = Console(width=80)
    with console.capture() as shown:
        console.print(run_list(overview(tmp_path), tmp_path))
    assert max(map(len, shown.get().splitlines())) <= 80
    assert "out of money" in " ".join(shown.get().split())


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    assert "no runs in" in str(run_list(overview(tmp_path / "nowhere"), tmp_path))


@pytest.mark.parametrize(("seconds", "words"), [(3, "3 s"), (150, "2 min"), (7200, "2 h"), (200_000, "2 d")])
def test_an_age_in_its_largest_unit(seconds: float, words: str) -> None:
    assert brief_age(seconds) == words
