"""``safemt-api data``: check, describe, show and download dialogues."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safemt_api.cli import options
from safemt_api.cli.command import GroupedCommand
from safemt_api.runs.options import numbers

data_app = typer.Typer(help="Check, describe, show and download dialogues.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[
    Path | None, typer.Argument(metavar="DIR", help="A folder in the official layout. Default: SAFEMT_DATA, else the demonstration set.")
]


@data_app.command("check", cls=GroupedCommand)
def check(folder: Folder = None, as_json: options.FiguresAsJson = False) -> None:
    """List everything that is wrong with a data folder, every picture decoded; exit code 2 if anything is."""
    from safemt_api.cli.inspecting import check_data  # noqa: PLC0415 (imports Pillow, which --help must not)

    raise typer.Exit(check_data(folder, as_json=as_json))


@data_app.command("stats", cls=GroupedCommand)
def stats(folder: Folder = None, as_json: options.FiguresAsJson = False) -> None:
    """Count dialogues by scenario and length, words and pictures."""
    from safemt_api.cli.inspecting import show_statistics  # noqa: PLC0415 (imports Pillow and rich, which --help must not)

    show_statistics(folder, as_json=as_json)


@data_app.command("show", cls=GroupedCommand)
def show(
    dialogue_id: Annotated[str, typer.Argument(metavar="ID", help="The dialogue's id, which is the same in all lengths.")],
    folder: Folder = None,
    *,
    lengths: Annotated[
        str | None, typer.Option("--lengths", metavar="1,2,4,6,8", help="Only these lengths. Default: all there are.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with the picture instead, in one file."),
    ] = None,
) -> None:
    """Show one id of a data folder: its dialogues, and its picture or what it is."""
    from safemt_api.cli.showing import show_dialogue  # noqa: PLC0415 (imports Pillow and rich, which --help must not)

    show_dialogue(dialogue_id, folder, lengths=None if lengths is None else numbers(lengths), page=page)


@data_app.command("fetch", cls=GroupedCommand)
def fetch(
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to fill.")] = Path("data/safemt"),
    revision: Annotated[str | None, typer.Option("--revision", metavar="REF", help="Branch, tag or commit.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Download the authors' copy from Hugging Face, after saying its licence and size (needs the extra: pip install 'safemt-api[data]')."""
    from safemt_api.cli.inspecting import fetch_data  # noqa: PLC0415 (beside the others)

    raise typer.Exit(fetch_data(to, revision=revision, yes=yes))
