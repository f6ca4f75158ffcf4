"""The one way in which files are written: whole or not at all, synced, and for their owner alone.

Replies, verdicts and reports may quote what nobody else should see. A folder or file that exists keeps its rights.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safemt_api.errors import StoreError

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def private_folder(folder: Path) -> None:
    """Make the folder and those above it that are missing, all for their owner alone.

    Raises:
        OSError: One cannot be made, or a file stands in the way.
    """
    for missing in reversed([one for one in folder.parents if not one.exists()]):
        missing.mkdir(mode=FOLDER_MODE, exist_ok=True)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def private_file(file: Path) -> Path:
    """The path of a file that exists: made empty and for its owner alone where it did not.

    For what is then opened by code that knows no rights: SQLite gives its ``-wal`` and ``-shm`` those of the database
    (https://www.sqlite.org/src/doc/trunk/src/os_unix.c, ``findCreateFileMode``), polars keeps those of the file it overwrites.

    Raises:
        OSError: It cannot be made.
    """
    if not file.exists():
        file.touch(mode=FILE_MODE)
    return file


@contextmanager
def atomic_file(target: Path) -> Iterator[IO[bytes]]:
    """A stream whose bytes become the file when the block ends well, and vanish when it does not: readers see the old one or the new one.

    Raises:
        StoreError: The folder is missing, read-only or full.
    """
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(target, error) from error


def write_bytes(target: Path, data: bytes) -> None:
    """Write a file into a folder that is there.

    Raises:
        StoreError: It cannot be written.
    """
    with atomic_file(target) as stream:
        stream.write(data)


def write_text(target: Path, text: str) -> None:
    """Write a text file; folders that are missing are made.

    Raises:
        StoreError: It cannot be written.
    """
    try:
        private_folder(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error
    write_bytes(target, text.encode("utf-8"))


def write_json(target: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file; folders that are missing are made.

    Raises:
        StoreError: It cannot be written.
    """
    write_text(target, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: a renamed file may else be back under its old name after a power cut.

    Raises:
        OSError: The folder is gone.
    """
    if os.name == "nt":
        return  # a folder cannot be opened there; NTFS keeps a journal of names
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(place: Path, error: OSError) -> StoreError:
    """What to raise where a file or folder could not be written."""
    return StoreError(place, f"cannot be written ({error.strerror or error})", "free space or make the folder writable, then run again")
