"""``safemt-api eval``: evaluate a model."""

from __future__ import annotations

import typer

from safemt_api.cli import options
from safemt_api.runs.settings import settings_from


@options.takes_settings("eval")
def evaluate(given: options.Given, *, dry_run: options.DryRun = False, as_json: options.AsJson = False, yes: options.Yes = False) -> None:
    """Evaluate a model: play the dialogues, judge the replies, print and write the scores.

    Without any option the demonstration set runs against the built-in simulator: no key, no network, no bill.
    """
    from safemt_api.cli.running import run_evaluation  # noqa: PLC0415 (imports SDKs and polars, which --help must not)

    raise typer.Exit(run_evaluation(settings_from(given), dry_run=dry_run, as_json=as_json, yes=yes))
