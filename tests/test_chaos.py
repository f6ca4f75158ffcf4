"""A short storm: kill -9 while the vendor fails, the same command again, the same verdicts in the end. ``make chaos`` is the long one."""

from __future__ import annotations

import pytest

from benchmarks.chaos import torture


@pytest.mark.timeout(240)
async def test_killed_runs_under_faults_end_with_the_verdicts_of_an_undisturbed_one() -> None:
    """Three live ids, two kills, 30 % of calls faulty; nothing that was answered is bought twice beyond the calls in flight at a kill."""
    chaos = await torture("simulator", kills=2, share=0.3, protocol="live", sample=3, concurrency=8, seed=1)
    assert chaos.verdicts_equal
    assert chaos.exit_code == 0
    assert chaos.failed == 0
    assert chaos.repeated <= chaos.kills * 8
    assert chaos.sent > 0


@pytest.mark.timeout(240)
async def test_a_ceiling_holds_over_all_starts_of_a_killed_run() -> None:
    """The run is killed, started again and left to its end under a ceiling that it cannot finish within."""
    chaos = await torture("simulator", kills=2, share=0.0, protocol="live", sample=4, concurrency=4, seed=2, max_usd=0.15)
    assert chaos.exit_code == 3
    assert 0.0 < chaos.spent_usd <= 0.15
