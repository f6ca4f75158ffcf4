"""A run's files are of one generation whatever cuts their change short: the process is really killed, at each step towards the disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import StoreError
from safemt_api.runs.folder import NEXT_FOLDER, begin_generation, current_files, settle, switch_generation
from safemt_api.runs.manifest import read_manifest

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
