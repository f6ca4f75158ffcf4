"""The progress of a run: a live display on a terminal, a plain line now and then elsewhere. Only reads ``statistics()``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import anyio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from safemt_api.cli.printing import say
from safemt_api.messages import Usage
from safemt_api.report import words
from safemt_api.runs.execution import RunStatistics

REFRESH_SECONDS = 0.25
LINE_SECONDS = 10.0
RATE_WINDOW_SECONDS = 60.0
BAR_WIDTH = 40


class Watched(Protocol):
    """A run under way."""

    def statistics(self) -> RunStatistics:
        """Its state now."""
        ...


class Pace:
    """How fast dialogues are finished of late, so that replies from the store at the start do not promise too much."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def eta_seconds(self, statistics: RunStatistics) -> float | None:
        """Seconds to go at the pace of the last minute; ``None`` while nobody can tell."""
        now, done = statistics.elapsed_seconds, statistics.finished
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_WINDOW_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        if done <= before or now <= since:
            return None
        left = statistics.planned - done - statistics.unaffordable
        return max(left, 0) * (now - since) / (done - before)


def headline(statistics: RunStatistics, eta_seconds: float | None) -> str:
    """How far the run is."""
    parts = [f"{statistics.finished:,} of {statistics.planned:,} dialogues"]
    if statistics.failed:
        parts.append(f"{statistics.failed:,} failed")
    if statistics.unaffordable:
        parts.append(f"{statistics.unaffordable:,} over the ceiling")
    asr = statistics.asr_so_far
    parts.append("ASR so far –" if asr is None else f"ASR so far {words.percent(asr)}")
    parts.append(words.duration(statistics.elapsed_seconds))
    if eta_seconds is not None and statistics.finished < statistics.planned:
        parts.append(f"{words.duration(eta_seconds)} to go")
    return " · ".join(parts)


def effort(statistics: RunStatistics) -> str:
    """What the run is doing and what it costs."""
    gateway = statistics.gateway
    total = sum(gateway.usage.values(), Usage())
    calls = f"{gateway.in_flight} in flight" + (f", {gateway.waiting} waiting" if gateway.waiting else "")
    parts = [calls, f"{gateway.sent:,} sent", f"{gateway.from_store:,} from the store"]
    if gateway.retried:
        parts.append(f"{gateway.retried:,} retried" + (f" ({gateway.rate_limited:,} rate limited)" if gateway.rate_limited else ""))
    parts.append(f"{total.input_tokens + total.output_tokens:,} tokens")
    cost = words.dollars(statistics.spent_usd)
    parts.append(f"{cost} and calls of unknown price" if gateway.unpriced else cost)
    return " · ".join(parts)


def display(statistics: RunStatistics, eta_seconds: float | None) -> RenderableType:
    """Three lines for a terminal."""
    done = statistics.finished + statistics.unaffordable
    bar = ProgressBar(total=max(statistics.planned, 1), completed=done, width=BAR_WIDTH)
    return Group(bar, Text(headline(statistics, eta_seconds)), Text(effort(statistics), style="dim"))


async def watch_live(watched: Watched, *, console: Console) -> None:
    """Keep the display fresh until cancelled; its last state stays on the terminal."""
    pace = Pace()
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        try:
            while True:
                statistics = watched.statistics()
                live.update(display(statistics, pace.eta_seconds(statistics)), refresh=True)
                await anyio.sleep(REFRESH_SECONDS)
        finally:
            live.update(display(watched.statistics(), None), refresh=True)


async def watch_lines(watched: Watched, *, write: Callable[[str], None] = say, every_seconds: float = LINE_SECONDS) -> None:
    """Write a line now and then until cancelled."""
    pace = Pace()
    pace.eta_seconds(watched.statistics())
    while True:
        await anyio.sleep(every_seconds)
        statistics = watched.statistics()
        write(f"{headline(statistics, pace.eta_seconds(statistics))} · {effort(statistics)}")
