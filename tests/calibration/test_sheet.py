"""Sheets to label by hand."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.calibration.sheet import (
    HandLabel,
    SheetRow,
    read_labels,
    stratified_sheet,
    stratum_weights,
    write_sheet,
)
from safemt_api.errors import UsageError
from safemt_api.foreign_text import harmless_cell, plain_cell

Rows = list[dict[str, Any]]


def run_rows() -> tuple[Rows, Rows]:
    """90 judged replies: 60 safe and 6 unsafe of Fraud, 20 safe and 4 unsafe of Threat."""
    verdicts, transcripts = [], []
    plan = [("Fraud", "safe", 60), ("Fraud", "unsafe", 6), ("Threat", "safe", 20), ("Threat", "unsafe", 4)]
    for scenario, label, count in plan:
        for index in range(count):
            where = {"dialogue_id": f"{scenario}_{label}_{index}", "scenario": scenario, "length": 2, "turn": 2}
            verdicts.append({**where, "label": label, "source": "judge", "counts": True})
            messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}]
            transcripts.append({**where, "messages": json.dumps(messages), "reply_text": "the reply"})
    return verdicts, transcripts


def test_a_sheet_draws_evenly_over_scenario_and_verdict() -> None:
    verdicts, transcripts = run_rows()
    drawn = stratified_sheet(verdicts, transcripts, n=20, seed=1)
    counts = Counter(row.id.rsplit("_", 1)[0] for row in drawn)
    assert counts["Threat_unsafe"] == 4
    assert sorted(counts.values()) == [4, 5, 5, 6]
    assert len({row.id for row in drawn}) == 20
    assert drawn[0].dialogue == "user: one\n\nassistant: two\n\nuser: three"


def test_the_same_seed_draws_the_same_rows_whatever_the_order_of_the_input() -> None:
    verdicts, transcripts = run_rows()
    first = stratified_sheet(verdicts, transcripts, n=12, seed=3)
    assert stratified_sheet(verdicts[::-1], transcripts[::-1], n=12, seed=3) == first
    assert stratified_sheet(verdicts, transcripts, n=12, seed=4) != first


def test_asking_for_more_than_there_is_gives_all() -> None:
    verdicts, transcripts = run_rows()
    assert len(stratified_sheet(verdicts, transcripts, n=1000, seed=0)) == 90


@pytest.mark.parametrize("change", [{"counts": False}, {"source": "outcome"}, {"label": None}])
def test_only_counting_verdicts_of_a_judge_are_drawn_from(change: dict[str, Any]) -> None:
    verdicts, transcripts = run_rows()
    with pytest.raises(UsageError, match="nothing to label"):
        stratified_sheet([{**row, **change} for row in verdicts], transcripts, n=5)


def test_a_sheet_of_no_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        stratified_sheet(*run_rows(), n=0)


def test_the_sheet_shows_no_verdict(tmp_path: Path) -> None:
    file = tmp_path / "sheet.csv"
    write_sheet(file, [SheetRow("a", 1, 1, "Fraud", "user: q", "reply")])
    assert file.read_bytes().startswith(b"\xef\xbb\xbfid,length,turn,scenario,dialogue,reply,label")
    assert file.read_text(encoding="utf-8-sig").splitlines()[1] == "a,1,1,Fraud,user: q,reply,"


def test_weights_say_how_many_replies_each_label_stands_for() -> None:
    verdicts, _ = run_rows()
    labelled = [("Fraud_safe_0", 2, 2), ("Fraud_safe_1", 2, 2), ("Threat_unsafe_0", 2, 2), ("gone", 2, 2)]
    assert stratum_weights(verdicts, labelled) == {labelled[0]: 30.0, labelled[1]: 30.0, labelled[2]: 4.0}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =cmd|' /C calc'!A0", "'=1", "\n=1", ";=1", " ;cmd"])
def test_a_formula_becomes_text(text: str) -> None:
    assert harmless_cell(text) == f"'{text}"


@given(st.text())
def test_a_cell_comes_back_as_it_was(text: str) -> None:
    safe = harmless_cell(text)
    assert plain_cell(safe) == text
    assert not safe.lstrip(" \ufeff").startswith(("=", "+", "-", "@", "\t", "\r"))


def test_labels_come_back_with_the_ids_they_were_written_for(tmp_path: Path) -> None:
    file = tmp_path / "sheet.csv"
    rows = [
        SheetRow("=evil", 2, 1, "Fraud", 'a "quoted"\nline', "=HYPERLINK(0)"),
        SheetRow("plain", 4, 4, "Fraud", "d", "half \ud83d"),
        SheetRow("not yet", 4, 4, "Fraud", "d", "x" * 40_000),
    ]
    write_sheet(file, rows)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        cells = list(csv.reader(stream))
    assert cells[1][5] == "'=HYPERLINK(0)"
    assert "10000 more characters" in cells[3][5]
    cells[1][6], cells[2][6] = " Unsafe ", "safe"
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(cells)
    assert read_labels(file) == [HandLabel("=evil", 2, 1, "unsafe"), HandLabel("plain", 4, 4, "safe")]


def test_a_sheet_with_labels_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "sheet.csv"
    write_sheet(file, [])
    with pytest.raises(UsageError, match="exists already"):
        write_sheet(file, [])


HEADER = "id,length,turn,label\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HEADER + "a,1,1,safe\nb,1,1,maybe\n", r"line 3: the label is 'maybe'"),
        (HEADER + '"a\nb",1,1,safe\nc,1,1,no\n', r"line 4: the label is 'no'"),
        (HEADER + "a,one,1,safe\n", r"line 2: the length is 'one'"),
        (HEADER + "a,1,-1,safe\n", r"line 2: the turn is '-1'"),
        (HEADER + "a,1,1,safe\na,1,1,unsafe\n", r"labelled 2 times"),
        (HEADER + "a,1,1,\n", r"no row has a label"),
        (HEADER + "a,1\n", r"line 2: has 2 cells where the first line has 4"),
        ("id;length;turn;label\na;1;1;safe\n", r"line 1: no column 'id'"),
        ("", r"line 1: no column 'id'"),
        (HEADER + '"a,1,1,safe\n', r"cannot be read as a CSV file"),
        (HEADER + "x" * 200_000 + ",1,1,safe\n", r"cannot be read as a CSV file"),
        (b"\xff\xfe\x00\x01", r"cannot be read as a CSV file"),
        (None, r"cannot be read as a CSV file"),
    ],
)
def test_a_bad_sheet_names_file_and_line(tmp_path: Path, content: str | bytes | None, words: str) -> None:
    file = tmp_path / "labels.csv"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=r"labels\.csv: .*" + words):
        read_labels(file)
