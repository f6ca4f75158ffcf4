"""``safemt-api runs``: what stands in a results folder, under way or not."""

from __future__ import annotations

from typing import Annotated

import typer

from safemt_api.cli import options


def runs(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Keep looking until Ctrl-C; runs of other terminals show too.")] = False,
    results: options.Results = options.RESULTS,
    as_json: options.AsJson = False,
) -> None:
    """List the runs of a results folder: state, progress, ASR so far, missing verdicts, spend, age."""
    from safemt_api.cli.json_output import put_json  # noqa: PLC0415 (only what this command needs)
    from safemt_api.cli.printing import output_console  # noqa: PLC0415 (imports rich)
    from safemt_api.report.run_table import run_table, watch_table  # noqa: PLC0415 (the same)
    from safemt_api.runs.overview import overview  # noqa: PLC0415 (the same)

    console = output_console()
    if as_json:
        put_json(overview(results))
    elif watch:
        watch_table(results, console)
    else:
        console.print(run_table(overview(results), results))
