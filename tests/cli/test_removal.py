"""``rm`` and ``gc`` say what they would do and ask; without a terminal they only say."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from safemt_api.cli import main

EVAL = ("eval", "--model", "sim-brittle", "--lengths", "1", "--sample", "2", "--judge", "simulator:sim-judge")


class Terminal(io.StringIO):
    """Where a user types."""

    def isatty(self) -> bool:
        return True


def ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


def test_a_run_goes_only_with_consent_and_its_replies_only_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ended(*EVAL, "--run", "a") == 0
    assert ended("gc", "--yes") == 0
    assert "every reply is used" in capsys.readouterr().err
    assert ended("rm", "a") == 2
    said = capsys.readouterr().err
    assert "a: " in said
    assert "nothing was done: there is no terminal to ask on; --yes does it" in said
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert ended("rm", "a") == 2
    assert Path("results/a/run.json").is_file()
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert ended("rm", "a") == 0
    assert not Path("results/a").exists()
    monkeypatch.setattr(sys, "stdin", Terminal("no\n"))
    assert ended("gc") == 2
    assert "(of a); they cost $" in capsys.readouterr().err
    assert ended("gc", "--yes") == 0
    assert "freed " in capsys.readouterr().err
    assert ended("rm", "a", "--yes") == 2
