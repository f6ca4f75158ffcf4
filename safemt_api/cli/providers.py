"""``safemt-api providers``: which vendors are known, what is known of them, and whether one works here."""

from __future__ import annotations

from typing import Annotated

import typer

from safemt_api.cli import options
from safemt_api.cli.command import GroupedCommand
from safemt_api.cli.json_output import put_json
from safemt_api.foreign_text import printable

providers_app = typer.Typer(help="List, show and try vendors.", rich_markup_mode=None, invoke_without_command=True)


@providers_app.callback()
def _bare(context: typer.Context) -> None:
    """Vendors: list (also without a word), show NAME, check NAME."""
    if context.invoked_subcommand is None:
        list_providers(None, as_json=False)


@providers_app.command("list", cls=GroupedCommand)
def list_providers(providers: options.Providers = None, *, as_json: options.FiguresAsJson = False) -> None:
    """List the vendors: wire format, whether a key is set, default model, default judge."""
    from safemt_api.cli.listing import provider_lines, provider_records  # noqa: PLC0415 (reads the vendor files)

    if as_json:
        put_json(provider_records(providers))
        return
    typer.echo(printable("\n".join(provider_lines(providers))))


@providers_app.command("show", cls=GroupedCommand)
def show(
    name: Annotated[str, typer.Argument(metavar="NAME")], providers: options.Providers = None, *, as_json: options.FiguresAsJson = False
) -> None:
    """Show all that is known of a vendor, each fact with the page it was read on."""
    from safemt_api.cli.listing import profile_lines, profile_record  # noqa: PLC0415 (reads the vendor files)

    if as_json:
        put_json(profile_record(name, providers))
        return
    typer.echo(printable("\n".join(profile_lines(name, providers))))


@providers_app.command("check", cls=GroupedCommand)
def check(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    model: Annotated[str | None, typer.Option("--model", metavar="ID", help="Default: the vendor's default model.")] = None,
    base_url: Annotated[str | None, typer.Option("--base-url", metavar="URL", help="Address of the server.")] = None,
    providers: options.Providers = None,
    *,
    as_json: options.FiguresAsJson = False,
) -> None:
    """Make one tiny call with a small picture and say in plain words what works and what does not."""
    from safemt_api.cli.checking import run_check  # noqa: PLC0415 (imports an SDK, which --help must not)

    code = run_check(name, model=model, base_url=base_url, folder=providers)
    if as_json:
        put_json({"provider": name, "model": model, "works": code == 0})
    raise typer.Exit(code)
