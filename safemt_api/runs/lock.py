"""One process plays a run: an advisory lock in the run's folder, with a note for others of who holds it.

The lock is the system's own (``flock``, on Windows ``msvcrt``; through ``filelock``), so that it ends with its owner however that ends, and
a dead owner's is taken over without a guess. The note beside it is for people and listings; alone it means nothing.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from safemt_api.errors import RunBusyError, StoreError
from safemt_api.files import FILE_MODE, private_folder, write_json
from safemt_api.store.turns import now_utc

LOCK_FILE = ".lock"
PLAYER_FILE = ".player.json"
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
    lock = _acquired(folder, run)
    note = folder / PLAYER_FILE
    try:
        _note_player(note)
        yield partial(_note_player, note)
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def _acquired(folder: Path, run: str) -> filelock.BaseFileLock:
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
    return lock


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
