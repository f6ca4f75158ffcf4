"""Whether a run's data are still what it was played with, and if not, which of them: from the rows of the dialogues that were played.

Imports polars: import it late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import orjson
import polars as pl

from safemt_api import words
from safemt_api.dataset.entries import Dataset
from safemt_api.dataset.images import open_source
from safemt_api.errors import DialogueError
from safemt_api.frames import TRANSCRIPT_SCHEMA, columns_of, read_frame
from safemt_api.messages import Protocol
from safemt_api.runs.folder import TRANSCRIPTS_FILE
from safemt_api.runs.record import waiting_frames
from safemt_api.runs.rows import messages_json

NAMED = 5
"""How many of many are named in a sentence."""

COLUMNS = ("dialogue_id", "length", "turn", "user_text", "messages")


def played_rows(folder: Path, columns: Sequence[str] = COLUMNS) -> pl.DataFrame:
    """Those columns of all turns that were played, as far as that is known."""
    frames = []
    with suppress(OSError, pl.exceptions.PolarsError):
        there = columns_of(folder / TRANSCRIPTS_FILE)
        frame = read_frame(folder / TRANSCRIPTS_FILE, [name for name in columns if name in there])
        absent = [pl.lit(None, dtype=pl.String).alias(name) for name in columns if name not in there]
        frames.append(frame.with_columns(absent).select(columns))
    waiting = waiting_frames(folder)
    if waiting is not None:
        frames.append(waiting[0].select(columns))
    return pl.concat(frames).unique() if frames else pl.DataFrame(schema={name: TRANSCRIPT_SCHEMA[name] for name in columns})


def word_changes(dataset: Dataset, folder: Path, protocol: Protocol) -> Iterator[str]:
    """Which dialogues that were played have other words now, are gone, or are new; a sentence each."""
    entries = {(entry.id, entry.length): entry for entry in dataset.entries}
    played: set[tuple[str, int]] = set()
    others: set[tuple[str, int]] = set()
    for row in played_rows(folder).iter_rows(named=True):
        dialogue = (row["dialogue_id"], row["length"])
        played.add(dialogue)
        if dialogue in entries:
            now = dataset.read(entries[dialogue])
            if protocol == "live":
                same = row["user_text"] == now.user_texts[row["turn"] - 1]
            else:
                same = orjson.loads(row["messages"]) == orjson.loads(messages_json(now.lines))
            others.update(() if same else (dialogue,))
    new = entries.keys() - played if played else set()
    for dialogues, what in ((others, "with other words"), (played - entries.keys(), "gone"), (new, "not played before")):
        if dialogues:
            yield f"dialogues {what}: {_listed(f'{name}, length {length}' for name, length in sorted(dialogues))}"


def picture_changes(dataset: Dataset, folder: Path) -> Iterator[str]:
    """Which pictures are not those that were sent; a sentence each. Of a picture that was fitted to a vendor's rules the source counts."""
    others, gone = set(), set()
    for path, digest in dict.fromkeys(_sent_pictures(folder)):
        try:
            if open_source(dataset.folder, path).digest != digest.partition(";")[0]:
                others.add(path)
        except DialogueError:
            gone.add(path)
    for paths, what in ((others, "that are others now"), (gone, "that cannot be read any more")):
        if paths:
            yield f"pictures {what}: {_listed(sorted(paths))}"


def _sent_pictures(folder: Path) -> Iterator[tuple[str, str]]:
    for path, digest, images in played_rows(folder, ("image_path", "image_digest", "images")).iter_rows():
        for one in orjson.loads(images) if images else ({"path": path, "digest": digest},):
            if one["path"] is not None and one["digest"] is not None:
                yield one["path"], one["digest"]


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return f"{len(found):,} ({words.first_few(found, NAMED, between='; ')})"
