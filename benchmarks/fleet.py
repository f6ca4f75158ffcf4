"""Throughput over several servers of one model: ``python -m benchmarks.fleet [--endpoints 1,2,4] [--slots 4] [--latency-seconds 0.2]``.

Each endpoint is a simulator in a process of its own that works on ``--slots`` calls at a time and takes ``--latency-seconds`` for each, as
a model server on one GPU does: it cannot answer more than slots / latency calls a second. One evaluation is given all of them
(``--base-url`` many times). It must hold that the throughput grows with their number until the client's own CPU is the limit.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
import urllib.request
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio

from benchmarks.workload import write_data
from safemt_api.evaluation import evaluate
from safemt_api.runs.settings import EvalSettings
from safemt_api.simulator.process import SimulatorAddress, simulator_process
from safemt_api.simulator.settings import SimulatorSettings

PICTURES = 8
CALLS_IN_FLIGHT_A_SLOT = 2
"""Enough waiting at each server that it is never idle."""


class Measured(NamedTuple):
    """One run over so many endpoints. ``client_cpu`` is in cores; ``answered`` has one number an endpoint."""

    endpoints: int
    calls: int
    wall_seconds: float
    client_cpu: float
    answered: tuple[int, ...]

    @property
    def calls_per_second(self) -> float:
        """The run's throughput."""
        return self.calls / self.wall_seconds


def answered_by(address: SimulatorAddress) -> int:
    """How many calls an endpoint answered."""
    with urllib.request.urlopen(address.url("/simulator/statistics"), timeout=10) as response:  # noqa: S310 (our own server on loopback)
        return int(json.load(response)["answered"])


async def measure(data: Path, *, endpoints: int, slots: int, latency_seconds: float) -> Measured:
    """One scripted run of the data, one call a dialogue, over so many simulators."""
    playing = SimulatorSettings(latency_seconds=latency_seconds, slots=slots)
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(simulator_process(playing)) for _ in range(endpoints)]
        results = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = EvalSettings(
            data=data,
            base_urls=tuple(address.base_url() for address in addresses),
            concurrency=endpoints * slots * CALLS_IN_FLIGHT_A_SLOT,
            results=results,
            run="fleet",
            judges=("rules",),
        )
        cpu, started = time.process_time(), time.perf_counter()
        summary = (await evaluate(settings)).summary
        wall, used = time.perf_counter() - started, time.process_time() - cpu
        assert summary.status == "complete"
        assert summary.dialogues.failed == 0
        answered = tuple([await anyio.to_thread.run_sync(answered_by, address) for address in addresses])
    return Measured(endpoints, summary.calls.sent, wall, used / wall, answered)


def row(one: Measured, alone: Measured, *, slots: int, latency_seconds: float) -> str:
    """One line of the table."""
    most = one.endpoints * slots / latency_seconds
    shares = f"{min(one.answered)}–{max(one.answered)}"
    return (
        f"| {one.endpoints} | {most:.0f} | {one.calls_per_second:.0f} | {one.calls_per_second / most:.0%} "
        f"| {one.calls_per_second / alone.calls_per_second:.2f} | {one.client_cpu:.2f} | {shares} |"
    )


async def main(given: argparse.Namespace) -> None:
    """Print the table."""
    print("| endpoints | servers' limit, calls/s | measured, calls/s | share | against one | client CPU, cores | calls by endpoint |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        # The first run of a process also imports the SDKs; it is not counted.
        await measure(write_data(Path(folder) / "warm-up", ids=8, length=1), endpoints=1, slots=8, latency_seconds=0.0)
        alone: Measured | None = None
        for endpoints in map(int, given.endpoints.split(",")):
            data = write_data(Path(folder) / str(endpoints), ids=given.calls * endpoints, length=1, pictures=PICTURES)
            one = await measure(data, endpoints=endpoints, slots=given.slots, latency_seconds=given.latency_seconds)
            alone = alone or one
            print(row(one, alone, slots=given.slots, latency_seconds=given.latency_seconds), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Throughput over several servers of the same model.")
    parser.add_argument("--endpoints", default="1,2,4,8")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--latency-seconds", type=float, default=0.2)
    parser.add_argument("--calls", type=int, default=200, help="for each endpoint")
    options = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
    anyio.run(partial(main, parser.parse_args()), backend_options=options)
