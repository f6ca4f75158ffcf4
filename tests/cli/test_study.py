"""``study``, ``sweep`` and ``ablate`` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]
SMALL = ("--sample", "3", "--lengths", "1,2", "--judge", "rules")


def test_a_sweep_plays_prints_and_goes_on(cli: Cli) -> None:
    words = ("sweep", "--target", "simulator:sim-safe", "--target", "simulator:sim-brittle", *SMALL, "--name", "s", "--max-usd", "1")
    said = cli(*words)
    assert said.code == 0
    assert "Ranks by Safety Index" in said.out
    assert "study: results/s/study.json, page: results/s/report.html" in said.err
    assert "sim-brittle" in Path("results/s/report.html").read_text(encoding="utf-8")
    again = cli(*words, "--json")
    record = json.loads(again.out)
    assert (record["study"], record["status"], [arm["name"] for arm in record["arms"]]) == ("s", "complete", ["sim-safe", "sim-brittle"])
    assert [one["run"] for one in json.loads(cli("runs", "--json").out)] == ["s", "s/sim-brittle", "s/sim-safe"]


def test_a_study_is_kept_as_a_file_and_played_from_it(cli: Cli) -> None:
    assert cli("ablate", "--model", "sim-average", *SMALL, "--without", "no-picture", "--name", "a", "--save", "a.toml").code == 0
    assert not Path("results").exists()
    assert 'reference = "whole"' in Path("a.toml").read_text(encoding="utf-8")
    said = cli("study", "a.toml", "--dry-run", "--json")
    assert set(json.loads(said.out)) == {"whole", "no-picture"}
    assert cli("study", "a.toml").code == 0
    assert Path("results/a/no-picture/summary.json").is_file()


def test_a_shipped_study_is_shown(cli: Cli) -> None:
    assert "[vary]" in cli("study", "--show", "demo").out


def test_mistakes_are_one_sentence(cli: Cli) -> None:
    Path("bad.toml").write_text("[vary]\nmodle = ['a']\n", encoding="utf-8")
    for words in (
        ("study",),
        ("study", "nobody"),
        ("study", "bad.toml"),
        ("sweep", "--target", "simulator:sim-safe"),
        ("sweep", "--target", "simulator:sim-safe", "--target", "simulator:sim-saef"),
        ("ablate", "--without", "everything"),
    ):
        said = cli(*words)
        assert (said.code, said.out) == (2, ""), words
        assert said.err.startswith("safemt-api: ") or "Error" in said.err, words
        assert "Traceback" not in said.err
