"""A run in batches killed at each point of its ledger once; ``python -m benchmarks.batch_chaos`` kills it at every step, and twice."""

from __future__ import annotations

import pytest

from benchmarks.batch_chaos import tortured
from benchmarks.chaos import FORMATS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("provider", list(FORMATS))
async def test_a_run_that_is_killed_at_any_point_of_the_ledger_orphans_nothing_and_buys_nothing_twice(provider: str) -> None:
    outcome = await tortured(provider, kills=1, once=True)
    assert outcome.broken == ()
    points = {"find to be asked", "find answered", "cancel to be asked", "cancel answered", "creation answered", "row read"}
    commits = {f"{about} {when}" for about in ("intent", "id", "rows") for when in ("to be written", "written, not committed", "committed")}
    assert outcome.kills.keys() >= points | commits
