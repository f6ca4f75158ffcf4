"""Kill a run in batches at steps of its ledger, again and again: ``python -m benchmarks.batch_chaos [--kills 100]``.

A step is the moment before or after anything that the batch queue does: a commit of the store, a request for a batch. For each wire format
a run is started, killed with SIGKILL at a step drawn at random, and started again with the same command, some five times; then it is left
to finish. The simulator is a separate process. It must hold that

- no batch is orphaned: each that the vendor has is in the ledger, and is over;
- none is bought twice: the vendor answered each call once;
- the books are the vendor's: what is spent is what its answers cost at the tiers that served them, and nothing is put aside any more;
- the verdicts equal those of a run online.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import polars as pl

from benchmarks.chaos import FORMATS
from safemt_api.adapters import batch as batch_adapters
from safemt_api.batches import BatchPace
from safemt_api.evaluation import evaluate
from safemt_api.runs import connections
from safemt_api.runs.record import read_run
from safemt_api.simulator import SimulatorSettings, simulator_process
from safemt_api.store.turns import STORE_FILE, TurnStore

RUN_SECONDS = 300
STEPS = 20
"""About as many as a small run has; a number above its last step is a run that is not killed."""
KILLS_A_RUN = 5

QUICK = BatchPace(quiet_seconds=0.1, first_poll_seconds=0.05, longest_poll_seconds=0.2, full_queue_seconds=0.1)


class Tortured(NamedTuple):
    """What came of one run that was killed again and again."""

    provider: str
    kills: int
    exit_code: int
    calls: int
    answered: int
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


def play(arguments: argparse.Namespace) -> None:
    """One process: the run as a user would start it, which kills itself at a step."""
    setattr(connections, "DEFAULT_BATCH_PACE", QUICK)  # noqa: B010 (it is not the module's own)
    batch_adapters.VISIBLE_SECONDS = 1.0  # a simulator's list is never late
    taken = 0

    def step() -> None:
        nonlocal taken
        taken += 1
        if taken == arguments.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def stepping(method: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(*args: Any, **named: Any) -> Any:
            step()
            result = await method(*args, **named)
            step()
            return result

        return wrapped

    def stepping_through(method: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        async def wrapped(*args: Any) -> AsyncIterator[Any]:
            async for one in method(*args):
                yield one
            step()

        return wrapped

    TurnStore.write = stepping(TurnStore.write)  # type: ignore[method-assign] # that is the torture
    for module, name in batch_adapters.BATCH_ADAPTERS.values():
        kind = getattr(import_module(module), name)
        for method in ("create", "find", "poll", "cancel"):
            setattr(kind, method, stepping(getattr(kind, method)))
        kind.results = stepping_through(kind.results)
    options: dict[str, Any] = {"provider": arguments.provider, "base_urls": (arguments.url,), "results": arguments.results, "run": "chaos"}
    sized: dict[str, Any] = {"sample": arguments.sample, "lengths": (1, 2), "judges": ("rules",), "max_usd": 5.0}
    result = anyio.run(lambda: evaluate(**options, **sized, tier=arguments.tier))
    print(json.dumps({"exit_code": result.exit_code, "steps": taken}))


def played(provider: str, url: str, results: Path, *, step: int, sample: int, tier: str = "batch") -> tuple[int, dict[str, Any]]:
    """Start the run; its return code, and what it printed."""
    named = {"provider": provider, "url": url, "results": results, "step": step, "sample": sample, "tier": tier}
    options = [part for name, value in named.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.batch_chaos", "--play", *options]
    done = subprocess.run(command, capture_output=True, timeout=RUN_SECONDS, check=False)
    if done.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(done.stderr.decode()[-2000:])
    return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}


def asked(url: str, what: str) -> Any:
    """What the simulator tells of itself."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/simulator/{what}", timeout=30) as answer:  # noqa: S310 (loopback)
        return json.load(answer)


def torture(provider: str, url: str, folder: Path, *, kills: int, seed: int, sample: int = 4) -> Tortured:
    """Kill so many times, let it finish, and compare everything."""
    draws, killed = random.Random(seed), 0
    results = folder / "batch"
    while killed < kills:
        # A run that is past its last step begins anew, so that every kill meets a ledger with something in it.
        code, _ = played(provider, url, results, step=draws.randint(1, STEPS), sample=sample)
        if code == 0:
            break
        killed += 1
    code, told = played(provider, url, results, step=0, sample=sample)
    statistics, batches = asked(url, "statistics"), asked(url, "batches")
    with closing(sqlite3.connect(results / STORE_FILE)) as connection:
        known = dict(connection.execute("SELECT batch_id, stage FROM batches WHERE batch_id IS NOT NULL"))
        (open_rows,) = connection.execute("SELECT count(*) FROM batch_rows WHERE open").fetchone()
        (booked,) = connection.execute("SELECT sum(committed_usd) FROM spending").fetchone()
    played(provider, url, folder / "online", step=0, sample=sample, tier="standard")
    return Tortured(
        provider=provider,
        kills=killed,
        exit_code=told["exit_code"],
        calls=len(read_run(results / "chaos").transcripts),
        answered=statistics["answered"],
        repeated=statistics["repeated"],
        orphaned=sum(known.get(batch["id"]) != "over" for batch in batches),
        open_rows=open_rows,
        booked_usd=booked,
        sold_usd=sold_usd(statistics),
        verdicts_equal=_labels(results / "chaos").equals(_labels(folder / "online" / "chaos")),
    )


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


def _labels(folder: Path) -> pl.DataFrame:
    return read_run(folder).verdicts.select("dialogue_id", "length", "turn", "label").sort("dialogue_id", "length", "turn")


async def tortured(kills: int, seed: int) -> None:
    """A line for each wire format."""
    for provider, wire_format in FORMATS.items():
        runs, killed, started = list[Tortured](), 0, time.monotonic()
        while killed < kills:
            with tempfile.TemporaryDirectory() as folder:
                async with simulator_process(SimulatorSettings(batch_seconds=0.1)) as address:
                    one = partial(torture, kills=min(KILLS_A_RUN, kills - killed), seed=seed + len(runs))
                    runs.append(await anyio.to_thread.run_sync(one, provider, address.base_url(wire_format), Path(folder)))
            killed += runs[-1].kills
            if not runs[-1].held:
                print(f"  NOT HELD: {runs[-1]}", flush=True)
        held, seconds = sum(one.held for one in runs), time.monotonic() - started
        print(f"{provider}: {killed} kills in {len(runs)} runs, {held} of them as they must be, {seconds:.0f} s", flush=True)


def main() -> None:
    """Run the torture, or (``--play``) one run of it."""
    parser = argparse.ArgumentParser(description="Kill a run in batches at steps of its ledger.")
    parser.add_argument("--kills", type=int, default=100, help="of each wire format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--play", action="store_true", help=argparse.SUPPRESS)
    for name, kind in {"provider": str, "url": str, "results": Path, "step": int, "sample": int, "tier": str}.items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.play:
        play(arguments)
    else:
        anyio.run(tortured, arguments.kills, arguments.seed)


if __name__ == "__main__":
    main()
