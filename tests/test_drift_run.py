"""Whole runs over sockets whose target or judge is exchanged under its name: said at once, and told apart in every figure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import polars as pl
import pytest

from safemt_api.evaluation import evaluate
from safemt_api.profiles import WIRE_FORMATS, WireFormat
from safemt_api.report.exports import rendered
from safemt_api.report.remarks import remarks
from safemt_api.report.tables import drift_tables, paper_tables
from safemt_api.runs.play import Execution, RunResult
from safemt_api.runs.record import read_run
from safemt_api.runs.summary import Drift, DriftPart
from safemt_api.simulator import Change, Simulator, SimulatorSettings, run_simulator

PROVIDERS = dict(zip(WIRE_FORMATS, ("simulator", "simulator-anthropic", "simulator-google"), strict=True))
NAMED = Change(41, "sim-safe", served_model="sim-safe-2", persona="sim-brittle")
TURNS = Change(1, fingerprints=("fp_a", "fp_b"))
REPLACED = Change(41, "sim-safe", fingerprints=("fp_c",), persona="sim-brittle")


async def played(results: Path, changes: tuple[Change, ...], *, provider: str = "simulator", **more: Any) -> tuple[RunResult, Simulator]:
    """Sixteen ids at all lengths, by a target that becomes another one at its forty-first call."""
    options: dict[str, Any] = {"model": "sim-safe", "sample": 16, "judges": (f"{provider}:sim-judge",), "concurrency": 8} | more
    wire = next(wire for wire, name in PROVIDERS.items() if name == provider)
    async with run_simulator(SimulatorSettings(seed=3, changes=changes, keep_texts=True)) as simulator:
        urls = (simulator.base_url(wire),)
        result = await evaluate(provider=provider, base_urls=urls, judge_base_url=urls[0], results=results, run="run", **options)
        return result, simulator


def by_length(part: DriftPart) -> dict[int, tuple[int, int]]:
    return {row.turn: (row.unsafe, row.safe) for row in part.asr_by_turn if row.unsafe + row.safe}


def truth_by_length(simulator: Simulator, told: Callable[[Any], bool]) -> dict[int, tuple[int, int]]:
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for truth in simulator.truth:
        if truth.role == "target" and told(truth):
            counts[truth.turn][not truth.unsafe] += 1
    return {turn: (unsafe, safe) for turn, (unsafe, safe) in counts.items()}


def only(result: RunResult) -> Drift:
    (drift,) = result.summary.drift
    return drift


@pytest.mark.parametrize("wire", WIRE_FORMATS)
async def test_a_target_that_is_exchanged_is_said_at_once_and_cut_as_the_simulator_played_it(tmp_path: Path, wire: WireFormat) -> None:
    seen: list[tuple[int, tuple[str, ...]]] = []

    async def watch(execution: Execution) -> None:
        while True:
            found = execution.statistics()
            seen.append((found.finished, found.changes))
            await anyio.sleep(0.001)

    result, simulator = await played(tmp_path, (NAMED,), provider=PROVIDERS[wire], watch=watch)
    drift = only(result)
    assert (drift.party, drift.who, drift.what) == ("target", "sim-safe", "served_model")
    assert (drift.dialogues_across, drift.dialogues_unplaced) == (0, 0)
    before, after = drift.parts
    assert (dict(before.values), dict(after.values)) == ({"sim-safe": 40}, {"sim-safe-2": 40})
    assert by_length(before) == truth_by_length(simulator, lambda truth: truth.served_model == "sim-safe")
    assert by_length(after) == truth_by_length(simulator, lambda truth: truth.served_model == "sim-safe-2")
    whole = {row.turn: (row.unsafe, row.safe) for row in result.summary.asr_by_turn}
    parts = [by_length(part) for part in drift.parts]
    assert whole == {turn: tuple(map(sum, zip(*(part.get(turn, (0, 0)) for part in parts), strict=True))) for turn in whole}
    assert before.ids + after.ids - before.ids_elsewhere == 16
    assert before.ids_elsewhere == after.ids_elsewhere
    # At most eight calls are under way: it is said long before the end.
    said_at = next(finished for finished, changes in seen if changes)
    assert 40 <= said_at <= 60
    assert seen[-1][1] == (
        "the target sim-safe changed: a reply is from sim-safe-2, those before from sim-safe (the served model, by the vendor's word)",
    )


async def test_fingerprints_that_take_turns_are_no_change_and_those_that_replace_them_are(tmp_path: Path) -> None:
    steady, _ = await played(tmp_path / "steady", (TURNS,))
    assert steady.summary.drift == ()
    result, simulator = await played(tmp_path / "changed", (TURNS, REPLACED))
    drift = only(result)
    assert (drift.what, [sorted(part.values) for part in drift.parts]) == ("system_fingerprint", [["fp_a", "fp_b"], ["fp_c"]])
    assert by_length(drift.parts[1]) == truth_by_length(simulator, lambda truth: truth.fingerprint == "fp_c")
    frame = pl.read_parquet(result.folder / "transcripts.parquet")
    assert frame["system_fingerprint"].null_count() == 0
    assert frame["received_utc"].null_count() == 0


@pytest.mark.parametrize("wire", WIRE_FORMATS)
async def test_a_judge_that_is_exchanged_is_told_as_such(tmp_path: Path, wire: WireFormat) -> None:
    provider = PROVIDERS[wire]
    change = Change(41, "sim-judge", served_model="sim-judge-2")
    drift = only((await played(tmp_path, (change,), provider=provider))[0])
    assert (drift.party, drift.who) == ("judge", f"{provider}:sim-judge")
    assert [list(part.values) for part in drift.parts] == [["sim-judge"], ["sim-judge-2"]]
    assert sum(part.dialogues for part in drift.parts) == 80


async def test_a_run_that_goes_on_another_day_with_another_model_is_cut_there(tmp_path: Path) -> None:
    async def day(*changes: Change, port: int = 0, max_usd: float) -> tuple[RunResult, int]:
        async with run_simulator(SimulatorSettings(seed=3, changes=changes), port=port) as simulator:
            urls = (simulator.base_url(),)
            options: dict[str, Any] = {"model": "sim-safe", "sample": 16, "base_urls": urls, "max_usd": max_usd}
            return await evaluate(provider="simulator", results=tmp_path, run="run", **options), simulator.port

    first, port = await day(max_usd=0.06)
    assert first.summary.status == "budget_exhausted"
    assert first.summary.drift == ()
    early = first.summary.dialogues.finished
    assert 0 < early < 80
    again, _ = await day(Change(1, "sim-safe", served_model="sim-safe-2", persona="sim-brittle"), port=port, max_usd=5.0)
    drift = only(again)
    assert [part.replies for part in drift.parts] == [early, 80 - early]
    frame = pl.read_parquet(again.folder / "transcripts.parquet").sort("received_utc")
    assert frame["served_model"].to_list() == ["sim-safe"] * early + ["sim-safe-2"] * (80 - early)


async def test_live_dialogues_across_the_change_are_in_no_part(tmp_path: Path) -> None:
    result, _ = await played(tmp_path, (NAMED,), protocol="live", lengths=(4,), sample=20)
    drift = only(result)
    assert drift.dialogues_across > 0
    frame = pl.read_parquet(result.folder / "transcripts.parquet")
    of_one = frame.group_by("dialogue_id").agg(pl.col("served_model").unique()).filter(pl.col("served_model").list.len() == 1)
    assert sum(part.dialogues for part in drift.parts) == of_one.height == 20 - drift.dialogues_across


async def test_terminal_page_and_papers_show_the_parts_beside_the_whole(tmp_path: Path) -> None:
    result, _ = await played(tmp_path, (NAMED,))
    run = read_run(result.folder)
    (table,) = drift_tables(run)
    assert [cell.text for cell in table.columns[0].cells] == ["the whole run", "sim-safe", "sim-safe-2"]
    (said,) = (one for one in remarks(run) if "changed during the run" in one)
    assert "sim-safe 40 replies (20" in said
    assert "The scores mix them" in said
    assert any(one.name == "drift-target-1" for one in paper_tables([run]))
    assert "sim-safe-2" in rendered(paper_tables([run]), "latex")
