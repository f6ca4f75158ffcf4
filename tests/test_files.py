"""Files are written whole or not at all, for their owner alone, whatever rights the process would give by itself; TOML is read bounded."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safemt_api import files
from safemt_api.errors import LayoutError, StoreError, UsageError
from safemt_api.evaluation import evaluate, open_plan
from safemt_api.files import atomic_file, private_file, private_folder, read_toml, shipped_folder, write_json, write_text
from safemt_api.report.exports import export_run
from safemt_api.report.page import write_page
from safemt_api.runs.record import read_run
from safemt_api.runs.rejudge import rejudge
from safemt_api.runs.settings import settings_from
from safemt_api.store.turns import STORE_FILE, open_store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps rights in another way")


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    """A process whose new files everyone may read and write."""
    before = os.umask(0)
    yield
    os.umask(before)


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_others(folder: Path) -> dict[str, str]:
    return {str(one.relative_to(folder)): oct(rights(one)) for one in folder.rglob("*") if rights(one) & 0o077}


def test_every_folder_that_is_made_is_private_and_those_that_exist_keep_their_rights(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    private_folder(tmp_path / "shared" / "a" / "b")
    assert [rights(tmp_path / "shared" / name) for name in ("", "a", "a/b")] == [0o755, 0o700, 0o700]
    private_folder(tmp_path / "shared")
    assert rights(tmp_path / "shared") == 0o755


def test_a_file_that_exists_keeps_its_words_and_rights(tmp_path: Path) -> None:
    file = private_file(tmp_path / "new")
    assert (rights(file), file.read_bytes()) == (0o600, b"")
    file.write_text("words")
    file.chmod(0o640)
    assert (rights(private_file(file)), file.read_text()) == (0o640, "words")


def test_a_file_that_is_replaced_is_private_afterwards(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("old")
    write_text(tmp_path / "summary.json", "new")
    assert rights(tmp_path / "summary.json") == 0o600


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    write_text(file, "old")
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"value": float("nan")})
    assert file.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["summary.json"]


def test_a_folder_that_cannot_be_written_is_an_error_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_text(tmp_path / "file" / "summary.json", "text")


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"))
    real = Path.replace

    def noted(self: Path, target: Path) -> Path:
        order.append("name")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    with atomic_file(tmp_path / "page.html") as stream:
        stream.write(b"words")
    assert (order, (tmp_path / "page.html").read_bytes()) == (["file", "name", "folder"], b"words")


async def test_the_store_and_the_files_beside_it_are_private_while_it_is_open(tmp_path: Path) -> None:
    async with open_store(tmp_path / "results" / STORE_FILE) as store:
        await store.write(lambda connection: connection.execute("PRAGMA user_version").fetchone())
        reader = sqlite3.connect(store.place)
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        names = {one.name for one in (tmp_path / "results").iterdir()}
        assert {STORE_FILE, f"{STORE_FILE}-wal", f"{STORE_FILE}-shm"} <= names
        assert open_to_others(tmp_path) == {}
        reader.close()


async def test_all_that_a_run_its_report_and_its_export_leave_is_private(tmp_path: Path) -> None:
    seen: dict[str, str] = {}

    async def watch(_: object) -> None:
        seen.update(open_to_others(tmp_path))

    results = tmp_path / "results"
    options: dict[str, Any] = {"model": "sim-brittle", "lengths": (1, 2), "sample": 4, "results": results, "run": "played"}
    result = await evaluate(watch=watch, **options)
    async with open_plan(settings_from({**options, "judges": ("simulator:sim-judge",)}), judging_only=True) as plan:
        await rejudge(plan, watch=watch)
    run = read_run(result.folder)
    write_page(result.folder, [run])
    export_run(run, "csv", result.folder / "played.csv")
    names = {one.name for one in result.folder.iterdir()}
    assert {"run.json", "summary.json", "transcripts.parquet", "verdicts.parquet", "report.html", "played.csv"} <= names
    assert (seen, open_to_others(tmp_path)) == ({}, {})


def test_what_ships_is_looked_for_inside_an_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "safemt_api"
    (package / "_layouts").mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    assert shipped_folder("layouts") == package / "_layouts"
    assert shipped_folder("studies") == tmp_path / "studies"


def test_a_toml_file_is_read_with_its_digest_whatever_mark_it_begins_with(tmp_path: Path) -> None:
    (tmp_path / "plain.toml").write_bytes(b"a = 1")
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbfa = 1")
    plain, marked = (read_toml(tmp_path / name) for name in ("plain.toml", "marked.toml"))
    assert plain.tables == marked.tables == {"a": 1}
    assert plain.digest.startswith("sha256:")
    assert plain.digest != marked.digest


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a = [", "cannot be read as TOML: "),
        (b"a = '\xff'", "cannot be read as TOML: "),
        (b"a = " + b"[" * 5000, "cannot be read as TOML: "),
        (b"a = " + b"9" * 5000, "cannot be read as TOML: "),
        (b"#" * 10_001, "larger than 10 KB; a cure"),
    ],
)
def test_what_is_no_toml_or_too_large_is_refused_with_the_place(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=f"a.toml: {why}"):
        read_toml(file, most_bytes=10_000, cure="a cure")


def test_what_reads_a_toml_file_says_which_error_it_raises(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"a.toml: cannot be read as TOML: No such file"):
        read_toml(tmp_path / "a.toml", failed=lambda file, why: LayoutError(file, None, why))
