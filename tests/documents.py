"""The documents, README.md and docs/, as programs: their console and Python blocks are run in order, and what they print is compared.

``python -m tests.documents`` writes anew what they print. In a page,

- a block of ``console`` holds commands after ``$ ``, each followed by what it prints; a line ``…`` stands for any lines;
- a block of ``python`` is run as a program; a block of ``text`` right after it is what it prints;
- ``<!-- file: NAME -->`` before any block saves it under that name first;
- ``sh`` blocks are for reading (a key, a GPU or a name of the reader's is missing).

The blocks of one page share a folder of their own. What differs from run to run (seconds, ports, dates) is compared by its form only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"(?P<mark><!-- file: (?P<file>\S+) -->\n)?```(?P<language>[a-z]+)[^\n]*\n(?P<text>.*?)```", re.DOTALL)
GAP = "…"
SECONDS_TO_RUN = 180


@dataclass(frozen=True, slots=True)
class Step:
    """One command or program of a page: where what it prints stands in the page, and what that is."""

    command: str
    program: str | None
    start: int
    end: int
    printed: str


def steps(text: str, folder: Path) -> Iterator[Step]:
    """The page's commands and programs in order; files that it brings are written into `folder` on the way."""
    blocks = list(BLOCK.finditer(text))
    for place, block in enumerate(blocks):
        if block["file"]:
            path = folder / block["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block["text"], encoding="utf-8")
        elif block["language"] == "console":
            yield from _commands(block["text"], block.start("text"))
        elif block["language"] == "python":
            after = blocks[place + 1] if place + 1 < len(blocks) else None
            if after and after["language"] == "text" and not text[block.end() : after.start()].strip():
                yield Step("python", block["text"], after.start("text"), after.end("text"), after["text"])
            else:
                yield Step("python", block["text"], block.end(), block.end(), "")


def _commands(block: str, offset: int) -> Iterator[Step]:
    pieces = re.split(r"(?m)^\$ ", block)
    offset += len(pieces[0])
    for piece in pieces[1:]:
        command = re.match(r"(?:[^\n]*\\\n)*[^\n]*\n", piece)
        assert command is not None, piece
        start = offset + 2 + command.end()
        offset += 2 + len(piece)
        yield Step(command[0].strip(), None, start, offset, piece[command.end() :])


def run(step: Step, folder: Path) -> str:
    """What a step prints on standard output, in lines without blanks at their end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SAFEMT_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
    }
    if step.program is None:
        command = step.command.replace(
            "make demo", f"mkdir -p results && make -s -C {ROOT} demo READY=Makefile BIN={Path(sys.executable).parent} RESULTS=$PWD/results"
        )
        arguments = ["sh", "-c", command]
    else:
        arguments = [sys.executable, "-c", step.program]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS_TO_RUN)
    assert done.returncode == 0, f"{step.command}: {done.stderr}"
    lines = done.stdout.replace(f"{folder}{os.sep}", "").splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def steady(text: str) -> str:
    """The text with all that differs between two runs of the same replaced by its form."""
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    text = re.sub(r"\b20\d\d-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?", "DATE", text)
    text = re.sub(r"[+-]\d+\.\d\d(?= +\d+ +\d+ +)", "SECONDS", text)
    return re.sub(r"\b\d+(\.\d+)? (s|ms|min)\b", "SECONDS", text)


def as_printed(expected: str, printed: str) -> bool:
    """Whether `printed` is what the page says, its gaps apart."""
    parts = [re.escape(steady(part)) for part in re.split(rf"(?m)^{GAP}\n", expected)]
    return re.fullmatch(r"(?:.*\n)*".join(parts), steady(printed)) is not None


def with_fresh_output(text: str) -> str:
    """The page with what its steps print now; a text with gaps stays while it is true, and is a gap alone where it is not."""
    with tempfile.TemporaryDirectory() as name:
        fresh = [(step, run(step, Path(name).resolve())) for step in steps(text, Path(name))]
    for step, printed in reversed(fresh):
        if not as_printed(step.printed, printed):
            shown = printed if text[: step.start].endswith("\n") else f"\n\n```text\n{printed}```"
            text = text[: step.start] + shown + text[step.end :]
    return text


if __name__ == "__main__":
    for document in [Path(name).resolve() for name in sys.argv[1:]] or DOCUMENTS:
        document.write_text(with_fresh_output(document.read_text(encoding="utf-8")), encoding="utf-8")
