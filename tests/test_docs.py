"""README.md and docs/ say what the command line says: their help blocks are generated (``make docs``) and checked here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from safemt_api import errors
from safemt_api.cli.app import app
from safemt_api.dataset.elements import parse_dialogue
from safemt_api.errors import (
    AccountError,
    BudgetExhaustedError,
    EndpointError,
    SetupError,
)
from safemt_api.profiles import load_profiles
from tests.documents import DOCUMENTS, ROOT

COMMANDS = ROOT / "docs" / "commands.md"
BLOCK = re.compile(r"(<!-- help: (?P<words>[a-z ]*)-->\n```text\n)(?P<text>.*?)(\n```)", re.DOTALL)


def help_text(words: str) -> str:
    """What ``safemt-api WORDS --help`` prints, 80 columns wide (the runner's own choice, whatever the terminal)."""
    done = CliRunner().invoke(app, [*words.split(), "--help"], prog_name="safemt-api")
    assert done.exit_code == 0, done.output
    return "\n".join(line.rstrip() for line in done.output.rstrip().splitlines())


def with_fresh_help(text: str) -> str:
    """The document with every help block as it is now."""
    return BLOCK.sub(lambda match: match[1] + help_text(match["words"]) + match[4], text)


def every_command() -> Iterator[str]:
    """Each command and group of the program, as it is typed: "", "eval", "judge", "judge label", …"""
    yield ""
    yield from sorted(name.name for name in app.registered_commands if name.name and not name.hidden)
    for group in app.registered_groups:
        yield group.name or ""
        if group.typer_instance is not None:
            yield from (f"{group.name} {command.name}" for command in group.typer_instance.registered_commands if not command.hidden)


def reference() -> str:
    """The command reference: what each command's ``--help`` prints."""
    blocks = (
        f"## safemt-api {words}".rstrip() + f"\n\n<!-- help: {words}{' ' if words else ''}-->\n```text\n\n```\n"
        for words in every_command()
    )
    return with_fresh_help("# Commands\n\nWhat `--help` prints, command by command.\n\n" + "\n".join(blocks))


def typed_commands() -> Iterator[str]:
    """Every ``safemt-api …`` that the documents tell to type."""
    for document in DOCUMENTS:
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            for match in re.finditer(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*safemt-api ([a-z](?:[^#\n]|\\\n)*)", block, re.MULTILINE):
                yield re.sub(r"\s*\\\n\s*", " ", match[1]).strip()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_help_blocks_are_as_the_program_prints_them(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert with_fresh_help(text) == text, "run `make docs`"


def test_the_reference_has_every_command() -> None:
    assert COMMANDS.read_text(encoding="utf-8") == reference(), "run `make docs`"


@pytest.mark.parametrize("command", sorted(set(typed_commands())))
def test_every_option_in_the_documents_exists(command: str) -> None:
    words = command.split()
    known = set(every_command())
    assert words[0] in known
    path = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
    text = help_text("judge run" if path == "judge" else path)
    for option in re.findall(r"(?<!\S)--[a-z-]+", command):
        assert option in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_a_document_leads_to_something(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s#]+)", document.read_text(encoding="utf-8")):
        assert "://" in target or (document.parent / target).exists(), target


@pytest.mark.skipif(not (ROOT / "safemt_api").is_dir(), reason="about the tree, which is away while the wheel is tested")
def test_what_the_readme_says_where_it_is_is_there() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where is what")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| `(.+?)` \| (?:`(\w+)`)? *\|$", table, re.MULTILINE)
    assert len(rows) == 14
    for question, path, name in rows:
        found = ROOT / path
        assert found.exists(), question
        if found.suffix == ".py":
            assert re.search(rf"^(async def|def|class) {name}\b|^{name}\b.* = ", found.read_text(encoding="utf-8"), re.MULTILINE), question
        else:
            assert found.is_dir() or name in found.read_text(encoding="utf-8"), question


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_element_shown_is_a_dialogue() -> None:
    (element,) = re.findall(r"```json\n(\{\"id\".*?)```", (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8"), re.DOTALL)
    dialogue, problems = parse_dialogue(json.loads(element), length=2)
    assert problems == ()
    assert dialogue is not None


def test_the_exit_codes_told_are_those_of_the_program() -> None:
    section = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    own = {errors.EXIT_DONE, errors.EXIT_SETUP, errors.EXIT_BUDGET, errors.EXIT_FAILURES, errors.EXIT_INTERRUPTED, 1}
    assert told == own
    assert {SetupError.exit_code, AccountError.exit_code, EndpointError.exit_code} == {2}
    assert BudgetExhaustedError.exit_code == 3


def test_every_vendor_is_named() -> None:
    text = (ROOT / "docs" / "first-score.md").read_text(encoding="utf-8")
    assert [name for name in load_profiles() if f"`{name}`" not in text and f"--provider {name} " not in text] == []


if __name__ == "__main__":
    COMMANDS.write_text(reference(), encoding="utf-8")
    for page in DOCUMENTS:
        page.write_text(with_fresh_help(page.read_text(encoding="utf-8")), encoding="utf-8")
