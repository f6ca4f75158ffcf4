"""Attacks on what is on disk, and on the process: kills between the files, flipped bits, signals, a locked store."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import orjson
import polars as pl
import pytest

from safemt_api.profiles import WireFormat
from safemt_api.store.turns import STORE_FILE
from tests.attacks.conftest import Attacked, Ground, begun, ended, python, safemt
from tests.attacks.hostile import Answer, Asked, answer, reply

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")]

KILLED_WHILE_WRITING = """
import os, signal, sys
steps = int(sys.argv.pop(1))
def step(event, arguments):
    global steps
    if event == "os.rename" and "/.next/" in str(arguments[0]):
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
from safemt_api.cli import main
main()
"""


def killed_at_rename(step: int, *words: object) -> int:
    """The command, killed before the rename of that number of a generation of files; its exit code."""
    return ended(python("-c", KILLED_WHILE_WRITING, step, *words)).code


def test_a_kill_between_the_files_shows_the_old_or_the_new(attacked: Attacked, wire_format: WireFormat) -> None:
    """A report showed the old 78 of 120 over 120 new rows. Here 2 of 6 were played; the rest is bought by a run killed at every step."""
    good = answer(reply(wire_format))
    with attacked(lambda _: good) as ground:
        half = ground.run(sample=3, lengths=(1, 2), max_usd=0.004, concurrency=1)
        old = half.summary.dialogues.finished
        assert 0 < old < 6
        seen = []
        for step in range(12):
            code = killed_at_rename(step, "resume", "r", "--max-usd", "5", "--results", ground.results)
            shown = safemt("report", "r", "--results", ground.results, "--json")
            assert shown.code == 0, shown.sentence
            [figures] = orjson.loads(shown.out)
            seen.append(figures["dialogues"]["finished"])
            assert figures["verdicts"]["valid"] == seen[-1]
            assert sum(row["safe"] + row["unsafe"] for row in figures["asr_by_turn"]) == seen[-1]
            if code == 0:
                break
            assert code == -signal.SIGKILL
        assert code == 0
        assert set(seen) <= {old, 6}
        assert seen[-1] == 6
        assert ground.server.answered == len(ground.server.bodies) == 6


def test_a_flipped_byte_in_a_stored_reply_is_asked_again_and_said(attacked: Attacked, wire_format: WireFormat) -> None:
    """It was the end of the run, or a silent change of what the model said."""
    good = answer(reply(wire_format, "I can't help with that one."))
    with attacked(lambda _: good) as ground:
        assert (ground.run(sample=3, lengths=(1, 2))).exit_code == 0
        file = ground.results / STORE_FILE
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        raw = file.read_bytes()
        at = raw.index(b"help with that one.")
        file.write_bytes(raw[:at] + b"H" + raw[at + 1 :])
        said = safemt("resume", "r", "--max-usd", "1", "--results", ground.results)
        assert said.code == 0, said.sentence
        assert ground.server.answered == 7
        report = safemt("report", "r", "--results", ground.results)
        assert "1 reply in the store was damaged and was asked for again" in " ".join(report.out.split())
        assert set(pl.read_parquet(ground.results / "r" / "transcripts.parquet")["reply_text"]) == {"I can't help with that one."}


@contextmanager
def playing(ground: Ground, *words: object) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, of which eight calls were answered and eight more are under way."""
    with begun(*ground.words("--lengths", "1,2", "--concurrency", 8, *words)) as process:
        try:
            deadline = time.monotonic() + 60
            while ground.server.answered < 16:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def slow_after_eight(wire_format: WireFormat) -> Any:
    """Eight replies at once, then none for half a minute."""

    def attack(asked: Asked) -> Answer:
        return answer(reply(wire_format), seconds=0.0 if asked.number <= 8 else 30.0)

    return attack


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
def test_any_signal_to_end_ends_soon_and_keeps_what_was_paid(attacked: Attacked, wire_format: WireFormat, sent: signal.Signals) -> None:
    with attacked(slow_after_eight(wire_format)) as ground:
        with playing(ground) as process:
            started = time.monotonic()
            process.send_signal(sent)
            assert process.wait(60) == 130
            assert time.monotonic() - started < 8.0, "two seconds, on a machine that is not busy"
        summary = orjson.loads((ground.results / "r" / "summary.json").read_bytes())
        assert summary["status"] == "interrupted"
        assert summary["dialogues"]["finished"] == 8
        assert summary["cost_usd"]["maybe_usd"] > 0


def test_a_second_interrupt_ends_at_once_and_keeps_what_was_paid(attacked: Attacked, wire_format: WireFormat) -> None:
    with attacked(slow_after_eight(wire_format)) as ground:
        with playing(ground) as process:
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) in (130, -signal.SIGINT)
            assert time.monotonic() - started < 2.0
        with closing(sqlite3.connect(ground.results / STORE_FILE)) as connection:
            assert connection.execute("SELECT count(*) FROM replies").fetchone() == (8,)


@pytest.fixture
def locked() -> Iterator[list[sqlite3.Connection]]:
    """Connections that a test opens; closed when it ends."""
    opened: list[sqlite3.Connection] = []
    yield opened
    for connection in opened:
        connection.close()


def test_an_interrupt_does_not_wait_for_a_locked_store(
    attacked: Attacked, wire_format: WireFormat, locked: list[sqlite3.Connection]
) -> None:
    with attacked(slow_after_eight(wire_format)) as ground, playing(ground) as process:
        locked.append(sqlite3.connect(ground.results / STORE_FILE, isolation_level=None))
        locked[0].execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
        assert time.monotonic() - started < 10.0
        assert code in (130, 2)
