"""The commands take the options that the settings' fields give them, in groups."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

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
