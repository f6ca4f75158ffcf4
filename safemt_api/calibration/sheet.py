"""Sheets for people: which replies to label by hand so that a judge can be calibrated, and reading the labels back.

A sheet never shows what the judge said, nor lets it be guessed from the order of the rows. Since it holds as many rows of rare strata as of
common ones, whoever reckons with the labels needs ``stratum_weights``.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from safemt_api.errors import UsageError
from safemt_api.foreign_text import harmless_cell, plain_cell
from safemt_api.messages import Label

SHEET_COLUMNS: Final = ("id", "length", "turn", "scenario", "dialogue", "reply", "label")
MAX_CELL_CHARACTERS = 30_000
"""Spreadsheets hold 32,767 characters a cell (Excel's published limit) and drop the rest in silence; we shorten visibly."""

LABELS: Mapping[str, Label] = {"safe": "safe", "unsafe": "unsafe"}

Key = tuple[str, int, int]
"""Dialogue id, length, turn."""

Stratum = tuple[str, str, str]
"""Scenario, the judge's current label, and which of two judges in turn gave it."""


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One reply to label by hand."""

    id: str
    length: int
    turn: int
    scenario: str
    dialogue: str
    reply: str


@dataclass(frozen=True, slots=True)
class HandLabel:
    """What a person said of one reply."""

    id: str
    length: int
    turn: int
    label: Label

    @property
    def key(self) -> Key:
        """What pairs it with a verdict."""
        return self.id, self.length, self.turn


def stratified_sheet(
    verdicts: Iterable[Mapping[str, Any]], transcripts: Iterable[Mapping[str, Any]], *, n: int, seed: int = 0
) -> list[SheetRow]:
    """Up to ``n`` replies, as evenly over scenario and current verdict as there are replies, in an order that says nothing.

    Args:
        verdicts: Rows of ``verdicts.parquet``; only those that count, that a judge was asked for and that have a label are drawn from. A
            field ``stage`` keeps the replies that the first of two judges decided from those that the second was asked about.
        transcripts: Rows of ``transcripts.parquet``.
        n: How many to label.
        seed: The same seed draws the same rows, whatever the order of the input.

    Raises:
        UsageError: ``n`` is not positive, or there is nothing to label.
    """
    if n < 1:
        raise UsageError(f"a sheet of {n} rows cannot be labelled; ask for at least one")
    replies = {_key(row): row for row in transcripts}
    random = Random(seed)
    strata = [sorted(keys) for _, keys in sorted(_strata(verdicts, replies).items())]
    if not strata:
        raise UsageError("there is nothing to label: no reply of this run has a judge's verdict")
    for keys in strata:
        random.shuffle(keys)
    random.shuffle(strata)
    # One from each stratum, again and again, until n are drawn or all are.
    deepest = max(map(len, strata))
    drawn = [stratum[depth] for depth in range(deepest) for stratum in strata if depth < len(stratum)][:n]
    random.shuffle(drawn)
    return [_row(replies[key]) for key in drawn]


def stratum_weights(verdicts: Iterable[Mapping[str, Any]], labelled: Iterable[Key]) -> dict[Key, float]:
    """For each labelled reply, how many replies of its stratum it stands for.

    Args:
        verdicts: The same rows as the sheet was drawn from.
        labelled: The replies with a hand label; those without a verdict here are left out.
    """
    strata = _strata(verdicts, None)
    home = {key: stratum for stratum, keys in strata.items() for key in keys}
    known = [key for key in labelled if key in home]
    taken = Counter(home[key] for key in known)
    return {key: len(strata[home[key]]) / taken[home[key]] for key in known}


def _key(row: Mapping[str, Any]) -> Key:
    return str(row["dialogue_id"]), int(row["length"]), int(row["turn"])


def _strata(verdicts: Iterable[Mapping[str, Any]], replies: Mapping[Key, object] | None) -> dict[Stratum, list[Key]]:
    strata: defaultdict[Stratum, list[Key]] = defaultdict(list)
    for row in verdicts:
        key = _key(row)
        asked = row["counts"] and row["source"] == "judge" and row["label"] is not None
        if asked and (replies is None or key in replies):
            strata[str(row["scenario"]), str(row["label"]), str(row.get("stage"))].append(key)
    return strata


def _row(turn: Mapping[str, Any]) -> SheetRow:
    key = _key(turn)
    lines = json.loads(turn["messages"])
    dialogue = "\n\n".join(f"{line['role']}: {line['content']}" for line in lines)
    return SheetRow(*key, str(turn["scenario"]), dialogue, str(turn["reply_text"]))


def write_sheet(path: Path, rows: Iterable[SheetRow]) -> None:
    """Write the sheet as CSV that spreadsheets open as text: UTF-8 with a mark, no cell that they would run.

    Raises:
        UsageError: The file exists (it may hold labels already) or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8-sig", errors="replace", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(SHEET_COLUMNS)
            writer.writerows(_cells(row) for row in rows)
    except FileExistsError as error:
        raise UsageError(f"{path}: exists already and may hold labels; choose another name or move it away") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error


def _cells(row: SheetRow) -> tuple[str, ...]:
    texts = (row.id, str(row.length), str(row.turn), row.scenario, row.dialogue, row.reply, "")
    cells = []
    for text in texts:
        left_out = len(text) - MAX_CELL_CHARACTERS
        more = f" … [{left_out} more characters are in the run's transcripts]" if left_out > 0 else ""
        cells.append(harmless_cell(text[:MAX_CELL_CHARACTERS] + more))
    return tuple(cells)


def read_labels(path: Path) -> list[HandLabel]:
    """The labels of a sheet; rows whose label is still empty are left out.

    Raises:
        UsageError: Not a sheet, a label that is neither ``safe`` nor ``unsafe``, a row that stands there twice, or no label at all; the
            sentence names file and line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            labels = list(_labels(path, csv.reader(stream, strict=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as a CSV file in UTF-8 ({error})") from error
    for (dialogue_id, length, turn), times in Counter(label.key for label in labels).items():
        if times > 1:
            raise UsageError(f"{path}: {dialogue_id}, length {length}, turn {turn} is labelled {times} times; keep one row")
    if not labels:
        raise UsageError(f"{path}: no row has a label yet; write safe or unsafe into the column 'label'")
    return labels


def _labels(path: Path, reader: Any) -> Iterable[HandLabel]:
    header: list[str] = next(reader, [])
    missing = [column for column in ("id", "length", "turn", "label") if column not in header]
    if missing:
        raise UsageError(f"{path}: line 1: no column {missing[0]!r}; save the sheet as comma-separated CSV with its first line kept")
    line = reader.line_num + 1
    for cells in reader:
        if any(cell.strip() for cell in cells):
            place = f"{path}: line {line}"
            named = _named(place, header, cells)
            written = named.get("label", "").strip()
            if written:
                label = LABELS.get(written.casefold())
                if label is None:
                    raise UsageError(f"{place}: the label is {written!r}; it must be safe or unsafe (or empty while undecided)")
                yield HandLabel(plain_cell(named["id"]), _number(place, "length", named), _number(place, "turn", named), label)
        line = reader.line_num + 1


def _named(place: str, header: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(header):
        raise UsageError(f"{place}: has {len(cells)} cells where the first line has {len(header)}; save the sheet as comma-separated CSV")
    return dict(zip(header, cells, strict=True))


def _number(place: str, column: str, cells: Mapping[str, str]) -> int:
    written = cells.get(column, "").strip()
    if not (written.isascii() and written.isdigit()):
        raise UsageError(f"{place}: the {column} is {written!r}, not a whole number; leave this column as it was")
    return int(written)
