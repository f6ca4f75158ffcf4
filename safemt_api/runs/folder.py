"""A run's folder: who plays the run, its run file, and its other files, which change as one; and where folders are.

A new generation of files is written whole into a folder beside the old one and synced. Then its run file, which names every file of the
generation with size and digest, is put in place: from that moment on the new generation counts. The other files follow; where that was cut
short a reader finds them where they still are (``current_files``), and whoever plays the run next puts them in place (``settle``).

One process plays a run: an advisory lock of the system's own (``flock``, on Windows ``msvcrt``; through ``filelock``), so that it ends with
its owner however that ends, and a dead owner's is taken over without a guess. The note beside it is for people and listings; alone it
means nothing.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from hashlib import file_digest
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from safemt_api.errors import RunBusyError, SettingsChangedError, StoreError, UsageError, did_you_mean
from safemt_api.files import FILE_MODE, private_folder, sync_folder, unwritable, write_json
from safemt_api.runs.names import is_run_name
from safemt_api.runs.settings import EvalSettings, settings_from_record
from safemt_api.store.connection import Place, ServerAddress, server_address
from safemt_api.store.turns import STORE_FILE, now_utc

MANIFEST_FILE = "run.json"
STUDY_FILE = "study.json"
"""What a study found (``studies.record``); a folder that holds one holds the runs of its arms."""
SUMMARY_FILE = "summary.json"
SUMMARY_SCHEMA = 1
TRANSCRIPTS_FILE = "transcripts.parquet"
VERDICTS_FILE = "verdicts.parquet"
REPORT_FILE = "report.html"
CALIBRATION_FILE = "calibration.json"
JUDGING_FILE = ".judging.rows"
"""Verdicts of a judging that is under way, or was killed."""

NEXT_FOLDER = ".next"
LOCK_FILE = ".lock"
PLAYER_FILE = ".player.json"

OWN_FILES = frozenset(
    {MANIFEST_FILE, STUDY_FILE, SUMMARY_FILE, TRANSCRIPTS_FILE, VERDICTS_FILE, REPORT_FILE, CALIBRATION_FILE, LOCK_FILE, PLAYER_FILE}
)


def begin_generation(folder: Path) -> Path:
    """An empty folder for the files of the next generation; what an earlier attempt left there is thrown away.

    Raises:
        StoreError: It cannot be made.
    """
    staged = folder / NEXT_FOLDER
    try:
        shutil.rmtree(staged, ignore_errors=True)
        private_folder(staged)
    except OSError as error:
        raise unwritable(folder, error) from error
    return staged


def switch_generation(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make the files begun by ``begin_generation`` the run's, all or none; files of the old generation that have no successor stay.

    Raises:
        StoreError: The disk is full or the folder cannot be written; the old generation stays.
    """
    staged = folder / NEXT_FOLDER
    try:
        before = (read_manifest(folder) or {}).get("files")
        kept = before if isinstance(before, Mapping) else {}
        written = {file.name: _synced(file) for file in sorted(staged.iterdir())}
        write_json(staged / MANIFEST_FILE, {**manifest, "files": {**kept, **written}})
        (staged / MANIFEST_FILE).replace(folder / MANIFEST_FILE)
        sync_folder(folder)
        _put_in_place(folder, written)
    except OSError as error:
        raise unwritable(folder, error) from error


def settle(folder: Path) -> None:
    """Finish or forget a change that was cut short; for whoever holds the run's lock.

    Raises:
        StoreError: The folder cannot be written, or the run file is damaged.
    """
    staged = folder / NEXT_FOLDER
    if not staged.is_dir():
        return
    files = dict(_records(read_manifest(folder) or {}))
    waiting = {name: files[name] for name in files if _is(staged / name, files[name]) and not _is(folder / name, files[name])}
    try:
        _put_in_place(folder, waiting)
    except OSError as error:
        raise unwritable(folder, error) from error


def _put_in_place(folder: Path, names: Mapping[str, Any]) -> None:
    staged = folder / NEXT_FOLDER
    for name in names:
        (staged / name).replace(folder / name)
    sync_folder(folder)
    shutil.rmtree(staged, ignore_errors=True)


def scratch(folder: Path, name: str) -> Path:
    """The line-by-line file that becomes the parquet file of that name; whoever holds the run's lock writes it, and anyone may read it."""
    return folder / f".{name}.rows"


def is_scratch(name: str) -> bool:
    """Whether a file of that name waits beside a run that is under way or was killed."""
    return name.startswith(".") and name.endswith(".rows")


def is_own(name: str) -> bool:
    """Whether a run or study writes files of that name by itself; exports and figures have names of the user's."""
    return name in OWN_FILES or name.startswith((".", "verdicts-", "report-"))


