"""Figures for papers: an SVG and a PDF of each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from safemt_api.errors import UsageError
from safemt_api.report.figures import write_figures
from safemt_api.runs.record import read_run

MakeRun = Callable[..., Path]


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
