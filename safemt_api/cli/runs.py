"""``safemt-api runs``: what stands in a results folder, under way or not."""

from __future__ import annotations

from typing import Annotated

import typer

from safemt_api.cli import options
from safemt_api.cli.options import imported_on_use

with imported_on_use():
    from safemt_api.cli import terminal
    from safemt_api.report import views
    from safemt_api.runs import overview


def runs(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Keep looking until Ctrl-C; runs of other terminals show too.")] = False,
    results: options.Results = options.RESULTS,
    as_json: options.AsJson = False,
) -> None:
    """List the runs of a results folder: state, progress, ASR so far, missing verdicts, spend, age."""
    if as_json:
        terminal.put_json(overview.overview(results))
    elif watch:
        views.watch_runs(results, terminal.output_console())
    else:
        terminal.show(views.run_list(overview.overview(results), results))
