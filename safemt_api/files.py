"""The one way in which files are written, whole or not at all, synced, and for their owner alone; and in which TOML and pages are read.

Replies, verdicts and reports may quote what nobody else should see. A folder or file that exists keeps its rights.
"""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

from safemt_api.errors import SafeMTError, StoreError, UsageError

FOLDER_MODE = 0o700
FILE_MODE = 0o600
MOST_PAGE_BYTES = 100_000
MOST_TOML_BYTES = 1_000_000


def shipped_folder(name: str) -> Path:
    """A folder of TOML files that ships: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / f"_{name}"
    return installed if installed.is_dir() else package.parent / name


class Toml(NamedTuple):
    """What a TOML file says, and the digest of its bytes."""

    tables: dict[str, Any]
    digest: str


def read_toml(
    file: Path,
    *,
    most_bytes: int = MOST_TOML_BYTES,
    cure: str = "give a page of text",
    failed: Callable[[Path, str], SafeMTError] = lambda file, why: UsageError(f"{file}: {why}"),
) -> Toml:
    """Read a TOML file, with or without a byte-order mark.

    Args:
        file: The file.
        most_bytes: How large it may be.
        cure: What to do about a larger one.
        failed: The error to raise, from the file and what is wrong with it; its raising is the one thing that may go wrong here.
    """
    try:
        with file.open("rb") as stream:
            raw = stream.read(most_bytes + 1)
        if len(raw) > most_bytes:
            raise failed(file, f"larger than {most_bytes // 1000:,} KB; {cure}")
        return Toml(tomllib.loads(raw.decode("utf-8-sig")), f"sha256:{sha256(raw).hexdigest()}")
    except (OSError, ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise failed(file, f"cannot be read as TOML: {getattr(error, 'strerror', None) or error}") from error


def read_page(file: Path, *, option: str, write: str) -> str:
    """The text of a page of criteria or policy, without a byte-order mark.

    Args:
        file: The page.
        option: What named it.
        write: What ought to stand in it, for an empty one.

    Raises:
        UsageError: It cannot be read as UTF-8, is empty, or far too large.
    """
    try:
        with file.open("rb") as stream:
            raw = stream.read(MOST_PAGE_BYTES + 1)
        text = raw.decode("utf-8-sig") if len(raw) <= MOST_PAGE_BYTES else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} {file}: cannot be read as UTF-8 text ({error})") from error
    if len(raw) > MOST_PAGE_BYTES:
        raise UsageError(f"{option} {file}: larger than {MOST_PAGE_BYTES // 1000} KB; give a page of text")
    if not text.strip():
        raise UsageError(f"{option} {file}: the file is empty; write {write} into it or take it away")
    return text


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
