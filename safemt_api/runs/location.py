"""Where a run is: by its name under the results folder, or by the path of its folder, from wherever one stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safemt_api.errors import StoreError, UsageError, did_you_mean
from safemt_api.runs.manifest import MANIFEST_FILE, read_manifest
from safemt_api.runs.names import is_run_name
from safemt_api.runs.settings import EvalSettings, settings_from_record
from safemt_api.store.turns import STORE_FILE

STUDY_FILE = "study.json"


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
    record = (read_manifest(found.folder) or {}).get("settings")
    if not isinstance(record, dict) or "provider" not in record:
        raise StoreError(
            found.folder / MANIFEST_FILE, "does not hold the run's settings", "give the original eval command with the same --run"
        )
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
    recorded = _recorded_store(folder)
    if recorded is not None:
        return recorded.parent
    return next((above for above in folder.parents if (above / STORE_FILE).is_file()), folder.parent)


def _recorded_store(folder: Path) -> Path | None:
    try:
        store = (read_manifest(folder) or {}).get("store")
    except StoreError:
        return None  # a report of what is left says what is wrong with the run file; it needs no store
    path = store.get("path") if isinstance(store, Mapping) else None
    if not isinstance(path, str) or Path(path).name != STORE_FILE:
        return None
    found = (folder / path).resolve()
    return found if found.parent in folder.parents else None


def store_record(folder: Path, store: Path, store_id: str) -> dict[str, Any]:
    """What the run file says of the store: its own id, and where it is, seen from the run's folder, so that both may move together."""
    up = len(folder.resolve().relative_to(store.parent.resolve()).parts)
    return {"id": store_id, "path": "/".join([*[".."] * up, store.name])}
