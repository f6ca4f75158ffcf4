"""``make bench``: one table, each figure beside its goal. Ratios are taken side by side in one run, because machines are noisy.

The simulator runs as a process of its own; the yardstick is ``benchmarks.bare_loop``. Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import anyio

from benchmarks.pace import METERS, simulate
from benchmarks.stray_refusals import stray_ratios
from benchmarks.workload import write_data
from safemt_api.simulator.process import simulator_process
from safemt_api.simulator.settings import SimulatorSettings

CONCURRENCY = 32
ROUNDS = 3
MODULE_SECONDS = 1200


class Figure(NamedTuple):
    """One row of the table."""

    what: str
    value: str
    goal: str
    held: bool | None = None


USUAL = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Without this variable, under which this package, and not the installed ones of the bare loop, would be compiled anew at every start."""


def module(name: str, *arguments: object) -> dict[str, Any]:
    """Run one of the measured programs in a process of its own; what it prints."""
    command = [sys.executable, "-m", name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=MODULE_SECONDS, check=True, env=USUAL)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


async def with_simulator(measure: Callable[[str], list[Figure]], *, latency_seconds: float = 0.0) -> list[Figure]:
    """Measure against a simulator in another process."""
    async with simulator_process(SimulatorSettings(latency_seconds=latency_seconds, truth_limit=1000)) as address:
        return await anyio.to_thread.run_sync(measure, address.base_url("openai_chat"))


def command_line(data: Path, url: str, results: str) -> float:
    """CPU seconds of the whole command, from its first import to the report's page."""
    program = [sys.executable, "-m", "safemt_api", "eval", "--data", str(data), "--base-url", url, "--judge", "rules", "--run", "bench"]
    options = ["--concurrency", str(CONCURRENCY), "--results", results, "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*program, *options], capture_output=True, timeout=MODULE_SECONDS, check=True, env=USUAL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert json.loads(done.stdout)["status"] == "complete"
    assert (Path(results) / "bench" / "report.html").is_file()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def speed(data: Path, calls: int) -> Callable[[str], list[Figure]]:
    """CPU per call of the whole command, its report included, and throughput of a scripted run, against the bare loop's, in turns."""

    def measure(url: str) -> list[Figure]:
        cpu, pace = [], []
        for _ in range(ROUNDS):
            bare = module("benchmarks.bare_loop", data, url, CONCURRENCY)
            with tempfile.TemporaryDirectory() as results:
                ours = module("benchmarks.our_run", data, url, CONCURRENCY, results)
            with tempfile.TemporaryDirectory() as results:
                whole = [command_line(data, url, results), bare["cpu_seconds"] + bare["start_cpu_seconds"]]
            cpu.append((whole[0] / whole[1], whole[0] / calls * 1000, whole[1] / calls * 1000))
            pace.append((bare["wall_seconds"] / ours["wall_seconds"], calls / ours["wall_seconds"], calls / bare["wall_seconds"]))
        ratio, ours_ms, bare_ms = (median(column) for column in zip(*cpu, strict=True))
        speed_ratio, ours_rate, bare_rate = (median(column) for column in zip(*pace, strict=True))
        return [
            Figure(
                "CPU per call, whole command with its report",
                f"{ratio:.2f} x bare loop ({ours_ms:.1f} : {bare_ms:.1f} ms)",
                "<= 0.5 x",
                ratio <= 0.5,
            ),
            Figure(
                "throughput, 50 ms, 32 connections",
                f"{speed_ratio:.2f} x bare loop ({ours_rate:.0f} : {bare_rate:.0f} calls/s)",
                ">= 0.85 x, >= 400 calls/s",
                speed_ratio >= 0.85 and ours_rate >= 400,
            ),
        ]

    return measure


def memory(small: Path, large: Path, replay: bool) -> Callable[[str], list[Figure]]:
    """Peak memory at 1,000 and 10,000 dialogues, and the large run again from the store."""

    def measure(url: str) -> list[Figure]:
        with tempfile.TemporaryDirectory() as results:
            few = module("benchmarks.our_run", small, url, CONCURRENCY, results)["peak_mb"]
        with tempfile.TemporaryDirectory() as results:
            many = module("benchmarks.our_run", large, url, CONCURRENCY, results)["peak_mb"]
            again = module("benchmarks.our_run", large, url, CONCURRENCY, results) if replay else None
        figures = [
            Figure("peak memory, 10,000 dialogues", f"{many:.0f} MB", "< 200 MB", many < 200),
            Figure("  against 1,000 dialogues", f"{many / few:.2f} x ({few:.0f} MB)", "<= 1.2 x", many / few <= 1.2),
        ]
        if again is not None:
            held = again["calls"]["sent"] == 0 and again["wall_seconds"] < 10
            figures.append(
                Figure(
                    "10,000 dialogues again, from the store",
                    f"{again['wall_seconds']:.1f} s, {again['calls']['sent']} sent",
                    "< 10 s, 0 sent",
                    held,
                )
            )
        return figures

    return measure


def pace() -> Iterator[Figure]:
    """How a quota is used and what stray 429s cost, on a virtual clock."""
    for share, retry_after, ratio in stray_ratios():
        named = "" if retry_after is None else f", Retry-After {retry_after:g} s"
        yield Figure(f"stray 429s, {share:.0%} of calls{named}", f"{ratio:.2f} x what they alone cost", "<= 1.5 x", ratio <= 1.5)
    for announce, used, limited in ((True, 0.97, 0.01), (False, 0.90, 0.03)):
        for name in ("bucket, 60 s burst", "sliding minute", "fixed minute"):
            use = simulate(METERS[name](600), 600, announce=announce, latency=2.0)
            how = "announced" if announce else "unannounced"
            yield Figure(
                f"quota of 600/min, {how}, {name}",
                f"{use.used_share:.1%} used, {use.limited_share:.2%} 429",
                f">= {used:.0%}, < {limited:.0%}",
                use.used_share >= used and use.limited_share < limited,
            )


def schedule(url: str, latency_seconds: float = 1.0, concurrency: int = 16) -> Figure:
    """Wall time of a live run over mixed lengths against the least possible."""
    with tempfile.TemporaryDirectory() as results:
        program = [sys.executable, "-m", "safemt_api", "eval", "--base-url", url, "--results", results, "--run", "schedule", "--json"]
        options = ["--protocol", "live", "--kinds", "both", "--concurrency", str(concurrency), "--judge", "rules"]
        done = subprocess.run([*program, *options], capture_output=True, timeout=MODULE_SECONDS, check=True)
    summary = json.loads(done.stdout)
    least = max(summary["calls"]["sent"] * latency_seconds / concurrency, 8 * latency_seconds)
    ratio = summary["wall_seconds"] / least
    return Figure("schedule, live, lengths 1 to 8, 1 s a call", f"{ratio:.3f} x the least possible", "<= 1.05 x", ratio <= 1.05)


def start_up() -> Iterator[Figure]:
    """How long the command line takes to say something."""
    for arguments in (["--help"], ["providers", "list"]):
        times = []
        for _ in range(7):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "safemt_api", *arguments], capture_output=True, check=True, timeout=60)
            times.append(time.perf_counter() - started)
        yield Figure(f"safemt-api {' '.join(arguments)}", f"{min(times):.2f} s (best of {len(times)})", "< 0.3 s", min(times) < 0.3)


