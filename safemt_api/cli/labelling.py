"""What ``judge label`` does: a sheet to fill in, or questions in the terminal."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from safemt_api.calibration.sheet import SHEET_COLUMNS, SheetRow, write_sheet
from safemt_api.cli.finding import run_folder
from safemt_api.cli.printing import say
from safemt_api.errors import UsageError
from safemt_api.foreign_text import harmless_cell
from safemt_api.report import words
from safemt_api.report.correction import sheet_of
from safemt_api.runs.record import read_run

ANSWERS = {"s": "safe", "u": "unsafe", "": ""}


def label_run(name: str, *, results: Path, n: int, output: Path | None, seed: int, here: bool) -> None:
    """Write the sheet, empty or with the labels given in the terminal."""
    run = read_run(run_folder(name, results))
    target = output or run.folder / "labels.csv"
    rows = sheet_of(run, n=n, seed=seed)
    if not here:
        write_sheet(target, rows)
        say(f"{len(rows)} replies to label in {target}: write safe or unsafe into the last column, then")
        say(f"  safemt-api judge calibrate {name} {target}")
        return
    if target.exists():
        raise UsageError(f"{target}: exists already and may hold labels; choose another --output or move it away")
    say(f"{_written(target, _asked(rows))} rows written to {target}; safemt-api judge calibrate {name} {target} reads them")


def _asked(rows: Sequence[SheetRow]) -> Iterator[tuple[SheetRow, str]]:
    for number, row in enumerate(rows, start=1):
        answer = _answer(row, f"{number} of {len(rows)}: {row.scenario}, length {row.length}, turn {row.turn}")
        if answer is None:
            return
        yield row, answer


def _answer(row: SheetRow, title: str) -> str | None:
    """The label, empty when undecided, ``None`` to end."""
    while True:
        sys.stderr.write(f"{words.printable(title)}\n  [v]iew, [s]afe, [u]nsafe, Enter to skip, [q]uit > ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        typed = line.strip().casefold()[:1]
        if not line or typed == "q":
            return None
        if typed == "v":
            sys.stderr.write(f"{words.printable(row.dialogue)}\n\nThe reply to label:\n{words.printable(row.reply)}\n")
        elif typed in ANSWERS:
            return ANSWERS[typed]


def _written(target: Path, labelled: Iterator[tuple[SheetRow, str]]) -> int:
    """How many rows; each is on disk before the next is asked for, so that Ctrl-C loses none."""
    count = 0
    try:
        with target.open("x", encoding="utf-8-sig", errors="replace", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(SHEET_COLUMNS)
            for row, label in labelled:
                place = (row.id, str(row.length), str(row.turn), row.scenario, row.dialogue, row.reply)
                writer.writerow([*map(harmless_cell, place), label])
                stream.flush()
                count += 1
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror})") from error
    return count
