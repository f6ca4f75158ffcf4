"""Folders and files that only their owner may read: replies, verdicts and reports may quote what nobody else should see.

Only what is created gets these rights; what exists keeps its own. Imports nothing of ours.
"""

from __future__ import annotations

from pathlib import Path

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
