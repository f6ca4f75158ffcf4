"""What stray 429s cost, on a virtual clock and on the real one: ``python -m benchmarks.pace`` prints it (``--real`` the latter).

A server with room refuses a share of calls at random, whatever the pace. Counted is the time until 200 calls are answered, against a
limiter that takes no notice of 429s and waits between the tries of a call just as ours: what it needs is what the refusals alone cost.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

import anyio
import trio._core._run as scheduler
import trio.testing

from safemt_api.adapters.base import Timeouts
from safemt_api.adapters.http_client import open_http_client
from safemt_api.errors import RateLimitedError
from safemt_api.gateway import Account, Gateway
from safemt_api.limits.budget import Ledger
from safemt_api.limits.limiter import Limiter
from safemt_api.limits.refusals import Sent
from safemt_api.limits.retry import DEFAULT_RETRY_POLICY, wait_seconds
from safemt_api.messages import Call, Route, user
from safemt_api.profiles import load_profiles
from safemt_api.routes import Router
from safemt_api.runs.connections import account_opener
from safemt_api.runs.settings import EvalSettings
from safemt_api.simulator.process import simulator_process
from safemt_api.simulator.settings import Fault, FaultPlan, SimulatorSettings
from safemt_api.store.turns import STORE_FILE, TurnStore, open_store

T = TypeVar("T")

SHARES = (0.1, 0.3, 0.5)
PROVIDER, MODEL = "simulator", "sim-average"


def virtually(main: Callable[[], Awaitable[T]]) -> T:
    """Run it on a clock that jumps whenever everyone sleeps; the same each time.

    trio wakes tasks in random order, so that nobody relies on one. A figure must not move with it: this is the switch that trio keeps for
    tests with hypothesis.
    """
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc] # declared final; trio's own plugin sets it all the same
    scheduler._r.seed(0)
    return anyio.run(main, backend="trio", backend_options={"clock": trio.testing.MockClock(autojump_threshold=0)})


class DeafLimiter(Limiter):
    """Learns nothing from 429s: what it needs is what the refusals alone cost."""

    def _rate_limited(self, sent: Sent, retry_after_seconds: float | None) -> None:
        self._failed(sent)


class Finish(NamedTuple):
    """Seconds until all calls were answered, by our limiter and by one that takes no notice of 429s."""

    ours_seconds: float
    deaf_seconds: float

    @property
    def ratio(self) -> float:
        """How much longer ours took."""
        return self.ours_seconds / self.deaf_seconds


@dataclass(frozen=True)
class Stray:
    """So many calls to a server with room that refuses a share of them at random, whatever the pace."""

    share: float
    retry_after_seconds: float | None = None
    latency_seconds: float = 0.5
    calls: int = 200
    workers: int = 32
    cautious: bool = True
    seed: int = 0

    def finish(self) -> Finish:
        """How long our limiter takes, and one that takes no notice."""
        return Finish(self.seconds(Limiter), self.seconds(DeafLimiter))

    def seconds(self, kind: type[Limiter]) -> float:
        """Virtual seconds until the last call is answered."""
        draws = random.Random(self.seed)
        # Drawn for each attempt of each call beforehand, so that both limiters meet the same refusals.
        refusals = [[draws.random() < self.share for _ in range(60)] for _ in range(self.calls)]
        waits = random.Random(self.seed)

        async def main() -> float:
            limiter, todo = kind(concurrency=self.workers, cautious=self.cautious), iter(refusals)

            async def work() -> None:
                for refused in todo:
                    await self._one(limiter, refused, waits)

            async with anyio.create_task_group() as group:
                for _ in range(self.workers):
                    group.start_soon(work)
            return float(anyio.current_time())

        return virtually(main)

    async def _one(self, limiter: Limiter, refused: list[bool], waits: random.Random) -> None:
        for attempt, is_refused in enumerate(refused, 1):
            async with limiter.slot(100) as slot:
                if not is_refused:
                    await anyio.sleep(self.latency_seconds * waits.uniform(0.5, 1.5))
                    slot.succeeded(tokens=100)
                    return
                await anyio.sleep(min(0.05, self.latency_seconds))
                slot.rate_limited(self.retry_after_seconds)
            error = RateLimitedError("429", retry_after_seconds=self.retry_after_seconds)
            await anyio.sleep(wait_seconds(DEFAULT_RETRY_POLICY, error, attempt, waits.random()))

    async def finish_over_sockets(self) -> Finish:
        """The same on the real clock, both at the same time and so under the same load, each with a simulator in a process of its own."""
        taken: dict[type[Limiter], float] = {}

        async def measure(kind: type[Limiter]) -> None:
            taken[kind] = await self._seconds_over_sockets(kind)

        async with anyio.create_task_group() as group:
            group.start_soon(measure, Limiter)
            group.start_soon(measure, DeafLimiter)
        return Finish(taken[Limiter], taken[DeafLimiter])

    async def _seconds_over_sockets(self, kind: type[Limiter]) -> float:
        # Drawn by request and attempt, so that both limiters meet the same refusals here too.
        fault = Fault("rate_limit" if self.retry_after_seconds is None else "rate_limit_retry_after", share=self.share)
        plan = FaultPlan((fault,), retry_after_seconds=self.retry_after_seconds or 1.0)
        playing = SimulatorSettings(seed=self.seed, latency_seconds=self.latency_seconds, faults=plan)
        timeouts = Timeouts()
        async with (
            simulator_process(playing) as address,
            open_http_client(connections=self.workers, timeouts=timeouts) as client,
            _temporary_store() as store,
        ):
            profiles = load_profiles()
            router = Router(profiles, base_urls={PROVIDER: (address.base_url(),)})
            opener = account_opener(EvalSettings(concurrency=self.workers), router=router, client=client, timeouts=timeouts)

            def open_account(route: Route) -> Account:
                account = opener(route)
                account.limiter = kind(concurrency=self.workers, cautious=self.cautious)
                return account

            gateway = Gateway(
                store=store,
                ledger=Ledger(store, run="stray", ceiling_usd=None),
                open_account=open_account,
                profile_of=lambda route: profiles[route.profile],
                timeouts=timeouts,
            )
            return await self._seconds_through(gateway, router.destination(PROVIDER, MODEL).route)

    async def _seconds_through(self, gateway: Gateway, route: Route) -> float:
        todo = iter(range(self.calls))

        async def work() -> None:
            for number in todo:
                await gateway.ask(Call(route, (user(f"Question {number}"),)))

        started = anyio.current_time()
        async with anyio.create_task_group() as group:
            for _ in range(self.workers):
                group.start_soon(work)
        return anyio.current_time() - started


@asynccontextmanager
async def _temporary_store() -> AsyncIterator[TurnStore]:
    with tempfile.TemporaryDirectory(prefix="safemt-bench-") as folder:
        async with open_store(Path(folder) / STORE_FILE) as store:
            yield store


def stray_ratios(seeds: int = 9) -> Iterator[tuple[float, float | None, float]]:
    """Share refused, Retry-After, and the median ratio over seeds, at 0.5 s latency."""
    for share in SHARES:
        for retry_after in (None, 1.0, 5.0):
            yield share, retry_after, median(Stray(share, retry_after, seed=seed).finish().ratio for seed in range(seeds))


async def stray_ratios_over_sockets(seeds: int = 3) -> AsyncIterator[tuple[float, float | None, list[Finish]]]:
    """Share refused, Retry-After, and the times for each seed, on the real clock; some minutes in all."""
    # The first of a process also imports the SDKs; it is not counted.
    await Stray(0.0, latency_seconds=0.0, calls=8).finish_over_sockets()
    for share in SHARES:
        for retry_after in (None, 1.0):
            yield share, retry_after, [await Stray(share, retry_after, seed=seed).finish_over_sockets() for seed in range(seeds)]
