"""The intervals' gate, small: what benchmarks/intervals.py holds on the whole grid, on a corner of it and with fewer runs."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.intervals import Cell, Intervals, paired_runs, single_runs, verdicts_on

RUNS = 120


@pytest.mark.parametrize("cell", [Cell(30, 0.01, 0.05), Cell(100, 0.05, 0.0), Cell(30, 0.9, 0.3)], ids=str)
def test_every_score_covers_and_is_not_needlessly_wide(cell: Cell) -> None:
    generator = np.random.default_rng(8)
    rows = [*single_runs(cell, RUNS, generator), *paired_runs(cell, RUNS, generator, factor=0.5)]
    judged = {name: verdicts_on(found, exact, runs=RUNS) for name, found, exact in rows if found.given}
    assert len(judged) >= 5
    assert not {name: said for name, said in judged.items() if "MISSED" in said}


def test_the_gate_sees_an_interval_that_collapses_or_is_too_wide() -> None:
    narrow, wide = Intervals(0.0), Intervals(0.0)
    for value in np.random.default_rng(2).standard_normal(2_000).tolist():
        narrow.note(value, value - 1.6, value + 1.6)
        wide.note(value, value - 2.6, value + 2.6)
    assert verdicts_on(narrow, None, runs=2_000)[0] == "MISSED"
    assert verdicts_on(wide, None, runs=2_000) == ("met", "MISSED")
    assert wide.excess(None) == pytest.approx(2.6 / 1.96, rel=0.05)


def test_the_exact_width_is_clopper_and_pearsons() -> None:
    # No successes of 30: 1 - .025 ** (1 / 30) above; with so few to expect, that is nearly the mean width.
    assert Cell(30, 1e-9, 0.0).exact_width(1e-9) == pytest.approx(1 - 0.025 ** (1 / 30), abs=1e-6)
    assert Cell(400, 0.3, 0.0).exact_width(0.3) is None
