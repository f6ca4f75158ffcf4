"""Finds a run by name or path, and the settings it was started with."""

from __future__ import annotations

from pathlib import Path

from safemt_api.errors import StoreError, UsageError
from safemt_api.runs.manifest import MANIFEST_FILE, read_manifest
from safemt_api.runs.settings import EvalSettings, settings_from_record


def run_folder(run: str, results: Path) -> Path:
    """The folder of a run given by name under ``results``, or by path.

    Raises:
        UsageError: There is no such run; the sentence lists those there are.
    """
    for folder in (results / run, Path(run)):
        if (folder / MANIFEST_FILE).is_file():
            return folder
    there = sorted(file.parent.name for file in results.glob(f"*/{MANIFEST_FILE}")) if results.is_dir() else []
    known = f"there are: {', '.join(there)}" if there else f"there is none in {results}"
    raise UsageError(f"no run called {run!r}; {known}")


def settings_of(run: str, results: Path) -> EvalSettings:
    """The settings that a run was started with, from its run file.

    Raises:
        UsageError: There is no such run, or its run file does not hold them all.
        StoreError: The run file is damaged.
    """
    folder = run_folder(run, results)
    manifest = read_manifest(folder) or {}
    record = manifest.get("settings")
    if not isinstance(record, dict) or "provider" not in record:
        raise StoreError(folder / MANIFEST_FILE, "does not hold the run's settings", "give the original eval command with the same --run")
    return settings_from_record(record, run=folder.resolve().name, results=folder.parent)
