"""The house keeps its shape: figures of ``benchmarks/house.py`` that must not grow; lower one here when it has fallen."""

from __future__ import annotations

import pytest

from benchmarks.house import House, measure

MOST = {"files": 228, "one_caller_share": 0.101, "median_lines": 6, "p99_lines": 32, "late_own_imports": 11}


@pytest.fixture(scope="module")
def house() -> House:
    return measure()[0]


@pytest.mark.parametrize("figure", MOST)
def test_a_figure_is_within_its_ceiling(house: House, figure: str) -> None:
    assert getattr(house, figure) <= MOST[figure]
