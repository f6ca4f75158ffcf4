"""``safemt-api study``, ``sweep``, ``defend``, ``ablate``: evaluations over the same dialogues, under one ceiling, in one report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from safemt_api.cli import options
from safemt_api.errors import UsageError
from safemt_api.foreign_text import printable
from safemt_api.runs.options import Group
from safemt_api.studies.ablate import ablate as ablation
from safemt_api.studies.arms import Study
from safemt_api.studies.defend import defend as defence
from safemt_api.studies.sweep import sweep as sweeping

Save = Annotated[
    Path | None,
    typer.Option(
        "--save", metavar="FILE", help="Keep the study as a TOML file for `safemt-api study`, and end.", rich_help_panel=Group.OUTPUT
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        "--run",
        metavar="NAME",
        help="Of the study; one that exists goes on. Default: date, command and a digest.",
        rich_help_panel=Group.OUTPUT,
    ),
]
MaxUsd = Annotated[
    float | None,
    typer.Option(
        "--max-usd",
        metavar="X",
        help="One ceiling over all arms, judges and moderators included; stands over the file's.",
        rich_help_panel=Group.PACE,
    ),
]


def study(
    name: Annotated[str | None, typer.Argument(metavar="FILE", help="A TOML file, or the name of a study that ships.")] = None,
    *,
    show: Annotated[str | None, typer.Option("--show", metavar="NAME", help="Print a study that ships, and end.")] = None,
    max_usd: MaxUsd = None,
    results: options.Results = options.RESULTS,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    yes: options.Yes = False,
) -> None:
    """Play a study, or go on with it: arms over the same dialogues at the same time, one ceiling, one report.

    The same command goes on where it stopped; an arm that was added to the file later starts where it stands.
    """
    from safemt_api.studies.file import read_study  # noqa: PLC0415 (imports what --help must not)
    from safemt_api.studies.shipped import find_study, shipped_names  # noqa: PLC0415 (the same)

    if show is not None:
        typer.echo(printable(find_study(show).read_text(encoding="utf-8")), nl=False)
        return
    if name is None:
        raise UsageError(f"which study? Give a file, or one that ships: {', '.join(shipped_names())}")
    _play(read_study(find_study(name)), max_usd=max_usd, results=results, dry_run=dry_run, as_json=as_json, yes=yes)


@options.takes_settings("eval", leave_out=("provider", "model", "run", "results", "max_usd", "until_ci", "show"))
def sweep(
    given: options.Given,
    *,
    target: Annotated[
        list[str], typer.Option("--target", metavar="SPEC", help="PROVIDER:MODEL; several times, the first is the reference.")
    ],
    name: Name = None,
    save: Save = None,
    max_usd: MaxUsd = None,
    results: options.Results = options.RESULTS,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    yes: options.Yes = False,
) -> None:
    """Evaluate several models over the same dialogues at the same time: a ranking with the range that the data leave open."""
    _keep_or_play(sweeping(target, given, name=name, max_usd=max_usd), save, results=results, dry_run=dry_run, as_json=as_json, yes=yes)


@options.takes_settings("eval", leave_out=("run", "results", "max_usd", "until_ci", "show"))
def ablate(
    given: options.Given,
    *,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="PART", help="no-picture, blank-picture, no-history or no-replies; default: all of them."),
    ] = None,
    name: Name = None,
    save: Save = None,
    max_usd: MaxUsd = None,
    results: options.Results = options.RESULTS,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    yes: options.Yes = False,
) -> None:
    """Say what picture and history do: the same model shown the whole dialogue, and all but one part of it."""
    made = ablation(given, without=without or (), name=name, max_usd=max_usd)
    _keep_or_play(made, save, results=results, dry_run=dry_run, as_json=as_json, yes=yes)


@options.takes_settings("defend", leave_out=("run", "results", "max_usd"))
def defend(
    given: options.Given,
    *,
    moderator: Annotated[
        list[str],
        typer.Option(
            "--moderator",
            metavar="SPEC",
            help="policy:PROVIDER:MODEL, raw:PROVIDER:MODEL, guard:PROVIDER:MODEL or moderation:openai; repeat it to compare several.",
            rich_help_panel=Group.MODERATOR,
        ),
    ],
    moderator_base_url: Annotated[
        list[str] | None,
        typer.Option(
            "--moderator-base-url",
            metavar="URL",
            help="Address of the moderators' server; or one for each --moderator, in their order (- for the provider's own).",
            rich_help_panel=Group.MODERATOR,
        ),
    ] = None,
    name: Name = None,
    save: Save = None,
    max_usd: MaxUsd = None,
    results: options.Results = options.RESULTS,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    yes: options.Yes = False,
) -> None:
    """Measure moderators: the same dialogues, harmful and benign, without any and with each, compared pair by pair.

    A study whose arms differ in the moderator: the same command goes on where it stopped, and target calls that are the same in two arms
    are bought once.
    """
    made = defence(moderator, given, base_urls=moderator_base_url or (), name=name, max_usd=max_usd)
    _keep_or_play(made, save, results=results, dry_run=dry_run, as_json=as_json, yes=yes)


def _keep_or_play(made: Study, save: Path | None, *, results: Path, **how: Any) -> None:
    from safemt_api.files import write_text  # noqa: PLC0415 (only where a file is to be kept)
    from safemt_api.studies.file import study_text  # noqa: PLC0415 (imports what --help must not)

    if save is not None:
        for arm in made.arms:
            made.settings(arm)
        write_text(save, study_text(made))
        return
    _play(made, results=results, **how)


def _play(made: Study, *, results: Path, max_usd: float | None = None, dry_run: bool, as_json: bool, yes: bool) -> None:
    from safemt_api.cli.study_play import run_study  # noqa: PLC0415 (imports SDKs and polars, which --help must not)

    whole = made if max_usd is None else replace(made, max_usd=max_usd)
    raise typer.Exit(run_study(whole, results=results, dry_run=dry_run, as_json=as_json, yes=yes))
