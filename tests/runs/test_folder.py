"""A run's folder: one player, files of one generation whatever cuts a change short, and a place that is found by name or path."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import RunBusyError, SettingsChangedError, StoreError, UsageError
from safemt_api.files import write_json
from safemt_api.runs.folder import (
    LOCK_FILE,
    MANIFEST_FILE,
    NEXT_FOLDER,
    PLAYER_FILE,
    SCHEMA,
    Location,
    begin_generation,
    check_same_run,
    current_files,
    locate,
    player_of,
    playing,
    read_manifest,
    settle,
    store_record,
    switch_generation,
    versions,
)
from safemt_api.store.turns import STORE_FILE

PROJECT = Path(__file__).resolve().parents[2]
NAMES = ("summary.json", "transcripts.parquet", "verdicts.parquet")

CHANGE = """
import os, signal, sys
from pathlib import Path

steps = int(sys.argv[2])
def step(event, arguments):
    global steps
    if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open", "shutil.rmtree") and "/run" in str(arguments[0]):
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)

from safemt_api.runs.folder import begin_generation, settle, switch_generation

folder = Path(sys.argv[1])
sync = os.fsync
sys.addaudithook(step)
def counted(handle):
    step("open", ["/run"])
    sync(handle)
os.fsync = counted
settle(folder)
staged = begin_generation(folder)
for name in ("summary.json", "transcripts.parquet", "verdicts.parquet"):
    (staged / name).write_text("new " + name * 3)
switch_generation(folder, {"schema": 1, "identity": {}, "generation": "new"})
"""


def old_generation(folder: Path) -> Path:
    staged = begin_generation(folder)
    for name in NAMES:
        (staged / name).write_text(f"old {name}")
    switch_generation(folder, {"schema": 1, "identity": {}, "generation": "old"})
    return folder


def generation(folder: Path) -> set[str]:
    """Which generations a reader sees; the run file among them."""
    manifest: dict[str, Any] = read_manifest(folder) or {}
    files = current_files(folder, manifest)
    assert sorted(files) == sorted(NAMES)
    return {manifest["generation"], *(file.read_text().split()[0] for file in files.values())}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.timeout(180)
def test_a_kill_at_any_step_shows_the_old_or_the_new_and_never_a_mix(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    seen = []
    for step in range(200):
        folder = old_generation(tmp_path / f"run{step}")
        killed = subprocess.run([sys.executable, "-c", CHANGE, str(folder), str(step)], env=environment, check=False, capture_output=True)
        whole = generation(folder)
        seen.append(whole)
        assert whole in ({"old"}, {"new"}), f"killed at step {step}"
        # The next player finds one generation in the plain files, and nothing left over.
        settle(folder)
        assert generation(folder) == whole
        assert {(folder / name).read_text().split()[0] for name in NAMES} == whole
        assert not (folder / NEXT_FOLDER).exists()
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.returncode == 0
    assert seen[0] == {"old"}
    assert seen[-1] == {"new"}
    # Some kills fell between the moment from which the new generation counts and the end of the moves.
    assert seen.index({"new"}) < len(seen) - 4


def test_a_file_that_has_no_successor_stays(tmp_path: Path) -> None:
    folder = old_generation(tmp_path / "run")
    (begin_generation(folder) / "summary.json").write_text("new summary.json")
    switch_generation(folder, {"schema": 1, "identity": {}, "generation": "new"})
    files = current_files(folder, read_manifest(folder) or {})
    assert {name: file.read_text().split()[0] for name, file in files.items()} == {
        "summary.json": "new",
        "transcripts.parquet": "old",
        "verdicts.parquet": "old",
    }


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (
            lambda file: file.write_text("new summary.json"),
            "is not the file that the run wrote; restore it, or run .*resume run`",
        ),
        (lambda file: file.write_text("olD summary.json"), "is not the file that the run wrote"),
        (lambda file: file.unlink(), "is missing; restore it"),
    ],
)
def test_a_file_of_another_generation_is_named(tmp_path: Path, damage: Damage, problem: str) -> None:
    folder = old_generation(tmp_path / "run")
    damage(folder / "summary.json")
    with pytest.raises(StoreError, match=rf"summary\.json: {problem}"):
        current_files(folder, read_manifest(folder) or {})


@pytest.mark.parametrize("files", [None, [], {"../../evil": {"bytes": 1, "sha256": ""}}, {"a/b": {}}, {"x": 7}])
def test_a_strange_record_of_files_names_none(tmp_path: Path, files: object) -> None:
    assert current_files(tmp_path, {"files": files}) == {}


def test_a_run_of_an_older_version_names_no_files(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "identity": {}}))
    assert current_files(tmp_path, read_manifest(tmp_path) or {}) == {}
    settle(tmp_path)


def test_a_full_disk_leaves_the_old_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = old_generation(tmp_path / "run")
    (begin_generation(folder) / "summary.json").write_text("new summary.json")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\); free space"):
        switch_generation(folder, {"schema": 1, "identity": {}, "generation": "new"})
    assert generation(folder) == {"old"}


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    data = {"schema": SCHEMA, "identity": {"seed": 1, "name": "ü…"}}
    write_json(tmp_path / "run" / MANIFEST_FILE, data)
    assert read_manifest(tmp_path / "run") == data


def test_a_new_run_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"identity": []}', "[" * 100_000, '{"identity": {}}', '{"identity": {}, "schema": 99}']
)
def test_a_damaged_or_newer_file_is_named_with_a_cure(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(StoreError, match=r"run\.json.*(restore it, or choose another --run|upgrade safemt-api)"):
        read_manifest(tmp_path)


def test_the_same_settings_pass_whether_lists_or_tuples() -> None:
    check_same_run("r", {"lengths": [1, 2], "a": None}, {"lengths": (1, 2), "a": None})


def test_every_difference_is_listed() -> None:
    with pytest.raises(SettingsChangedError) as caught:
        check_same_run("r", {"a": 1, "b": [1], "gone": "x"}, {"a": 2, "b": [1], "new": True})
    assert caught.value.differences == ("a: 1 → 2", 'gone: "x" → null', "new: null → true")
    assert "choose another --run" in str(caught.value)


def test_versions_name_python_and_the_sdks() -> None:
    assert {"python", "safemt-api", "openai", "anthropic", "google-genai"} <= set(json.loads(json.dumps(versions())))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with the runs ``first`` and ``group/second``."""
    folder = tmp_path / "results"
    for run in ("first", "group/second"):
        (folder / run).mkdir(parents=True)
        (folder / run / "run.json").write_text(json.dumps({"schema": 1, "identity": {}}))
    (folder / STORE_FILE).touch()
    return folder


