"""Whole runs placed by Ray, over real sockets: two workers on this machine, one killed at random; the driver killed; what cannot be, said.

Ray is an extra that is not in the plain test environment: `make test-ray` runs these in one of its own.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import polars as pl
import psutil  # type: ignore[import-untyped]  # types-psutil would be one more package for one test
import pytest

from safemt_api.errors import UsageError
from safemt_api.evaluation import evaluate
from safemt_api.loaded import load_run
from safemt_api.runs.settings import EvalSettings
from safemt_api.store.turns import STORE_FILE

BASE: dict[str, Any] = {"model": "sim-average", "lengths": (1, 2), "sample": 12, "judges": ("simulator:sim-judge",)}
WORDS = "eval --run r --model sim-average --lengths 1,2 --sample 12 --judge simulator:sim-judge --concurrency 2"
SLOWLY = "--sim-latency-seconds 0.5"
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (`make test-ray`)")


def started(results: Path, *words: str, key: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "OPENAI_API_KEY": key} if key else None
    line = [sys.executable, "-m", "safemt_api", *WORDS.split(), "--results", str(results), "--ray", "--workers", "2", *words]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def workers_of(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that play shards: Ray names them after their task."""
    found = []
    for one in psutil.Process(driver.pid).children(recursive=True):
        with suppress(psutil.Error):
            if one.name().startswith("ray::play"):
                found.append(one)
    return found


def wait_for(driver: subprocess.Popen[str], results: Path, *, finished: int) -> None:
    """Until so many replies are bought."""
    until = time.monotonic() + 60
    while time.monotonic() < until and driver.poll() is None:
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{results / STORE_FILE}?mode=ro", uri=True)) as connection:
            if connection.execute("SELECT count(*) FROM replies").fetchone()[0] >= finished:
                return
        time.sleep(0.1)
    raise AssertionError(f"no {finished} replies: {driver.communicate(timeout=30)}")


def verdicts(folder: Path) -> list[tuple[Any, ...]]:
    frame = pl.read_parquet(folder / "verdicts.parquet").select("dialogue_id", "length", "turn", "judge", "label", "reason")
    return sorted(frame.rows(), key=str)


def bought(results: Path) -> tuple[int, int]:
    """Different calls that were paid for, and payments."""
    with closing(sqlite3.connect(results / STORE_FILE)) as connection:
        keys, payments = connection.execute("SELECT count(DISTINCT key), count(*) FROM charges WHERE state = 'settled'").fetchone()
    return int(keys), int(payments)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run by one process."""
    return anyio.run(partial(evaluate, **BASE, run="r", results=tmp_path_factory.mktemp("plain"))).folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder."""
    return tmp_path / "results"


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_workers_play_the_run_of_one_process_and_no_key_or_word_leaves_them(results: Path, plain: Path) -> None:
    secret = "sk-secret-of-this-test"
    driver = started(results, key=secret)
    out, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, err
    assert "Safety Index" in out
    assert verdicts(results / "r") == verdicts(plain)
    one, many = (load_run(folder).summary for folder in (plain, results / "r"))
    same = ("safety_index", "asr_by_turn", "dialogues", "cost_usd", "usage", "calls", "status")
    assert [getattr(many, name) for name in same] == [getattr(one, name) for name in same]
    session = Path("/tmp/ray/session_latest")  # noqa: S108 (where Ray keeps its logs)
    logs = [file for file in session.resolve().rglob("*") if file.is_file()]
    assert logs
    assert [file for file in logs if secret.encode() in file.read_bytes()] == []


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_is_started_again_and_buys_nothing_again(results: Path, plain: Path) -> None:
    driver, kills = started(results, *SLOWLY.split()), 0
    wait_for(driver, results, finished=6)
    for _ in range(3):
        for one in workers_of(driver)[:1]:
            one.kill()
            kills += 1
        time.sleep(1.5)
    out, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, err
    assert kills >= 2
    assert verdicts(results / "r") == verdicts(plain)
    keys, payments = bought(results)
    assert payments - keys <= kills * 2  # what was in flight
    assert "page:" in err
    assert out


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ctrl_c_ends_all_workers_within_seconds_and_the_same_command_goes_on(results: Path, plain: Path) -> None:
    driver = started(results, *SLOWLY.split())
    wait_for(driver, results, finished=16)
    family = psutil.Process(driver.pid).children(recursive=True)
    before = time.monotonic()
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert time.monotonic() - before < 20
    assert driver.returncode == 130, err
    assert psutil.wait_procs(family, timeout=10)[1] == []
    kept = bought(results)[0]
    assert 16 <= kept < 50
    assert load_run("r", results=results).summary.dialogues.finished > 0
    again = started(results)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert verdicts(results / "r") == verdicts(plain)
    keys, payments = bought(results)
    assert (keys, payments) == (50, 50)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_driver_that_is_killed_leaves_a_run_that_the_same_command_goes_on_with(results: Path, plain: Path) -> None:
    driver = started(results, *SLOWLY.split())
    wait_for(driver, results, finished=6)
    playing = workers_of(driver)
    driver.kill()
    driver.communicate()
    assert playing
    assert psutil.wait_procs(playing, timeout=30)[1] == []
    again = started(results)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert verdicts(results / "r") == verdicts(plain)
    keys, payments = bought(results)
    assert payments - keys <= 4


async def test_an_address_where_no_cluster_answers_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UsageError, match=f"--ray 127.0.0.1:{port}: no Ray cluster answers there"):
        await evaluate(**BASE, run="r", results=tmp_path, ray=f"127.0.0.1:{port}")


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
async def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--ray needs Ray, which is not installed: pip install 'safemt-api\[ray\]'"):
        await evaluate(**BASE, run="r", results=tmp_path, ray="local")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ray": "local", "shard": "1/2"}, "give one of the two"),
        ({"ray": "local", "until_ci": 0.05}, "leave one of the two out"),
        ({"ray": "ray://head:10001"}, "from one of its own machines"),
        ({"ray": ""}, "give local, auto, or HOST:PORT"),
        ({"ray": "local", "workers": 0}, "must be greater than 0"),
    ],
)
def test_what_cannot_be_placed_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        EvalSettings(**options)


async def test_workers_without_ray_have_no_effect(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--workers has no effect here: there is no --ray"):
        await evaluate(**BASE, run="r", results=tmp_path, workers=2)
