"""Runs the command line as a user does, in this process, and keeps what it said."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from safemt_api.cli import main


class Said(NamedTuple):
    """What a command ended with and wrote."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs ``safemt-api`` with these words."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def small() -> tuple[str, ...]:
    """Options of an evaluation that takes a moment: two ids of the demonstration set, lengths 1 and 2."""
    return ("eval", "--sample", "2", "--lengths", "1,2")
