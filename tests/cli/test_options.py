"""The commands take the options that the settings' fields give them, in groups; ``safemt.toml`` stands in for what was not typed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safemt_api.cli import main
from safemt_api.cli.options import Given, takes_settings
from safemt_api.runs.options import Command, Group
from safemt_api.runs.settings import options

Cli = Callable[..., Any]
WORDS: dict[Command, tuple[str, ...]] = {"eval": ("eval",), "defend": ("defend",), "resume": ("resume",), "judge": ("judge", "run")}


@pytest.mark.parametrize("command", list(WORDS))
def test_help_shows_every_option_of_the_command_in_its_group(cli: Cli, command: Command) -> None:
    said = cli(*WORDS[command], "--help")
    assert said.code == 0
    sections = dict(re.findall(r"^([A-Z][^\n]*):\n((?:  .*\n|\n)+)", said.out, re.MULTILINE))
    for one in options():
        shown = [group for group, text in sections.items() if re.search(rf"^  (-\S+, )?{one.flags[-1]}\b(?!-)", text, re.MULTILINE)]
        if command in one.option.commands:
            assert shown == [one.option.group], one.name
    assert [name for name in sections if name in list(Group)] == [group for group in Group if group in sections]


def test_what_was_not_given_is_not_handed_on(cli: Cli) -> None:
    got: list[Given] = []

    @takes_settings("resume")
    def command(given: Given, *, other: bool = False) -> None:
        got.append({**given, "other": other})

    every = {one.name: None for one in options() if "resume" in one.option.commands}
    command(**{**every, "max_usd": "3"}, other=True)
    assert got == [{"max_usd": "3", "other": True}]
    assert "EvalSettings" not in str(command.__annotations__)


def test_a_run_file_of_before_an_option_was_there_goes_on(cli: Cli, small: tuple[str, ...]) -> None:
    import json
    from pathlib import Path

    assert cli(*small, "--run", "old").code == 0
    file = Path("results/old/run.json")
    manifest = json.loads(file.read_text(encoding="utf-8"))
    del manifest["identity"]["protocol"]
    file.write_text(json.dumps(manifest), encoding="utf-8")
    assert cli("resume", "old").code == 0
    said = cli(*small, "--run", "old", "--protocol", "live")
    assert said.code == 2
    assert 'protocol: "scripted" → "live"' in said.err


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ended(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    code = end.value.code
    return code if isinstance(code, int) else 0


def test_what_is_typed_stands_over_the_file_and_the_rest_comes_from_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "safemt.toml").write_text('model = "sim-brittle"\nsample = 2\nlengths = [1, 2]\njudge = ["rules"]\nresults = "out"\n')
    assert ended("eval", "--model", "sim-safe", "--run", "a") == 0
    told = json.loads((tmp_path / "out" / "a" / "run.json").read_text())["settings"]
    assert (told["model"], told["sample"], told["lengths"]) == ("sim-safe", 2, [1, 2])
    assert "from safemt.toml: sample, lengths, judge, results\n" in capsys.readouterr().err


def test_a_run_that_goes_on_keeps_its_own_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "safemt.toml").write_text('sample = 1\nlengths = "1"\nresults = "out"\n')
    assert ended("eval", "--run", "a") == 0
    (tmp_path / "safemt.toml").write_text('sample = 7\njudge = ["guard:vllm:none"]\nresults = "out"\n')
    capsys.readouterr()
    assert ended("resume", "a") == 0
    assert ended("report", "a") == 0
    assert "1 of 1 finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sampel = 3\n", "no such option: sampel (did you mean 'sample'?)"),
        ("sample = [3\n", "cannot be read as TOML"),
        ("skip_invalid = 1\n", "skip_invalid 1: give true or false"),
        ("judge = [{a = 1}]\n", "judge [{'a': 1}]: give text or a number, or a list of them"),
        ("sample = true\n", "sample True: give text or a number"),
    ],
)
def test_a_wrong_line_is_named_with_its_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, sentence: str) -> None:
    (tmp_path / "safemt.toml").write_text(text)
    assert ended("eval") == 2
    assert f"safemt.toml: {sentence}" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_help_does_not_read_the_file(tmp_path: Path) -> None:
    (tmp_path / "safemt.toml").write_text("nonsense = 1\n")
    assert ended("eval", "--help") == 0


@pytest.mark.parametrize(("line", "offered"), [("safemt-api ev", "eval"), ("safemt-api eval --max-u", "--max-usd")])
def test_the_shell_completes_commands_and_options(line: str, offered: str) -> None:
    environment = os.environ | {"_SAFEMT_API_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    done = subprocess.run([sys.executable, "-m", "safemt_api"], env=environment, capture_output=True, text=True, check=False)
    assert offered in done.stdout.split()
