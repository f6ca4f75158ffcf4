"""The progress of a run: a live display on a terminal, a plain line now and then elsewhere. Only reads ``statistics()``."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Protocol

import anyio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from safemt_api import words
from safemt_api.cli.terminal import say
from safemt_api.gateway import GatewayStatistics
from safemt_api.messages import Usage
from safemt_api.runs.play import RunStatistics

REFRESH_SECONDS = 0.25
LINE_SECONDS, LOOK_SECONDS = 10.0, 0.5
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

    def per_second(self, statistics: RunStatistics) -> float | None:
        """Dialogues a second over the last minute; ``None`` while nobody can tell."""
        now, done = statistics.elapsed_seconds, statistics.finished
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_WINDOW_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        return (done - before) / (now - since) if done > before and now > since else None


def lines(statistics: RunStatistics, per_second: float | None) -> list[str]:
    """What there is to know, in lines of some 60 characters at most: how far, how fast, what is under way, what was sent, the money."""
    gateway = statistics.gateway
    far = [f"{statistics.finished:,} of {statistics.planned:,} dialogues"]
    without = statistics.without_verdict - statistics.failed
    counts = ((statistics.failed, "failed"), (without, "without verdict"), (statistics.unaffordable, "over the ceiling"))
    far += [f"{count:,} {what}" for count, what in counts if count > 0]
    limited = f" ({gateway.rate_limited:,} rate limited)" if gateway.rate_limited else ""
    retried = f" · {gateway.retried:,} retried{limited}" if gateway.retried else ""
    sent = f"{gateway.sent:,} sent · {gateway.from_store:,} from the store{retried}"
    asr, left = statistics.asr_so_far, statistics.planned - statistics.finished - statistics.unaffordable
    fast = ["ASR so far –" if asr is None else f"ASR so far {words.percent(asr)}"]
    if per_second is not None:
        fast.append(f"{per_second:.1f} a second" if per_second >= 1 else f"{60 * per_second:.1f} a minute")
    fast.append(words.duration(statistics.elapsed_seconds))
    if per_second is not None and left > 0:
        fast.append(f"{words.duration(left / per_second)} to go")
    total = sum(gateway.usage.values(), Usage())
    spent = words.dollars(statistics.spent_usd)
    if statistics.ceiling_usd is not None:
        spent += f" of {words.dollars(statistics.ceiling_usd)}"
    if gateway.unpriced:
        spent += " and calls of unknown price"
    money = f"{total.input_tokens + total.output_tokens:,} tokens · {spent}"
    return [" · ".join(far), " · ".join(fast), _under_way(gateway), sent, money]


def _under_way(gateway: GatewayStatistics) -> str:
    waiting = f" · {gateway.waiting} waiting{_reason(gateway)}" if gateway.waiting else ""
    rows, answered = (sum(getattr(one, name) or 0 for one in gateway.batches) for name in ("rows", "done"))
    many = "es" if len(gateway.batches) > 1 else ""
    batched = f" · {rows:,} in {len(gateway.batches)} batch{many} ({answered:,} answered)" if gateway.batches else ""
    away = gateway.store_away_seconds
    store = "" if away is None else f" · the store's server does not answer ({words.duration(away)} by now): waiting for it"
    return f"{gateway.in_flight} in flight{waiting}{batched}{store}"


def _reason(gateway: GatewayStatistics) -> str:
    """What most of those who wait are waiting for."""
    crowded = max(gateway.limiters.items(), key=lambda one: one[1].waiting, default=None)
    if crowded is None or not crowded[1].waiting:
        return ""
    name, limiter = crowded[0].split()[0], crowded[1]
    if limiter.in_flight >= limiter.concurrency:
        return f" for a place among {limiter.concurrency} at {name}"
    if limiter.held_seconds > 0:
        return f" as {name} asks ({words.duration(limiter.held_seconds)} by now)"
    quotas = ((limiter.requests_per_minute, "requests"), (limiter.tokens_per_minute, "tokens"))
    known = [f"{rate:,.0f} {what}" for rate, what in quotas if rate is not None]
    return f" for {name}'s {' and '.join(known)} a minute" if known else f" for {name}"


def display(statistics: RunStatistics, per_second: float | None) -> RenderableType:
    """A bar and the lines, for a terminal."""
    done = statistics.finished + statistics.unaffordable
    bar = ProgressBar(total=max(statistics.planned, 1), completed=done, width=BAR_WIDTH)
    # In a padding of nothing: rich's bar by itself does not end its line.
    return Group(Padding(bar, 0), *(Text(line) for line in lines(statistics, per_second)))


class News:
    """Changes behind a model's name, each said once, and with its arm before it where there are several."""

    def __init__(self) -> None:
        self._said: Counter[str] = Counter()

    def of(self, found: Mapping[str, RunStatistics]) -> list[str]:
        """What is new in these runs."""
        new = [f"{arm}: {said}" if arm else said for arm, one in found.items() for said in one.changes[self._said[arm] :]]
        self._said.update({arm: len(one.changes) - self._said[arm] for arm, one in found.items()})
        return new


async def watch_live(watched: Watched, *, console: Console) -> None:
    """Keep the display fresh until cancelled; its last state stays on the terminal."""
    pace, news = Pace(), News()

    def refresh(*, ending: bool = False) -> None:
        statistics = watched.statistics()
        for said in news.of({"": statistics}):
            console.print(Text(said, style="bold"))
        live.update(display(statistics, None if ending else pace.per_second(statistics)), refresh=True)

    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        try:
            while True:
                refresh()
                await anyio.sleep(REFRESH_SECONDS)
        finally:
            refresh(ending=True)


async def watch_lines(watched: Watched, *, write: Callable[[str], None] = say, every_seconds: float = LINE_SECONDS) -> None:
    """Write a line now and then until cancelled, and at once where another model answers."""
    pace, news = Pace(), News()
    pace.per_second(watched.statistics())
    due_at = anyio.current_time() + every_seconds
    try:
        while True:
            await anyio.sleep(min(LOOK_SECONDS, every_seconds))
            statistics = watched.statistics()
            for said in news.of({"": statistics}):
                write(said)
            if anyio.current_time() >= due_at:
                due_at += every_seconds
                write(" · ".join(lines(statistics, pace.per_second(statistics))))
    finally:
        for said in news.of({"": watched.statistics()}):
            write(said)
