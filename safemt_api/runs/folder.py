"""The files of a run, which change as one: summary, frames and run file are one generation, whatever cuts the change short.

A new generation is written whole into a folder beside the old one and synced. Then its run file, which names every file of the generation
with size and digest, is put in place: from that moment on the new generation counts. The other files follow; where that was cut short a
reader finds them where they still are (``current_files``), and whoever plays the run next puts them in place (``settle``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

from safemt_api.errors import StoreError
from safemt_api.files import private_folder, sync_folder, unwritable, write_json
from safemt_api.runs.manifest import MANIFEST_FILE, read_manifest

SUMMARY_FILE = "summary.json"
SUMMARY_SCHEMA = 1
TRANSCRIPTS_FILE = "transcripts.parquet"
VERDICTS_FILE = "verdicts.parquet"
NEXT_FOLDER = ".next"


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
