"""The progress display: what its lines say, and how it guesses the time to go."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from rich.console import Console

from safemt_api.cli.progress import News, Pace, display, lines, watch_lines, watch_live
from safemt_api.gateway import GatewayStatistics
from safemt_api.limits.limiter import LimiterStatistics
from safemt_api.messages import Usage
from safemt_api.runs.play import RunStatistics


def statistics(**changes: Any) -> RunStatistics:
    gateway = GatewayStatistics(
        sent=12,
        from_store=3,
        retried=2,
        rate_limited=1,
        in_flight=4,
        waiting=5,
        calls={"target": 12},
        usage={"target": Usage(input_tokens=1000, output_tokens=200), "judge": Usage(input_tokens=34)},
        unpriced=changes.pop("unpriced", frozenset()),
        unread_usage=0,
        above_reservation_usd={},
        limiters={},
    )
    state = RunStatistics(
        planned=100,
        finished=20,
        failed=1,
        without_verdict=0,
        unaffordable=0,
        asr_so_far=0.25,
        spent_usd=1.5,
        elapsed_seconds=10.0,
        gateway=gateway,
    )
    return state._replace(**changes)


def limited(**changes: Any) -> LimiterStatistics:
    usual = LimiterStatistics(
        in_flight=4, waiting=5, concurrency=32, requests_per_minute=None, tokens_per_minute=None, rate_limited=1, held_seconds=0.0
    )
    return usual._replace(**changes)


def waiting_at(name: str, limiter: LimiterStatistics) -> RunStatistics:
    return statistics(gateway=statistics().gateway._replace(limiters={name: limiter}))


def test_the_lines_say_what_a_user_wants_to_know() -> None:
    assert lines(statistics(without_verdict=3, ceiling_usd=20.0), 2.0) == [
        "20 of 100 dialogues · 1 failed · 2 without verdict",
        "ASR so far 25.0% · 2.0 a second · 10.0 s · 40.0 s to go",
        "4 in flight · 5 waiting",
        "12 sent · 3 from the store · 2 retried (1 rate limited)",
        "1,234 tokens · $1.50 of $20.00",
    ]


@pytest.mark.parametrize(
    ("limiter", "reason"),
    [
        ({"in_flight": 32}, "5 waiting for a place among 32 at openai"),
        ({"requests_per_minute": 60.0}, "5 waiting for openai's 60 requests a minute"),
        ({"requests_per_minute": 60.0, "tokens_per_minute": 9000.0}, "5 waiting for openai's 60 requests and 9,000 tokens a minute"),
        ({"in_flight": 0, "held_seconds": 12.0}, "5 waiting as openai asks (12.0 s by now)"),
        ({}, "5 waiting for openai"),
        ({"waiting": 0}, "5 waiting"),
    ],
)
def test_whoever_waits_knows_for_what(limiter: dict[str, Any], reason: str) -> None:
    assert lines(waiting_at("openai https://api.example.com", limited(**limiter)), None)[2] == f"4 in flight · {reason}"


def test_nothing_judged_yet_is_a_dash_and_an_unknown_price_is_said() -> None:
    assert lines(statistics(asr_so_far=None), None)[1].startswith("ASR so far –")
    assert lines(statistics(unpriced=frozenset({"judge"})), None)[-1].endswith("$1.50 and calls of unknown price")


def test_the_pace_is_that_of_the_last_minute() -> None:
    pace = Pace()
    assert pace.per_second(statistics(finished=0, elapsed_seconds=0.0)) is None
    # Fifty come from the store at once, then one a second.
    assert pace.per_second(statistics(finished=50, elapsed_seconds=1.0)) == pytest.approx(50.0)
    for second in range(2, 40):
        pace.per_second(statistics(finished=50, elapsed_seconds=float(second)))
    for second in range(60, 80):
        found = pace.per_second(statistics(finished=50 + second - 60, elapsed_seconds=float(second)))
    assert found is not None
    assert found < 1
    assert "a minute" in lines(statistics(), 0.5)[1]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_gets_all_of_it(width: int) -> None:
    console = Console(width=width, record=True, force_terminal=True)
    state = waiting_at("openai https://x", limited(requests_per_minute=60.0))._replace(ceiling_usd=20.0, without_verdict=3)
    console.print(display(state, 2.0))
    text = console.export_text()
    said = " ".join(text.split())
    for part in ("1 failed", "2 without verdict", "2.0 a second", "40.0 s to go", "60 requests a minute", "$1.50 of $20.00"):
        assert part in said
    # A bar and a line for each thing; from 60 columns on nothing wraps.
    assert width < 60 or len(text.splitlines()) == 1 + 5


class Watched:
    def statistics(self) -> RunStatistics:
        return statistics()


async def test_the_live_display_ends_with_the_last_state() -> None:
    console = Console(width=80, record=True, force_terminal=True)
    with anyio.move_on_after(0.05):
        await watch_live(Watched(), console=console)
    assert "20 of 100 dialogues" in console.export_text()


class Changing:
    """Another model answers after some looks."""

    def __init__(self) -> None:
        self.looks = 0

    def statistics(self) -> RunStatistics:
        self.looks += 1
        return statistics()._replace(changes=("the target m changed",) if self.looks > 2 else ())


async def test_a_change_is_said_once_and_before_the_next_line_is_due() -> None:
    written: list[str] = []
    with anyio.move_on_after(1.6):
        await watch_lines(Changing(), write=written.append)
    assert written == ["the target m changed"]


async def test_a_change_just_before_the_end_is_said_all_the_same() -> None:
    written: list[str] = []
    changing = Changing()
    changing.looks = 1
    with anyio.move_on_after(0.02):
        await watch_lines(changing, write=written.append)
    assert written == ["the target m changed"]


async def test_a_change_stands_above_the_live_display() -> None:
    console = Console(width=80, record=True, force_terminal=True)
    with anyio.move_on_after(0.9):
        await watch_live(Changing(), console=console)
    assert console.export_text().count("the target m changed") == 1


def test_of_several_arms_a_change_is_said_with_its_name() -> None:
    news, changed = News(), statistics()._replace(changes=("one", "two"))
    assert news.of({"a": changed, "b": statistics()}) == ["a: one", "a: two"]
    assert news.of({"a": changed, "b": changed}) == ["b: one", "b: two"]


async def test_without_a_terminal_a_line_comes_now_and_then() -> None:
    written: list[str] = []
    with anyio.move_on_after(0.1):
        await watch_lines(Watched(), write=written.append, every_seconds=0.03)
    assert 1 <= len(written) <= 3
    assert written[0].startswith("20 of 100 dialogues")
