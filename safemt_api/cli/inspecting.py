"""What ``data check``, ``data stats`` and ``data fetch`` do."""

from __future__ import annotations

import os
from pathlib import Path

from rich.table import Table
from rich.text import Text

from safemt_api.cli.json_output import put_json
from safemt_api.cli.printing import agrees, output_console, put, say
from safemt_api.dataset.entries import load_dataset
from safemt_api.dataset.findings import examine
from safemt_api.dataset.hub import describe_source, fetch_dataset
from safemt_api.dataset.shipped import demonstration_folder
from safemt_api.dataset.statistics import dataset_statistics
from safemt_api.errors import MAX_PROBLEMS_SHOWN
from safemt_api.report import words
from safemt_api.runs.planning import DATA_VARIABLE

EXIT_BAD_DATA = 2


def data_folder(given: Path | None) -> Path:
    """The folder meant: the one given, else SAFEMT_DATA, else the demonstration set."""
    named = os.environ.get(DATA_VARIABLE)
    return given or (Path(named) if named else demonstration_folder())


def check_data(given: Path | None, *, as_json: bool) -> int:
    """Print problems and notes; returns the exit code."""
    folder = data_folder(given)
    found = examine(folder)
    if as_json:
        problems = [str(problem) for problem in found.problems]
        counts = {"dialogues": found.dialogues, "pictures": found.pictures}
        put_json({"folder": str(folder), **counts, "problems": problems, "notes": found.notes})
    else:
        for line in (*map(str, found.problems), *(f"note: {note}" for note in found.notes)):
            put(line)
    checked = f"{folder}: {found.dialogues:,} dialogues and {found.pictures:,} pictures checked"
    count = len(found.problems)
    say(f"{checked}, {count:,} problem{'s' * (count != 1)}, {len(found.notes):,} notes" if count else f"{checked}, no problem")
    return EXIT_BAD_DATA if found.problems else 0


def show_statistics(given: Path | None, *, as_json: bool) -> None:
    """Print a data folder in numbers."""
    folder = data_folder(given)
    dataset = load_dataset(folder, skip_invalid=True)
    if dataset.problems:
        say(f"{dataset.left_out} invalid dialogues are left out (`safemt-api data check {folder}` lists them)")
    if as_json:
        put_json(dataset_statistics(dataset))
        return
    console = output_console()
    for part in dataset_statistics(dataset).tables():
        table = Table(title=Text(words.printable(f"\n{part.title}")), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for place, name in enumerate(part.columns):
            table.add_column(Text(name), justify="right" if place else "left", overflow="fold")
        for row in part.rows:
            table.add_row(*(Text(words.printable(cell)) for cell in row))
        console.print(table)


def fetch_data(to: Path, *, revision: str | None, yes: bool) -> int:
    """Download after consent; returns the exit code."""
    say(describe_source().sentence)
    if not yes and not agrees(f"Download into {to}?"):
        say("not downloaded (--yes does not ask)")
        return EXIT_BAD_DATA
    folder = fetch_dataset(to, revision=revision)
    say(f"downloaded into {folder}; checking all dialogues and pictures, which takes a moment")
    found = examine(folder)
    if found.problems:
        for problem in found.problems[:MAX_PROBLEMS_SHOWN]:
            put(str(problem))
        say(
            f"what is in {folder} has {len(found.problems):,} problems (`safemt-api data check {folder}` lists all); run the same command "
            "again to complete a broken download, or leave the bad ones out with eval --skip-invalid"
        )
        return EXIT_BAD_DATA
    counted = f"{found.dialogues:,} dialogues and {found.pictures:,} pictures"
    say(f"the data is in {folder}, {counted}, checked: safemt-api eval --data {folder}")
    return 0
