"""All parts of a run together, as the store tells them."""

from __future__ import annotations

from typing import Any

from safemt_api.runs.parts import whole_of
from safemt_api.store.shards import Part, PartState
from safemt_api.store.turns import now_utc

LONG_AGO = "2026-01-01T00:00:00.000+00:00"


def part(number: int, state: PartState, *, seen: str = LONG_AGO, record: Any = None, **counts: float) -> Part:
    return Part(number, f"id{number}", 1, "here", f"process {number}", state, 5, seen, counts, record)


def ended_with(status: str, usd: float | None) -> dict[str, Any]:
    return {"summary": {"status": status, "cost_usd": {"total": usd}}}


def test_counts_add_up_and_what_an_ended_part_spent_is_its_summarys_word() -> None:
    over = part(1, "over", record=ended_with("complete", 0.5), finished=4, spent_usd=0.1)
    unpriced = part(2, "over", record=ended_with("complete", None), finished=2, spent_usd=0.2)
    again = part(3, "playing", seen=now_utc(), record=ended_with("complete", 9.0), finished=1, spent_usd=0.25)
    found = whole_of([over, unpriced, again], 4)
    assert (found.counts["finished"], round(found.counts["spent_usd"], 6)) == (7, 0.95)
    assert (found.parts, found.over, found.players, found.killed, found.all_over) == (4, 2, ("process 3",), 0, False)


def test_a_part_that_fell_silent_is_killed_and_played_by_nobody() -> None:
    found = whole_of([part(1, "playing"), part(2, "interrupted")], 2)
    assert (found.players, found.killed, found.over) == ((), 1, 0)


def test_a_run_that_nobody_has_begun_has_nothing_to_tell() -> None:
    found = whole_of([], 3)
    assert (found.over, found.silent_seconds, found.counts, str(found)) == (0, None, {}, "0 of 3 shards are over")
