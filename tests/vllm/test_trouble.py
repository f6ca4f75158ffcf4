"""The evaluator against real vLLM servers that are full, that die and that come back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import polars as pl
import pytest

from safemt_api.errors import StalledError
from safemt_api.runs.play import Execution, RunResult, Watcher
from tests.vllm.conftest import ENDLESS, MODEL, Play
from tests.vllm.serving import Server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

REPLIED = {"answered", "truncated"}
ANSWERED_CALLS = "vllm:request_success_total"
REFUSED_CALLS = "vllm:admission_rejections_total"


def outcomes(result: RunResult) -> Counter[str]:
    return Counter(pl.read_parquet(result.folder / "transcripts.parquet")["outcome"].to_list())


def names(result: RunResult) -> list[str]:
    rows = pl.read_parquet(result.folder / "transcripts.parquet").filter(pl.col("outcome").is_in(REPLIED))
    return sorted(rows["dialogue_id"] + rows["length"].cast(pl.String))


def once(ready: Callable[[Execution], bool], act: Callable[[], None]) -> Watcher:
    """Watches a run and acts on a server as soon as something is so."""

    async def watch(execution: Execution) -> None:
        # On a thread, since looking may mean asking a server.
        while not await anyio.to_thread.run_sync(ready, execution):  # noqa: ASYNC110 (a run tells no one of its progress; it is asked)
            await anyio.sleep(0.05)
        act()

    return watch


def finished(count: int) -> Callable[[Execution], bool]:
    """Whether so many dialogues have finished."""
    return lambda execution: execution.collector.finished >= count


async def test_a_full_queue_is_waited_for(shaky: Server, play: Play, endless: Path) -> None:
    before = shaky.metric(REFUSED_CALLS)
    result = await play(shaky, provider=ENDLESS, providers=endless, sample=12, lengths=(1, 2, 4), concurrency=36, max_output_tokens=100)
    assert (result.exit_code, result.summary.status) == (0, "complete")
    assert outcomes(result) == {"truncated": 36}
    assert shaky.metric(REFUSED_CALLS) > before
    assert result.summary.calls.retried > 0


async def test_two_servers_share_the_work_and_one_that_dies_loses_no_dialogue(
    steady: Server, shaky: Server, play: Play, endless: Path
) -> None:
    before, shaky_before = steady.metric(ANSWERED_CALLS), shaky.metric(ANSWERED_CALLS)
    result = await play(
        *(steady, shaky),
        provider=ENDLESS,
        providers=endless,
        sample=16,
        lengths=(1, 2),
        concurrency=4,
        max_output_tokens=300,
        watch=once(lambda _: shaky.metric(ANSWERED_CALLS) >= shaky_before + 3, shaky.kill),
    )
    assert shaky.has_ended
    assert (result.exit_code, result.summary.status) == (0, "complete")
    assert outcomes(result) == {"truncated": 32}
    assert len(set(names(result))) == 32
    # Calls that were at the dying server went to the other; of the three that it had answered, two may have been on their way back.
    assert steady.metric(ANSWERED_CALLS) - before < 32
    assert result.summary.calls.retried >= 1
    assert result.summary.calls.rate_limited == 0


async def test_a_dead_engine_ends_the_run_in_bounded_time_and_the_run_goes_on_when_the_server_is_back(
    shaky: Server, play: Play, endless: Path
) -> None:
    options = {
        "provider": ENDLESS,
        "providers": endless,
        "sample": 10,
        "lengths": (1, 2),
        "concurrency": 4,
        "max_output_tokens": 300,
        "stall_seconds": 15.0,
    }
    started = time.monotonic()
    first = await play(shaky, **options, watch=once(finished(5), shaky.kill_engine))
    took_seconds = time.monotonic() - started
    assert isinstance(first.stopped_by, StalledError)
    assert (first.exit_code, first.summary.status) == (1, "partial")
    assert took_seconds < 90
    assert "resumed with the same command" in str(first.stopped_by)
    shaky.wait_for_end(60)
    bought = len(names(first))
    assert 5 <= bought < 20

    shaky.ensure_up()
    second = await play(shaky, **options)
    assert (second.exit_code, second.summary.status) == (0, "complete")
    assert outcomes(second) == {"truncated": 20}
    assert second.summary.calls.from_store >= bought
    # The server's own count begins with its start: it was asked for nothing that the first run had paid for.
    assert shaky.metric(ANSWERED_CALLS) == second.summary.calls.sent == 20 - second.summary.calls.from_store


async def test_a_server_that_is_told_to_stop_leaves_no_call_waiting_for_ever(shaky: Server, play: Play, endless: Path) -> None:
    def stop() -> None:
        assert shaky.metric("vllm:num_requests_running") > 0
        shaky.interrupt()

    started = time.monotonic()
    result = await play(
        shaky,
        provider=ENDLESS,
        providers=endless,
        sample=4,
        lengths=(1, 2),
        concurrency=4,
        max_output_tokens=1500,
        idle_seconds=20.0,
        total_seconds=25.0,
        stall_seconds=30.0,
        watch=once(finished(2), stop),
    )
    assert isinstance(result.stopped_by, StalledError)
    assert result.summary.status == "partial"
    assert time.monotonic() - started < 120
    assert len(names(result)) >= 2


async def test_a_server_that_was_never_there_is_named_at_once(steady: Server, play: Play) -> None:
    started = time.monotonic()
    result = await play(steady, base_urls=("http://127.0.0.1:9/v1",), model=MODEL, sample=1, lengths=(1,))
    assert result.exit_code == 2
    assert "check the address (--base-url)" in str(result.stopped_by)
    assert time.monotonic() - started < 30
