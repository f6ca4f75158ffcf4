"""``safemt-api resume``: let a run go on where it stopped."""

from __future__ import annotations

from dataclasses import replace

import typer

from safemt_api.cli import options


def resume(
    run: options.RunName,
    *,
    results: options.Results = options.RESULTS,
    concurrency: options.Concurrency = None,
    max_usd: options.MaxUsd = None,
    rpm: options.Rpm = None,
    tpm: options.Tpm = None,
    max_failures: options.MaxFailures = None,
    stall_seconds: options.StallSeconds = None,
    connect_seconds: options.ConnectSeconds = None,
    idle_seconds: options.IdleSeconds = None,
    total_seconds: options.TotalSeconds = None,
    as_json: options.AsJson = False,
    yes: options.Yes = False,
) -> None:
    """Let a run go on where it stopped; replies that are in the store are not bought again.

    The settings are those of the run; pace and money may be given anew.
    """
    from safemt_api.cli.finding import settings_of  # noqa: PLC0415 (keeps --help quick)
    from safemt_api.cli.running import run_evaluation  # noqa: PLC0415 (imports SDKs and polars, which --help must not)

    changes = options.given(
        concurrency=concurrency,
        max_usd=max_usd,
        rpm=rpm,
        tpm=tpm,
        max_failures=max_failures,
        stall_seconds=stall_seconds,
        connect_seconds=connect_seconds,
        idle_seconds=idle_seconds,
        total_seconds=total_seconds,
    )
    settings = replace(settings_of(run, results), **changes)  # type: ignore[arg-type] # fields of EvalSettings by their names, checked there
    raise typer.Exit(run_evaluation(settings, dry_run=False, as_json=as_json, yes=yes))
