"""``safemt-api defend`` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from safemt_api.cli import main
from safemt_api.dataset.layouts import demonstration_folder

SMALL = ("defend", "--model", "sim-brittle", "--lengths", "1,2", "--sample", "8", "--run", "d")
MODERATORS = ("--moderator", "policy:simulator:sim-moderator", "--moderator", "guard:simulator:sim-guard")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_the_table_sets_moderators_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, *MODERATORS) == 0
    shown, said = capsys.readouterr()
    record = json.loads(Path("results/d/study.json").read_text())
    policy = record["effects"][0]
    assert "ASR by length with each moderator" in shown
    for line in ("none", "policy:simulator:sim-moderator", "guard:simulator:sim-guard"):
        assert f"\n{line} " in shown
    assert f"{100 * policy['asr_by_turn'][1]['asr_after']:.1f}%" in shown
    assert "baseline judge (rules)" in shown
    assert "On harmless dialogues" in shown
    assert "What it costs" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert "3 arms (none, policy-simulator-sim-moderator, guard-simulator-sim-guard) over 32 dialogues each" in said
    assert said.count("demonstration set") == 1
    assert "study: results/d/study.json, page: results/d/report.html" in said
    assert '<section id="effects"' in Path("results/d/report.html").read_text()
    # The same words of any other command that shows the study.
    assert run("report", "d") == 0
    assert capsys.readouterr().out == shown


def test_json_is_exactly_the_record(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, *MODERATORS[2:], "--json", "--protocol", "live") == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert record == json.loads(Path("results/d/study.json").read_text())
    assert [row["turn"] for row in record["effects"][0]["asr_by_turn"]] == [1, 2]


def test_a_defence_is_kept_as_a_file_that_study_plays(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, *MODERATORS, "--policies", "policies", "--save", "d.toml") == 0
    assert not Path("results").exists()
    text = Path("d.toml").read_text(encoding="utf-8")
    assert text.count('reference = "none"') == 2
    assert text.count('policies = "policies"') == 1
    Path("d.toml").write_text(text.replace('policies = "policies"\n', ""), encoding="utf-8")
    assert run("study", "d.toml", "--dry-run", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)) == {"none", "policy-simulator-sim-moderator", "guard-simulator-sim-guard"}


def test_a_dry_run_estimates_every_arm_and_sends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, *MODERATORS, "--dry-run") == 0
    shown, said = capsys.readouterr()
    assert all(f"\n{name} " in shown for name in ("none", "policy-simulator-sim-moderator", "guard-simulator-sim-guard", "all"))
    assert "a call that two arms share is bought once" in said
    assert not Path("results").exists()


def test_a_ceiling_that_is_too_low_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, *MODERATORS, "--max-usd", "0.02", "--concurrency", "1") == 3
    said = capsys.readouterr().err
    assert "stopped: the ceiling of $0.0200 is reached; raise --max-usd. The same command goes on where it stopped." in said


def test_a_defence_of_an_earlier_version_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", *SMALL[1:-2], "--run", "d-none") == 0
    Path("results/d-none/defence.json").write_text('{"schema": 1}', encoding="utf-8")
    capsys.readouterr()
    assert run("report", "d-none") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "results/d-none/defence.json is the record of an earlier version" in said


@pytest.mark.parametrize(
    ("moderators", "sentence"),
    [
        (("--moderator", "none"), "runs by itself"),
        (("--moderator", "guard:simulator:sim-guard", "--moderator", "guard:simulator:sim-average"), "is of no known kind"),
    ],
)
def test_a_mistake_is_one_sentence(capsys: pytest.CaptureFixture[str], moderators: tuple[str, ...], sentence: str) -> None:
    assert run(*SMALL, *moderators) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_data_without_harmless_dialogues_are_measured_as_far_as_they_go(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shipped, data = demonstration_folder(), tmp_path / "data"
    elements = [element for element in json.loads((shipped / "1_turn.json").read_text()) if element.get("kind") != "benign"][:4]
    for element in elements:
        (data / element["image_path"]).parent.mkdir(parents=True, exist_ok=True)
        copy(shipped / element["image_path"], data / element["image_path"])
    (data / "1_turn.json").write_text(json.dumps(elements))
    assert run("defend", "--data", str(data), "--run", "d", *MODERATORS[2:]) == 0
    shown, said = capsys.readouterr()
    assert "false alarms and over-refusal were not measured" in " ".join(shown.split())
    assert "4 dialogues each" in said
