"""``safemt-api eval`` and ``resume`` against the built-in simulator, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from safemt_api.cli import terminal
from safemt_api.runs.folder import playing
from safemt_api.runs.settings import EvalSettings, settings_from_record, settings_record
from safemt_api.store.sqlite import BUSY_TIMEOUT_SECONDS

Cli = Callable[..., Any]
Small = tuple[str, ...]
PROJECT = Path(__file__).resolve().parents[2]


def test_without_a_key_or_data_the_demonstration_runs_and_says_so(cli: Cli, small: Small) -> None:
    said = cli(*small, "--run", "first")
    assert said.code == 0
    assert "demonstration set" in said.err
    assert "Safety Index" in said.out
    assert "baseline judge (rules)" in said.out
    assert {"run.json", "summary.json", "transcripts.parquet", "verdicts.parquet", "report.html"} <= {
        file.name for file in Path("results/first").iterdir()
    }


def test_json_is_exactly_the_summary(cli: Cli, small: Small) -> None:
    said = cli(*small, "--run", "first", "--json")
    assert json.loads(said.out) == json.loads(Path("results/first/summary.json").read_text(encoding="utf-8"))


def test_a_rubric_set_is_named_wherever_its_verdicts_are(cli: Cli, small: Small) -> None:
    assert cli(*small, "--run", "first", "--judge", "simulator:sim-judge").code == 0
    said = cli("judge", "first", "--judge", "simulator:sim-judge", "--rubric", "careful")
    assert said.code == 0
    summary, manifest = (json.loads(Path(f"results/first/{name}.json").read_text(encoding="utf-8")) for name in ("summary", "run"))
    assert summary["rubric"] == manifest["rubric"]
    assert summary["rubric"]["name"] == "careful"
    assert manifest["settings"]["rubric"] == "careful"
    title = f"simulator:sim-judge, rubric careful {summary['rubric']['digest'][:8]}"
    assert " ".join(said.out.split()).count(title) >= 3
    assert title in Path("results/first/report.html").read_text(encoding="utf-8")
    assert cli("resume", "first").code == 0
    other = cli(*small, "--run", "first", "--judge", "simulator:sim-judge")
    assert other.code == 2
    assert "rubric: " in other.err


def test_a_run_that_is_done_is_answered_from_the_store(cli: Cli, small: Small) -> None:
    cli(*small, "--run", "first")
    for words in ((*small, "--run", "first"), ("resume", "first"), ("resume", "results/first")):
        summary = json.loads(cli(*words, "--json").out)
        assert summary["calls"]["sent"] == 0
        assert summary["calls"]["from_store"] == 4


def test_other_settings_for_a_run_that_exists_are_refused_with_the_difference(cli: Cli, small: Small) -> None:
    cli(*small, "--run", "first")
    said = cli(*small, "--run", "first", "--model", "sim-safe")
    assert said.code == 2
    assert 'model: "sim-average" → "sim-safe"' in said.err
    assert "Traceback" not in said.err


def test_the_budget_ends_a_run_with_3_and_resume_finishes_it(cli: Cli, small: Small) -> None:
    said = cli(*small, "--run", "poor", "--max-usd", "0.0075", "--concurrency", "1")
    assert said.code == 3
    assert "go on with: safemt-api resume poor --max-usd X" in said.err
    assert json.loads(Path("results/poor/summary.json").read_text(encoding="utf-8"))["status"] == "budget_exhausted"
    done = cli("resume", "poor", "--max-usd", "1", "--json")
    assert done.code == 0
    assert json.loads(done.out)["status"] == "complete"


def test_resume_brings_back_what_the_simulator_played_and_who_judged(cli: Cli, small: Small) -> None:
    words = ("--sim-seed", "7", "--model", "sim-brittle", "--protocol", "live", "--judge", "simulator:sim-judge", "--kinds", "both")
    first = json.loads(cli(*small, *words, "--run", "odd", "--json").out)
    again = json.loads(cli("resume", "odd", "--json").out)
    assert again["calls"]["sent"] == 0
    for name in ("model", "protocol", "judge", "asr_by_turn", "safety_index", "benign"):
        assert again[name] == first[name]


def test_too_many_failed_dialogues_end_with_4_and_the_reasons(cli: Cli, small: Small) -> None:
    said = cli(*small, "--run", "broken", "--fault", "too_long:1.0")
    assert said.code == 4
    assert "4 failed: " in said.err
    assert "safemt-api resume broken" in said.err


def test_a_dry_run_sends_nothing_and_names_calls_and_money(cli: Cli, small: Small) -> None:
    said = cli(*small, "--dry-run")
    assert said.code == 0
    assert "simulator:sim-average" in said.out
    assert "at most" in said.out
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--provider", "nobody"), "no provider called 'nobody'"),
        (("--provider", "openai"), "set OPENAI_API_KEY"),
        (("--data", "/nowhere"), "/nowhere: no such folder"),
        (("--concurrency", "0"), "--concurrency 0 must be greater than 0"),
        (("--rpm", "-1"), "--requests-per-minute -1"),
        (("--judge", "someone"), "someone"),
        (("--fault", "bang:1"), "no fault called 'bang'"),
        (("--base-url", "http://me:secret@localhost/v1"), "must not hold a user name or password"),
        (("--kinds", "odd"), "--kinds"),
        (("--colour",), "--colour"),
    ],
)
def test_a_mistake_is_one_sentence_and_2(cli: Cli, small: Small, words: tuple[str, ...], sentence: str) -> None:
    said = cli(*small, *words)
    assert said.code == 2
    assert sentence in said.err
    assert "Traceback" not in said.err
    assert "secret" not in said.err
    assert said.out == ""


def test_resume_of_no_run_lists_those_there_are(cli: Cli, small: Small) -> None:
    assert "there is none in results" in cli("resume", "x").err
    cli(*small, "--run", "first")
    said = cli("resume", "x")
    assert said.code == 2
    assert "there are: first" in said.err


def test_a_run_in_a_folder_of_its_own_is_found_by_its_name_and_from_within(
    cli: Cli, small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cli(*small, "--run", "group/a").code == 0
    again = cli("resume", "group/a", "--json")
    assert json.loads(again.out)["calls"] == {**json.loads(again.out)["calls"], "sent": 0}
    monkeypatch.chdir(tmp_path / "results" / "group" / "a")
    within = cli("resume", ".", "--json")
    assert json.loads(within.out)["calls"]["sent"] == 0
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("turns.sqlite")] == ["results/turns.sqlite"]
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("run.json")] == ["results/group/a/run.json"]


@pytest.mark.parametrize("name", ["../evil", "m?", "/absolute/evil", "a\x1b[31mb"])
def test_a_name_that_leads_elsewhere_is_refused(cli: Cli, small: Small, name: str, tmp_path: Path) -> None:
    said = cli(*small, "--run", name)
    assert said.code == 2
    assert "--run" in said.err
    assert "\x1b" not in said.err
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "results").exists()


def test_a_results_folder_named_like_a_pattern_is_a_folder(cli: Cli, small: Small) -> None:
    for folder in ("[red]b[/]*", "m1", "m?"):
        assert cli(*small, "--run", "r", "--results", folder, "--json").code == 0
        assert cli("report", "r", "--results", folder).code == 0
        assert cli("judge", "r", "--judge", "simulator:sim-judge", "--results", folder).code == 0
    assert pl.read_parquet("m?/r/transcripts.parquet", glob=False).height == 4


def test_a_second_process_on_a_run_is_told_so(cli: Cli, small: Small, tmp_path: Path) -> None:
    assert cli(*small, "--run", "r").code == 0
    with playing(tmp_path / "results" / "r", "r"):
        for words in ((*small, "--run", "r"), ("resume", "r"), ("judge", "r", "--judge", "simulator:sim-judge")):
            said = cli(*words)
            assert said.code == 1
            assert f"run 'r' is being played by process {os.getpid()}" in said.err
        assert cli("report", "r").code == 0
        assert cli("export", "r", "--to", "csv").code == 0


def test_a_key_in_dot_env_is_used_and_never_written(cli: Cli, small: Small, tmp_path: Path) -> None:
    key = "sk-" + "k3y" * 7
    Path(".env").write_text(f"ACME_API_KEY={key}\nSAFEMT_DATA=/nowhere\n", encoding="utf-8")
    os.environ["SAFEMT_DATA"] = ""
    try:
        said = cli(*small, "--provider", "openai")
    finally:
        used = os.environ.pop("ACME_API_KEY", None)
        os.environ.pop("SAFEMT_DATA", None)
    assert said.code == 2
    assert used == key
    for file in tmp_path.rglob("*"):
        assert file.name == ".env" or not file.is_file() or key.encode() not in file.read_bytes()


def test_a_profile_that_replaces_a_shipped_one_is_announced(cli: Cli, small: Small) -> None:
    Path("providers").mkdir()
    from safemt_api.files import shipped_folder

    text = (shipped_folder("providers") / "simulator.toml").read_text(encoding="utf-8")
    Path("providers/simulator.toml").write_text(text, encoding="utf-8")
    assert "replaces the shipped profile 'simulator'" in cli(*small, "--dry-run").err
    assert "replaces the shipped profile 'simulator'" in cli("providers", "list").err


posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of this kind are POSIX")


@contextmanager
def slow_run(*options: str) -> Iterator[subprocess.Popen[str]]:
    """A process that plays the run ``cut`` and has some replies already."""
    command = [sys.executable, "-m", "safemt_api", "eval", "--run", "cut", "--sim-latency-seconds", "0.3", "--concurrency", "2", *options]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            _until(lambda: _rows(Path("results/turns.sqlite")) > 0, process)
            yield process
        finally:
            process.kill()


@posix
@pytest.mark.parametrize("ending", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_ctrl_c_and_its_like_keep_what_is_there_and_end_with_130(ending: str) -> None:
    with slow_run("--json") as process:
        process.send_signal(signal.Signals[ending])
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out)["status"] == "interrupted"
    assert "go on with: safemt-api resume cut" in err
    assert "Traceback" not in err


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Another program holds the store's write lock."""
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@posix
def test_a_locked_store_does_not_hold_ctrl_c_up(cli: Cli) -> None:
    with slow_run("--max-usd", "1") as process, locked(Path("results/turns.sqlite")):
        time.sleep(1.0)  # by now replies wait for the lock
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        took = time.monotonic() - began
    assert process.returncode == 130
    assert "turns.sqlite: is locked by another program; close that program" in err
    assert "Traceback" not in err
    # One second of waiting; the rest is the report of what there is, which takes its time on a busy machine.
    assert took < BUSY_TIMEOUT_SECONDS - 2
    whole = json.loads(cli("resume", "cut", "--json").out)
    assert whole["status"] == "complete"


