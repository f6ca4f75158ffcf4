"""The progress display: what its lines say, and how it guesses the time to go."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from rich.console import Console

from safemt_api.cli.progress import Pace, display, effort, headline, watch_lines, watch_live
from safemt_api.gateway import GatewayStatistics
from safemt_api.messages import Usage
from safemt_api.runs.execution import RunStatistics


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


def test_the_lines_say_what_a_user_wants_to_know() -> None:
    assert headline(statistics(), 40.0) == "20 of 100 dialogues · 1 failed · ASR so far 25.0% · 10.0 s · 40.0 s to go"
    assert effort(statistics()) == "4 in flight, 5 waiting · 12 sent · 3 from the store · 2 retried (1 rate limited) · 1,234 tokens · $1.50"


def test_nothing_judged_yet_is_a_dash_and_an_unknown_price_is_said() -> None:
    assert "ASR so far –" in headline(statistics(asr_so_far=None), None)
    assert effort(statistics(unpriced=frozenset({"judge"}))).endswith("$1.50 and calls of unknown price")


def test_the_time_to_go_follows_the_pace_of_the_last_minute() -> None:
    pace = Pace()
    assert pace.eta_seconds(statistics(finished=0, elapsed_seconds=0.0)) is None
    # Fifty come from the store at once, then one a second.
    assert pace.eta_seconds(statistics(finished=50, elapsed_seconds=1.0)) == pytest.approx(1.0)
    for second in range(2, 40):
        pace.eta_seconds(statistics(finished=50, elapsed_seconds=float(second)))
    for second in range(60, 80):
        eta = pace.eta_seconds(statistics(finished=50 + second - 60, elapsed_seconds=float(second)))
    assert eta is not None
    assert eta > 31


def test_a_narrow_terminal_gets_all_of_it() -> None:
    console = Console(width=40, record=True, force_terminal=True)
    console.print(display(statistics(), 40.0))
    said = " ".join(console.export_text().split())
    assert "40.0 s to go" in said
    assert "$1.50" in said


class Watched:
    def statistics(self) -> RunStatistics:
        return statistics()


async def test_the_live_display_ends_with_the_last_state() -> None:
    console = Console(width=80, record=True, force_terminal=True)
    with anyio.move_on_after(0.05):
        await watch_live(Watched(), console=console)
    assert "20 of 100 dialogues" in console.export_text()


async def test_without_a_terminal_a_line_comes_now_and_then() -> None:
    lines: list[str] = []
    with anyio.move_on_after(0.1):
        await watch_lines(Watched(), write=lines.append, every_seconds=0.03)
    assert 1 <= len(lines) <= 3
    assert lines[0].startswith("20 of 100 dialogues")
