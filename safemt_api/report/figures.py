"""Figures for papers: the page's charts as SVG and PDF files in print colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl

from safemt_api.errors import StoreError, UsageError
from safemt_api.files import private_folder, write_bytes
from safemt_api.report.reading import failure_curve, scenario_scores
from safemt_api.report.sections import asr_frame, by_protocol, run_labels
from safemt_api.runs.record import RunData

FIGURE_PIXELS = 440
CELL_PIXELS = 46
NEEDS_CHARTS = "figures come with an extra: run pip install 'safemt-api[charts]' and try again"


def write_figures(runs: Sequence[RunData], folder: Path) -> list[Path]:
    """Write ASR by turn and first failure (one a protocol) and a heat map (one a run), each as SVG and as PDF; return the files.

    Raises:
        UsageError: No run is given, or the extra ``charts`` is not installed.
        StoreError: A file cannot be written.
    """
    if not runs:
        raise UsageError("figures need at least one run")
    drawing = _charts_module()
    try:
        private_folder(folder)
    except OSError as error:
        raise StoreError(folder, f"cannot be made ({error.strerror or error})", "name a folder that you may write to") from error
    return [file for name, chart in _figures(runs, drawing) for file in _written(folder, name, chart, drawing)]


def _charts_module() -> ModuleType:
    try:
        from safemt_api.report import charts  # noqa: PLC0415 (altair and vl-convert are an optional extra)
    except ImportError as error:
        raise UsageError(NEEDS_CHARTS) from error
    return charts


def _written(folder: Path, name: str, chart: Any, drawing: ModuleType) -> list[Path]:
    svg, pdf = folder / f"{name}.svg", folder / f"{name}.pdf"
    write_bytes(svg, drawing.figure_svg(chart).encode("utf-8"))
    write_bytes(pdf, drawing.figure_pdf(chart))
    return [svg, pdf]


def _figures(runs: Sequence[RunData], drawing: ModuleType) -> Iterator[tuple[str, Any]]:
    palette, number = drawing.PRINT_PALETTE, 0
    for protocol, members in by_protocol(runs):
        labels = run_labels(members)
        title = "length of the dialogue (user turns)" if protocol == "scripted" else "position of the turn"
        draw = partial(drawing.asr_by_turn, palette=palette, width=FIGURE_PIXELS, turn_title=title)
        yield f"asr-by-turn-{protocol}", draw(asr_frame(members, labels))
        curves = [failure_curve(run).with_columns(run=pl.lit(label)) for run, label in zip(members, labels, strict=True)]
        frame = pl.concat(curves, how="diagonal_relaxed")
        yield f"first-failure-{protocol}", drawing.first_failure(frame, palette, width=FIGURE_PIXELS, turn_title=title)
        for run in members:
            number += 1
            scores = scenario_scores(run)
            width = CELL_PIXELS * max(1, scores["turn"].n_unique())
            yield f"heat-map-{number}-{_file_name(run.name)}", drawing.heat_map(scores, palette, width=width, turn_title=title)


def _file_name(name: str) -> str:
    """A run's name as part of a file name: nothing that leads out of the folder."""
    return "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in name)[:60] or "run"
