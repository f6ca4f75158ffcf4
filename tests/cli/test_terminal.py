"""Nothing from outside steers the terminal: every way out of the command line goes through one function."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

import safemt_api
from safemt_api.cli.terminal import PlainConsole, put, say

HOSTILE = "a\x1b]0;title\x07b\x1b[31mc\x9b2Jd\u202ee\x08"
COMMANDS = Path(safemt_api.__file__).parent / "cli"


@pytest.mark.parametrize("styled", [False, True])
def test_a_console_shows_its_own_styles_and_no_sequence_of_others(styled: bool) -> None:
    target = io.StringIO()
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(Text(HOSTILE, style="red"))
    PlainConsole(file=target, force_terminal=styled, width=60, markup=False, highlight=False).print(Group(table, HOSTILE, Text(HOSTILE)))
    said = target.getvalue()
    assert said.count("ac2Jde") == 5
    for sequence in ("\x1b]0", "\x07", "\x9b", "\u202e", "\x08", "a\x1b[31mc"):
        assert sequence not in said
    assert ("\x1b[31m" in said) is styled


def test_lines_hold_no_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    put(HOSTILE)
    assert capsys.readouterr() == ("abc2Jde\n", "abc2Jde\n")


def _raw_writes(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called, argument = ast.unparse(node.func), node.args[0] if node.args else None
        if called in ("sys.stdout.write", "sys.stderr.write", "typer.echo", "print"):
            cleaned = argument is not None and "printable(" in ast.unparse(argument)
            if not (cleaned or isinstance(argument, ast.Constant) or "__version__" in ast.unparse(node)):
                yield f"{file.name}:{node.lineno}"
        elif called == "Console":
            yield f"{file.name}:{node.lineno}"


def test_no_command_writes_past_that_function() -> None:
    assert [place for file in sorted(COMMANDS.glob("*.py")) for place in _raw_writes(file)] == []
