"""``safemt-api data``: check, describe and download dialogues."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safemt_api.cli.command import GroupedCommand

data_app = typer.Typer(help="Check, describe and download dialogues.", no_args_is_help=True, rich_markup_mode=None)

Folder = Annotated[
    Path | None, typer.Argument(metavar="DIR", help="A folder in the official layout. Default: SAFEMT_DATA, else the demonstration set.")
]


@data_app.command("check", cls=GroupedCommand)
def check(folder: Folder = None) -> None:
    """List everything that is wrong with a data folder, every picture decoded; exit code 2 if anything is."""
    from safemt_api.cli.inspecting import check_data  # noqa: PLC0415 (imports Pillow, which --help must not)

    raise typer.Exit(check_data(folder))


@data_app.command("stats", cls=GroupedCommand)
def stats(folder: Folder = None) -> None:
    """Count dialogues by scenario and length, words and pictures."""
    from safemt_api.cli.inspecting import show_statistics  # noqa: PLC0415 (imports Pillow and rich, which --help must not)

    show_statistics(folder)


@data_app.command("fetch", cls=GroupedCommand)
def fetch(
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to fill.")] = Path("data/safemt"),
    revision: Annotated[str | None, typer.Option("--revision", metavar="REF", help="Branch, tag or commit.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Download the authors' copy from Hugging Face, after saying its licence and size (needs the extra: pip install 'safemt-api[data]')."""
    from safemt_api.cli.inspecting import fetch_data  # noqa: PLC0415 (beside the others)

    raise typer.Exit(fetch_data(to, revision=revision, yes=yes))
