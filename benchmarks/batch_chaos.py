"""Kill a run in batches at every step of its ledger: ``python -m benchmarks.batch_chaos [--kills 100]``.

A step is a moment at which a crash leaves the ledger, the vendor and the disk in another state: before, within and after each commit about
a batch, before and after each request for one, at each row that is written or read. First the run is played undisturbed and notes its
steps, in each wire format and in each of ``SCENARIOS``; then it is started, killed with SIGKILL at a step of the point that was hit least,
started again with the same command, killed four times more at steps drawn at random, and left to finish; until there were kills enough, at
every point. Each life is a process of its own (forked from one that has loaded the libraries), the simulator too. It must hold that

- no batch is orphaned: each that the vendor has is in the ledger, and is over;
- none is bought twice: the vendor answered each call once;
- the books are the vendor's: what is spent is what its answers cost at the tiers that served them, and nothing is put aside any more;
- the verdicts equal those of a run online.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
import urllib.request
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anyio
import polars as pl

from benchmarks.chaos import FORMATS
from safemt_api import batches
from safemt_api.adapters import batch as batch_adapters
from safemt_api.batches import BatchPace
from safemt_api.evaluation import evaluate
from safemt_api.runs import connections
from safemt_api.runs.record import read_run
from safemt_api.simulator import FaultPlan, SimulatorSettings, simulator_process
from safemt_api.store.connection import Connection, Work
from safemt_api.store.turns import STORE_FILE, TurnStore

Tier = Literal["standard", "batch"]

LIFE_SECONDS = 120
KILLS_A_POINT = 2
LATER_KILLS, LATER_STEPS = 4, 12
"""A run is killed so often after its first kill, each time within so many steps: there it takes up what the life before it left."""

MOST_RUNS = 500
QUICK = BatchPace(quiet_seconds=0.1, first_poll_seconds=0.05, longest_poll_seconds=0.2, full_queue_seconds=0.1)
VISIBLE_SECONDS = 0.3
"""After so long a batch that the simulator does not list was never created: its list is never late."""

COMMITS: Mapping[str, str] = {"intended": "intent", "created": "id", "BatchQueue._close": "rows"}
"""What a commit of the ledger is about, by the function that makes its work."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the vendor does with a run's batches, and how the run is shaped so that every branch of the ledger is taken."""

    faults: str = ""
    protocol: str = "scripted"
    patience_seconds: float = 60.0
    rows_at_once: int = 64


SCENARIOS: Mapping[str, Scenario] = {
    "plain": Scenario(protocol="live", rows_at_once=2),
    "lost at creation": Scenario(faults="create_lost:first=1"),
    "rejected": Scenario(faults="batch_rejected:first=1"),
    "stuck": Scenario(faults="batch_stuck:first=1", patience_seconds=0.3),
}


class Step(NamedTuple):
    """A moment of one life: the ``nth`` time that it is at this point; at any point, where that has no name."""

    point: str | None
    nth: int


class Life(NamedTuple):
    """One process of a run: where it plays, and the step that it does not survive."""

    provider: str
    url: str
    results: Path
    scenario: Scenario
    tier: Tier
    diary: Path
    last: Step | None


class Tortured(NamedTuple):
    """What came of one run that was killed, perhaps twice, and left to finish."""

    kills: tuple[str, ...]
    exit_code: int | None
    repeated: int
    orphaned: int
    open_rows: int
    booked_usd: float
    sold_usd: float
    verdicts_equal: bool

    @property
    def held(self) -> bool:
        """Whether everything is as it must be."""
        whole = (self.exit_code, self.repeated, self.orphaned, self.open_rows) == (0, 0, 0, 0)
        return whole and self.verdicts_equal and abs(self.booked_usd - self.sold_usd) < 1e-6


