"""``safemt-api view``: a page over everything in a results folder, which follows runs while they are played."""

from __future__ import annotations

import sys
import webbrowser
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from safemt_api.cli import options
from safemt_api.cli.on_use import imported_on_use

with imported_on_use():
    from safemt_api.cli import terminal
    from safemt_api.view import server


def view(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[RESULTS]", help="The results folder.  [default: results]", show_default=False)
    ] = None,
    *,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 takes a free one.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser; otherwise its address is all.")
    ] = True,
    results: options.Results = options.RESULTS,
) -> None:
    """Show runs, studies and transcripts in a browser while they come in, until Ctrl-C; nothing leaves this machine, nothing is changed."""
    server.serve(folder or results, port=port, announce=partial(_announce, browser=browser and sys.stdout.isatty()))


def _announce(address: str, *, browser: bool) -> None:
    terminal.put(f"The results stand at {address}")
    terminal.say("The address holds a key: whoever on this machine has it can read them. Ctrl-C ends the viewer.")
    sys.stdout.flush()
    if browser:
        webbrowser.open(address)
