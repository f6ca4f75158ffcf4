"""Whatever names come in, the native renderer lives: tried in a process of its own, since it would take this one along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
NAMES = [
    "a\x00b", "a\x1b[31mb", "a\ufffeb", "a\uffffb", "a\x85b", "\ufdd0", "\U0001fffe", "😀" * 500, "👩‍👩‍👧" * 30, "𓀀" * 200, "\u0301" * 3000,
    "\u202eabc", "a\tb\nc", "x" * 100_000, "</svg><script>", "", " ", "datum.dark", "&amp;", "#010a01",
    r"a\x00b", r"\u0000", "\\", "it's", '"', "`${1}",
]  # fmt: skip
DRAWN = """
import polars as pl
from safemt_api.report import charts

names = {names!r}
each = [1] * len(names)
cells = pl.DataFrame(dict(scenario=names, turn=each, asr=[0.5] * len(names), missing=each))
lines = pl.DataFrame(dict(run=names, turn=each, asr=[0.5] * len(names), ci_low=[0.4] * len(names), ci_high=[0.6] * len(names)))
bars = pl.DataFrame(dict(run=names, outcome=["answered"] * len(names), calls=each))


def all_charts(palette):
    yield charts.heat_map(cells, palette, width=300, turn_title=names[0])
    yield charts.asr_by_turn(lines, palette, width=300, turn_title=names[0])
    yield charts.outcomes(bars, palette, width=300)


for chart in all_charts(charts.PAGE_PALETTE):
    charts.page_svg(chart, name="n", label=names[0])
for chart in all_charts(charts.PRINT_PALETTE):
    charts.figure_pdf(chart)
print("alive")
"""


@pytest.mark.parametrize("names", [NAMES, [r"a\x00b"], ["a\x00b"]], ids=["all", "escape", "nul"])
def test_no_name_ends_the_process(names: list[str]) -> None:
    pytest.importorskip("vl_convert")
    code = DRAWN.format(names=names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(PROJECT)})
    assert done.stdout.strip() == "alive", done.stderr[-600:]
