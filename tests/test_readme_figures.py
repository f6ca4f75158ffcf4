"""The figures in README.md are those of real runs on the demonstration set: ``make figures`` writes them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- figures: (?P<name>[a-z]+) -->\n```text\n)(?P<text>.*?)(\n```)", re.DOTALL)
PERSONAS = ("safe", "average", "brittle")
MODERATORS = ("policy:simulator:sim-moderator", "raw:simulator:sim-raw-moderator", "guard:simulator:sim-guard")
LEFT_OUT = "…the same for the other two…"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def printed(folder: Path, *words: str) -> list[str]:
    """What a command prints, line by line, with a terminal's width that fits the page."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SAFEMT_")} | {"PYTHONPATH": str(README.parent)}
    command = [sys.executable, "-m", "safemt_api", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return [line.rstrip() for line in done.stdout.splitlines()]


def demonstration(folder: Path) -> str:
    """The end of ``make demo``."""
    for persona in PERSONAS:
        printed(folder, "eval", "--model", f"sim-{persona}", "--run", f"demo-{persona}")
    return "\n".join(printed(folder, "report", *(f"demo-{persona}" for persona in PERSONAS))).strip()


def one_run(folder: Path) -> str:
    """ASR by length and SI of one of them."""
    lines = printed(folder, "report", "demo-average")
    start = next(place for place, line in enumerate(lines) if line.startswith("ASR by length"))
    end = next(place for place, line in enumerate(lines) if line.startswith("Safety Index")) + 2
    return "\n".join(lines[start:end]).strip()


def defence(folder: Path) -> str:
    """The tables of ``defend``, those of the first moderator in full."""
    options = [word for moderator in MODERATORS for word in ("--moderator", moderator)]
    text = "\n".join(printed(folder, "defend", "--model", "sim-brittle", "--run", "moderators", *options))
    text = text[text.index("ASR by length with each moderator") :]
    second, harmless = text.index(f"{MODERATORS[1]}: ASR by length"), text.index("On harmless dialogues")
    return f"{text[:second]}{LEFT_OUT}\n\n{text[harmless:]}".strip()


FIGURES = {"demo": demonstration, "one": one_run, "defend": defence}


def with_fresh_figures(text: str) -> str:
    """The document with every block of figures as runs print it now."""
    with tempfile.TemporaryDirectory() as name:
        made = {block: make(Path(name)) for block, make in FIGURES.items()}
    return BLOCK.sub(lambda match: match[1] + made[match["name"]] + match[4], text)


def steady(text: str) -> str:
    """The text without what differs between two runs of the same: seconds a dialogue took."""
    return re.sub(r"[+-]\d+\.\d\d(?= +\d+ +\d+ +)", "seconds", text)


def test_the_figures_in_the_readme_are_those_of_runs() -> None:
    text = README.read_text(encoding="utf-8")
    assert {match["name"] for match in BLOCK.finditer(text)} == FIGURES.keys()
    assert steady(with_fresh_figures(text)) == steady(text), "run `make figures`"


if __name__ == "__main__":
    README.write_text(with_fresh_figures(README.read_text(encoding="utf-8")), encoding="utf-8")
