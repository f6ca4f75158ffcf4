"""How well several processes use one account's quota together, on a virtual clock: ``python -m benchmarks.pace`` prints it, too.

Each process has a limiter of its own; what they know together stands in a row that takes some milliseconds to change. The vendors are those
of ``benchmarks.pace``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio

from benchmarks.pace import Use, Vendor, most_in_window
from benchmarks.stray_refusals import virtually
from safemt_api.limits.lease import Ask, Grant
from safemt_api.limits.together import TogetherLimiter, answered

ROW_SECONDS = 0.01


@dataclass
class Row:
    """The account's row in a store."""

    text: str = ""
    asks: int = 0
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def exchange(self, ask: Ask) -> Grant | None:
        """One transaction, as the store makes it."""
        if ask.silent and not self.text:
            return None
        await anyio.sleep(ROW_SECONDS * random.uniform(0.5, 1.5))
        async with self._lock:
            self.asks += 1
            # The row's clock is nobody's own.
            self.text, grant = answered(ask, self.text, 1000.0 + anyio.current_time())
            await anyio.sleep(ROW_SECONDS * random.uniform(0.5, 1.5))
            return grant


@dataclass
class Process:
    """One process: workers that each think a while before their next call; it dies at its time without a word."""

    workers: int = 16
    thinks_seconds: float = 0.0
    dies_at: float = float("inf")


class UseTogether(NamedTuple):
    """What came of it, in all and by process."""

    use: Use
    answered: tuple[int, ...]
    asks: int
    changes: int


async def saturate_together(vendor: Vendor, processes: Sequence[Process], *, minutes: float) -> UseTogether:
    """So many minutes of processes that share an account, and nothing but a row."""
    row, each, limiters = Row(), Counter[int](), [TogetherLimiter(concurrency=one.workers) for one in processes]

    async def work(number: int) -> None:
        while True:
            await anyio.sleep(processes[number].thinks_seconds * random.uniform(0.5, 1.5))
            wait = 1.0
            while not await vendor.call(limiters[number]):
                await anyio.sleep(vendor.retry_after_seconds or wait * random.uniform(0.5, 1.5))
                wait = min(wait * 2, 30.0)
            each[number] += 1

    async def play(number: int) -> None:
        async def exchange(ask: Ask) -> Grant | None:
            # What is dead says no word of leaving.
            return None if ask.leaves else await row.exchange(ask)

        with anyio.move_on_after(processes[number].dies_at):
            async with anyio.create_task_group() as group:
                group.start_soon(limiters[number].take_part, exchange)
                for _ in range(processes[number].workers):
                    group.start_soon(work, number)

    with anyio.move_on_after(minutes * 60.0):
        async with anyio.create_task_group() as group:
            for number in range(len(processes)):
                group.start_soon(play, number)
    use = Use(
        used_share=len(vendor.answered) / (vendor.per_minute * minutes),
        limited_share=vendor.limited / max(1, len(vendor.sent)),
        answered=len(vendor.answered),
        limited=vendor.limited,
        most_in_a_minute=most_in_window(vendor.sent, 60.0),
    )
    changes = sum("429" in change.cause for limiter in limiters for change in limiter.history)
    return UseTogether(use, tuple(each[number] for number in range(len(processes))), row.asks, changes)


def simulate_together(
    vendor: Callable[[Callable[[], float]], Vendor], processes: Sequence[Process], *, latency: float, minutes: float = 3.0
) -> UseTogether:
    """The same on a virtual clock, in a moment; the vendor is made with its latency."""
    random.seed(0)
    draws = random.Random(0)
    played = vendor(lambda: latency * draws.uniform(0.5, 1.5))

    async def main() -> UseTogether:
        return await saturate_together(played, processes, minutes=minutes)

    return virtually(main)
