"""How well the limiter uses a quota, on a virtual clock: ``python -m benchmarks.pace``.

A pretended vendor with a quota of R requests a minute answers after a while; workers that always have work call it through the real
limiter. Counted over three minutes of simulated time: the share of R that was used, and the share of calls answered 429. The vendor counts
in one of three ways that real ones use: a bucket that refills evenly (with a burst of some seconds' worth), a sliding minute, or a fixed
minute.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple, Protocol, TypeVar

import anyio
import trio.testing

from safemt_api.adapters.base import QuotaHint
from safemt_api.errors import RateLimitedError
from safemt_api.limits.limiter import Limiter
from safemt_api.limits.refusals import Sent
from safemt_api.limits.retry import DEFAULT_RETRY_POLICY, wait_seconds

T = TypeVar("T")

MINUTES = 3
WARM_UP_SECONDS = 0.0


class Meter(Protocol):
    """How a vendor counts."""

    def allows(self, now: float) -> bool:
        """Whether a call at this time is within the quota; counts it if so."""
        ...


@dataclass
class Bucket:
    """Refills evenly; holds ``burst_seconds`` worth."""

    per_minute: float
    burst_seconds: float = 60.0
    _level: float = field(default=-1.0)
    _then: float = 0.0

    def allows(self, now: float) -> bool:
        most = max(1.0, self.per_minute * self.burst_seconds / 60.0)
        level = most if self._level < 0 else min(most, self._level + (now - self._then) * self.per_minute / 60.0)
        self._then, self._level = now, level - 1.0 if level >= 1.0 else level
        return level >= 1.0


@dataclass
class SlidingMinute:
    """No more than the quota in any 60 seconds."""

    per_minute: float
    _log: deque[float] = field(default_factory=deque)

    def allows(self, now: float) -> bool:
        while self._log and self._log[0] <= now - 60.0:
            self._log.popleft()
        if len(self._log) >= self.per_minute:
            return False
        self._log.append(now)
        return True


@dataclass
class FixedMinute:
    """No more than the quota in each minute of the clock."""

    per_minute: float
    _minute: int = -1
    _used: int = 0

    def allows(self, now: float) -> bool:
        if int(now // 60) != self._minute:
            self._minute, self._used = int(now // 60), 0
        self._used += 1
        return self._used <= self.per_minute


class Use(NamedTuple):
    """What came of a simulated run."""

    used_share: float
    limited_share: float
    answered: int
    limited: int
    most_in_a_minute: int


@dataclass
class Vendor:
    """A pretended vendor behind the limiter."""

    meter: Meter
    per_minute: float
    announce: bool
    latency_seconds: Callable[[], float]
    retry_after_seconds: float | None = None
    answered: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    limited: int = 0

    async def call(self, limiter: Limiter) -> bool:
        """One attempt through the limiter; whether it was answered."""
        async with limiter.slot(100) as slot:
            now = anyio.current_time()
            self.sent.append(now)
            if not self.meter.allows(now):
                await anyio.sleep(0.05)
                self.limited += 1
                slot.rate_limited(self.retry_after_seconds)
                return False
            self.answered.append(now)
            await anyio.sleep(self.latency_seconds())
            hints = (QuotaHint("requests", limit=int(self.per_minute)),) if self.announce else ()
            slot.succeeded(tokens=100, hints=hints)
            return True


async def saturate(vendor: Vendor, limiter: Limiter, *, workers: int, minutes: float) -> Use:
    """Workers that always have a next call, for so many minutes; a refused call sleeps outside its slot and comes again."""

    async def work() -> None:
        while True:
            wait = 1.0
            while not await vendor.call(limiter):
                await anyio.sleep(vendor.retry_after_seconds or wait * random.uniform(0.5, 1.5))
                wait = min(wait * 2, 30.0)

    with anyio.move_on_after(minutes * 60.0):
        async with anyio.create_task_group() as group:
            for _ in range(workers):
                group.start_soon(work)
    tries = len(vendor.answered) + vendor.limited
    return Use(
        used_share=len(vendor.answered) / (vendor.per_minute * minutes),
        limited_share=vendor.limited / max(tries, 1),
        answered=len(vendor.answered),
        limited=vendor.limited,
        most_in_a_minute=most_in_window(vendor.sent, 60.0),
    )


def most_in_window(times: list[float], seconds: float) -> int:
    """The largest number of events in any window of that length (closed at its start, open at its end)."""
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def simulate(meter: Meter, per_minute: float, *, announce: bool, latency: float, workers: int = 32, seed: int = 0) -> Use:
    """Three simulated minutes, in a moment."""
    random.seed(seed)
    draws = random.Random(seed)
    vendor = Vendor(meter, per_minute, announce, lambda: latency * draws.uniform(0.5, 1.5))

    async def main() -> Use:
        return await saturate(vendor, Limiter(concurrency=workers), workers=workers, minutes=MINUTES)

    return virtually(main)


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


def stray_ratios(seeds: int = 9) -> Iterator[tuple[float, float | None, float]]:
    """Share refused, Retry-After, and the median ratio over seeds, at 0.5 s latency."""
    for share in (0.1, 0.3, 0.5):
        for retry_after in (None, 1.0, 5.0):
            yield share, retry_after, median(Stray(share, retry_after, seed=seed).finish().ratio for seed in range(seeds))


def virtually(main: Callable[[], Awaitable[T]]) -> T:
    """Run it on a clock that jumps whenever everyone sleeps."""
    return anyio.run(main, backend="trio", backend_options={"clock": trio.testing.MockClock(autojump_threshold=0)})


METERS: dict[str, Callable[[float], Meter]] = {
    "bucket, 60 s burst": lambda rpm: Bucket(rpm, 60.0),
    "bucket, 5 s burst": lambda rpm: Bucket(rpm, 5.0),
    "bucket, 1 s burst": lambda rpm: Bucket(rpm, 1.0),
    "sliding minute": SlidingMinute,
    "fixed minute": FixedMinute,
}


def main() -> None:
    """Print the tables."""
    print("stray 429s, 200 calls: time against what the refusals alone cost (goal: at most 1.5 x)")
    for share, retry_after, ratio in stray_ratios():
        print(f"  {share:.0%} refused, Retry-After {'none' if retry_after is None else f'{retry_after:g} s'}: {ratio:.2f} x")
    for announce in (True, False):
        print("with headers (goal: at least 97 % used, under 1 % 429)" if announce else "without headers (goal: at least 90 %, under 3 %)")
        for name, meter in METERS.items():
            for per_minute, latency in ((60, 2.0), (500, 1.0), (600, 2.0), (1200, 1.0)):
                use = simulate(meter(per_minute), per_minute, announce=announce, latency=latency)
                shares = f"{use.used_share:7.1%} used, {use.limited_share:6.2%} 429, most in a minute {use.most_in_a_minute}"
                print(f"  {name:20} R={per_minute:5} latency {latency:.0f} s: {shares}")


if __name__ == "__main__":
    main()
