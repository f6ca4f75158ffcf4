"""The page's section on the judge's errors: each run's scores as judged, corrected, and what the correction rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import polars as pl

from safemt_api.calibration.agreement import Agreement
from safemt_api.report import words
from safemt_api.report.correction import Correction, corrected_rows, correction_notes
from safemt_api.report.markup import Cell, Column, beside, block, counted, rate, safe_text, said, section, table
from safemt_api.report.sections import WIDE_PIXELS, draw

NOTE = "Every judge errs. Replies labelled by hand tell how often, and what the scores would be without its errors."
RAW, CORRECTED = "as judged", "corrected (Rogan–Gladen)"


def calibration_section(corrections: Sequence[Correction], drawing: ModuleType | None) -> str:
    """The section as HTML, empty without a correction."""
    if not corrections:
        return ""
    blocks = (_block(place, correction, drawing, named=len(corrections) > 1) for place, correction in enumerate(corrections))
    return section("calibration", "Corrected for the judge's errors", "".join(blocks), NOTE)


def _block(place: int, correction: Correction, drawing: ModuleType | None, *, named: bool) -> str:
    heading = f"<h3>{safe_text(correction.run.name)}</h3>" if named else ""
    chart = _chart(place, correction, drawing) if drawing else ""
    notes = "".join(f'<p class="note">{safe_text(sentence)}</p>' for sentence in correction_notes(correction))
    return block(heading + beside(chart, _scores(correction) + notes + _confusion(correction.judge)))


def _chart(place: int, correction: Correction, drawing: ModuleType) -> str:
    frame = _frame(correction)
    if not frame["asr"].drop_nulls().len():
        return ""
    return draw(
        partial(drawing.asr_by_turn, frame, drawing.PAGE_PALETTE, width=WIDE_PIXELS, turn_title="length of the dialogue (user turns)"),
        drawing,
        name=f"corrected-{place}",
        label="ASR by length as judged and corrected; the numbers stand in the table",
        caption="Bands: 95% intervals; the corrected one holds the judge's own uncertainty.",
    )


def _frame(correction: Correction) -> pl.DataFrame:
    summary = correction.run.summary
    judged = {row.turn: (row.ci_low, row.ci_high) for row in summary.asr_by_turn} if summary.protocol == "scripted" else {}
    rows = [
        line
        for row in corrected_rows(correction)
        for line in (
            (RAW, row["length"], row["raw_asr"], *judged.get(row["length"], (None, None))),
            (CORRECTED, row["length"], row["asr"], row["ci_low"], row["ci_high"]),
        )
    ]
    schema = {"run": pl.String, "turn": pl.Int64, "asr": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row").sort(pl.col("run") != RAW, "turn")


def _scores(correction: Correction) -> str:
    scores, what = correction.scores, "Length" if correction.run.summary.protocol == "scripted" else "Final turn of length"
    columns = [Column(what), *(Column(name, number=True) for name in ("As judged", "Rogan–Gladen", "This run's"))]
    columns += [Column("Prediction-powered", number=True)] if correction.powered is not None else []
    index = scores.safety_index
    interval = f' <small class="second">{words.index_interval(index.ci_low, index.ci_high)}</small>'
    last = [
        said("Safety Index"),
        Cell(words.index(scores.raw_safety_index)),
        Cell(f"{words.index(index.value)}{interval}"),
        Cell(words.NOTHING),
    ]
    last += [Cell(words.NOTHING)] if correction.powered is not None else []
    return table(columns, [*(_row(row, powered=correction.powered is not None) for row in corrected_rows(correction)), last])


def _row(row: Mapping[str, Any], *, powered: bool) -> list[Cell]:
    cells = [said(str(row["length"])), rate(row["raw_asr"], None, None), rate(row["asr"], row["ci_low"], row["ci_high"])]
    cells.append(Cell(words.percent_interval(row["run_low"], row["run_high"]), row["run_low"]))
    return [*cells, rate(row["powered"], row["powered_low"], row["powered_high"])] if powered else cells


def _confusion(found: Agreement) -> str:
    columns = [Column("Labelled by hand"), Column("judged unsafe", number=True), Column("judged safe", number=True)]
    rows = [
        [said("unsafe"), counted(found.true_unsafe), counted(found.false_safe)],
        [said("safe"), counted(found.false_unsafe), counted(found.true_safe)],
    ]
    return table(columns, rows)