@pytest.mark.parametrize("run", ["first", "group/second"])
def test_a_name_is_looked_up_under_the_results_folder(results: Path, run: str) -> None:
    assert locate(run, results) == Location(run, results, results / run)


def test_a_point_is_the_folder_one_stands_in(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results / "first")
    assert locate(".", Path("results")) == Location("first", results, results / "first")
    monkeypatch.chdir(results / "group" / "second")
    for path in (".", "./run.json", "../../group/second", str(results / "group" / "second")):
        assert locate(path, Path("results")) == Location("group/second", results, results / "group" / "second")


def test_a_path_from_above_belongs_to_the_results_folder_as_it_was_given(results: Path) -> None:
    assert locate("results/group/second/", Path("results")).results == Path("results")
    assert locate(str(results / "first"), Path("results")).run == "first"


def test_a_link_to_a_run_is_that_run(results: Path) -> None:
    (results.parent / "latest").symlink_to(results / "first")
    assert locate("latest", Path("elsewhere")) == Location("first", results, results / "first")


def test_the_store_named_in_the_run_file_says_where_the_results_folder_is(results: Path) -> None:
    folder = results / "group" / "second"
    (results / "group" / STORE_FILE).touch()  # the nearest one, but not this run's
    record = store_record(folder, results / STORE_FILE, "id", results)
    assert record == {"id": "id", "path": f"../../{STORE_FILE}"}
    (folder / "run.json").write_text(json.dumps({"schema": 1, "identity": {}, "store": record}))
    assert locate(str(folder), Path("elsewhere")).results == results


@pytest.mark.parametrize("path", ["/etc/turns.sqlite", "../../../../turns.sqlite/../x", "turns.sqlite", 7, None])
def test_a_run_file_that_names_a_strange_store_leads_nowhere(results: Path, path: object) -> None:
    folder = results / "first"
    (folder / "run.json").write_text(json.dumps({"schema": 1, "identity": {}, "store": {"id": "id", "path": path}}))
    found = locate(str(folder), Path("elsewhere"))
    assert found.folder == folder
    assert found.results in folder.parents or found.results == results


@pytest.mark.parametrize("run", ["nothing", "../first", "m?", "results", ""])
def test_what_is_no_run_is_said_with_those_there_are(results: Path, run: str) -> None:
    with pytest.raises(UsageError, match=r"no run called .*there are: first"):
        locate(run, results)


PROJECT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from safemt_api.runs.folder import playing
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
