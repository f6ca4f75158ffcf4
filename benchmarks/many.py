"""Many processes on one run: ``python -m benchmarks.many [--store URL] [quota] [kills] [money] [speed]``.

Four processes play the four shards of a run over one store, against the simulator in a process of its own. Four things are shown:

- ``quota``: an announced quota is used to at least 97 % with under 1 % 429s, counted while all four have work;
- ``kills``: with 30 % faults and SIGKILL at random again and again, no reply is bought twice beyond those in flight at a kill, and the
  verdicts are those of one undisturbed process;
- ``money``: with 30 % faults and kills, a ceiling that is too small is never gone over by a cent, and hardly left unused;
- ``speed``: how many calls a second one, two and four processes make.

``--store`` is given to each process as it is; without it they share the SQLite file of the results folder.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import polars as pl

from benchmarks.chaos import FAULTS, statistics
from safemt_api.simulator.process import SimulatorAddress, simulator_process
from safemt_api.simulator.settings import FaultPlan, SimulatorSettings

PROCESSES = 4
RUN_SECONDS = 900
LOOK_SECONDS = 0.5
START_SECONDS = 8.0
"""By then all processes have begun, and what went out before the quota was known has been made up for."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One evaluation as users start it; ``shard`` is one of its processes."""

    base_url: str
    results: Path
    store: str | None = None
    provider: str = "simulator"
    run: str = "many"
    sample: int = 34
    repeats: int = 1
    concurrency: int = 8
    max_usd: float | None = None
    protocol: str = "live"

    def arguments(self, shard: str | None) -> list[str]:
        """The command line."""
        options = [
            *("--provider", self.provider, "--base-url", self.base_url, "--results", str(self.results), "--run", self.run),
            *("--protocol", self.protocol, "--sample", str(self.sample), "--repeats", str(self.repeats)),
            *("--concurrency", str(self.concurrency), "--judge", f"{self.provider}:sim-judge", "--max-failures", "1", "--json"),
        ]
        options += [] if shard is None else ["--shard", shard]
        options += [] if self.store is None else ["--store", self.store]
        options += [] if self.max_usd is None else ["--max-usd", f"{self.max_usd:.6f}"]
        return [sys.executable, "-m", "safemt_api", "eval", *options]

    def start(self, shard: str | None = None) -> subprocess.Popen[bytes]:
        """Start it with its output kept away."""
        return subprocess.Popen(self.arguments(shard), stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @property
    def folder(self) -> Path:
        """Where the whole run's files are."""
        return self.results / self.run


class Ended(NamedTuple):
    """How one process ended."""

    code: int
    summary: dict[str, Any]
    said: str


def ended(process: subprocess.Popen[bytes]) -> Ended:
    """Wait for its end."""
    out, said = process.communicate(timeout=RUN_SECONDS)
    return Ended(process.returncode, json.loads(out) if out else {}, said.decode()[-2000:])


def all_ended(processes: Sequence[subprocess.Popen[bytes]]) -> list[Ended]:
    """Wait for all of them."""
    return [ended(process) for process in processes]


def shards(number: int = PROCESSES) -> list[str]:
    """How each process's part is called."""
    return [f"{part}/{number}" for part in range(1, number + 1)]


def killed_again_and_again(command: Command, kills: int, draws: random.Random) -> tuple[int, list[Ended]]:
    """Four processes, one of which is killed at random and started again, so many times; then all end by themselves."""
    processes = {shard: command.start(shard) for shard in shards()}
    hits = 0
    while hits < kills:
        time.sleep(draws.uniform(0.3, 1.2))
        victim = draws.choice(shards())
        if processes[victim].poll() is None:
            processes[victim].send_signal(signal.SIGKILL)
            hits += 1
        processes[victim].communicate()
        processes[victim] = command.start(victim)
        if all(process.poll() is not None for process in processes.values()):
            break
    # Who was killed leaves a claim that is believed for a moment: the last start of each waits it out by coming again.
    return hits, [_to_its_end(command, shard, process) for shard, process in processes.items()]


def _to_its_end(command: Command, shard: str, process: subprocess.Popen[bytes]) -> Ended:
    for _ in range(60):
        found = ended(process)
        if found.code in (0, 3):
            return found
        time.sleep(1.0)
        process = command.start(shard)
    raise RuntimeError(f"shard {shard} does not end: exit {found.code}: {found.said}")


def verdicts(folder: Path) -> dict[tuple[str, int, int, int], str | None]:
    """The verdicts that count, by dialogue, length, repeat and turn."""
    frame = pl.read_parquet(folder / "verdicts.parquet").filter(pl.col("counts"))
    return {(row["dialogue_id"], row["length"], row["repeat"], row["turn"]): row["label"] for row in frame.iter_rows(named=True)}


@asynccontextmanager
async def vendor(settings: SimulatorSettings) -> AsyncIterator[tuple[SimulatorAddress, Callable[[], dict[str, Any]]]]:
    """A simulator, and what it has counted so far."""
    async with simulator_process(settings) as address:
        yield address, partial(statistics, address.url("/simulator/statistics"))


def stormy(seed: int, share: float) -> SimulatorSettings:
    """A vendor that fails a share of all attempts, in every way that passes."""
    faults = FaultPlan.parse(",".join(f"{kind}:{share / len(FAULTS):.4f}" for kind in FAULTS) if share else "", retry_after_seconds=0.2)
    return SimulatorSettings(seed=seed, latency_seconds=0.05, faults=faults)


class Quota(NamedTuple):
    """An account's announced quota, used by four processes."""

    per_minute: int
    seconds: float
    answered: int
    limited: int

    @property
    def used(self) -> float:
        """The share of the quota that was used in that time."""
        return self.answered / (self.per_minute * self.seconds / 60.0)

    @property
    def limited_share(self) -> float:
        """The share of calls that were refused."""
        return self.limited / max(1, self.answered + self.limited)


async def quota(command: Command, *, per_minute: int = 1200, seconds: float = 75.0, burst_seconds: float = 5.0) -> Quota:
    """Four processes that always have work, counted for so long (or until the first has no more) once all have begun."""
    settings = SimulatorSettings(latency_seconds=0.3, requests_per_minute=per_minute, burst_seconds=burst_seconds)
    async with vendor(settings) as (address, count):
        command = replace(command, base_url=address.base_url())
        processes = [command.start(shard) for shard in shards()]
        try:
            while not (await anyio.to_thread.run_sync(count))["answered"]:  # noqa: ASYNC110 (another process's count is no event)
                await anyio.sleep(0.1)
            await anyio.sleep(START_SECONDS)
            first, began = await anyio.to_thread.run_sync(count), time.monotonic()
            while time.monotonic() < began + seconds and all(process.poll() is None for process in processes):
                await anyio.sleep(LOOK_SECONDS)
                last, now = await anyio.to_thread.run_sync(count), time.monotonic()
        finally:
            for process in processes:
                process.send_signal(signal.SIGINT)
            await anyio.to_thread.run_sync(all_ended, processes)
    return Quota(per_minute, now - began, last["answered"] - first["answered"], last["rate_limited"])


class Kills(NamedTuple):
    """A run of four processes through kills and faults, against one undisturbed process."""

    kills: int
    codes: tuple[int, ...]
    answered: int
    repeated: int
    most_in_flight: int
    failed: int
    verdicts: int
    verdicts_equal: bool

    @property
    def held(self) -> bool:
        """Whether all that is promised was so."""
        return self.verdicts_equal and self.repeated <= self.kills * self.most_in_flight and set(self.codes) == {0}


async def kills(command: Command, *, number: int = 30, share: float = 0.3, seed: int = 1) -> Kills:
    """Four processes, killed at random, with that share of attempts failing."""
    async with vendor(SimulatorSettings(seed=seed)) as (address, _):
        calm = replace(command, base_url=address.base_url(), run="calm", store=None, results=command.results / "calm")
        found = await anyio.to_thread.run_sync(lambda: ended(calm.start()))
        if found.code:
            raise RuntimeError(found.said)
    async with vendor(stormy(seed, share)) as (address, count):
        wild = replace(command, base_url=address.base_url())
        hits, ends = await anyio.to_thread.run_sync(killed_again_and_again, wild, number, random.Random(seed))
        counted = count()
    expected, got = verdicts(calm.folder), verdicts(wild.folder)
    whole = json.loads((wild.folder / "summary.json").read_text())
    return Kills(
        kills=hits,
        codes=tuple(end.code for end in ends),
        answered=counted["answered"],
        repeated=counted["repeated"],
        most_in_flight=command.concurrency,
        failed=whole["dialogues"]["failed"],
        verdicts=len(got),
        # A dialogue that failed for good has no verdict, and says so.
        verdicts_equal=got.keys() == expected.keys() and all(got[key] in (label, None) for key, label in expected.items()),
    )


class Money(NamedTuple):
    """A ceiling that is too small for the run, held by four processes."""

    kills: int
    codes: tuple[int, ...]
    ceiling_usd: float
    spent_usd: float
    whole_usd: float

    @property
    def held(self) -> bool:
        """Never above it, and not ended long before it."""
        return self.spent_usd <= self.ceiling_usd + 1e-9 and set(self.codes) == {3}


async def money(command: Command, *, number: int = 10, share: float = 0.3, seed: int = 2) -> Money:
    """Half of what the run costs must do, with faults and kills."""
    async with vendor(SimulatorSettings(seed=seed)) as (address, _):
        calm = replace(command, base_url=address.base_url(), run="calm", store=None, results=command.results / "calm")
        whole = (await anyio.to_thread.run_sync(lambda: ended(calm.start()))).summary["cost_usd"]["total"]
    async with vendor(stormy(seed, share)) as (address, _):
        poor = replace(command, base_url=address.base_url(), max_usd=round(whole / 2.0, 6))
        hits, ends = await anyio.to_thread.run_sync(killed_again_and_again, poor, number, random.Random(seed))
    spent = json.loads((poor.folder / "summary.json").read_text())["cost_usd"]["total"]
    return Money(hits, tuple(end.code for end in ends), poor.max_usd or 0.0, spent, whole)


class Speed(NamedTuple):
    """So many processes on one run, from the first answer to the last."""

    processes: int
    answered: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Calls answered a second."""
        return self.answered / self.seconds


async def speed(command: Command, processes: int) -> Speed:
    """A run without limits, by so many processes."""
    async with vendor(SimulatorSettings(latency_seconds=0.05)) as (address, count):
        command = replace(command, base_url=address.base_url(), run=f"speed-{processes}")
        parts: list[str | None] = [*shards(processes)] if processes > 1 else [None]
        started = [command.start(part) for part in parts]
        while not (await anyio.to_thread.run_sync(count))["answered"]:  # noqa: ASYNC110 (another process's count is no event)
            await anyio.sleep(0.02)
        began = end = time.monotonic()
        answered = 0
        while any(process.poll() is None for process in started):
            await anyio.sleep(0.1)
            now = (await anyio.to_thread.run_sync(count))["answered"]
            answered, end = (now, time.monotonic()) if now > answered else (answered, end)
        await anyio.to_thread.run_sync(all_ended, started)
    return Speed(processes, answered, end - began)


async def measure(what: Sequence[str], base: Command, *, number: int) -> bool:
    """Print what was asked for; whether all held."""
    held = True

    def told(name: str, found: Any, good: bool, more: str = "") -> None:
        nonlocal held
        held &= good
        print(f"{'held  ' if good else 'BROKEN'} {name}: {found}{more}", flush=True)

    def fresh(name: str, **changes: Any) -> Command:
        folder = Path(tempfile.mkdtemp(prefix=f"safemt-many-{name}-"))
        return replace(base, results=folder, run=f"{name}-{re.sub('[^a-z0-9]', '', folder.name)[-8:]}", **changes)

    if "quota" in what:
        used = await quota(fresh("quota", repeats=30, concurrency=16))
        told("quota", used, used.used >= 0.97 and used.limited_share < 0.01, f" used {used.used:.1%}, 429s {used.limited_share:.2%}")
    if "kills" in what:
        wild = await kills(fresh("kills"), number=number)
        told("kills", wild, wild.held)
    if "money" in what:
        poor = await money(fresh("money"), number=max(1, number // 3))
        told("money", poor, poor.held, f" unused {poor.ceiling_usd - poor.spent_usd:.4f}")
    if "speed" in what:
        for processes in (1, 2, 4):
            fast = await speed(fresh("speed", repeats=12, concurrency=64, protocol="scripted"), processes)
            told("speed", fast, True, f" {fast.per_second:.0f} calls a second")
    return held


def main() -> None:
    """Print a line for each; exit 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["quota", "kills", "money", "speed"])
    parser.add_argument("--store")
    parser.add_argument("--kills", type=int, default=30)
    options = parser.parse_args()
    base = Command(base_url="", results=Path(), store=options.store)
    sys.exit(not anyio.run(partial(measure, options.what, base, number=options.kills)))


if __name__ == "__main__":
    main()
