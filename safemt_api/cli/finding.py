"""Finds a run or a study by name or path, and the settings a run was started with."""

from __future__ import annotations

from pathlib import Path

from safemt_api.errors import StoreError
from safemt_api.runs.location import locate
from safemt_api.runs.manifest import MANIFEST_FILE, read_manifest
from safemt_api.runs.names import is_run_name
from safemt_api.runs.overview import STUDY_FILE
from safemt_api.runs.settings import EvalSettings, settings_from_record


def run_folder(run: str, results: Path) -> Path:
    """The folder of a run given by name under ``results``, or by path.

    Raises:
        UsageError: There is no such run; the sentence lists those there are.
    """
    return locate(run, results).folder


def study_folder(name: str, results: Path) -> Path | None:
    """The folder of a study given by name under ``results``, or by path; ``None`` where there is none."""
    given = Path(name).expanduser()
    places = [results / name] if is_run_name(name) else []
    places += [given.parent if given.name == STUDY_FILE else given]
    return next((place for place in places if (place / STUDY_FILE).is_file()), None)


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
