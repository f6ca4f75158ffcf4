"""A run in batches that is killed at steps of its ledger; ``python -m benchmarks.batch_chaos`` does this a hundred times."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from benchmarks.batch_chaos import torture
from benchmarks.chaos import FORMATS
from safemt_api.simulator import SimulatorSettings, simulator_process

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("provider", list(FORMATS))
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_run_that_is_killed_at_steps_of_the_ledger_orphans_nothing_and_buys_nothing_twice(
    provider: str, seed: int, tmp_path: Path
) -> None:
    async with simulator_process(SimulatorSettings(batch_seconds=0.1)) as address:
        url = address.base_url(FORMATS[provider])
        outcome = await anyio.to_thread.run_sync(lambda: torture(provider, url, tmp_path, kills=3, seed=seed))
    assert outcome.held, outcome
