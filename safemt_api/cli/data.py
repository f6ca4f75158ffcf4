"""``safemt-api data``: check, describe, show, download, convert and build dialogues."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safemt_api.cli import options
from safemt_api.cli.on_use import imported_on_use
from safemt_api.cli.options import GroupedCommand
from safemt_api.errors import MAX_PROBLEMS_SHOWN, UsageError
from safemt_api.runs.options import numbers

with imported_on_use():
    from safemt_api import files, words
    from safemt_api.builder import build as builder
    from safemt_api.builder import review as reviewing
    from safemt_api.cli import terminal
    from safemt_api.dataset import elements, entries, findings, hub, layouts, own_form, picture_files, statistics
    from safemt_api.report import page as report_page
    from safemt_api.runs import plan as planning

if TYPE_CHECKING:
    from safemt_api.dataset.entries import Dataset
    from safemt_api.dataset.picture_files import Inspection
    from safemt_api.messages import Dialogue

EXIT_BAD_DATA = 2
EXIT_INTERRUPTED = 130
Facts = tuple[tuple[str, str], ...]

data_app = typer.Typer(help="Check, describe, show, download, convert and build dialogues.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[
    Path | None, typer.Argument(metavar="DIR", help="A folder with dialogues. Default: SAFEMT_DATA, else the demonstration set.")
]
LayoutName = Annotated[
    str | None,
    typer.Option(
        "--layout", metavar="NAME|FILE", help="Its layout (`safemt-api data layouts`), or a layout file. Default: found where unmistakable."
    ),
]


def _folder(given: Path | None) -> Path:
    """The folder meant: the one given, else SAFEMT_DATA, else the demonstration set."""
    named = os.environ.get(planning.DATA_VARIABLE)
    return given or (Path(named) if named else layouts.demonstration_folder())


@data_app.command("check", cls=GroupedCommand)
def check(folder: Folder = None, layout: LayoutName = None, as_json: options.FiguresAsJson = False) -> None:
    """List everything that is wrong with a data folder, every picture decoded; exit code 2 if anything is."""
    given = _folder(folder)
    found = findings.examine(given, layout)
    if as_json:
        problems = [str(problem) for problem in found.problems]
        counts = {"dialogues": found.dialogues, "pictures": found.pictures}
        terminal.put_json({"folder": str(given), **counts, "problems": problems, "notes": found.notes})
    else:
        for line in (*map(str, found.problems), *(f"note: {note}" for note in found.notes)):
            terminal.put(line)
    checked = f"{given}: {found.dialogues:,} dialogues and {found.pictures:,} pictures checked"
    count = len(found.problems)
    terminal.say(f"{checked}, {count:,} problem{'s' * (count != 1)}, {len(found.notes):,} notes" if count else f"{checked}, no problem")
    raise typer.Exit(EXIT_BAD_DATA if found.problems else 0)


@data_app.command("stats", cls=GroupedCommand)
def stats(folder: Folder = None, layout: LayoutName = None, as_json: options.FiguresAsJson = False) -> None:
    """Count dialogues by scenario and length, words and pictures."""
    given = _folder(folder)
    dataset = entries.load_dataset(given, skip_invalid=True, layout=layout)
    if dataset.problems:
        terminal.say(f"{dataset.left_out} invalid dialogues are left out (`safemt-api data check {given}` lists them)")
    counted = statistics.dataset_statistics(dataset)
    if as_json:
        terminal.put_json(counted)
        return
    for part in counted.tables():
        rows = [[words.printable(cell) for cell in row] for row in part.rows]
        terminal.show(terminal.table(words.printable(f"\n{part.title}"), part.columns, rows))


@data_app.command("show", cls=GroupedCommand)
def show(
    dialogue_id: Annotated[str, typer.Argument(metavar="ID", help="The dialogue's id, which is the same in all lengths.")],
    folder: Folder = None,
    *,
    layout: LayoutName = None,
    lengths: Annotated[
        str | None, typer.Option("--lengths", metavar="1,2,4,6,8", help="Only these lengths. Default: all there are.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with the picture instead, in one file."),
    ] = None,
) -> None:
    """Show one id of a data folder: its dialogues, and its picture or what it is."""
    wanted = None if lengths is None else numbers(lengths)
    dataset = entries.load_dataset(_folder(folder), lengths=wanted, skip_invalid=True, layout=layout)
    dialogues = _dialogues(dataset, dialogue_id)
    try:
        paths = dict.fromkeys(path for dialogue in dialogues for path in dialogue.image_paths)
        pictures = {path: picture_files.inspect_image(dataset.folder, path) for path in paths}
        if page is None:
            _print(dialogues, _facts(dialogues, pictures, dataset.folder))
            return
        facts = _facts(dialogues, pictures, Path())
        files.write_bytes(page, report_page.dialogue_page(dataset, dialogues, facts, pictures).encode("utf-8"))
    except picture_files.ImageError as error:
        raise UsageError(f"{dialogue_id}: {error}") from error
    terminal.say(f"page: {page}")


def _dialogues(dataset: Dataset, dialogue_id: str) -> list[Dialogue]:
    found = sorted((entry for entry in dataset.entries if entry.id == dialogue_id), key=lambda entry: entry.length)
    if not found:
        close = difflib.get_close_matches(dialogue_id, dataset.ids, n=3)
        meant = (
            f"did you mean {' or '.join(map(elements.shown, close))}?" if close else f"its ids look like {elements.shown(dataset.ids[0])}"
        )
        left_out = f" ({dataset.left_out} invalid dialogues were left out)" if dataset.left_out else ""
        raise UsageError(f"{dataset.folder} has no valid dialogue {dialogue_id!r}{left_out}; {meant}")
    return [dataset.read(entry) for entry in found]


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


def _print(dialogues: Sequence[Dialogue], facts: Facts) -> None:
    terminal.show(terminal.grid((name, "dim", value) for name, value in facts))
    paths = dict.fromkeys(path for dialogue in dialogues for path in dialogue.image_paths)
    numbers = {path: number for number, path in enumerate(paths, 1)} if len(paths) > 1 else {}
    for dialogue in dialogues:
        terminal.show(terminal.heading(f"\n{dialogue.length} user turn{'s' if dialogue.length > 1 else ''}\n"))
        spoken = (
            (report_page.who_with_pictures(line, numbers), "bold" if line.role == "user" else "dim", line.text.strip())
            for line in dialogue.lines
        )
        terminal.show(terminal.grid(spoken, spaced=True))


@data_app.command("fetch", cls=GroupedCommand)
def fetch(
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="The folder to fill. Default: data/NAME.")] = None,
    layout: Annotated[
        str, typer.Option("--layout", metavar="NAME|FILE", help="Which set (`safemt-api data layouts`), or a layout file.")
    ] = "safemt",
    revision: Annotated[str | None, typer.Option("--revision", metavar="REF", help="Branch, tag or commit.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Download a published set from Hugging Face, after saying its licence and size (needs the extra: pip install 'safemt-api[data]')."""
    known = layouts.find_layout(layout)
    to = to or Path("data") / known.name
    terminal.say(hub.describe_source(known))
    if not yes and not terminal.agrees(f"Download into {to}?"):
        terminal.say("not downloaded (--yes does not ask)")
        raise typer.Exit(EXIT_BAD_DATA)
    folder = hub.fetch_dataset(to, known, revision=revision)
    terminal.say(f"downloaded into {folder}; checking all dialogues and pictures, which takes a moment")
    found = findings.examine(folder, known)
    if found.problems:
        for problem in found.problems[:MAX_PROBLEMS_SHOWN]:
            terminal.put(str(problem))
        terminal.say(
            f"what is in {folder} has {len(found.problems):,} problems (`safemt-api data check {folder}` lists all); run the same command "
            "again to complete a broken download, or leave the bad ones out with eval --skip-invalid"
        )
        raise typer.Exit(EXIT_BAD_DATA)
    counted = f"{found.dialogues:,} dialogues and {found.pictures:,} pictures"
    flag = "" if known.is_own_form else f" --layout {layout}"
    terminal.say(f"the data is in {folder}, {counted}, checked: safemt-api eval --data {folder}{flag}")


