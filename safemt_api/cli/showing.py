"""What ``data show`` does: one id of a data set, its words and its picture, in the terminal or as a page."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from safemt_api.cli.inspecting import data_folder
from safemt_api.cli.printing import output_console, say
from safemt_api.dataset.elements import shown
from safemt_api.dataset.entries import Dataset, load_dataset
from safemt_api.dataset.picture_files import ImageError, Inspection, inspect_image
from safemt_api.errors import UsageError
from safemt_api.files import write_bytes
from safemt_api.messages import Dialogue
from safemt_api.report import words
from safemt_api.report.dialogue_page import dialogue_page, who_with_pictures

Facts = tuple[tuple[str, str], ...]


def show_dialogue(dialogue_id: str, given: Path | None, *, lengths: Sequence[int] | None, page: Path | None) -> None:
    """Print the dialogues of one id, or write them as a page.

    Raises:
        UsageError: There is no such id, length or folder, or the picture cannot be read.
        StoreError: The page cannot be written.
    """
    dataset = load_dataset(data_folder(given), lengths=lengths, skip_invalid=True)
    dialogues = _dialogues(dataset, dialogue_id)
    try:
        paths = dict.fromkeys(path for dialogue in dialogues for path in dialogue.image_paths)
        pictures = {path: inspect_image(dataset.folder, path) for path in paths}
        if page is None:
            output_console().print(_shown(dialogues, _facts(dialogues, pictures, dataset.folder)))
            return
        facts = _facts(dialogues, pictures, Path())
        write_bytes(page, dialogue_page(dataset, dialogues, facts, pictures).encode("utf-8"))
    except ImageError as error:
        raise UsageError(f"{dialogue_id}: {error}") from error
    say(f"page: {page}")


def _dialogues(dataset: Dataset, dialogue_id: str) -> list[Dialogue]:
    entries = sorted((entry for entry in dataset.entries if entry.id == dialogue_id), key=lambda entry: entry.length)
    if not entries:
        close = difflib.get_close_matches(dialogue_id, dataset.ids, n=3)
        meant = f"; did you mean {' or '.join(map(shown, close))}?" if close else f"; its ids look like {shown(dataset.ids[0])}"
        left_out = f" ({dataset.left_out} invalid dialogues were left out)" if dataset.left_out else ""
        raise UsageError(f"{dataset.folder} has no valid dialogue {dialogue_id!r}{left_out}{meant}")
    return [dataset.read(entry) for entry in entries]


def _facts(dialogues: Sequence[Dialogue], pictures: Mapping[str, Inspection], folder: Path) -> Facts:
    """What stands above the dialogues; a page, which may be passed on, does not name the folder of its pictures."""
    first = dialogues[0]
    optional = (("method", first.method), ("source", first.source), ("language", first.language), ("twin", first.pair))
    names = ["picture"] if len(pictures) == 1 else [f"picture {number}" for number in range(1, len(pictures) + 1)]
    return (
        ("id", first.id),
        ("scenario", first.scenario),
        ("kind", first.kind),
        *((name, value) for name, value in optional if value),
        ("goal", first.goal.strip()),
        ("lengths", words.listed(tuple(dialogue.length for dialogue in dialogues))),
        *((name, _described(folder / path, found)) for name, (path, found) in zip(names, pictures.items(), strict=True)),
        *(() if pictures else (("picture", "none"),)),
    )


def _described(path: Path, found: Inspection) -> str:
    size = f"{found.width_pixels} × {found.height_pixels} pixels, {found.size_bytes / 1e3:,.0f} KB"
    return f"{path} ({found.media_type}, {size})"


def _shown(dialogues: Sequence[Dialogue], facts: Facts) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for name, value in facts:
        grid.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
    paths = dict.fromkeys(path for dialogue in dialogues for path in dialogue.image_paths)
    numbers = {path: number for number, path in enumerate(paths, 1)} if len(paths) > 1 else {}
    return Group(grid, *(part for dialogue in dialogues for part in _spoken(dialogue, numbers)))


def _spoken(dialogue: Dialogue, numbers: Mapping[str, int]) -> list[RenderableType]:
    turns = f"{dialogue.length} user turn{'s' if dialogue.length > 1 else ''}"
    spoken = Table.grid(padding=(0, 2, 1, 0))
    for line in dialogue.lines:
        spoken.add_row(
            Text(who_with_pictures(line, numbers), style="bold" if line.role == "user" else "dim"), Text(line.text.strip(), overflow="fold")
        )
    return [Padding(Text(turns, style="bold"), (1, 0)), spoken]
