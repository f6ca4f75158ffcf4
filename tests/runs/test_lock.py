"""One process plays a run; others are told who, and a dead one's lock is taken over."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from safemt_api.errors import RunBusyError, StoreError
from safemt_api.runs.lock import LOCK_FILE, PLAYER_FILE, player_of, playing

PROJECT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from safemt_api.runs.lock import playing
with playing(Path(sys.argv[1]), "r") as note:
    note("the store's id")
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_player(folder: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_process_is_told_who_plays(tmp_path: Path) -> None:
    with another_player(tmp_path / "r") as process:
        with (
            pytest.raises(
                RunBusyError, match=rf"run 'r' is being played by process {process.pid} since .*; wait until that ends"
            ) as caught,
            playing(tmp_path / "r", "r"),
        ):
            pass
        assert caught.value.exit_code == 1
        player = player_of(tmp_path / "r")
        assert player is not None
        assert (player.process_id, player.host, player.store_id) == (process.pid, socket.gethostname(), "the store's id")
    assert player_of(tmp_path / "r") is None


def test_a_second_player_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with playing(tmp_path, "r"), pytest.raises(RunBusyError, match=f"process {os.getpid()}"), playing(tmp_path, "r"):
        pass
    with playing(tmp_path, "r"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_the_lock_of_a_dead_owner_is_taken_over(tmp_path: Path) -> None:
    with another_player(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / PLAYER_FILE).exists()
        assert player_of(tmp_path) is None
        with playing(tmp_path, "r"):
            assert json.loads((tmp_path / PLAYER_FILE).read_text())["process_id"] == os.getpid()


def test_a_note_that_cannot_be_read_still_means_that_someone_plays(tmp_path: Path) -> None:
    with another_player(tmp_path):
        for text in ("", "[1]", '{"process_id": "x", "host": 7}'):
            (tmp_path / PLAYER_FILE).write_text(text)
            assert str(player_of(tmp_path)) == "another process"
            with pytest.raises(RunBusyError, match="by another process"), playing(tmp_path, "r"):
                pass


def test_a_folder_without_a_lock_is_played_by_nobody_and_looking_makes_none(tmp_path: Path) -> None:
    assert player_of(tmp_path) is None
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_folder_that_cannot_be_made_is_an_error_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be written.*--results"), playing(tmp_path / "file" / "r", "r"):
        pass