def current_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Path]:
    """Where each file of the generation is that the run file names; empty for runs of older versions, which name none.

    Raises:
        StoreError: A file is missing, or is not the one that the run wrote.
    """
    return {name: _found(folder, name, record) for name, record in _records(manifest)}


def _found(folder: Path, name: str, record: Mapping[str, Any]) -> Path:
    for file in (folder / name, folder / NEXT_FOLDER / name):
        if _is(file, record):
            return file
    problem = "is not the file that the run wrote" if (folder / name).exists() else "is missing"
    raise StoreError(folder / name, problem, f"restore it, or run `safemt-api resume {folder.name}` to have it written anew")


def _records(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    files = manifest.get("files")
    for name, record in files.items() if isinstance(files, Mapping) else ():
        # A name with a separator in it would lead elsewhere: no run writes one.
        if isinstance(record, Mapping) and Path(str(name)).name == name:
            yield name, record


def _synced(file: Path) -> dict[str, Any]:
    with file.open("r+b") as stream:
        os.fsync(stream.fileno())
        return {"bytes": os.fstat(stream.fileno()).st_size, "sha256": file_digest(stream, "sha256").hexdigest()}


def _is(file: Path, record: Mapping[str, Any]) -> bool:
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            return size == record.get("bytes") and file_digest(stream, "sha256").hexdigest() == record.get("sha256")
    except OSError:
        return False


SCHEMA = 1
VERSIONED_PACKAGES = ("safemt-api", "openai", "anthropic", "google-genai", "httpx2", "polars", "genai-prices")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a run."""
    found = {"python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The run file of a folder, or ``None`` if the run is new.

    Raises:
        StoreError: The file is damaged or of a newer version.
    """
    file = folder / MANIFEST_FILE
    try:
        manifest = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(file, f"cannot be read as JSON ({error})", "restore it, or choose another --run") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("identity"), dict):
        raise StoreError(file, "is no run file", "restore it, or choose another --run")
    if not isinstance(manifest.get("schema"), int) or manifest["schema"] > SCHEMA:
        raise StoreError(file, "was written by a newer safemt-api", "upgrade safemt-api")
    return manifest


