"""README.md says what the command line says: its help blocks are generated (``make docs``) and checked here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from safemt_api.cli.app import app
from safemt_api.dataset.elements import parse_dialogue
from safemt_api.errors import (
    AccountError,
    BudgetExhaustedError,
    EndpointError,
    SetupError,
)
from safemt_api.profiles import load_profiles
from safemt_api.runs import execution

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- help: (?P<words>[a-z ]*)-->\n```text\n)(?P<text>.*?)(\n```)", re.DOTALL)


def help_text(words: str) -> str:
    """What ``safemt-api WORDS --help`` prints, 80 columns wide (the runner's own choice, whatever the terminal)."""
    done = CliRunner().invoke(app, [*words.split(), "--help"], prog_name="safemt-api")
    assert done.exit_code == 0, done.output
    return "\n".join(line.rstrip() for line in done.output.rstrip().splitlines())


def with_fresh_help(text: str) -> str:
    """The document with every help block as it is now."""
    return BLOCK.sub(lambda match: match[1] + help_text(match["words"]) + match[4], text)


def commands() -> Iterator[str]:
    """Every ``safemt-api …`` that the README tells to type."""
    for block in re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        for match in re.finditer(r"^(?:[A-Z_]+=\S+ )*safemt-api ([a-z][^#\n]*)", block, re.MULTILINE):
            yield match[1].strip()


def test_help_blocks_are_as_the_program_prints_them() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(list(BLOCK.finditer(text))) >= 2
    assert with_fresh_help(text) == text, "run `make docs`"


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_option_in_the_readme_exists(command: str) -> None:
    known = {name.name for name in app.registered_commands} | {group.name for group in app.registered_groups}
    words = command.split()
    assert words[0] in known
    path = words[0] if words[0] not in ("judge", "data", "providers") or len(words) < 2 or not words[1].isalpha() else " ".join(words[:2])
    if words[0] == "judge" and words[1] not in ("label", "calibrate"):
        path = "judge run"
    text = help_text(path)
    for option in re.findall(r"(?<!\S)--[a-z-]+", command):
        assert option in text


def test_the_element_in_the_readme_is_a_dialogue() -> None:
    (element,) = re.findall(r"```json\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    dialogue, problems = parse_dialogue(json.loads(element), length=2)
    assert problems == ()
    assert dialogue is not None


def test_the_exit_codes_in_the_readme_are_those_of_the_program() -> None:
    section = README.read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    own = {execution.EXIT_DONE, execution.EXIT_SETUP, execution.EXIT_BUDGET, execution.EXIT_FAILURES, execution.EXIT_INTERRUPTED, 1}
    assert told == own
    assert {SetupError.exit_code, AccountError.exit_code, EndpointError.exit_code} == {2}
    assert BudgetExhaustedError.exit_code == 3


def test_every_vendor_is_named_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert [name for name in load_profiles() if f"`{name}`" not in text and f"--provider {name} " not in text] == []


if __name__ == "__main__":
    README.write_text(with_fresh_help(README.read_text(encoding="utf-8")), encoding="utf-8")