@data_app.command("convert", cls=GroupedCommand)
def convert(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with dialogues of any layout.")],
    *,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write, which must not be there yet.")],
    layout: LayoutName = None,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave invalid dialogues out.")] = False,
) -> None:
    """Write a data folder in our own form, with where it is from and on what terms beside it."""
    dataset = entries.load_dataset(folder, skip_invalid=skip_invalid, layout=layout)
    try:
        own_form.convert(dataset, to)
    except picture_files.ImageError as error:
        raise UsageError(str(error)) from error
    told = "" if dataset.layout is None else f", layout {dataset.layout.name}, licence {dataset.layout.licence}"
    left_out = f", {dataset.left_out:,} invalid ones left out" if dataset.left_out else ""
    terminal.say(
        f"{len(dataset.entries):,} dialogues written to {to}{told}{left_out}; where they are from stands in {to / own_form.PROVENANCE_FILE}"
    )


@data_app.command("layouts", cls=GroupedCommand)
def list_layouts(as_json: options.FiguresAsJson = False) -> None:
    """List the layouts: those that ship, and those of ./layouts."""
    known = layouts.load_layouts()
    if as_json:
        terminal.put_json([{**one.record, "unknown": one.unknown, "notes": one.notes} for one in known.values()])
        return
    for one in known.values():
        where = "" if one.hub is None else f", hub {one.hub.repository}{' (gated)' if one.hub.gated else ''}"
        terminal.put(f"{one.name}: {one.title}; licence {one.licence}{where}; checked {one.checked.isoformat()}")