def show(figures: list[Figure]) -> None:
    """Print rows as they come."""
    for figure in figures:
        mark = {True: "held", False: "MISSED", None: ""}[figure.held]
        print(f"{figure.what:55} {figure.value:48} {figure.goal:26} {mark}", flush=True)


def main() -> None:
    """Measure everything, or what ``--only`` names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["speed", "memory", "pace", "schedule", "start"], action="append")
    parser.add_argument("--dialogues", type=int, default=10_000, help="size of the large run")
    options = parser.parse_args()
    wanted = set(options.only or ["speed", "memory", "pace", "schedule", "start"])
    print(f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="safemt-bench-") as folder:
        data = Path(folder)
        if "start" in wanted:
            show(list(start_up()))
        if "pace" in wanted:
            show(list(pace()))
        if "schedule" in wanted:
            show(anyio.run(lambda: with_simulator(lambda url: [schedule(url)], latency_seconds=1.0)))
        if "speed" in wanted:
            write_data(data / "speed", ids=2000, length=4, pictures=200)
            show(anyio.run(lambda: with_simulator(speed(data / "speed", 2000), latency_seconds=0.05)))
        if "memory" in wanted:
            small = write_data(data / "small", ids=options.dialogues // 10, length=4, pictures=300)
            large = write_data(data / "large", ids=options.dialogues, length=4, pictures=300)
            show(anyio.run(lambda: with_simulator(memory(small, large, replay=True))))


if __name__ == "__main__":
    main()
