"""With ``--json`` standard output is exactly one JSON value, on every command that prints figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safemt_api.cli.terminal import plain

Cli = Callable[..., Any]
SMALL = ("--sample", "2", "--lengths", "1,2")


@pytest.fixture
def runs(cli: Cli) -> None:
    for name, model in (("a", "sim-safe"), ("b", "sim-brittle")):
        assert cli("eval", *SMALL, "--run", name, "--model", model).code == 0


@pytest.mark.usefixtures("runs")
def test_runs_and_comparisons_are_json(cli: Cli) -> None:
    compared = json.loads(cli("compare", "a", "b", "--json").out)
    assert {"asr_difference", "safety_index_difference", "by_length", "sentence"} <= compared.keys()
    assert [row["length"] for row in compared["by_length"]] == [1, 2]
    assert [one["run"] for one in json.loads(cli("report", "a", "b", "--json").out)] == ["a", "b"]
    assert cli("judge", "label", "b", "-n", "4").code == 0
    sheet = Path("results/b/labels.csv")
    head, *rows = sheet.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    sheet.write_text(head + "".join(f"{row.rstrip()}safe\n" if row.rstrip().endswith(",") else row for row in rows), encoding="utf-8")
    calibrated = json.loads(cli("judge", "calibrate", "b", sheet, "--json").out)
    assert {"judge", "agreement", "by_scenario"} <= calibrated.keys()


def test_data_is_json(cli: Cli) -> None:
    checked = json.loads(cli("data", "check", "--json").out)
    assert checked["problems"] == []
    assert checked["dialogues"] == json.loads(cli("data", "stats", "--json").out)["dialogues"] > 0


def test_vendors_are_json(cli: Cli) -> None:
    assert "openai" in [one["name"] for one in json.loads(cli("providers", "list", "--json").out)]
    shown = json.loads(cli("providers", "show", "openai", "--json").out)
    assert shown["name"] == "openai"
    assert "OPENAI_API_KEY" in shown["key"]
    assert json.loads(cli("providers", "check", "simulator", "--json").out)["works"] is True


def test_an_estimate_is_json(cli: Cli) -> None:
    assert json.loads(cli("eval", *SMALL, "--dry-run", "--json").out)["dialogues"] == 4


def test_what_is_no_number_is_null() -> None:
    assert plain({"a": float("nan"), "b": (1, float("inf")), "c": Path("x")}) == {"a": None, "b": [1, None], "c": "x"}
