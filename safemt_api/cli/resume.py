"""``safemt-api resume``: let a run go on where it stopped."""

from __future__ import annotations

from dataclasses import replace

import typer

from safemt_api.cli import options


@options.takes_settings("resume")
def resume(
    given: options.Given,
    run: options.RunName,
    *,
    results: options.Results = options.RESULTS,
    as_json: options.AsJson = False,
    yes: options.Yes = False,
) -> None:
    """Let a run go on where it stopped; replies that are in the store are not bought again.

    The settings are those of the run; pace and money may be given anew.
    """
    from safemt_api.cli.finding import settings_of  # noqa: PLC0415 (keeps --help quick)
    from safemt_api.cli.running import run_evaluation  # noqa: PLC0415 (imports SDKs and polars, which --help must not)

    raise typer.Exit(run_evaluation(replace(settings_of(run, results), **given), dry_run=False, as_json=as_json, yes=yes))
