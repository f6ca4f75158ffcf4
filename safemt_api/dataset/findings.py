"""The thorough check of a data set: everything that loading checks, every picture decoded, and notes on what is merely odd."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safemt_api.dataset.elements import shown
from safemt_api.dataset.entries import Dataset, Entry, load_dataset
from safemt_api.dataset.layouts import Layout
from safemt_api.dataset.picture_files import ImageError, inspect_image
from safemt_api.dataset.statistics import mismatched_ending
from safemt_api.errors import DatasetError, Problem


@dataclass(frozen=True, slots=True)
class Findings:
    """What a thorough check found. ``problems`` keep a run from starting; ``notes`` are sentences about oddities that do no harm."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    dialogues: int
    pictures: int


def examine(folder: Path, layout: str | Layout | None = None) -> Findings:
    """Problems and notes of a data set; one picture is in memory at a time.

    Raises:
        UsageError: No such folder, or no ``k_turn.json`` in it.
    """
    try:
        dataset = load_dataset(folder, skip_invalid=True, layout=layout)
    except DatasetError as error:
        return Findings(error.problems, (), 0, 0)
    users: dict[str, list[Entry]] = defaultdict(list)
    for entry in dataset.entries:
        for image_path in set(entry.image_paths):
            users[image_path].append(entry)
    problems, notes = list(dataset.problems), list(_notes(dataset))
    for image_path, entries in sorted(users.items()):
        try:
            inspection = inspect_image(folder, image_path, decode=True)
        except ImageError as error:
            problems.extend(Problem(entry.file, str(error), entry.index, shown(entry.id)) for entry in entries)
            continue
        if mismatched_ending(image_path, inspection.media_type):
            notes.append(f"{shown(image_path)} is {inspection.media_type} whatever its name says; it is sent as what it is")
    ordered = sorted(problems, key=lambda problem: (problem.file, -1 if problem.index is None else problem.index))
    return Findings(tuple(ordered), tuple(notes), len(dataset.entries), len(users))


def _notes(dataset: Dataset) -> Iterator[str]:
    by_id: dict[str, list[Entry]] = defaultdict(list)
    # Only our own form has each id in several lengths.
    lengths = set(dataset.lengths) if dataset.layout is None or dataset.layout.is_own_form else set()
    bare = sum(not entry.image_paths for entry in dataset.entries)
    if bare:
        yield f"{bare:,} dialogues have no picture"
    user_only = sum(entry.user_only for entry in dataset.entries)
    if user_only:
        yield f"{user_only:,} dialogues hold the user's messages alone: they can be played with --protocol live only"
    ids = {entry.id for entry in dataset.entries}
    for entry in dataset.entries:
        if entry.pair is not None and entry.pair not in ids:
            yield f"{entry.file}[{entry.index}] ({shown(entry.id)}): its twin {shown(entry.pair)} is not there"
    for entry in dataset.entries:
        by_id[entry.id].append(entry)
        if any(not line.text.strip() for line in dataset.read(entry).lines):
            yield f"{entry.file}[{entry.index}] ({shown(entry.id)}): a message has no words; some vendors refuse that"
    for dialogue_id, entries in by_id.items():
        missing = sorted(lengths - {entry.length for entry in entries})
        if missing:
            yield f"id {shown(dialogue_id)} is missing in length {', '.join(map(str, missing))}"
        if len({(entry.kind, entry.scenario) for entry in entries}) > 1:
            yield f"id {shown(dialogue_id)} has different scenarios or kinds in different files"