def check_same_run(run: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings.

    Raises:
        SettingsChangedError: Lists each difference as ``name: before → now``.
    """
    # Through JSON and back, so that tuples and lists compare equal.
    now = json.loads(json.dumps(now))
    names = sorted(before.keys() | now.keys())
    differences = [f"{name}: {_shown(before.get(name))} → {_shown(now.get(name))}" for name in names if before.get(name) != now.get(name)]
    if differences:
        raise SettingsChangedError(run, differences)


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


class Location(NamedTuple):
    """A run's name, the results folder it belongs to (which holds its store), and its own folder."""

    run: str
    results: Path
    folder: Path


def locate(run: str, results: Path) -> Location:
    """The run given by name under ``results``, or by path.

    Raises:
        UsageError: There is no such run; the sentence lists those there are.
        StoreError: Its run file is damaged.
    """
    if is_run_name(run) and (results / run / MANIFEST_FILE).is_file():
        return Location(run, results, results / run)
    given = Path(run).expanduser()
    folder = given.parent if given.name == MANIFEST_FILE else given
    if not (folder / MANIFEST_FILE).is_file():
        raise UsageError(f"no run called {run!r}{_known(run, results)}")
    folder = folder.resolve()
    root = _root(folder)
    return Location(folder.relative_to(root).as_posix(), results if root == results.resolve() else root, folder)


def settings_of(run: str, results: Path) -> EvalSettings:
    """The settings that a run was started with, from its run file; ``results`` in them is the folder that the run belongs to.

    Raises:
        UsageError: There is no such run, or its run file does not hold them all.
        StoreError: The run file is damaged.
    """
    found = locate(run, results)
    manifest = read_manifest(found.folder) or {}
    record, shard = manifest.get("settings"), manifest.get("shard")
    if not isinstance(record, dict) or "provider" not in record:
        raise StoreError(
            found.folder / MANIFEST_FILE, "does not hold the run's settings", "give the original eval command with the same --run"
        )
    if isinstance(shard, str):
        return replace(settings_from_record(record, run=str(manifest.get("run")), results=found.results), shard=shard)
    return settings_from_record(record, run=found.run, results=found.results)


def study_folder(name: str, results: Path) -> Path | None:
    """The folder of a study given by name under ``results``, or by path; ``None`` where there is none."""
    given = Path(name).expanduser()
    places = [results / name] if is_run_name(name) else []
    places += [given.parent if given.name == STUDY_FILE else given]
    return next((place for place in places if (place / STUDY_FILE).is_file()), None)


def _known(run: str, results: Path) -> str:
    there = sorted(file.parent.name for file in results.glob(f"*/{MANIFEST_FILE}")) if results.is_dir() else []
    return f"{did_you_mean(run, there)}; there are: {', '.join(there)}" if there else f"; there is none in {results}"


def _root(folder: Path) -> Path:
    """The results folder: where the run file says that its store is, else the nearest folder above that holds one."""
    try:
        store = (read_manifest(folder) or {}).get("store")
    except StoreError:
        store = None  # a report of what is left says what is wrong with the run file; it needs no store
    path, beside = (store.get("path"), store.get("results")) if isinstance(store, Mapping) else (None, None)
    if isinstance(path, str) and Path(path).name == STORE_FILE:
        beside = str(Path(path).parent)
    elif not isinstance(beside, str) or set(Path(beside).parts) != {".."}:
        beside = None
    found = folder if beside is None else (folder / beside).resolve()
    if found in folder.parents:
        return found
    return next((above for above in folder.parents if (above / STORE_FILE).is_file()), folder.parent)


def store_record(folder: Path, place: Place, store_id: str, results: Path) -> dict[str, Any]:
    """What the run file says of the store: its own id, and where it is, seen from the run's folder, so that both may move together.

    Of one on a server it says the address, never the password, and where the results folder is.
    """
    up = [".."] * len(folder.resolve().relative_to(results.resolve()).parts)
    if isinstance(place, ServerAddress):
        return {"id": store_id, "url": str(place), "results": "/".join(up)}
    return {"id": store_id, "path": "/".join([*up, place.name])}


def place_in(folder: Path, manifest: Mapping[str, Any]) -> Place | None:
    """Where the store of the run in that folder lies, as its run file says."""
    store = manifest.get("store")
    path, url = (store.get("path"), store.get("url")) if isinstance(store, Mapping) else (None, None)
    if isinstance(url, str):
        try:
            return server_address(url)
        except UsageError:
            return None
    return folder / path if isinstance(path, str) else None


PATIENCE_SECONDS = 1.0
"""Longer than a look by ``player_of`` takes, so that being looked at never keeps a run from starting."""


class Player(NamedTuple):
    """The process that plays a run; what is not known of it is ``None``."""

    process_id: int | None
    host: str | None
    started_utc: str | None
    store_id: str | None = None

    def __str__(self) -> str:
        who = "another process" if self.process_id is None else f"process {self.process_id}"
        where = "" if self.host in (None, socket.gethostname()) else f" on {self.host}"
        since = "" if self.started_utc is None else f" since {self.started_utc}"
        return f"{who}{where}{since}"


@contextmanager
def playing(folder: Path, run: str) -> Iterator[Callable[[str], None]]:
    """Hold the run's lock; gives what notes the id of the store for whoever looks.

    Raises:
        RunBusyError: Another process plays the run.
        StoreError: The folder cannot be written.
    """
    lock = filelock.FileLock(folder / LOCK_FILE, mode=FILE_MODE, thread_local=False)
    try:
        private_folder(folder)
        lock.acquire(timeout=PATIENCE_SECONDS, poll_interval=0.02)
    except filelock.Timeout:
        raise RunBusyError(run, str(_noted(folder))) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        cure = "make it writable, free space or give another --results folder"
        raise StoreError(folder, f"cannot be written ({reason})", cure) from error
    note = folder / PLAYER_FILE
    try:
        _note_player(note)
        yield partial(_note_player, note)
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def _note_player(note: Path, store_id: str | None = None) -> None:
    write_json(note, {"process_id": os.getpid(), "host": socket.gethostname(), "started_utc": now_utc(), "store": store_id})


def player_of(folder: Path) -> Player | None:
    """Who plays the run now; ``None``: nobody. Needs no right to write, and never keeps a run from starting."""
    if not (folder / LOCK_FILE).is_file():
        return None
    lock = filelock.FileLock(folder / LOCK_FILE, thread_local=False)
    try:
        lock.acquire(timeout=0.0)
    except filelock.Timeout:
        return _noted(folder)
    except (OSError, NotImplementedError):
        return None  # not ours to lock: what is on disk can be read all the same
    lock.release()
    return None


def _noted(folder: Path) -> Player:
    note: Any = None
    with suppress(OSError, ValueError):
        note = json.loads((folder / PLAYER_FILE).read_bytes())
    known = note if isinstance(note, dict) else {}
    process_id = known.get("process_id")
    words = (value if isinstance(value := known.get(name), str) else None for name in ("host", "started_utc", "store"))
    return Player(process_id if isinstance(process_id, int) else None, *words)
