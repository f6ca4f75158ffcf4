"""Attacks on whose money and whose run it is: renamed folders, names that are paths or patterns, lost stores, two processes at once."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import orjson
import polars as pl
import pytest

from safemt_api.profiles import WireFormat
from safemt_api.store.turns import STORE_FILE
from tests.attacks.conftest import Attacked, Ground, begun, ended, safemt
from tests.attacks.hostile import Answer, Asked, answer, reply

pytestmark = pytest.mark.timeout(180)  # some start several processes, on a machine that may be busy

PROVIDERS: dict[WireFormat, str] = {
    "openai_chat": "simulator",
    "anthropic_messages": "simulator-anthropic",
    "google_genai": "simulator-google",
}


@pytest.mark.slow
def test_a_renamed_run_opens_no_new_ceiling(attacked: Attacked, wire_format: WireFormat) -> None:
    """``mv results/r results/r2; resume r2`` spent $0.055 under $0.02."""
    good = answer(reply(wire_format))
    with attacked(lambda _: good) as ground:
        assert (ground.evaluated("--max-usd", 0.005)).code == 3
        billed, answered = ground.server.billed_usd, ground.server.answered
        assert 0 < billed <= 0.005
        for old, new in (("r", "r2"), ("r2", "r3")):
            (ground.results / old).rename(ground.results / new)
            resumed = safemt("resume", new, "--results", ground.results)
            assert resumed.code == 3, resumed.err
        assert (ground.server.billed_usd, ground.server.answered) == (billed, answered)


@pytest.mark.slow
def test_a_run_in_a_folder_of_its_own_finds_the_one_store_again(attacked: Attacked, wire_format: WireFormat) -> None:
    """The ``resume a/b`` that ``--run a/b`` had printed made a second store and bought everything again."""
    good = answer(reply(wire_format))
    with attacked(lambda _: good) as ground:
        assert (ground.evaluated("--sample", 3, run="a/b")).code == 0
        answered = ground.server.answered
        for words in (("a/b", "--results", ground.results), (ground.results / "a" / "b",)):
            assert (safemt("resume", *words)).code == 0
        assert ground.server.answered == answered
        assert [file.relative_to(ground.results).as_posix() for file in ground.results.rglob(STORE_FILE)] == [STORE_FILE]


NAMES = (
    "m?",
    "m*",
    "m[12]",
    "../r",
    "/anywhere/r",
    "a/../b",
    "con",
    "a\x1b[31m",
    "[red]b[/]",
    "run.json",
    "a b\n",
    "{a,b}",
    "-r",
    "r.",
    "é" * 400,
)


def test_a_name_that_is_a_path_or_a_pattern_is_one_sentence(attacked: Attacked, wire_format: WireFormat) -> None:
    """``--run 'm?'`` scored the rows of m1 and m2."""
    with attacked(lambda _: answer(reply(wire_format))) as ground:
        for name in NAMES if wire_format == "openai_chat" else NAMES[:2]:
            said = ground.evaluated(run=name)
            assert said.code == 2, name
            assert "choose a name of letters" in said.sentence
            assert "\x1b" not in said.err
        assert ground.server.answered == 0
    assert not ground.results.exists()


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["[red]b[/]*", "m?", "{a,b}", "a b"])
def test_results_in_a_folder_with_a_pattern_for_a_name_are_reported(attacked: Attacked, wire_format: WireFormat, odd: str) -> None:
    """With ``[red]b[/]*`` it ended in "a defect of ours" after all calls were paid."""
    with attacked(lambda _: answer(reply(wire_format))) as whole:
        ground = Ground(whole.server, whole.folder / odd)
        shutil.copytree(whole.folder / "providers", ground.folder / "providers")
        assert (ground.evaluated("--sample", 2, "--lengths", "1", run="m1")).code == 0
        assert (ground.evaluated("--sample", 5, "--lengths", "1", run="m2")).code == 0
        for command in (("report", "m1"), ("export", "m1", "--to", "csv"), ("tables", "m1", "m2", "--anyway"), ("runs",)):
            said = safemt(*command, "--results", ground.results)
            assert said.code == 0, said.sentence
        summary = orjson.loads((ground.results / "m1" / "summary.json").read_bytes())
        assert summary["dialogues"]["finished"] == 2


LOSSES = {
    "deleted": lambda file: file.unlink(),
    "emptied": lambda file: file.write_bytes(b""),
    "another's": lambda file: file.write_bytes(b"not a database " * 1000),
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_store_is_said_before_anything_is_bought_anew(attacked: Attacked, wire_format: WireFormat, loss: str) -> None:
    with attacked(lambda _: answer(reply(wire_format))) as ground:
        assert (ground.evaluated("--sample", 3)).code == 0
        answered = ground.server.answered
        for rest in ground.results.glob(f"{STORE_FILE}-*"):
            rest.unlink()
        LOSSES[loss](ground.results / STORE_FILE)
        said = safemt("resume", "r", "--results", ground.results)
        assert said.code == 2
        assert STORE_FILE in said.sentence
        assert ground.server.answered == answered


@pytest.mark.slow
def test_a_second_process_on_a_run_is_told_so_and_sends_nothing(attacked: Attacked, wire_format: WireFormat) -> None:
    """Two processes sent 239 requests for 120 dialogues; five of nine rows held replies that the store does not have."""

    def worded(asked: Asked) -> Answer:
        return answer(reply(wire_format, f"I can't help with that: reply number {asked.number}."), seconds=0.05)

    with attacked(worded) as ground:
        processes = [begun(*ground.words("--lengths", "1,2,4", "--sample", 20, "--concurrency", 2)) for _ in range(3)]
        first, second, whole = sorted(map(ended, processes), key=lambda one: -one.code)
        assert (first.code, second.code, whole.code) == (1, 1, 0)
        assert "is being played by process" in first.sentence
        assert "is being played by process" in second.sentence
        assert ground.server.answered == len(ground.server.bodies) == 60
        rows_are_stored(ground, "r")


@pytest.mark.slow
def test_two_runs_that_want_the_same_calls_show_the_same_replies(attacked: Attacked, wire_format: WireFormat) -> None:
    """Both may buy one reply at the same moment; the one that the store kept is everybody's."""

    def worded(asked: Asked) -> Answer:
        return answer(reply(wire_format, f"I can't help with that: reply number {asked.number}."), seconds=0.1)

    with attacked(worded) as ground:
        processes = [begun(*ground.words("--lengths", "1,2", "--sample", 20, "--concurrency", 8, run=run)) for run in ("r", "s")]
        assert [ended(process).code for process in processes] == [0, 0]
    rows = [rows_are_stored(ground, run) for run in ("r", "s")]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 40
    assert ground.server.answered <= 80


def rows_are_stored(ground: Ground, run: str) -> set[str]:
    """The replies of a run's rows, each of which the store holds."""
    store = ground.results / STORE_FILE
    replies = set(pl.read_parquet(ground.results / run / "transcripts.parquet")["reply_text"])
    with closing(sqlite3.connect(store)) as connection:
        kept = {orjson.loads(text)["text"] for (text,) in connection.execute("SELECT reply FROM replies")}
    assert replies <= kept
    return replies
