"""``safemt-api defend``: what moderators do to a model's safety, and what they cost."""

from __future__ import annotations

from typing import Annotated

import typer

from safemt_api.cli import options
from safemt_api.runs.options import Group
from safemt_api.runs.settings import settings_from

HELPS = {
    "max_usd": "Ceiling on all that all arms spend together, judge and retries included.",
    "run": "What the arms' names begin with (NAME-none, NAME-SPEC); arms that exist go on.",
}


@options.takes_settings("defend", helps=HELPS)
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
    dry_run: options.DryRun = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print exactly the record (defence.json) on standard output.", rich_help_panel=Group.OUTPUT)
    ] = False,
    yes: options.Yes = False,
) -> None:
    """Measure moderators: the same dialogues, harmful and benign, without any and with each, compared pair by pair.

    Every arm is a run of its own, so the same command goes on where it stopped, and target calls that are the same in two arms are
    bought once.
    """
    from safemt_api.cli.defending import run_defence  # noqa: PLC0415 (imports SDKs and polars, which --help must not)

    urls = tuple(moderator_base_url or ())
    raise typer.Exit(run_defence(settings_from(given), tuple(moderator), urls, dry_run=dry_run, as_json=as_json, yes=yes))
