"""``safemt-api canary``: ask a part of a finished run afresh, and say whether the model changed."""

from __future__ import annotations

from typing import Annotated

import typer

from safemt_api.cli import options
from safemt_api.runs.options import Group
from safemt_api.runs.settings import MOST


@options.takes_settings("resume")
def canary(
    given: options.Given,
    run: options.RunName,
    *,
    sample: Annotated[
        int,
        typer.Option("--sample", min=1, max=MOST, metavar="N", help="Ask N ids, spread over the scenarios.", rich_help_panel=Group.DATA),
    ] = 200,
    results: options.Results = options.RESULTS,
    as_json: options.FiguresAsJson = False,
    yes: options.Yes = False,
) -> None:
    """Ask a part of a finished run afresh, and test the change against the noise that repeated replies show.

    The new run is called RUN-canary-DATE; the same command goes on with it, and on another day asks again.
    """
    from safemt_api.cli.canary_play import run_canary  # noqa: PLC0415 (imports SDKs and polars, which --help must not)

    raise typer.Exit(run_canary(run, given, sample=sample, results=results, as_json=as_json, yes=yes))
