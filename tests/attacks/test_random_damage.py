"""Random damage, a thousand steps of it: kills, renames, corruption, second processes, jumping clocks, full disks. What must hold:

- no reply lost: what was on disk stays as it is, and every answer is on disk but for those in flight when a process was ended;
- none bought twice, beyond those in flight and those that were corrupted;
- never over the ceiling, by the server's own count;
- no failure safe: every verdict is the undisturbed run's, or missing;
- one sentence on failure.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import cache, partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import anyio
import anyio.from_thread
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from safemt_api.evaluation import evaluate
from safemt_api.profiles import WIRE_FORMATS, WireFormat
from safemt_api.runs.folder import current_files, read_manifest
from safemt_api.simulator.server import Simulator, run_simulator
from safemt_api.simulator.settings import FaultPlan, SimulatorSettings
from safemt_api.store.turns import STORE_FILE
from tests.attacks.player import begun

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and resource limits are POSIX")

PROVIDERS: dict[WireFormat, str] = dict(zip(WIRE_FORMATS, ("simulator", "simulator-anthropic", "simulator-google"), strict=True))
FAULTS = "error_503:0.03,reset:0.02,too_long:0.08,content_filter:0.05,refusal:0.05"
PLAYED = SimulatorSettings(seed=3, latency_seconds=0.01, faults=FaultPlan.parse(FAULTS))
INPUT_USD, OUTPUT_USD = 1.0 / 1e6, 4.0 / 1e6
CONCURRENCY = 4
ENDINGS = {0: "complete", 3: "out of money", 130: "interrupted", -signal.SIGKILL: "killed"}
PLAY_SECONDS = 60.0

Verdicts = dict[tuple[str, int], str | None]


DAMAGES = st.sampled_from(("cut", "changed", "gone", "empty"))


class Ended(NamedTuple):
    """How a process ended, and what it said of it."""

    code: int
    err: str


@cache
def undisturbed(wire_format: WireFormat) -> Verdicts:
    """The verdict on every dialogue that any run here may play, of a run that nothing disturbed."""
    folder = Path(tempfile.mkdtemp(prefix="safemt-calm-"))
    try:
        options: dict[str, Any] = {"lengths": (1, 2), "model": "sim-brittle", "max_failures": 1.0, "judges": ("rules",), "run": "calm"}
        anyio.run(partial(evaluate, provider=PROVIDERS[wire_format], results=folder, simulator=PLAYED, **options))
        return verdicts_of(folder / "calm")
    finally:
        shutil.rmtree(folder)


def verdicts_of(folder: Path) -> Verdicts:
    """The verdicts that count, from whichever place the run's generation has them in."""
    files = current_files(folder, read_manifest(folder) or {})
    if "verdicts.parquet" not in files:
        return {}  # no generation yet: the run never came to an end
    frame = pl.read_parquet(files["verdicts.parquet"], glob=False).filter(pl.col("counts"))
    return {(row["dialogue_id"], row["length"]): row["label"] for row in frame.iter_rows(named=True)}


@contextmanager
def simulator() -> Iterator[Simulator]:
    """A simulator in a thread of its own."""
    with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(run_simulator(PLAYED)) as server:
        yield server


