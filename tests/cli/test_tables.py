"""``tables`` prints what the paper prints, to standard output or into a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.fixture
def two_runs(cli: Cli) -> Cli:
    for name, model in (("a", "sim-safe"), ("b", "sim-brittle")):
        assert cli("eval", "--sample", "4", "--lengths", "1,8", "--model", model, "--run", name).code == 0
    return cli


def test_tables_of_two_runs(two_runs: Cli) -> None:
    said = two_runs("tables", "a", "b")
    assert said.code == 0
    assert "| Model | length 1 | length 8 | SI | SI bounds | complete ids | missing |" in said.out
    assert "| sim-brittle |" in said.out
    assert two_runs("tables", "a", "b", "--to", "latex", "--output", "t.tex").out == ""
    assert "\\label{tab:scores}" in Path("t.tex").read_text(encoding="utf-8")
    assert two_runs("tables", "a", "nobody").code == 2
