"""A study over several accounts against its slowest account alone: ``python -m benchmarks.study [--ids 4] [--rpm 200,200,80]``.

Seventeen simulated models without and with a moderator, a third of them at each of three vendors, whose simulators run in processes of
their own and hold a quota of requests a minute each. Arms run at the same time, so the whole study must take hardly longer than the arms
of the slowest vendor take by themselves (wanted: 1.15 times), whatever the others wait for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from safemt_api.profiles import WireFormat
from safemt_api.simulator.personas import SEVENTEEN
from safemt_api.simulator.process import SimulatorAddress, simulator_process
from safemt_api.simulator.settings import SimulatorSettings
from safemt_api.studies import play as studying
from safemt_api.studies.arms import Study
from safemt_api.studies.file import study_from

PROVIDERS = ("simulator", "simulator-anthropic", "simulator-google")
FORMATS: tuple[WireFormat, ...] = ("openai_chat", "anthropic_messages", "google_genai")
MODERATOR = "policy:{provider}:sim-moderator"
BURST_SECONDS = 1.0
"""A vendor's bucket holds no minute's worth of calls here, so that pace and not the first burst is measured."""


class Measured(NamedTuple):
    """What a study bought, how long its arms were played, and how long it took in all, measuring and the page included."""

    arms: int
    replies: int
    played_seconds: float
    wall_seconds: float


def study_over(vendors: Sequence[int], addresses: Sequence[SimulatorAddress], *, ids: int) -> Study:
    """Each vendor's models without a moderator and with one of the same vendor."""
    arms: list[dict[str, Any]] = []
    for place, persona in enumerate(SEVENTEEN):
        at = place % len(PROVIDERS)
        if at not in vendors:
            continue
        own = {"target": f"{PROVIDERS[at]}:{persona.name}", "base_url": [addresses[at].base_url(FORMATS[at])]}
        arms.append({"name": persona.name, **own})
        arms.append(
            {"name": f"{persona.name}+guided", "reference": persona.name, "moderator": MODERATOR.format(provider=PROVIDERS[at]), **own}
        )
    return study_from({"settings": {"sample": ids, "judge": ["rules"], "concurrency": 64}, "arm": arms}, name="measured")


async def measure(vendors: Sequence[int], *, ids: int, rpm: Sequence[int]) -> Measured:
    """One study over the models of these vendors, from the first call to the written page."""
    async with AsyncExitStack() as stack:
        playing = [SimulatorSettings(requests_per_minute=one, burst_seconds=BURST_SECONDS) for one in rpm]
        addresses = [await stack.enter_async_context(simulator_process(one)) for one in playing]
        results = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        study = study_over(vendors, addresses, ids=ids)
        begun, started = datetime.now(UTC), time.perf_counter()
        result = await studying.study(study, results=results)
        wall = time.perf_counter() - started
        ended = datetime.fromisoformat(str(result.record.ended_utc))
        assert result.record.status == "complete", result.left_out
        sent = [json.loads((result.folder / arm.name / "summary.json").read_bytes())["calls"]["sent"] for arm in study.arms]
        return Measured(len(study.arms), sum(sent), (ended - begun).total_seconds(), wall)


async def main(ids: int, rpm: Sequence[int]) -> None:
    """The vendor of the smallest quota by itself, then all together; written as a Markdown table."""
    slowest = min(range(len(rpm)), key=lambda at: rpm[at])
    alone = await measure([slowest], ids=ids, rpm=rpm)
    whole = await measure(range(len(rpm)), ids=ids, rpm=rpm)
    print("| accounts (requests a minute) | arms | replies bought | played, s | in all, s |\n|---|---|---|---|---|")
    for name, found in ((str(rpm[slowest]), alone), (", ".join(map(str, rpm)), whole)):
        print(f"| {name} | {found.arms} | {found.replies:,} | {found.played_seconds:.1f} | {found.wall_seconds:.1f} |")
    print(f"\nplayed, against the slowest alone: {whole.played_seconds / alone.played_seconds:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=4)
    parser.add_argument("--rpm", type=lambda text: [int(part) for part in text.split(",")], default=[200, 200, 80])
    given = parser.parse_args()
    anyio.run(main, given.ids, given.rpm)