class Damage(RuleBasedStateMachine):
    """Some runs over one store, and everything that may happen to them."""

    wire_format: ClassVar[WireFormat]
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="safemt-damage-"))
        self.results = self.folder / "results"
        self.names: dict[int, str] = {}
        self.billed_usd: dict[int, float] = {}
        self.highest_usd: dict[int, float] = {}
        self.renames = 0
        self.in_flight_lost = 0
        self.corrupted: set[str] = set()
        self.corruptions = 0
        self.seen: dict[str, str] = {}
        self.stack = ExitStack()

    @initialize()
    def vendor(self) -> None:
        """A vendor that fails now and then; the truth of what it says is known beforehand."""
        self.expected = undisturbed(self.wire_format)
        self.server = self.stack.enter_context(simulator())

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # What a user types.

    def words(self, run: int, ceiling_usd: float, concurrency: int) -> tuple[str, ...]:
        """The run goes on, or begins."""
        pace = ("--max-usd", str(ceiling_usd), "--concurrency", str(concurrency), "--max-failures", "1", "--results", str(self.results))
        if run in self.names and (self.results / self.names[run] / "run.json").exists():
            return ("resume", self.names[run], *pace)
        self.names.setdefault(run, f"run{run}")
        what = ("--model", "sim-brittle", "--lengths", "1,2", "--sample", "7", "--seed", str(run), "--judge", "rules")
        where = ("--provider", PROVIDERS[self.wire_format], "--base-url", self.server.base_url(self.wire_format))
        return ("eval", *where, *what, "--run", self.names[run], *pace)

    @contextmanager
    def billing(self, run: int, ceiling_usd: float) -> Iterator[None]:
        """What the server counts meanwhile is the run's, and below its ceiling."""
        before = self.server_usd()
        yield
        self.billed_usd[run] = self.billed_usd.get(run, 0.0) + self.server_usd() - before
        self.highest_usd[run] = max(ceiling_usd, self.highest_usd.get(run, 0.0))

    def server_usd(self) -> float:
        """The vendor's own bill."""
        used = self.server.statistics()
        return used.input_tokens * INPUT_USD + used.output_tokens * OUTPUT_USD

    def begin(self, run: int, ceiling_usd: float, concurrency: int, **hardship: Any) -> tuple[BaseProcess, Path]:
        """The run in a process of its own."""
        said = self.folder / f"said{time.monotonic_ns()}"
        return begun(self.words(run, ceiling_usd, concurrency), said, **hardship), said

    def end(self, process: BaseProcess, said: Path) -> Ended:
        """Wait for a process, and read what it said; a failure is one sentence."""
        process.join(PLAY_SECONDS)
        assert process.exitcode is not None, "it hangs"
        err, out = (said.with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".err", ".out"))
        for file in (said.with_suffix(".err"), said.with_suffix(".out")):
            file.unlink()
        assert "Traceback" not in out + err, err
        assert "defect of ours" not in out + err, err
        if process.exitcode not in ENDINGS:
            assert process.exitcode in (1, 2), err
            assert len(told := [line for line in err.splitlines() if line.startswith(("safemt-api: ", "stopped: "))]) == 1, err
            assert told[0].endswith(tuple("abcdefghijklmnopqrstuvwxyz.)0123456789'`")), err
        return Ended(process.exitcode, err)

    def play(self, run: int, ceiling_usd: float, concurrency: int = CONCURRENCY, **hardship: Any) -> Ended:
        """The run to its end."""
        with self.billing(run, ceiling_usd):
            return self.end(*self.begin(run, ceiling_usd, concurrency, **hardship))

    # What may happen.

    runs = st.integers(0, 2)
    signals_to_end = st.sampled_from((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    ceilings_usd = st.sampled_from((0.006, 0.01, 0.02, 0.05, 0.3))

    @rule(run=runs, ceiling_usd=ceilings_usd, concurrency=st.integers(1, CONCURRENCY))
    def played(self, run: int, ceiling_usd: float, concurrency: int) -> None:
        """Nothing happens."""
        assert self.play(run, ceiling_usd, concurrency).code in (0, 3)

    @rule(run=runs, ceiling_usd=ceilings_usd, answers=st.integers(0, 10))
    def killed(self, run: int, ceiling_usd: float, answers: int) -> None:
        """SIGKILL after so many answers."""
        with self.billing(run, ceiling_usd):
            process, said = self.begin(run, ceiling_usd, CONCURRENCY)
            self.wait_for(process, answers)
            process.kill()
            ended = self.end(process, said)
        assert ended.code in (0, 3, -signal.SIGKILL)
        self.in_flight_lost += CONCURRENCY

    @rule(
        run=runs, ceiling_usd=ceilings_usd, answers=st.integers(0, 10), sent=st.sampled_from((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    )
    def signalled(self, run: int, ceiling_usd: float, answers: int, sent: signal.Signals) -> None:
        """A signal to end, once it plays."""
        with self.billing(run, ceiling_usd):
            process, said = self.begin(run, ceiling_usd, CONCURRENCY)
            if self.wait_for(process, max(1, answers)) and process.pid is not None:
                os.kill(process.pid, sent)  # a child that has just ended is a zombie until it is joined, so the id is its own
            ended = self.end(process, said)
        assert ended.code in (0, 3, 130), ended
        self.in_flight_lost += CONCURRENCY

    def wait_for(self, process: BaseProcess, answers: int) -> bool:
        """Until the server has given so many more answers, or the process has ended."""
        goal = self.server.statistics().answered + answers
        give_up = time.monotonic() + PLAY_SECONDS
        while process.is_alive() and time.monotonic() < give_up:
            if self.server.statistics().answered >= goal:
                return True
            time.sleep(0.002)
        return False

    @rule(run=runs, ceiling_usd=ceilings_usd)
    def second_process(self, run: int, ceiling_usd: float) -> None:
        """Two at once on one run: one plays, the other is told so, or comes when the first has gone."""
        with self.billing(run, ceiling_usd):
            both = [self.begin(run, ceiling_usd, CONCURRENCY) for _ in range(2)]
            ended = [self.end(*one) for one in both]
        assert any(one.code in (0, 3) for one in ended), ended
        for one in ended:
            assert one.code in (0, 3) or "is being played by" in one.err, one

    @rule(run=runs, ceiling_usd=ceilings_usd, days=st.sampled_from((-400, -1, 1, 400)))
    def clock_jumped(self, run: int, ceiling_usd: float, days: int) -> None:
        """The wall clock jumps ahead and back at every look."""
        assert self.play(run, ceiling_usd, clock_jump_seconds=days * 86_400.0).code in (0, 3)

    @rule(run=runs, ceiling_usd=ceilings_usd, room_bytes=st.sampled_from((4_096, 20_000, 60_000, 120_000, 250_000)))
    def disk_full(self, run: int, ceiling_usd: float, room_bytes: int) -> None:
        """No file grows beyond so many bytes."""
        ended = self.play(run, ceiling_usd, room_bytes=room_bytes)
        assert ended.code in (0, 2, 3), ended
        self.in_flight_lost += CONCURRENCY

    # Every story draws the same whatever the state is: how far a process came before it was killed differs from time to time.

    @rule(run=runs)
    def renamed(self, run: int) -> None:
        """A run's folder gets another name."""
        folder = self.folder_of(run)
        self.renames += 1
        self.names[run] = f"renamed{self.renames}"
        folder.rename(self.results / self.names[run])

    @rule(
        run=runs,
        pick=st.integers(0, 99),
        how=st.sampled_from(("replace(reply, 'e', 'E')", "substr(reply, 1, 40)", "''", "CAST(x'ff00fe' AS TEXT)")),
    )
    def reply_corrupted(self, run: int, pick: int, how: str) -> None:
        """Bits of a stored reply flip."""
        self.folder_of(run)
        keys = sorted(self.stored())
        key = keys[pick % len(keys)]
        with closing(sqlite3.connect(self.results / STORE_FILE, isolation_level=None)) as connection:
            connection.execute(f"UPDATE replies SET reply = {how} WHERE key = ?", (key,))  # noqa: S608 (one of the four above)
        self.corrupted.add(key)
        self.corruptions += 1

    @rule(run=runs, answers=st.integers(1, 6), garbage=st.binary(min_size=1, max_size=100))
    def commit_torn(self, run: int, answers: int, garbage: bytes) -> None:
        """Killed in the middle of a commit: something stands behind the log."""
        self.killed(run=run, ceiling_usd=0.3, answers=answers)
        log = self.results / f"{STORE_FILE}-wal"
        if log.exists() and log.stat().st_size:
            with log.open("ab") as stream:
                stream.write(garbage * 50)

    @rule(run=runs, name=st.sampled_from(("summary.json", "verdicts.parquet", "transcripts.parquet")), how=DAMAGES)
    def file_corrupted(self, run: int, name: str, how: str) -> None:
        """A file of a run is cut, changed or gone: a report says so in one sentence, and the run that goes on writes it anew."""
        folder = self.folder_of(run)
        if not (folder / name).exists():
            assert self.play(run, 0.3).code in (0, 3)
        damage(folder / name, how)
        said = self.folder / "report"
        ended = self.end(begun(("report", self.names[run], "--json", "--results", str(self.results)), said), said)
        assert ended.code == 0 or (ended.code == 2 and name in ended.err), ended
        assert self.play(run, self.highest_usd[run]).code in (0, 3)

    @rule(run=runs, how=st.sampled_from(("cut", "empty")))
    def run_file_corrupted(self, run: int, how: str) -> None:
        """The run file is damaged: nothing is bought until it is restored."""
        file = self.folder_of(run) / "run.json"
        whole, answered = file.read_bytes(), self.server.statistics().answered
        damage(file, how)
        ended = self.play(run, 1.0)
        assert (ended.code, self.server.statistics().answered) == (2, answered), ended
        assert "run.json" in ended.err
        file.write_bytes(whole)

    def folder_of(self, run: int) -> Path:
        """The folder of a run, which is begun where it was not yet."""
        if run not in self.names or not (self.results / self.names[run] / "run.json").exists():
            assert self.play(run, 0.05).code in (0, 3)
        return self.results / self.names[run]

    # What must hold.

    @invariant()
    def holds(self) -> None:
        """Looked at after every step."""
        type(self).steps += 1
        if not (self.results / STORE_FILE).exists():
            return
        stored, bought = self.stored(), self.bought()
        for key, text in self.seen.items():
            assert key in stored, "a reply was lost"
            assert stored[key] == text or key in self.corrupted, "a reply was changed"
        self.seen = {key: text for key, text in stored.items() if key not in self.corrupted}
        assert len(bought) <= len(stored) + self.in_flight_lost, "an answer never came to disk"
        assert sum(bought) - len(bought) <= self.in_flight_lost + self.corruptions, "a reply was bought twice"
        for run, billed in self.billed_usd.items():
            assert billed <= self.highest_usd[run] + 1e-9, "the ceiling was passed"
        for name in self.names.values():
            for cell, label in self.readable(name).items():
                assert label in (self.expected[cell], None), "a verdict that the undisturbed run does not have"

    def bought(self) -> list[int]:
        """How often each call was answered with what a vendor bills; one that it finds wrong (too long a dialogue) is free."""
        ledger = self.server._service.books
        return [times for digest, times in ledger.answers.items() if digest in ledger.truths and ledger.truths[digest].outcome != "error"]

    def readable(self, name: str) -> Mapping[tuple[str, int], str | None]:
        """A run's verdicts, where it has come to an end once."""
        folder = self.results / name
        return verdicts_of(folder) if (folder / "run.json").exists() else {}

    def stored(self) -> dict[str, str]:
        """Key and text of every reply on disk, read from a copy, so that looking changes nothing."""
        with tempfile.TemporaryDirectory(dir=self.folder) as copy:
            for file in self.results.glob(f"{STORE_FILE}*"):
                shutil.copy(file, copy)
            with closing(sqlite3.connect(Path(copy) / STORE_FILE)) as connection:
                if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'replies'").fetchone()[0]:
                    return {}
                rows = connection.execute("SELECT key, CAST(reply AS BLOB) FROM replies").fetchall()
        return {key: reply.hex() for key, reply in rows}


def damage(file: Path, how: str) -> None:
    """Cut a file, change it, or take it away."""
    whole = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "changed":
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    else:
        file.write_bytes(whole[: len(whole) // 2] if how == "cut" else b"")


def played_through(wire_format: WireFormat, *, stories: int, steps: int) -> int:
    """So many stories of so many steps; how many steps were taken."""

    class Story(Damage):
        """Damage in one wire format."""

    Story.wire_format = wire_format
    every = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
    how = settings(max_examples=stories, stateful_step_count=steps, suppress_health_check=every, phases=(Phase.generate,), database=None)
    run_state_machine_as_test(Story, settings=how)
    return Story.steps


@pytest.mark.timeout(180)
def test_a_few_steps_of_random_damage() -> None:
    """A first look; the long one is below."""
    assert played_through("openai_chat", stories=1, steps=15) >= 15


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
def test_a_thousand_steps_of_random_damage(wire_format: WireFormat) -> None:
    """A third of them in each wire format; the first story of all is one step long."""
    assert played_through(wire_format, stories=10, steps=38) >= 334
