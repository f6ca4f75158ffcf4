"""What stands in the results folder now, looked at again and again: cheap where nothing has changed, and a run that is played is read on.

The list is ``runs.overview``'s own, in its order; a run that is being played is counted from its index instead of from all of its rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any

import polars as pl

from safemt_api.errors import StoreError
from safemt_api.metrics.asr import overall_asr
from safemt_api.metrics.frames import score_frame
from safemt_api.metrics.uncertainty import Estimate
from safemt_api.runs.folder import (
    MANIFEST_FILE,
    PLAYER_FILE,
    SUMMARY_FILE,
    VERDICTS_FILE,
    Player,
    place_in,
    player_of,
    read_manifest,
    scratch,
)
from safemt_api.runs.overview import RunOverview, overview, run_overview
from safemt_api.store.books import spent_now_usd
from safemt_api.view.index import RunIndex, stamp

LOOK_SECONDS = 0.7
"""The folder is looked through at most so often, however many pages are open."""

SCORE_SECONDS = 3.0
"""A score with its interval takes a tenth of a second of CPU at 10,000 dialogues: of a run that is played it is taken this often."""

MOST_INDEXES = 128
"""Indexes of finished runs that are kept: 10,000 dialogues take 2 MB."""


@dataclass
class Entry:
    """One run: its index, and what was found last, with what that rests on."""

    folder: Path
    index: RunIndex
    stamps: tuple[object, ...] = ()
    found: RunOverview | None = None
    found_at: float = 0.0
    asr: Estimate | None = None
    scored_version: int = -1
    scored_at: float = float("-inf")
    used_at: float = 0.0
    scores: object = None


@dataclass
class Library:
    """The runs and studies of a results folder; its methods may be called from any thread."""

    results: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    _listed: list[RunOverview] = field(default_factory=list)
    _looked_at: float = float("-inf")
    _lock: RLock = field(default_factory=RLock)

    def overview(self) -> list[RunOverview]:
        """Every run and study, as ``runs.overview`` lists them."""
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                self._listed = overview(self.results, look=self._look)
                there = {one.run for one in self._listed}
                self.entries = {name: entry for name, entry in self.entries.items() if name in there}
                self._looked_at = time.monotonic()
            return self._listed

    def entry(self, name: str) -> Entry | None:
        """The run of that name; ``None`` where the list holds no such run. Its index is as it was when somebody last looked."""
        self.overview()
        with self._lock:
            found = self.entries.get(name)
            if found is not None:
                found.used_at = time.monotonic()
            return found

    def score(self) -> bool:
        """Bring the score of one run up to date, the one that was asked for last first; whether there was one to do."""
        with self._lock:
            due_before = time.monotonic() - SCORE_SECONDS
            stale = [
                entry
                for entry in self.entries.values()
                if entry.found is not None and entry.found.state != "damaged"
                if entry.scored_version != max(1, entry.index.version) and entry.scored_at <= due_before
            ]
            if not stale:
                return False
            entry = max(stale, key=lambda one: one.used_at)
            entry.index.look()
            version, scored = entry.index.version, score_frame(entry.index.scored)
        judged = scored["verdict"].drop_nulls().len() > 0
        asr = overall_asr(scored) if judged else None
        with self._lock:
            entry.asr, entry.scored_version, entry.scored_at = asr, version, time.monotonic()
            self._forget()
        return True

    def _forget(self) -> None:
        """Let go of the indexes that nobody has asked for longest; they are made anew when somebody does."""
        held = sorted((one for one in self.entries.values() if one.index.dialogues.height), key=lambda one: one.used_at)
        for entry in held[: max(0, len(held) - MOST_INDEXES)]:
            if entry.found is not None and entry.found.state != "running":
                entry.index, entry.scored_version = RunIndex(entry.folder), 1

    def _look(self, folder: Path, results: Path) -> RunOverview:
        """One run for the list."""
        name = folder.relative_to(results).as_posix()
        entry = self.entries.setdefault(name, Entry(folder, RunIndex(folder)))
        player = player_of(folder)
        if player is not None:
            playing = _while_played(entry, name, player)
            if playing is not None:
                entry.stamps, entry.found = (), playing
                return playing
        rows = scratch(folder, VERDICTS_FILE)
        stamps = (player, *(stamp(file) for file in (folder / MANIFEST_FILE, folder / SUMMARY_FILE, folder / PLAYER_FILE, rows)))
        if entry.found is None or stamps != entry.stamps:
            entry.stamps, entry.found, entry.found_at = stamps, run_overview(folder, results), time.monotonic()
            entry.scored_version, entry.scored_at = -1, float("-inf")
        if entry.found.age_seconds is None:
            return entry.found
        return entry.found._replace(age_seconds=entry.found.age_seconds + time.monotonic() - entry.found_at)


def _while_played(entry: Entry, name: str, player: Player) -> RunOverview | None:
    """A run under way, counted from its index; ``None`` where its run file tells too little."""
    try:
        manifest = read_manifest(entry.folder)
    except StoreError:
        return None
    outline = (manifest or {}).get("outline")
    if manifest is None or not isinstance(outline, Mapping):
        return None
    entry.index.look()
    lines = entry.index.dialogues
    failed = int(lines["failed"].sum())
    labels = dict(entry.index.scored.filter("counts", pl.col("kind") == "harmful")["label"].value_counts().iter_rows())
    unsafe, safe = labels.get("unsafe", 0), labels.get("safe", 0)
    counts, settings = (part if isinstance(part, Mapping) else {} for part in (outline.get("dialogues"), manifest.get("settings")))
    model, protocol, judge, moderator = (_word(outline.get(key)) for key in ("model", "protocol", "judge", "moderator"))
    return RunOverview(
        name,
        str(entry.folder),
        "running",
        model,
        protocol,
        judge,
        moderator,
        planned=_number(counts.get("planned")),
        finished=lines.height - failed,
        failed=failed,
        missing=labels.get(None, 0),
        asr=unsafe / (unsafe + safe) if unsafe + safe else None,
        spent_usd=spent_usd(entry.folder, manifest),
        ceiling_usd=_number(settings.get("max_usd")),
        player=str(player),
        started_utc=_word(manifest.get("started_utc")),
        age_seconds=0.0,
    )


def spent_usd(folder: Path, manifest: Mapping[str, Any]) -> float | None:
    """What the run's books say that it has spent, calls in flight included."""
    place, run_id = place_in(folder, manifest), manifest.get("id")
    found = spent_now_usd(place, run_id) if place is not None and isinstance(run_id, str) else None
    return None if found is None else sum(found.by_purpose.values())


def _word(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
