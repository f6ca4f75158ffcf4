"""What a results folder can do without: runs and studies that nobody wants any more, and replies that no run here uses.

Nothing goes that somebody is at work on, and of no run a reply that it may need. What was spent stays in the books.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio.to_thread

from safemt_api.errors import RunBusyError, StoreError
from safemt_api.files import unwritable
from safemt_api.runs.folder import (
    LOCK_FILE,
    MANIFEST_FILE,
    STUDY_FILE,
    is_own,
    is_scratch,
    locate,
    place_in,
    player_of,
    playing,
    read_manifest,
    study_folder,
)
from safemt_api.runs.parts import whole_of
from safemt_api.runs.shard import SHARDS_FOLDER
from safemt_api.store.books import booked_runs, left, older_run_id
from safemt_api.store.connection import Place, ServerAddress
from safemt_api.store.shards import booked_parts, forgotten, parts_of
from safemt_api.store.turns import STORE_FILE, open_store, shrink_store
from safemt_api.store.uses import Unused, free_unused, unknown_uses, unused

CLOCKS_APART = timedelta(days=1)
"""A run of an older version may have used whatever was bought until it ended; the clocks of two machines may differ by less than this."""


class Removal(NamedTuple):
    """A run or a study that may be removed: what goes with it, and what the user should know before.

    ``arms`` are a study's runs; ``study`` is the study that the run is an arm of; ``foreign`` are files that no run writes by itself;
    ``sharded`` are the names of runs in shards among it, which the store forgets; one on a server (``place``) forgets all of them by their
    ``ids``, since it cannot see which folders there still are.
    """

    name: str
    folder: Path
    files: int
    size_bytes: int
    arms: tuple[str, ...]
    study: str | None
    foreign: tuple[str, ...]
    sharded: tuple[str, ...] = ()
    place: Place = Path("results") / STORE_FILE
    ids: tuple[str, ...] = ()


def look_at(name: str, results: Path) -> Removal:
    """What removing the run or study given by name or path would remove.

    Raises:
        UsageError: There is no such run or study.
        StoreError: Its run file is damaged.
    """
    folder = study_folder(name, results)
    if folder is None:
        _, results, folder = locate(name, results)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() or file.is_symlink()]
    runs = [one for one in sorted(run_folders(folder)) if one.parent.name != SHARDS_FOLDER]
    arms = tuple(one.relative_to(folder).as_posix() for one in runs if one != folder)
    manifests = [read_manifest(one) or {} for one in runs]
    named = [str(one.get("run")) for one in manifests if "shards" in one]
    inside = (file.relative_to(folder) for file in files)
    return Removal(
        name=name,
        folder=folder,
        files=len(files),
        size_bytes=sum(file.lstat().st_size for file in files),
        arms=arms,
        study=folder.parent.name if (folder.parent / STUDY_FILE).is_file() else None,
        foreign=tuple(str(file) for file in inside if not is_own(file.name)),
        # A study in shards stands in the store, too, under its own name.
        sharded=tuple(dict.fromkeys(name for one in named for name in (one, one.rpartition("/")[0]) if name)),
        place=next((place for one in runs if (place := place_in(one, read_manifest(one) or {})) is not None), results / STORE_FILE),
        ids=tuple(str(one["id"]) for one in manifests if isinstance(one.get("id"), str)),
    )


async def forget(doomed: Removal) -> None:
    """Have the store forget runs that are about to be removed: those in shards, since a later one of that name is another, and all those
    that one on a server knows of.

    Raises:
        RunBusyError: A process, on whatever machine, plays a shard.
        StoreError: The store cannot be written.
    """
    on_server = isinstance(doomed.place, ServerAddress)
    if not doomed.sharded and not on_server:
        return
    async with open_store(doomed.place) as store:
        for run in doomed.sharded:
            players = whole_of(store.read(parts_of(run)), 0).players
            if players:
                raise RunBusyError(run, players[0])
            await store.write(forgotten(run))
        if on_server:
            await store.write(left(doomed.ids))


def remove(doomed: Removal) -> None:
    """Remove it, while nobody else can begin to play it.

    Raises:
        RunBusyError: Another process plays it, or one of its arms.
        StoreError: It cannot be removed.
    """
    try:
        with ExitStack() as stack:
            inside = [one for one in sorted(run_folders(doomed.folder)) if one != doomed.folder]
            for folder in (doomed.folder, *inside):
                stack.enter_context(playing(folder, doomed.name))
            # Without this file a folder is no run, so that what is left of it where this is cut short is none either.
            for folder in (*inside, doomed.folder):
                for own in (STUDY_FILE, MANIFEST_FILE):
                    (folder / own).unlink(missing_ok=True)
        shutil.rmtree(doomed.folder)
    except OSError as error:
        raise unwritable(doomed.folder, error) from error


def run_folders(folder: Path) -> Iterator[Path]:
    """Every folder at or below one that holds a run file, through links too."""
    seen: set[str] = set()
    for place, inside, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            inside.clear()
            continue
        seen.add(real)
        if MANIFEST_FILE in files:
            yield Path(place)


class Garbage(NamedTuple):
    """Replies that no run here uses.

    ``undecided`` are runs that keep replies because it is not known which ones they use: with each, the reason.
    """

    unused: Unused
    runs: int
    undecided: tuple[str, ...] = ()


async def find_garbage(results: Path, server: ServerAddress | None = None) -> Garbage:
    """What ``collect_garbage`` would free: replies that no run of the results folder uses, or, of a store on a server, no run that has not
    been removed, wherever its folder is.

    Raises:
        RunBusyError: A run or study of the folder is being played.
        StoreError: There is no store, or it or a run file cannot be read.
    """
    place = server or results / STORE_FILE
    if isinstance(place, Path) and not place.is_file():
        raise StoreError(place, "is missing", "give the --results folder that holds it")
    async with open_store(place) as store:
        living = (*_living(results, store.id), *store.read(partial(_living_elsewhere, server)))
        unknown = store.read(unknown_uses(one.run_id for one in living))
        open_ones = [one for one in living if one.run_id in unknown]
        found = store.read(unused(_ids(living), since_utc=_kept_until(open_ones))) if _endless(open_ones) is None else Unused(0, 0, 0.0, ())
        return Garbage(found, len({one.name.partition(" ")[0] if one.part else one.name for one in living}), tuple(_undecided(open_ones)))


async def collect_garbage(results: Path, server: ServerAddress | None = None) -> int:
    """Free the replies that no run here uses; how many.

    Raises:
        RunBusyError: A run or study of the folder is being played.
        StoreError: The store or a run file cannot be read, or the store cannot be written.
    """
    async with open_store(server or results / STORE_FILE) as store:

        def work(connection: Any) -> int:
            # Looked at anew inside the transaction: whoever begins now enters its run first, and so waits until this is done.
            living = (*_living(results, store.id), *_living_elsewhere(server, connection))
            unknown = unknown_uses(one.run_id for one in living)(connection)
            open_ones = [one for one in living if one.run_id in unknown]
            if _endless(open_ones) is not None:
                return 0
            return free_unused(_ids(living), since_utc=_kept_until(open_ones))(connection)

        freed = await store.write(work)
        if freed:
            await anyio.to_thread.run_sync(shrink_store, store.place)
    return freed


class _Run(NamedTuple):
    """A run on disk: its id, the name that an older version booked it under, and when it ended (``None``: it has not, or was killed)."""

    name: str
    run_id: str
    ended: datetime | None
    part: bool = False


def _living(results: Path, store_id: str) -> Iterator[_Run]:
    for lock in sorted(results.rglob(LOCK_FILE)):
        player = player_of(lock.parent)
        if player is not None:
            raise RunBusyError(lock.parent.relative_to(results).as_posix(), str(player))
    for folder in sorted(run_folders(results)):
        if folder.parent.name == SHARDS_FOLDER:
            continue  # the store knows the shards of all machines
        manifest = read_manifest(folder) or {}
        name = str(manifest.get("run") or folder.relative_to(results).as_posix())
        found = manifest.get("id")
        yield _Run(name, found if isinstance(found, str) else older_run_id(store_id, name), _ended(folder, manifest))


def _living_elsewhere(server: ServerAddress | None, connection: Any) -> list[_Run]:
    """Parts of runs, whose folders may be on other machines; and with a server, all runs that it knows of."""
    parts = [
        _Run(one.name, one.id, None if one.over_utc is None else datetime.fromisoformat(one.over_utc), part=True)
        for one in booked_parts()(connection)
    ]
    known = {one.run_id for one in parts}
    others = [] if server is None else [_Run(name, run_id, None) for run_id, name in booked_runs()(connection) if run_id not in known]
    return [*parts, *others]


def _ended(folder: Path, manifest: Mapping[str, Any]) -> datetime | None:
    if any(is_scratch(file.name) for file in folder.iterdir()):
        return None  # killed: what it used is not known
    judged = manifest.get("judged_again_utc")
    try:
        ends = [datetime.fromisoformat(one) for one in (manifest["ended_utc"], *(judged if isinstance(judged, list) else ()))]
        return max(ends)
    except (KeyError, TypeError, ValueError):
        return None


def _ids(living: Iterable[_Run]) -> Iterator[str]:
    for one in living:
        yield one.run_id
        yield one.name  # what an older version booked stands under the name


def _endless(unknown: Iterable[_Run]) -> _Run | None:
    return next((one for one in unknown if one.ended is None), None)


def _kept_until(unknown: Iterable[_Run]) -> str | None:
    ends = [one.ended for one in unknown if one.ended is not None]
    return (max(ends) + CLOCKS_APART).isoformat(timespec="milliseconds") if ends else None


def _undecided(unknown: Iterable[_Run]) -> Iterator[str]:
    for one in unknown:
        if one.ended is None:
            yield f"{one.name} has not come to its end, so nothing can be freed: resume it, or remove it (`safemt-api rm {one.name}`)"
        else:
            yield f"{one.name} was played by an older version, so all that was bought until it ended is kept; resume it to have it noted"
