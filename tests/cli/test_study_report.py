"""``report`` and ``tables`` of a study: all its arms, by the references of ``study.json``, as they are now."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
SMALL = ("--sample", "4", "--lengths", "1,2")


@pytest.fixture
def played(cli: Cli) -> Cli:
    """A study of one model without and with a moderator, whose moderated arm has been played."""
    Path("s.toml").write_text(
        'name = "s"\n[settings]\nsample = 4\nlengths = [1, 2]\njudge = ["rules"]\nmodel = "sim-brittle"\n'
        '[vary]\nmoderator = ["none", "policy:simulator:sim-moderator"]\n',
        encoding="utf-8",
    )
    assert cli("study", "s.toml").code == 0
    return cli


def test_report_of_a_study_is_of_all_its_arms(played: Cli) -> None:
    record = Path("results/s/study.json")
    Path("results/s/report.html").unlink(missing_ok=True)
    said = played("report", "s", "--no-images")
    assert said.code == 0
    assert "ASR by length with each moderator" in said.out
    assert "\npolicy:simulator:sim-moderator " in said.out
    assert "page: results/s/report.html" in said.err
    assert '<section id="effects"' in Path("results/s/report.html").read_text(encoding="utf-8")
    for name in ("results/s", "results/s/study.json"):
        assert json.loads(played("report", name, "--json", "--output", "elsewhere").out) == json.loads(record.read_text(encoding="utf-8"))
    assert Path("elsewhere/report.html").is_file()


def test_tables_of_a_study_set_a_defence_beside_its_reference(played: Cli) -> None:
    said = played("tables", "s")
    assert (said.code, said.err) == (0, "")
    assert "| Model | Moderator | length 1 | length 2 | SI |" in said.out
    assert "| sim-brittle | policy:simulator:sim-moderator |" in said.out
    assert "\\label{tab:defences}" in played("tables", "results/s", "--to", "latex").out


def test_a_report_follows_an_arm_that_was_judged_again(played: Cli) -> None:
    before = json.loads(played("report", "s", "--json").out)
    (guarded,) = (arm["run"] for arm in before["arms"] if arm["moderator"])
    assert played("judge", guarded, "--judge", "simulator:sim-judge").code == 0
    after = json.loads(played("report", "s", "--json").out)
    assert len(before["leaderboard"]) == 1
    assert [len(board["rows"]) for board in after["leaderboard"]] == [1, 1]
    assert after["effects"][0]["not_claimed"].startswith("not claimed: judge: rules, but")
    assert json.loads(Path("results/s/study.json").read_text(encoding="utf-8")) == after


def test_an_arm_that_is_gone_is_named(played: Cli) -> None:
    (guarded,) = (arm["name"] for arm in json.loads(played("report", "s", "--json").out)["arms"] if arm["moderator"])
    (Path("results/s") / guarded / "verdicts.parquet").write_bytes(b"torn")
    said = played("tables", "s")
    assert said.code == 0
    assert said.err.startswith(f"left out: {guarded} (")
    Path("results/s/study.json").write_text("{", encoding="utf-8")
    for command in ("tables", "report"):
        torn = played(command, "s")
        assert torn.code != 0
        assert torn.err.startswith("safemt-api: results/s/study.json: cannot be read as JSON")