@posix
def test_a_locked_store_does_not_hold_ctrl_c_up_before_the_first_call(cli: Cli) -> None:
    assert cli("eval", "--sample", "1", "--lengths", "1", "--run", "first").code == 0
    command = [sys.executable, "-m", "safemt_api", "eval", "--run", "second", "--sample", "1", "--lengths", "1"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with locked(Path("results/turns.sqlite")), subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        _until(lambda: Path("results/second/.lock").exists(), process)
        time.sleep(0.5)  # by now the run waits to enter its name
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        took = time.monotonic() - began
    assert process.returncode != 0
    assert "Traceback" not in err
    assert took < BUSY_TIMEOUT_SECONDS / 2


@posix
def test_a_second_ctrl_c_ends_at_once_and_says_what_is_kept(cli: Cli) -> None:
    with slow_run("--max-usd", "1") as process, locked(Path("results/turns.sqlite")):
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        took = time.monotonic() - began
    assert process.returncode == 130
    assert "ended at once: every reply that had arrived is kept" in err
    assert "Traceback" not in err
    assert took < 1.0
    kept = _rows(Path("results/turns.sqlite"))
    assert kept > 0
    whole = json.loads(cli("resume", "cut", "--json").out)
    assert whole["status"] == "complete"
    assert whole["calls"]["from_store"] >= kept


def _rows(store: Path) -> int:
    if not store.is_file():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM replies").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def _until(done: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_dear_run_on_a_terminal_asks_first(cli: Cli, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return "no\n"

    monkeypatch.setattr(terminal, "ASK_ABOVE_USD", 0.0)
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    said = cli(*small, "--run", "dear")
    assert said.code == 2
    assert "This is expected to cost $" in said.err
    assert not Path("results").exists()
    assert cli(*small, "--run", "dear", "--yes").code == 0


def test_settings_survive_the_run_file() -> None:
    settings = EvalSettings(
        provider="openai", base_urls=("http://a/v1", "http://b/v1"), data=Path("x"), lengths=(1, 2), kinds=("harmful", "benign"),
        judges=("rules", "a:b"), rubric=Path("r.md"), max_usd=2.0, simulator_faults="reset:0.1", run="n", results=Path("out"),
    )  # fmt: skip
    record = json.loads(json.dumps(settings_record(settings)))
    back = settings_from_record({**record, "of_a_later_version": 1}, run="n", results=Path("out"))
    assert back.data is not None
    assert back.data.is_absolute()
    assert settings_record(back) == settings_record(settings)
