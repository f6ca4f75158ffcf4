"""One process at one shard of a run: entered in the store with the run's settings, heard there while it plays, and ended there.

The store keeps what all shards have in common, so that they agree without a shared folder: what must not change, the purse, who plays
which part (``store.shards``).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio

from safemt_api.errors import RunBusyError, SettingsChangedError, UsageError
from safemt_api.files import write_json
from safemt_api.runs.folder import (
    MANIFEST_FILE,
    SCHEMA,
    TRANSCRIPTS_FILE,
    VERDICTS_FILE,
    check_same_run,
    read_manifest,
    scratch,
    store_record,
    versions,
)
from safemt_api.runs.plan import Plan, resolved_record
from safemt_api.runs.settings import identity_defaults
from safemt_api.runs.shard import Shard
from safemt_api.store.shards import (
    Fence,
    Part,
    Sharded,
    Standing,
    beaten,
    begun,
    ended,
    parts_of,
    taken,
    trial_over,
    trial_turn,
)
from safemt_api.store.turns import TurnStore, now_utc

BEAT_SECONDS = 2.0
SILENT_SECONDS = 10.0
"""A process on another machine that was not heard for so long is taken for dead; if it lives, its next beat is refused."""
TRIAL_SECONDS = 60.0
"""So long the others wait while one tries the judges."""
LOOK_SECONDS = 0.1
MOST_BYTES_AT_ONCE = 4_000_000
WAITING_FILES = (TRANSCRIPTS_FILE, VERDICTS_FILE)

Counts = Callable[[], Mapping[str, Any]]


class Attempt:
    """This process at its shard; made by ``open_attempt``. ``run`` is what all shards share, ``part`` this one's line in the store."""

    def __init__(self, store: TurnStore, run: Sharded, part: Part, folder: Path) -> None:
        self.run, self.part = run, part
        self._store, self._folder = store, folder
        self._fence = Fence(run.run, part.part, part.attempt)
        self._who = f"{part.part}.{part.attempt}"
        self._read = dict.fromkeys(WAITING_FILES, 0)
        self.left = False

    async def beat_on(self, counts: Counts) -> None:
        """Tell the store how far the shard is, again and again until cancelled.

        Raises:
            RunBusyError: Another process plays the shard by now.
            StoreError: The store cannot be written.
        """
        while True:
            await anyio.sleep(BEAT_SECONDS)
            await self.beat(counts)

    async def beat(self, counts: Counts) -> None:
        """Hand in the rows that have come since, and tell how far the shard is.

        Raises:
            RunBusyError, StoreError: As ``beat_on``.
        """
        while True:
            rows = tuple(self._new_lines(name) for name in WAITING_FILES)
            if not await self._store.write(beaten(self._fence, counts(), (rows[0], rows[1]))):
                self.left = True
                now = next(one for one in await self._store.look(parts_of(self.run.run)) if one.part == self.part.part)
                raise RunBusyError(f"{self.run.run} {self.part.part}/{self.run.parts}", now.player)
            if max(map(len, rows)) < MOST_BYTES_AT_ONCE // 2:
                return

    def _new_lines(self, name: str) -> bytes:
        """Whole lines of a file of waiting rows, from where the last ones ended."""
        try:
            with scratch(self._folder, name).open("rb") as file:
                file.seek(self._read[name])
                found = file.read(MOST_BYTES_AT_ONCE)
                if b"\n" not in found:
                    found += file.readline()
        except FileNotFoundError:
            return b""
        lines = found[: found.rfind(b"\n") + 1]
        self._read[name] += len(lines)
        return lines

    async def try_in_turn(self, trial: Callable[[], Any]) -> None:
        """Try the judges, unless another shard has, or does so now and is the first to end.

        Raises:
            BaseExceptionGroup: As ``trial``.
        """
        run = self.run.run
        turn = await self._store.write(trial_turn(run, self._who))
        with anyio.move_on_after(TRIAL_SECONDS):
            while turn == "taken":
                await anyio.sleep(LOOK_SECONDS)
                turn = await self._store.write(trial_turn(run, self._who))
        if turn == "done":
            return
        good = False
        try:
            await trial()
            good = True
        finally:
            await self._store.write(trial_over(run, self._who, good=good))

    async def end(self, *, over: bool, record: Mapping[str, Any] | None = None) -> Standing:
        """Note in the store that this attempt has ended; how far the run is then.

        Raises:
            StoreError: The store cannot be written.
        """
        self.left = True
        # The store sees to it that what was handed over is written whatever happens to the caller.
        return await self._store.write(ended(self._fence, "over" if over else "interrupted", record))


