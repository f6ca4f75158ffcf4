"""A run under way, and one that was really killed, are read as far as they came: whole dialogues only, without touching them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from safemt_api.errors import NothingPlayedError
from safemt_api.evaluation import evaluate
from safemt_api.limits.budget import Ledger
from safemt_api.report.remarks import remarks
from safemt_api.runs.folder import TRANSCRIPTS_FILE, VERDICTS_FILE, playing, scratch
from safemt_api.runs.record import read_run, read_unfinished
from safemt_api.runs.rows import open_collector
from safemt_api.store.turns import open_store

PROJECT = Path(__file__).resolve().parents[2]
OPTIONS = ("--model", "sim-average", "--lengths", "1,4", "--protocol", "live", "--judge", "simulator:sim-judge", "--concurrency", "4")
SETTINGS: dict[str, Any] = {
    "model": "sim-average",
    "lengths": (1, 4),
    "protocol": "live",
    "judges": ("simulator:sim-judge",),
    "concurrency": 4,
    "max_usd": 1.0,
}


@contextmanager
def player(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that plays the run ``r`` slowly."""
    command = [
        sys.executable,
        "-m",
        "safemt_api",
        "eval",
        *OPTIONS,
        "--run",
        "r",
        "--max-usd",
        "1",
        "--sim-latency-seconds",
        "0.1",
        *options,
    ]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def until(done: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 40
    while not done():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def dialogues(folder: Path) -> int:
    found = read_unfinished(folder, {}) if (folder / "run.json").exists() else None
    return 0 if found is None else found.summary.played


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.timeout(120)
async def test_a_run_is_read_while_it_is_played_after_it_was_killed_and_when_it_went_on(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "r"
    with player(tmp_path) as process:
        until(lambda: dialogues(folder) >= 5, process)
        running = read_run(folder)
        process.send_signal(signal.SIGKILL)
    assert running.summary.status == "partial"
    assert running.summary.dialogues.planned == 68
    assert 5 <= running.summary.dialogues.finished < 68
    assert f"This run is being played by process {process.pid} since" in remarks(running)[0]

    killed = read_run(folder)
    counts = killed.summary.dialogues
    assert killed.summary.status == "interrupted"
    assert counts.finished >= running.summary.dialogues.finished
    assert f"This run was cut short; these are the {counts.finished} of 68 dialogues that were finished." in remarks(killed)[0]
    assert sum(row.safe + row.unsafe + row.missing for row in killed.summary.asr_by_turn) == killed.verdicts.filter("counts").height
    assert killed.summary.cost_usd.maybe_usd == 0.0
    async with open_store(folder / killed.manifest["store"]["path"]) as store:
        money = Ledger(store, run=killed.manifest["id"], ceiling_usd=None)
        with anyio.CancelScope() as scope:
            async with money.reserved(key="cut off", purpose="target", most_usd=0.25) as reservation:
                reservation.sent = True
                scope.cancel()
                await anyio.lowlevel.checkpoint()
    assert read_run(folder).summary.cost_usd.maybe_usd == 0.25
    # The books count what was in flight too, so they are never below what these rows cost.
    assert (killed.summary.cost_usd.target or 0.0) >= float(killed.transcripts["cost_usd"].sum()) - 1e-5

    whole = await evaluate(**SETTINGS, results=tmp_path / "results", run="r", simulator_latency_seconds=0.1)
    finished = read_run(folder)
    assert whole.summary.status == finished.summary.status == "complete"
    assert finished.summary.unfinished is None
    # What the killed run had is what the whole one has.
    columns = ["dialogue_id", "length", "turn", "reply_text"]
    assert killed.transcripts.select(columns).join(finished.transcripts.select(columns), on=columns, how="anti").height == 0


async def test_what_had_ended_is_shown_until_the_run_is_further(tmp_path: Path) -> None:
    settings = {**SETTINGS, "results": tmp_path, "run": "r", "sample": 3}
    folder = (await evaluate(**settings)).folder
    ended = read_run(folder)
    assert not scratch(folder, TRANSCRIPTS_FILE).exists()
    with playing(folder, "r"), open_collector(folder, "r"):
        assert read_run(folder).summary == ended.summary


def test_a_run_without_a_finished_dialogue_is_no_reason_to_start_a_second_one(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"schema": 1, "identity": {}, "outline": {"run": "r"}}))
    with playing(folder, "r"), open_collector(folder, "r"):
        with pytest.raises(
            NothingPlayedError, match=rf"is finished yet; it is being played by process {os.getpid()}.*: look again"
        ) as caught:
            read_run(folder)
        assert "resume" not in str(caught.value)
    with pytest.raises(NothingPlayedError, match=r"no dialogue of this run is finished; `safemt-api resume .*` goes on"):
        read_run(folder)


@pytest.mark.timeout(120)
async def test_rows_that_are_torn_anywhere_give_whole_dialogues(tmp_path: Path) -> None:
    with player(tmp_path, "--sample", "6") as process:
        until(lambda: dialogues(tmp_path / "results" / "r") >= 4, process)
    folder = tmp_path / "results" / "r"
    files = {name: scratch(folder, name).read_bytes() for name in (TRANSCRIPTS_FILE, VERDICTS_FILE)}
    whole = read_unfinished(folder, {})
    assert whole is not None
    replies = {tuple(row) for row in whole.transcripts.select("dialogue_id", "length", "turn", "reply_text").iter_rows()}
    seen = set()
    for name, content in files.items():
        for cut in range(0, len(content), max(1, len(content) // 40)):
            scratch(folder, name).write_bytes(content[:cut])
            found = read_unfinished(folder, {})
            assert found is not None
            seen.add(found.summary.played)
            turns = found.transcripts.group_by("dialogue_id", "length").len()
            assert all(length == count for _, length, count in turns.iter_rows())
            assert {tuple(row) for row in found.transcripts.select("dialogue_id", "length", "turn", "reply_text").iter_rows()} <= replies
        scratch(folder, name).write_bytes(content)
    assert len(seen) >= 4
