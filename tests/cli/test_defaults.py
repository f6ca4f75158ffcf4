"""``safemt.toml``: options that need not be typed each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from safemt_api.cli import main


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