async def open_attempt(plan: Plan, shard: Shard, store: TurnStore, *, purse_id: str | None) -> Attempt:
    """Take a shard, and enter the run where no other shard has.

    Args:
        plan: The shard's.
        shard: Which one.
        store: What all shards share.
        purse_id: Under which the ceiling is held, where the run shares it with others.

    Raises:
        SettingsChangedError: Other shards of the run are played with other settings, on whatever machine.
        RunBusyError: A process elsewhere plays the shard.
        UsageError: A run of this name was begun in one piece.
    """
    run = await enter_run(plan, shard.parts, store, purse_id=purse_id)
    place = f"{socket.gethostname()}:{plan.folder.resolve()}"
    found = next((one for one in await store.look(parts_of(plan.run)) if one.part == shard.part), None)
    if found is not None and found.state == "playing" and found.place != place:
        # Whoever played it in this folder is dead, since we hold its lock; of one elsewhere only its silence tells.
        with anyio.move_on_after(SILENT_SECONDS):
            while found in await store.look(parts_of(plan.run)):  # noqa: ASYNC110 (the same)
                await anyio.sleep(LOOK_SECONDS)
            raise RunBusyError(f"{plan.run} {shard}", found.player)
    player = f"process {os.getpid()} on {socket.gethostname()} since {now_utc()}"
    return Attempt(store, run, await store.write(taken(plan.run, shard.part, id=uuid4().hex, place=place, player=player)), plan.folder)


async def enter_run(plan: Plan, parts: int, store: TurnStore, *, purse_id: str | None = None) -> Sharded:
    """The run in so many shards as the store knows it, entered where it does not; its folder then says so, too.

    Raises:
        SettingsChangedError: It was entered with other settings.
        UsageError: A run of this name was begun in one piece.
    """
    folder, new_id = plan.settings.results / plan.run, uuid4().hex
    there = read_manifest(folder)
    if there is not None and "shards" not in there:
        raise UsageError(
            f"run {plan.run!r} was begun in one piece: go on with it without --shard, or choose another --run (no reply is bought again)"
        )
    record = {
        "schema": SCHEMA,
        "run": plan.run,
        "started_utc": now_utc(),
        "identity": dict(plan.identity),
        "settings": resolved_record(plan),
        "data": {"folder": str(plan.dataset.folder), "name": plan.dataset.name, "fingerprint": plan.dataset.fingerprint},
        "versions": versions(),
        "outline": {**plan.outline, "dialogues": {"planned": plan.planned, "finished": 0, "failed": 0}},
        "shards": parts,
    }
    run = await store.write(begun(Sharded(plan.run, new_id, purse_id or new_id, parts, dict(plan.identity), record)))
    try:
        check_same_run(plan.run, {**identity_defaults(), **run.identity, "parts": run.parts}, {**plan.identity, "parts": parts})
    except SettingsChangedError as error:
        raise SettingsChangedError(f"{plan.run} (its other shards)", error.differences) from None
    if there is None:
        write_json(folder / MANIFEST_FILE, whole_manifest(run, folder, store, plan.settings.results))
    return run


def whole_manifest(run: Sharded, folder: Path, store: TurnStore, results: Path) -> dict[str, Any]:
    """The run file of a whole run in shards."""
    purse = {} if run.purse == run.id else {"purse": run.purse}
    return {**run.record, "id": run.id, "store": store_record(folder, store.place, store.id, results), **purse}