@data_app.command("build", cls=GroupedCommand)
def build(
    *,
    queries: Annotated[
        Path, typer.Option("--queries", metavar="FILE", help="Your queries: .jsonl, .json or .csv with id, scenario, goal, image_path.")
    ],
    generator: Annotated[str, typer.Option("--generator", metavar="PROVIDER:MODEL", help="Writes the dialogues.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write; one of the same build goes on.")],
    images: Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Where image_path points.")] = None,
    lengths: Annotated[str, typer.Option("--lengths", metavar="2,4,6,8", help="Dialogue lengths; 1 is the bare query.")] = "2,4,6,8",
    methods: Annotated[
        str,
        typer.Option("--methods", metavar="NAME|FILE|DIR,…", help="Shipped methods, Markdown files of yours, or a folder of them."),
    ] = "lead-in,fiction,purpose,in-context",
    reader: Annotated[
        str | None, typer.Option("--reader", metavar="PROVIDER:MODEL", help="Infers the goal, blind. Default: the generator.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", metavar="PROVIDER:MODEL", help="Judges what filters ask. Default: the generator.")
    ] = None,
    language: Annotated[str, typer.Option("--language", metavar="L", help="In which language.")] = "en",
    twins: Annotated[bool, typer.Option("--twins", help="Build a benign twin beside each dialogue.")] = False,
    picture_needed: Annotated[bool, typer.Option("--picture-needed", help="Drop dialogues whose goal shows without the picture.")] = False,
    attempts: Annotated[int, typer.Option("--attempts", metavar="N", help="Drafts for a place before it stays empty.")] = 3,
    max_usd: Annotated[float | None, typer.Option("--max-usd", metavar="X", help="Ceiling on all that it spends.")] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", metavar="N", help="Most calls in flight.")] = 32,
    providers: Annotated[Path | None, typer.Option("--providers", metavar="DIR", help="Vendor files of your own (TOML).")] = None,
) -> None:
    """Make test dialogues of your own queries by method, filtered; the assistant's lines in them hold nothing usable."""
    settings = builder.BuildSettings(
        queries=queries,
        out=out,
        generator=generator,
        images=images,
        lengths=numbers(lengths),
        methods=tuple(name.strip() for name in methods.split(",") if name.strip()),
        reader=reader,
        judge=judge,
        language=language,
        twins=twins,
        picture_needed=picture_needed,
        attempts=attempts,
        max_usd=max_usd,
        concurrency=concurrency,
        providers=providers,
    )
    try:
        result = terminal.run_loop(partial(builder.build, settings))
    except KeyboardInterrupt:
        terminal.say(f"interrupted; what was bought is kept in {out}, and the same command goes on")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if result.record is None:
        terminal.say(f"{result.stopped_by}; run the same command again to go on")
        raise typer.Exit(result.exit_code)
    columns = ("method", "length", "kind", "wanted", "kept")
    rows = [[str(one[name]) for name in columns] for one in result.record["counts"]]
    terminal.show(terminal.table("\nKept by method and length", columns, rows))
    dropped = ", ".join(f"{name} {count:,}" for name, count in result.record["dropped_by"].items()) or "none"
    terminal.say(f"{result.record['kept']:,} of {result.record['wanted']:,} dialogues in {out}; drafts dropped by: {dropped}")
    terminal.say(f"what was dropped and why stands in {out / builder.BUILD_FILE}; look through it: safemt-api data review {out}")


@data_app.command("review", cls=GroupedCommand)
def review(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with dialogues.")],
    *,
    page: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="The page. Default: DIR/review.html.")] = None,
    apply: Annotated[
        Path | None, typer.Option("--apply", metavar="FILE", help="Decisions that the page saved: write what they keep to --to.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Where, with --apply.")] = None,
) -> None:
    """Look through a folder by hand: a page to keep, drop or edit each dialogue, its words collapsed; then apply the decisions."""
    dataset = entries.load_dataset(folder)
    if apply is None:
        target = page or folder / "review.html"
        files.write_bytes(target, reviewing.review_page(dataset).encode("utf-8"))
        terminal.say(f"page: {target}; save your decisions there, then: safemt-api data review {folder} --apply FILE --to DIR")
        return
    if to is None:
        raise UsageError("--apply needs --to, the folder to write")
    kept, dropped, edited = reviewing.apply_decisions(dataset, apply, to)
    terminal.say(f"{kept:,} dialogues written to {to}, {edited:,} of them edited; {dropped:,} dropped")
