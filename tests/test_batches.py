"""Runs in batches: the real SDKs over real sockets to the simulator's Files and Batches, in three wire formats."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from safemt_api.batches import BATCH_FOLDER, BatchPace
from safemt_api.evaluation import evaluate
from safemt_api.profiles import WireFormat
from safemt_api.runs import connections
from safemt_api.runs.overview import overview
from safemt_api.runs.record import read_run
from safemt_api.simulator import FaultPlan, Simulator, SimulatorSettings, run_simulator
from safemt_api.store.turns import STORE_FILE

VENDORS: dict[WireFormat, str] = {
    "openai_chat": "simulator",
    "anthropic_messages": "simulator-anthropic",
    "google_genai": "simulator-google",
}
QUICK = BatchPace(quiet_seconds=0.15, first_poll_seconds=0.05, longest_poll_seconds=0.2, full_queue_seconds=0.1)


@dataclass
class Stage:
    """A simulator, and runs against it."""

    simulator: Simulator
    wire_format: WireFormat
    results: Path

    async def run(self, name: str = "batch", **options: Any) -> Any:
        usual: dict[str, Any] = {"tier": "batch", "judges": ("rules",), "sample": 6, "lengths": (1, 2), "max_usd": 5.0}
        address = self.simulator.base_url(self.wire_format)
        with anyio.fail_after(60):
            usual |= {"provider": VENDORS[self.wire_format], "base_urls": (address,), "results": self.results, "run": name}
            return await evaluate(**usual | options)

    def books(self) -> dict[str, float]:
        """What is spent, settled by state, and what is still open."""
        with closing(sqlite3.connect(self.results / STORE_FILE)) as connection:
            states = dict(connection.execute("SELECT state, sum(coalesce(settled_usd, most_usd)) FROM charges GROUP BY state"))
            states["committed"] = connection.execute("SELECT sum(committed_usd) FROM spending").fetchone()[0]
            states["open rows"] = connection.execute("SELECT count(*) FROM batch_rows WHERE open").fetchone()[0]
            states["unfinished"] = connection.execute("SELECT count(*) FROM batches WHERE stage IN ('intended', 'out')").fetchone()[0]
        return states

    def check_books(self, result: Any) -> None:
        """Nothing is open or put aside any more, and what is booked is what the run says."""
        books = self.books()
        assert (books["open rows"], books["unfinished"], books.get("reserved", 0.0)) == (0, 0, 0.0)
        assert books["committed"] == pytest.approx(sum(books.get(state, 0.0) for state in ("settled", "kept")), abs=1e-9)
        if not result.summary.usage.unreadable:
            assert books["committed"] == pytest.approx(result.summary.cost_usd.total, abs=1e-5)
        assert not list((self.results / BATCH_FOLDER).glob("*"))


Staged = Callable[..., AbstractAsyncContextManager[Stage]]


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Staged:
    monkeypatch.setattr(connections, "DEFAULT_BATCH_PACE", QUICK)

    @asynccontextmanager
    async def stage(wire_format: WireFormat = "openai_chat", faults: str = "", **settings: Any) -> AsyncIterator[Stage]:
        playing = SimulatorSettings(faults=FaultPlan.parse(faults), **{"batch_seconds": 0.2, **settings})
        async with run_simulator(playing) as simulator:
            yield Stage(simulator, wire_format, tmp_path / "results")

    return stage


def verdicts(result: Any) -> list[tuple[Any, ...]]:
    frame = read_run(result.folder).verdicts
    return sorted(frame.select("dialogue_id", "length", "turn", "label").rows())


@pytest.mark.parametrize("protocol", ["scripted", "live"])
@pytest.mark.parametrize("wire_format", list(VENDORS))
async def test_a_run_in_batches_is_the_run_online_at_half_the_price(staged: Staged, wire_format: WireFormat, protocol: str) -> None:
    judge = f"{VENDORS[wire_format]}:sim-judge"
    async with staged(wire_format) as stage:
        online = await stage.run("online", tier="standard", protocol=protocol, judges=(judge,), results=stage.results.with_name("online"))
        sold = stage.simulator.statistics().answered
        stage.simulator.reset()
        batched = await stage.run(protocol=protocol, judges=(judge,))
        batches = stage.simulator.batches
        assert (batched.exit_code, batched.summary.status) == (0, "complete")
        assert verdicts(batched) == verdicts(online)
        assert batched.summary.cost_usd.total < 0.6 * online.summary.cost_usd.total
        assert batched.summary.cost_usd.saved_usd > 0.0
        stage.check_books(batched)
        # The judge was tried singly, since the run waits for that; all else went in waves.
        assert sum(batch["rows"] for batch in batches) + 2 == stage.simulator.statistics().answered == sold
        assert batched.summary.calls.sent == sold
        assert len(batches) <= (4 if protocol == "scripted" else 8)


async def test_a_wave_is_cut_into_files_by_the_vendors_limits(staged: Staged, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    providers = tmp_path / "providers"
    providers.mkdir()
    shipped = (Path(__file__).parents[1] / "providers" / "simulator.toml").read_text()
    (providers / "simulator.toml").write_text(shipped.replace("max_requests = 10_000", "max_requests = 5"))
    async with staged() as stage:
        result = await stage.run(providers=providers)
        assert [batch["rows"] for batch in stage.simulator.batches] == [5, 5, 2]
        stage.check_books(result)
    (providers / "simulator.toml").write_text(shipped.replace("max_bytes = 50_000_000", "max_bytes = 40_000"))
    async with staged() as stage:
        result = await stage.run("bytes", providers=providers, results=tmp_path / "bytes")
        assert result.exit_code == 0
        assert len(stage.simulator.batches) > 1


@pytest.mark.parametrize(
    ("fault", "in_batches"),
    [
        ("batch_hidden:1", (12, 12, 12)),
        ("create_lost:first=1", (12, 12, 12)),
        # Anthropic has no batches that are rejected as a whole: each row fails by itself, and is asked singly.
        ("batch_rejected:first=1", (12, 0, 12)),
        ("file_rejected:first=1", (0, 0, 0)),
        ("rows_twice:1", (12, 12, 12)),
        ("rows_unknown:1", (12, 12, 12)),
        ("results_cut:1", (12, 12, 12)),
        # Of an expired job of Google's there are no results at all.
        ("batch_expired:first=1", (6, 6, 0)),
        ("batch_stuck:first=1", (6, 6, 6)),
    ],
)
@pytest.mark.parametrize("wire_format", list(VENDORS))
async def test_whatever_a_vendor_does_with_a_batch_the_run_is_whole_and_its_books_are_right(
    staged: Staged, wire_format: WireFormat, fault: str, in_batches: tuple[int, int, int]
) -> None:
    async with staged(wire_format, fault) as stage:
        result = await stage.run(batch_patience_seconds=4.0)
        batched = in_batches[list(VENDORS).index(wire_format)]
        singly = "standard" if wire_format == "anthropic_messages" else "flex"  # as cheap as a batch, where the vendor sells it
        served = {tier: count for tier, count in {"batch": batched, singly: 12 - batched}.items() if count}
        assert (result.exit_code, result.summary.status, result.summary.tiers.served) == (0, "complete", served)
        stage.check_books(result)
        # Nothing is bought twice; what Google's expired job had come to by then is lost, and not billed.
        assert stage.simulator.statistics().answered == 12 + (
            6 if fault == "batch_expired:first=1" and wire_format == "google_genai" else 0
        )


@pytest.mark.parametrize("wire_format", list(VENDORS))
async def test_results_that_the_vendor_deleted_are_booked_and_never_safe(staged: Staged, wire_format: WireFormat) -> None:
    async with staged(wire_format, faults="results_gone:1") as stage:
        result = await stage.run()
        assert (result.exit_code, result.summary.dialogues.failed) == (4, 12)
        assert [label for *_, label in verdicts(result)] == [None] * 12
        books = stage.books()
        assert books["kept"] == pytest.approx(books["committed"])
        assert "no longer has the results" in result.summary.failures[0].why


@pytest.mark.parametrize("wire_format", list(VENDORS))
async def test_rows_that_fail_become_the_outcomes_that_they_are(staged: Staged, wire_format: WireFormat) -> None:
    faults = "content_filter:0.2,refusal:0.2,too_long:0.2,overloaded_529:0.2"
    async with staged(wire_format, faults=faults) as stage:
        online = await stage.run("online", tier="standard", sample=20, results=stage.results.with_name("online"))
        batched = await stage.run(sample=20)
        assert batched.summary.outcomes == online.summary.outcomes
        assert batched.summary.outcomes.get("error", 0) > 0
        assert verdicts(batched) == verdicts(online)
        assert batched.summary.usage.unreadable == online.summary.usage.unreadable
        stage.check_books(batched)


@pytest.mark.parametrize("wire_format", list(VENDORS))
async def test_a_run_that_is_ended_leaves_its_batches_working_and_collects_them_when_it_goes_on(
    staged: Staged, wire_format: WireFormat
) -> None:
    async with staged(wire_format, batch_seconds=1000.0) as stage:
        with anyio.move_on_after(3.0):
            await stage.run()
        assert [batch["phase"] for batch in stage.simulator.batches] == ["working"]
        assert stage.books()["open rows"] == 12
        (listed,) = overview(stage.results)
        assert listed.in_batches is not None
        assert re.fullmatch(rf"12 calls in 1 batch at {VENDORS[wire_format]} since 20\d\d-\d\d-\d\d \d\d:\d\d UTC", listed.in_batches)
        stage.simulator.advance(2000.0)
        result = await stage.run()
        assert (result.exit_code, result.summary.tiers.served) == (0, {"batch": 12})
        assert overview(stage.results)[0].in_batches is None
        assert len(stage.simulator.batches) == 1
        assert stage.simulator.statistics().answered == 12
        stage.check_books(result)


async def test_under_a_small_ceiling_batches_hold_no_more_than_it_and_the_run_says_so(staged: Staged) -> None:
    async with staged() as stage:
        result = await stage.run(max_usd=0.02, sample=30)
        assert (result.exit_code, result.summary.status) == (3, "budget_exhausted")
        assert 0 < result.summary.tiers.served["batch"] < 60
        assert stage.books()["committed"] <= 0.02 + 1e-9
        stage.check_books(result)


async def test_rows_about_the_same_picture_find_what_others_of_their_batch_wrote(staged: Staged) -> None:
    async with staged("anthropic_messages", prompt_cache=True) as stage:
        result = await stage.run(protocol="live", lengths=(4,), sample=3, judges=("simulator-anthropic:sim-judge",))
        assert result.exit_code == 0
        assert result.summary.usage.cached_input_tokens > 3 * 2 * 1000
        assert verdicts(result) != []
        stage.check_books(result)


async def test_no_row_pays_for_writing_a_history_to_a_cache_that_the_next_wave_does_not_find(staged: Staged) -> None:
    async with staged("anthropic_messages", prompt_cache=True, prompt_cache_minimum_tokens=16) as stage:
        result = await stage.run(protocol="live", lengths=(4,), sample=3)
        assert result.exit_code == 0
        assert result.summary.usage.cached_input_tokens == 0
