"""A run in shards as its store tells it: how far all parts together are, and the rows that they handed in so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from safemt_api.runs.folder import TRANSCRIPTS_FILE, VERDICTS_FILE, place_in, player_of
from safemt_api.store.connection import Work
from safemt_api.store.shards import Lines, Part, line_places, lines_at, parts_of
from safemt_api.store.turns import looked_up

SILENT_SECONDS = 15.0
"""A part whose process was not heard for so long is not being played; the clocks of machines that share a store agree better than that."""
DIALOGUE = ("dialogue_id", "length", "repeat")
Read = Callable[[Work[Any]], Any]


class Whole(NamedTuple):
    """All parts of a run together: how many there are, how many are over and who plays others, what they count, how those that ended did.

    ``silent_seconds``: so long ago one of them was last heard. ``killed`` are those that were played and fell silent.
    """

    parts: int
    over: int
    players: tuple[str, ...]
    counts: Mapping[str, float]
    statuses: frozenset[str]
    silent_seconds: float | None
    killed: int

    @property
    def all_over(self) -> bool:
        """Whether nothing is left to be played."""
        return self.over >= self.parts

    def __str__(self) -> str:
        return f"{self.over} of {self.parts} shards are over"


def whole_of(parts: Sequence[Part], n_parts: int) -> Whole:
    """All parts together."""
    counts: Counter[str] = Counter()
    for part in parts:
        told = {name: value for name, value in part.counts.items() if isinstance(value, (int, float))}
        if part.record is not None and part.state != "playing":
            # What it spent is settled by now; its last beat may have been sent before that.
            told["spent_usd"] = part.record["summary"]["cost_usd"].get("total") or told.get("spent_usd", 0.0)
        counts.update(told)
    now = datetime.now(UTC)
    ages = [max(0.0, (now - datetime.fromisoformat(part.seen_utc)).total_seconds()) for part in parts]
    players = tuple(part.player for part, age in zip(parts, ages, strict=True) if part.state == "playing" and age < SILENT_SECONDS)
    killed = sum(part.state == "playing" for part in parts) - len(players)
    over = [part for part in parts if part.state == "over"]
    ends = frozenset(str((part.record or {}).get("summary", {}).get("status")) for part in parts if part.state != "playing")
    return Whole(n_parts, len(over), players, counts, ends, min(ages, default=None), killed)


def reader_of(folder: Path, manifest: Mapping[str, Any]) -> Read:
    """Asks the store of the run in the folder; what cannot be asked is ``None``."""
    place = place_in(folder, manifest)
    return lambda work: None if place is None else looked_up(place, work)


def parts_in(folder: Path, manifest: Mapping[str, Any]) -> list[Part] | None:
    """The parts of the run in the folder that were ever begun; ``None``: it is not in shards, or its store cannot be read."""
    if not isinstance(manifest.get("shards"), int):
        return None
    found: list[Part] | None = reader_of(folder, manifest)(parts_of(str(manifest.get("run"))))
    return found


def whole_in(folder: Path, manifest: Mapping[str, Any]) -> Whole | None:
    """How far the run in shards in that folder is; ``None`` as in ``parts_in``."""
    found = parts_in(folder, manifest)
    return None if found is None else whole_of(found, manifest["shards"])


def player_now(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """Who plays the run now, or a shard of it; ``None``: nobody."""
    whole, player = whole_in(folder, manifest), player_of(folder)
    players = ([] if player is None else [str(player)]) + ([] if whole is None else list(whole.players))
    return f"{players[0]} and {len(players) - 1:,} more" if len(players) > 1 else next(iter(players), None)


def handed_in(read: Read, run: str) -> Iterator[tuple[str, bytes]]:
    """The rows that the parts of a run handed in: the file that each belongs to, and its line.

    What a later attempt at a part has of a dialogue, no earlier one says again.
    """
    told: dict[tuple[Any, ...], int] = {}
    for place in read(line_places(run)) or ():
        found: Lines | None = read(lines_at(run, place))
        for kind, lines in () if found is None else ((TRANSCRIPTS_FILE, found.transcripts), (VERDICTS_FILE, found.verdicts)):
            for line in lines.splitlines(keepends=True):
                row = orjson.loads(line)
                attempt = place[1]
                if told.setdefault((kind, *(row[name] for name in DIALOGUE)), attempt) == attempt:
                    yield kind, line
