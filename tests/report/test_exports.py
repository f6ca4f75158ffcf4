"""Exports: safe in a spreadsheet, whole in JSON lines, printable in LaTeX."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import StoreError, UsageError
from safemt_api.report.exports import FORMATS, export_run, latex_text, rendered, write_figures
from safemt_api.report.tables import scores_table
from safemt_api.runs.record import read_run

MakeRun = Callable[..., Path]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "＝", "\r", ";", ";=", " ;@", "；"])
def test_no_cell_of_the_csv_starts_as_a_formula(make_run: MakeRun, tmp_path: Path, start: str) -> None:
    run = read_run(make_run(hostile=f"{start}HYPERLINK(1)"))
    with export_run(run, "csv", tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == run.transcripts.height
    assert rows[0]["reply_text"] == f"'{start}HYPERLINK(1)"
    assert rows[0]["verdict"] == "unsafe"
    assert not any(cell.lstrip().startswith(("=", "+", "@")) for row in rows for cell in row.values())


def test_csv_keeps_other_text_as_it_is(make_run: MakeRun, tmp_path: Path) -> None:
    run = read_run(make_run(hostile='two\nlines, "quoted"'))
    with export_run(run, "csv", tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        assert next(csv.DictReader(stream))["reply_text"] == 'two\nlines, "quoted"'


def test_json_lines_hold_messages_and_every_verdict(make_run: MakeRun, tmp_path: Path) -> None:
    run = read_run(make_run(panel=True))
    lines = [json.loads(line) for line in export_run(run, "jsonl", tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == run.transcripts.height
    assert lines[0]["messages"][0]["role"] == "user"
    assert sum(len(line["verdicts"]) for line in lines) == run.verdicts.height


def test_the_latex_table_has_every_length_and_the_judge(make_run: MakeRun, tmp_path: Path) -> None:
    run = read_run(make_run(model="a_model & 50%"))
    table = export_run(run, "latex", tmp_path / "run.tex").read_text()
    assert table == rendered([scores_table([run])], "latex")
    assert r"a\_model \& 50\%" in table
    assert r"\toprule" in table
    assert "baseline judge (rules)" in table
    for row in run.summary.asr_by_turn:
        assert row.asr is not None
        assert f"{100 * row.asr:.1f}" in table
    columns = {line.count(" & ") for line in table.splitlines() if line.endswith(r"\\") and "&" in line}
    assert columns == {len(run.summary.asr_by_turn) + 4}
    index = run.summary.safety_index
    assert f"& {index.if_missing_low:.3f}--{index.if_missing_high:.3f} & {index.complete_ids}/{index.ids} " in table


def test_latex_text_escapes_every_sign() -> None:
    assert (
        latex_text("\\ {x} $&#%_^~<>") == r"\textbackslash{} \{x\} \$\&\#\%\_\textasciicircum{}\textasciitilde{}\textless{}\textgreater{}"
    )


@pytest.mark.parametrize("to", FORMATS)
def test_a_folder_that_is_not_there_is_an_error(make_run: MakeRun, tmp_path: Path, to: Any) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        export_run(read_run(make_run()), to, tmp_path / "nowhere" / "out")


def test_an_unknown_format_lists_the_known(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="csv, jsonl, latex, inspect"):
        export_run(read_run(make_run()), "xml", tmp_path / "out")  # type: ignore[arg-type] # the error is the test


def test_each_figure_is_written_as_svg_and_pdf(make_run: MakeRun, tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    runs = [read_run(make_run("one")), read_run(make_run("two", protocol="live"))]
    files = write_figures(runs, tmp_path / "figures")
    names = {file.name for file in files}
    assert {"asr-by-turn-scripted.svg", "asr-by-turn-live.pdf", "first-failure-scripted.pdf", "heat-map-1-one.svg"} <= names
    assert all(file.read_bytes().startswith(b"<svg" if file.suffix == ".svg" else b"%PDF") for file in files)


def test_without_the_extra_the_error_names_it(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safemt_api.report.charts", None)
    monkeypatch.delattr("safemt_api.report.charts", raising=False)
    with pytest.raises(UsageError, match=r"safemt-api\[charts\]"):
        write_figures([read_run(make_run())], tmp_path)


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one run"):
        write_figures([], tmp_path)
