"""``data``, ``providers``, ``simulate``, help and the way errors are told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safemt_api import simulator
from safemt_api.cli import _explained, our_error, providers
from safemt_api.cli.vendors import key_state
from safemt_api.errors import BudgetExhaustedError, UsageError
from safemt_api.simulator.requests import COLOURS

Cli = Callable[..., Any]
PROJECT = Path(__file__).resolve().parents[2]
HEAVY = ("polars", "openai", "anthropic", "google.genai", "PIL", "altair", "numpy", "genai_prices", "rich.live", "httpx2")


@pytest.mark.parametrize("words", [["--help"], ["eval", "--help"], ["providers", "list"], ["judge", "--help"]])
def test_nothing_heavy_is_imported_for(words: list[str]) -> None:
    code = (
        "import sys\nfrom safemt_api.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as ended:\n    assert not ended.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(PROJECT)})
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_the_list_of_providers_is_the_same_with_options_as_without(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    assert cli("providers", "list", "--providers", tmp_path / "own").out == cli("providers", "list").out == cli("providers").out


def test_importing_the_package_is_light() -> None:
    code = f"import sys, safemt_api\nprint([name for name in {(*HEAVY, 'pydantic', 'typer')!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(PROJECT)})
    assert done.stdout.strip() == "[]"


def test_data_check_is_quiet_about_good_data_and_lists_bad(cli: Cli, tmp_path: Path) -> None:
    assert cli("data", "check").code == 0
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1_turn.json").write_text(json.dumps([{"id": "x"}, {"id": "y"}]), encoding="utf-8")
    said = cli("data", "check", tmp_path / "d")
    assert said.code == 2
    assert "1_turn.json[0] (x)" in said.out
    assert "1_turn.json[1] (y)" in said.out


def test_data_stats_counts(cli: Cli) -> None:
    said = cli("data", "stats")
    assert said.code == 0
    assert "Dialogues by scenario and length" in said.out


def test_fetch_says_licence_and_size_and_asks(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    class Typed:
        def readline(self) -> str:
            return "n\n"

    monkeypatch.setattr("sys.stdin", Typed())
    said = cli("data", "fetch")
    assert said.code == 2
    assert "CC-BY-NC-4.0" in said.err
    assert "540 MB" in said.err
    assert not Path("data").exists()


def test_providers_list_shows_that_a_key_is_set_but_never_the_key(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-veryprivate")
    for words in (("providers",), ("providers", "list"), ("providers", "show", "openai")):
        said = cli(*words)
        assert said.code == 0
        assert "OPENAI_API_KEY is set" in said.out
        assert "veryprivate" not in said.out + said.err


def test_key_states() -> None:
    assert key_state({}, {}) == "none needed"
    assert key_state({"key_variables": ["A", "B"]}, {"B": "x"}) == "B is set"
    assert key_state({"key_variables": ["A", "B"]}, {"A": " "}) == "A or B not set"
    assert key_state({"key_variables": ["A"], "key_required": False}, {}) == "A optional"


@pytest.mark.parametrize("name", ["simulator", "simulator-anthropic", "simulator-google"])
def test_check_works_over_each_wire_format(cli: Cli, name: str) -> None:
    said = cli("providers", "check", name)
    assert said.code == 0
    assert "works: it took the picture and saw that the circle is" in said.err
    assert "price: known" in said.err


def test_check_fails_a_model_that_names_another_colour(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator, "COLOURS", {"red": COLOURS["blue"]})
    said = cli("providers", "check", "simulator")
    assert said.code == 2
    assert "answers, but does not see: the circle in the picture is red, and it said: blue" in said.err


@pytest.mark.parametrize(
    ("text", "names"), [("Blue.", True), ("**blue**", True), ("red or blue", False), ("It is blueish", False), ("", False)]
)
def test_an_answer_names_the_colour_or_it_does_not(text: str, names: bool) -> None:
    assert providers.names_colour(text, "blue") is names


def test_check_says_what_is_wrong(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "set OPENAI_API_KEY" in cli("providers", "check", "openai").err
    assert "takes no pictures" in cli("providers", "check", "simulator", "--model", "sim-text-only").err
    monkeypatch.setenv("OPENAI_API_KEY", "sk-veryprivate")
    said = cli("providers", "check", "openai", "--base-url", "http://127.0.0.1:9/v1")
    assert said.code == 2
    assert "check the address" in said.err
    assert "veryprivate" not in said.err


def test_simulate_tells_where_it_listens(cli: Cli) -> None:
    said = cli("simulate", "--max-seconds", "0.05")
    assert said.code == 0
    assert "--provider simulator-google --base-url http://127.0.0.1:" in said.out


def test_errors_in_groups_are_told_like_single_ones(capsys: pytest.CaptureFixture[str]) -> None:
    group = BaseExceptionGroup("x", [ExceptionGroup("y", [BudgetExhaustedError(1.0, 0.9, 0.2)])])
    assert isinstance(our_error(group), BudgetExhaustedError)
    assert our_error(ExceptionGroup("x", [UsageError("a"), KeyError("b")])) is None
    assert _explained(KeyError("b")) == 1
    assert "--debug" in capsys.readouterr().err


def test_a_defect_in_a_group_is_named_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("odd")
    except ValueError as error:
        caught = error
    assert _explained(ExceptionGroup("x", [UsageError("a"), ExceptionGroup("y", [caught])])) == 1
    assert "unexpected ValueError: odd (test_small_commands.py line " in capsys.readouterr().err


def test_an_unexpected_error_shows_its_traceback_only_with_debug(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr("safemt_api.dataset.findings.examine", broken)
    said = cli("data", "check")
    assert said.code == 1
    assert "unexpected RuntimeError: odd" in said.err
    from safemt_api.cli import main

    with pytest.raises(RuntimeError, match="odd"):
        main(["data", "check", "--debug"])


def test_version(cli: Cli) -> None:
    assert cli("--version").out.startswith("safemt-api ")