def live(life: Life) -> None:
    """The run as a user would start it, in this process, which notes its steps and kills itself at the last one."""
    setattr(connections, "DEFAULT_BATCH_PACE", QUICK)  # noqa: B010 (it is not the module's own)
    batch_adapters.VISIBLE_SECONDS, batches.ROWS_AT_ONCE = VISIBLE_SECONDS, life.scenario.rows_at_once
    signal.alarm(LIFE_SECONDS)  # it outlives nobody by much
    diary = os.open(life.diary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    taken: Counter[str | None] = Counter()

    def step(point: str) -> None:
        os.write(diary, f"{point}\n".encode())
        taken.update((point, None))
        if life.last in (Step(point, taken[point]), Step(None, taken[None])):
            os.kill(os.getpid(), signal.SIGKILL)

    _step_through_commits(step)
    _step_through_requests(step)
    options: dict[str, Any] = {"provider": life.provider, "base_urls": (life.url,), "results": life.results, "run": "chaos"}
    sized: dict[str, Any] = {"sample": 2, "lengths": (1, 2), "judges": ("rules",), "max_usd": 5.0, "protocol": life.scenario.protocol}
    result = anyio.run(lambda: evaluate(**options, **sized, tier=life.tier, batch_patience_seconds=life.scenario.patience_seconds))
    sys.exit(result.exit_code)


def _step_through_commits(step: Callable[[str], None]) -> None:
    write = TurnStore.write

    async def stepping(store: TurnStore, work: Work[Any]) -> Any:
        about = COMMITS.get(getattr(work, "__qualname__", "").partition(".<locals>")[0])
        if about is None:
            return await write(store, work)

        def within(connection: Connection) -> Any:
            result = work(connection)
            step(f"{about} written, not committed")
            return result

        step(f"{about} to be written")
        result = await write(store, within)
        step(f"{about} committed")
        return result

    TurnStore.write = stepping  # type: ignore[method-assign, assignment] # that is the torture


def _step_through_requests(step: Callable[[str], None]) -> None:
    def asking(method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        async def stepping(*args: Any, **named: Any) -> Any:
            point = {True: "creation", False: "upload"}.get(named.get("batch"), method.__name__)  # type: ignore[arg-type] # or neither
            step(f"{point} to be asked")
            result = await method(*args, **named)
            step(f"{point} answered")
            return result

        return stepping

    def writing(method: Callable[..., bytes]) -> Callable[..., bytes]:
        def stepping(*args: Any) -> bytes:
            step("row to be written")
            return method(*args)

        return stepping

    def reading(method: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        async def stepping(*args: Any) -> AsyncIterator[Any]:
            step("results to be asked")
            async for one in method(*args):
                step("row read")
                yield one
            step("results read")

        return stepping

    batch_adapters.Batches.make = asking(batch_adapters.Batches.make)  # type: ignore[method-assign]
    for module, name in batch_adapters.BATCH_ADAPTERS.values():
        kind = getattr(import_module(module), name)
        for method in ("find", "poll", "cancel"):
            setattr(kind, method, asking(getattr(kind, method)))
        kind.line, kind.results = writing(kind.line), reading(kind.results)


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "genai_prices", *(module for module, _ in batch_adapters.BATCH_ADAPTERS.values())])


def lived(life: Life) -> tuple[int | None, list[str]]:
    """Start a process of the run and wait for its end: its exit code, and the points it came by."""
    life.diary.unlink(missing_ok=True)
    process = PROCESSES.Process(target=live, args=(life,))
    process.start()
    process.join(LIFE_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return None, life.diary.read_text().splitlines()
    return process.exitcode, life.diary.read_text().splitlines()


def asked(url: str, what: str, body: bytes | None = None) -> Any:
    """What the simulator tells of itself; with a body, what it is told to do."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/simulator/{what}", body, timeout=30) as answer:  # noqa: S310 (loopback)
        return json.load(answer)


@dataclass(frozen=True, slots=True)
class Rack:
    """One wire format in one scenario."""

    provider: str
    url: str
    folder: Path
    scenario: Scenario

    def life(self, name: str, *, last: Step | None = None, tier: Tier = "batch") -> tuple[int | None, list[str]]:
        """One process of the run of that name."""
        return lived(Life(self.provider, self.url, self.folder / name, self.scenario, tier, self.folder / "diary", last))

    def steps(self) -> list[Step]:
        """Play undisturbed, online and in batches; the steps of the latter."""
        tiers: tuple[Tier, ...] = ("standard", "batch")
        for tier in tiers:
            code, points = self.life(f"undisturbed {tier}", tier=tier)
            if code != 0:
                raise RuntimeError(f"{self.provider}: the undisturbed run ({tier}) ended with {code}")
        return [Step(point, points[: at + 1].count(point)) for at, point in enumerate(points)]

    def torture(self, name: str, *lasts: Step) -> Tortured:
        """Kill the run at these steps, one a life, let it finish, and compare everything."""
        asked(self.url, "reset", b"{}")
        kills: list[str] = []
        for last in lasts:
            code, points = self.life(name, last=last)
            if code != -signal.SIGKILL:
                break
            kills.append(points[-1])
        else:
            code, _ = self.life(name)
        statistics, made = asked(self.url, "statistics"), asked(self.url, "batches")
        with closing(sqlite3.connect(self.folder / name / STORE_FILE)) as connection:
            known = dict(connection.execute("SELECT batch_id, stage FROM batches WHERE batch_id IS NOT NULL"))
            (open_rows,) = connection.execute("SELECT count(*) FROM batch_rows WHERE open").fetchone()
            (booked,) = connection.execute("SELECT sum(committed_usd) FROM spending").fetchone()
        return Tortured(
            kills=tuple(kills),
            exit_code=code,
            repeated=statistics["repeated"],
            orphaned=sum(known.get(batch["id"]) != "over" for batch in made),
            open_rows=open_rows,
            booked_usd=booked,
            sold_usd=sold_usd(statistics),
            verdicts_equal=code == 0 and self._labels(name).equals(self._labels("undisturbed standard")),
        )

    def _labels(self, name: str) -> pl.DataFrame:
        verdicts = read_run(self.folder / name / "chaos").verdicts
        return verdicts.select("dialogue_id", "length", "turn", "label").sort("dialogue_id", "length", "turn")


def sold_usd(statistics: dict[str, Any]) -> float:
    """What the vendor's answers cost at its list prices, by the tier that served them."""
    prices = {"input_tokens": 1.0, "output_tokens": 4.0}
    discount = {"batch": 0.5, "flex": 0.5}
    usd: list[float] = [
        discount.get(tier, 1.0)
        * (
            (sold["input_tokens"] - sold["cached_input_tokens"]) * prices["input_tokens"]
            + sold["cached_input_tokens"] * 0.1
            + sold["output_tokens"] * prices["output_tokens"]
        )
        / 1e6
        for tier, sold in statistics["tiers"].items()
    ]
    return sum(usd)


class Outcome(NamedTuple):
    """All runs of one wire format: how many, those that did not hold, and the kills by point."""

    runs: int
    broken: tuple[Tortured, ...]
    kills: Mapping[str, int]


async def tortured(provider: str, *, kills: int, seed: int = 0, once: bool = False) -> Outcome:
    """Torture one wire format, each time at a step of the point that was hit least.

    Args:
        provider: Of ``FORMATS``.
        kills: At least so many, and ``KILLS_A_POINT`` at each point.
        seed: Decides where the later kills of a run fall.
        once: Only until every point was hit, with one kill a run.
    """
    draws, runs, broken, killed = random.Random(seed), 0, list[Tortured](), Counter[str]()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        racks: dict[str, tuple[Rack, list[Step]]] = {}
        for name, scenario in SCENARIOS.items():
            settings = SimulatorSettings(batch_seconds=0.1, faults=FaultPlan.parse(scenario.faults))
            address = await stack.enter_async_context(simulator_process(settings))
            rack = Rack(provider, address.base_url(FORMATS[provider]), Path(tempfile.mkdtemp(dir=folder)), scenario)
            racks[name] = rack, await anyio.to_thread.run_sync(rack.steps)
        plan = deque((name, step) for name, (_, steps) in racks.items() for step in steps)
        points = {step.point or "" for _, step in plan}
        while runs < MOST_RUNS and (killed.total() < kills or min(killed[point] for point in points) < (1 if once else KILLS_A_POINT)):
            name, step = min(plan, key=lambda one: killed[one[1].point or ""])
            # The next time this point's turn comes, another scenario or a later moment is first.
            plan.remove((name, step))
            plan.append((name, step))
            rack, _ = racks[name]
            later = () if once else (Step(None, draws.randint(1, LATER_STEPS)) for _ in range(LATER_KILLS))
            one = await anyio.to_thread.run_sync(rack.torture, f"run {runs}", step, *later)
            killed.update(one.kills)
            runs += 1
            if not one.held:
                broken.append(one)
                print(f"  NOT HELD ({provider}, {name}): {one}", flush=True)
            elif runs % 5 == 0:
                least = min(killed[point] for point in points)
                print(f"  {provider}: {killed.total()} kills in {runs} runs, {least} at least at each point", flush=True)
    return Outcome(runs, tuple(broken), killed)


def table(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """Kills by point, a column for each wire format."""
    yield f"| kills | {' | '.join(outcomes)} |"
    yield f"|---|{'---|' * len(outcomes)}"
    points = sorted({point for outcome in outcomes.values() for point in outcome.kills})
    for point in points:
        yield f"| {point} | {' | '.join(str(outcome.kills.get(point, 0)) for outcome in outcomes.values())} |"
    yield f"| all | {' | '.join(str(sum(outcome.kills.values())) for outcome in outcomes.values())} |"


def main() -> None:
    """Run the torture and print what came of it."""
    parser = argparse.ArgumentParser(description="Kill a run in batches at every step of its ledger.")
    parser.add_argument("--kills", type=int, default=100, help="of each wire format, at least; every point is hit in any case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--provider", choices=list(FORMATS), action="append", help="only this wire format")
    arguments = parser.parse_args()
    outcomes: dict[str, Outcome] = {}
    for provider in arguments.provider or FORMATS:
        started = time.monotonic()
        outcome = outcomes[provider] = anyio.run(partial(tortured, provider, kills=arguments.kills, seed=arguments.seed))
        killed, held, seconds = sum(outcome.kills.values()), outcome.runs - len(outcome.broken), time.monotonic() - started
        print(f"{provider}: {killed} kills in {outcome.runs} runs, {held} as they must be, {seconds:.0f} s", flush=True)
    print("\n".join(table(outcomes)))


if __name__ == "__main__":
    main()
