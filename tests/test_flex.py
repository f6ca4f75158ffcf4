"""The flex tier while half of its calls are refused: the real SDKs over real sockets, with short patience and a fall-back."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.batch_chaos import sold_usd
from safemt_api.evaluation import evaluate
from safemt_api.profiles import WireFormat
from safemt_api.simulator import FaultPlan, Simulator, SimulatorSettings, run_simulator
from safemt_api.store.records import reply_from_json
from safemt_api.store.turns import STORE_FILE

pytestmark = pytest.mark.slow

VENDORS: dict[str, WireFormat] = {"simulator": "openai_chat", "simulator-google": "google_genai"}
HALF_REFUSED = "flex_refusal:0.5,flex_served_standard:0.1"
PATIENCE_SECONDS = 1.0
LONGEST_WAIT_SECONDS = PATIENCE_SECONDS + 2.0 * 1.5
"""The patience runs out during a wait at the latest: that after the second refusal, of 2 seconds and half of it by chance."""


async def run(simulator: Simulator, provider: str, results: Path, **options: Any) -> Any:
    usual: dict[str, Any] = {"judges": (f"{provider}:sim-judge",), "sample": 12, "lengths": (1, 2), "concurrency": 16, "run": "flex"}
    place = {"provider": provider, "base_urls": (simulator.base_url(VENDORS[provider]),), "results": results}
    return await evaluate(**usual | place | options, tier="flex,standard", flex_patience_seconds=PATIENCE_SECONDS)


def committed_usd(results: Path) -> float:
    with closing(sqlite3.connect(results / STORE_FILE)) as connection:
        return float(connection.execute("SELECT sum(committed_usd) FROM spending").fetchone()[0])


@pytest.mark.parametrize("provider", list(VENDORS))
async def test_a_run_of_which_half_is_refused_falls_back_in_time_and_costs_what_the_tiers_cost_that_served(
    provider: str, tmp_path: Path
) -> None:
    async with run_simulator(SimulatorSettings(faults=FaultPlan.parse(HALF_REFUSED))) as simulator:
        started = time.monotonic()
        result = await run(simulator, provider, tmp_path, max_usd=5.0)
        seconds, statistics = time.monotonic() - started, simulator.statistics()
    assert (result.exit_code, result.summary.status) == (0, "complete")
    served = result.summary.tiers.served
    assert served == {tier: sold["answers"] for tier, sold in statistics.tiers.items()}
    assert min(served["flex"], served["standard"]) >= 5
    assert statistics.faults["flex_refusal"] >= 20
    sold = sold_usd(statistics._asdict())
    assert result.summary.cost_usd.total == pytest.approx(sold, abs=1e-5)
    assert committed_usd(tmp_path) == pytest.approx(sold, abs=1e-9)
    # Every call by itself, and all of them: a target and a judge after it, in three goes of sixteen, on a machine that may be busy.
    with closing(sqlite3.connect(tmp_path / STORE_FILE)) as connection:
        replies = [reply_from_json(text, None) for (text,) in connection.execute("SELECT reply FROM replies")]
    assert max(reply.waited_seconds or 0.0 for reply in replies) < LONGEST_WAIT_SECONDS + 2.0
    assert seconds < 60.0


@pytest.mark.parametrize("provider", list(VENDORS))
async def test_the_ceiling_holds_over_both_tiers(provider: str, tmp_path: Path) -> None:
    async with run_simulator(SimulatorSettings(faults=FaultPlan.parse(HALF_REFUSED))) as simulator:
        result = await run(simulator, provider, tmp_path, max_usd=0.03, sample=20)
        sold = sold_usd(simulator.statistics()._asdict())
    assert (result.exit_code, result.summary.status) == (3, "budget_exhausted")
    assert {"flex", "standard"} == result.summary.tiers.served.keys()
    assert 0.015 < sold <= 0.03
    assert committed_usd(tmp_path) == pytest.approx(sold, abs=1e-9)
