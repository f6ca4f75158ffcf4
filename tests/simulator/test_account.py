"""The account's quotas: never more than the quota in any window, and the vendors' ways to write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.simulator.account import Quotas, go_duration


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0ms"), (0.012, "12ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s"), (3600, "1h0m0s"), (179.56, "2m59.56s")],
)
def test_durations_are_written_as_go_writes_them(seconds: float, written: str) -> None:
    assert go_duration(seconds) == written


@given(st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200), st.integers(1, 120))
def test_no_window_lets_more_through_than_burst_and_refill(gaps: list[float], per_minute: int) -> None:
    quotas, now, taken = Quotas(requests_per_minute=per_minute, tokens_per_minute=None), 1.0, []
    for gap in gaps:
        now += gap
        if quotas.take(now=now, tokens=10) == 0.0:
            taken.append(now)
    for at, first in enumerate(taken):
        within = sum(first <= moment <= first + 60.0 for moment in taken[at:])
        assert within <= 2 * per_minute + 1


def test_after_the_named_wait_there_is_room() -> None:
    quotas = Quotas(requests_per_minute=30, tokens_per_minute=600, burst_seconds=4.0)
    assert [quotas.take(now=1.0, tokens=20) for _ in range(2)] == [0.0, 0.0]
    wait = quotas.take(now=1.0, tokens=20)
    assert wait == pytest.approx(2.0)
    assert quotas.take(now=1.0 + wait + 1e-6, tokens=20) == 0.0


def test_tokens_of_replies_are_charged_afterwards() -> None:
    quotas = Quotas(requests_per_minute=None, tokens_per_minute=600, burst_seconds=10.0)
    assert quotas.take(now=1.0, tokens=50) == 0.0
    quotas.spend(100)
    assert quotas.take(now=1.0, tokens=50) == pytest.approx(10.0)
    assert quotas.headers("google_genai") == ()
