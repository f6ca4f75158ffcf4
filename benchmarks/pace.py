"""How well the limiter uses a quota, on a virtual clock: ``python -m benchmarks.pace``.

A pretended vendor with a quota of R requests a minute answers after a while; workers that always have work call it through the real
limiter. Counted over three minutes of simulated time: the share of R that was used, and the share of calls answered 429. The vendor counts
in one of three ways that real ones use: a bucket that refills evenly (with a burst of some seconds' worth), a sliding minute, or a fixed
minute.
"""

from __future__ import annotations

import argparse
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import NamedTuple, Protocol

import anyio

from benchmarks.stray_refusals import stray_ratios, stray_ratios_over_sockets, virtually
from safemt_api.adapters.base import QuotaHint
from safemt_api.limits.limiter import Limiter

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


METERS: dict[str, Callable[[float], Meter]] = {
    "bucket, 60 s burst": lambda rpm: Bucket(rpm, 60.0),
    "bucket, 5 s burst": lambda rpm: Bucket(rpm, 5.0),
    "bucket, 1 s burst": lambda rpm: Bucket(rpm, 1.0),
    "sliding minute": SlidingMinute,
    "fixed minute": FixedMinute,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="How well the limiter uses a quota, and what stray 429s cost.")
    parser.add_argument("--real", action="store_true", help="stray 429s only, over sockets and on the real clock")
    if parser.parse_args().real:
        anyio.run(print_stray_over_sockets)
    else:
        print_stray()
        print_quotas()
        print_together()


def print_stray() -> None:
    """A row for each share of refusals and wait named."""
    print("stray 429s, 200 calls: time against what the refusals alone cost (goal: at most 1.5 x)")
    for share, retry_after, ratio in stray_ratios():
        print(f"  {refusals(share, retry_after)}: {ratio:.2f} x")


def refusals(share: float, retry_after_seconds: float | None) -> str:
    """How a row is called."""
    return f"{share:.0%} refused, Retry-After {'none' if retry_after_seconds is None else f'{retry_after_seconds:g} s'}"


async def print_stray_over_sockets() -> None:
    """The same over sockets, each seed by itself."""
    print("stray 429s, 200 calls over sockets: time against what the refusals alone cost (goal: at most 1.5 x)")
    async for share, retry_after, finishes in stray_ratios_over_sockets():
        seconds = ", ".join(f"{finish.ours_seconds:.1f} : {finish.deaf_seconds:.1f} s" for finish in finishes)
        ratio = median(finish.ratio for finish in finishes)
        print(f"  {refusals(share, retry_after)}: {ratio:.2f} x ({seconds})", flush=True)


def print_quotas() -> None:
    """A row for each kind and size of quota."""
    for announce in (True, False):
        print("with headers (goal: at least 97 % used, under 1 % 429)" if announce else "without headers (goal: at least 90 %, under 3 %)")
        for name, meter in METERS.items():
            for per_minute, latency in ((60, 2.0), (500, 1.0), (600, 2.0), (1200, 1.0)):
                use = simulate(meter(per_minute), per_minute, announce=announce, latency=latency)
                shares = f"{use.used_share:7.1%} used, {use.limited_share:6.2%} 429, most in a minute {use.most_in_a_minute}"
                print(f"  {name:20} R={per_minute:5} latency {latency:.0f} s: {shares}")


def print_together() -> None:
    """A row for each kind and size of quota that four processes use together."""
    from benchmarks.together import Process, simulate_together  # noqa: PLC0415 (it stands on this module)

    for announce in (True, False):
        print(f"four processes, {'with' if announce else 'without'} headers")
        for name, meter in METERS.items():
            for per_minute, latency in ((60, 2.0), (500, 1.0), (1200, 1.0)):
                vendor = partial(Vendor, meter(per_minute), per_minute, announce)
                use = simulate_together(vendor, [Process()] * 4, latency=latency).use
                shares = f"{use.used_share:7.1%} used, {use.limited_share:6.2%} 429, most in a minute {use.most_in_a_minute}"
                print(f"  {name:20} R={per_minute:5} latency {latency:.0f} s: {shares}")


if __name__ == "__main__":
    main()
