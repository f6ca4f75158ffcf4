"""``safemt-api providers``: which vendors are known, what is known of them, and whether one works here."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from random import choice
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from safemt_api.cli import options
from safemt_api.cli.on_use import imported_on_use
from safemt_api.cli.options import GroupedCommand
from safemt_api.errors import (
    AccountError,
    CallError,
    ConnectionFailedError,
    DialogueError,
    RateLimitedError,
    SafeMTError,
    ServerError,
    UsageError,
)
from safemt_api.foreign_text import printable
from safemt_api.markers import COLOUR_QUESTION
from safemt_api.messages import DECLINED, Call, Image, Message, Parameters, user
from safemt_api.runs.settings import EvalSettings

with imported_on_use():
    from safemt_api import evaluation, prices, simulator, words
    from safemt_api.adapters import base, http_client
    from safemt_api.cli import terminal, vendors
    from safemt_api.runs import connections

if TYPE_CHECKING:
    from safemt_api.adapters.base import Received
    from safemt_api.profiles import Profile
    from safemt_api.routes import Destination

WITHOUT_PICTURE = "Answer with the single word: ready"
OUTPUT_TOKENS = 256
REASONING_OUTPUT_TOKENS = 2048
CONNECT_SECONDS, IDLE_SECONDS, TOTAL_SECONDS = 10.0, 60.0, 90.0
EXIT_WORKS, EXIT_FAILS = 0, 2

providers_app = typer.Typer(help="List, show and try vendors.", rich_markup_mode=None, invoke_without_command=True)


@providers_app.callback()
def _bare(context: typer.Context) -> None:
    """Vendors: list (also without a word), show NAME, check NAME."""
    if context.invoked_subcommand is None:
        list_providers(None, as_json=False)


@providers_app.command("list", cls=GroupedCommand)
def list_providers(providers: options.Providers = None, *, as_json: options.FiguresAsJson = False) -> None:
    """List the vendors: wire format, whether a key is set, default model, default judge."""
    if as_json:
        terminal.put_json(vendors.provider_records(providers))
        return
    typer.echo(printable("\n".join(vendors.provider_lines(providers))))


@providers_app.command("show", cls=GroupedCommand)
def show(
    name: Annotated[str, typer.Argument(metavar="NAME")], providers: options.Providers = None, *, as_json: options.FiguresAsJson = False
) -> None:
    """Show all that is known of a vendor, each fact with the page it was read on."""
    if as_json:
        terminal.put_json(vendors.profile_record(name, providers))
        return
    typer.echo(printable("\n".join(vendors.profile_lines(name, providers))))


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
    settings = EvalSettings(provider=name, model=model, base_urls=(base_url,) if base_url else (), providers=providers, judges=("rules",))
    code = terminal.run_loop(partial(_check, settings))
    if as_json:
        terminal.put_json({"provider": name, "model": model, "works": code == 0})
    raise typer.Exit(code)


async def _check(settings: EvalSettings) -> int:
    name = settings.provider or ""
    async with evaluation.open_router(settings) as router:
        profile = router.profile(name)
        profile.api_key()
        destination = router.destination(name, await _model(settings, profile, router.destination(name, "").route.base_urls[0]))
        colour = choice(tuple(simulator.COLOURS))
        title = f"{destination.profile.name}:{destination.route.model} at {destination.route.base_urls[0]}"
        try:
            received = await _ask(destination, user(COLOUR_QUESTION, circle(colour)))
        except DialogueError as error:
            # Whether it is the picture that it refuses.
            try:
                await _ask(destination, user(WITHOUT_PICTURE))
            except SafeMTError as worse:
                terminal.say(f"{title} does not work: {worse}")
            else:
                what = f"{title} answers words but refuses pictures: {error}"
                terminal.say(f"{what}. SafeMT needs a model that sees; `providers show` names some.")
            return EXIT_FAILS
        except SafeMTError as error:
            terminal.say(f"{title} does not work: {error}")
            terminal.say(*_cures(error))
            return EXIT_FAILS
        terminal.say(*_report(destination, received, colour))
        declined = received.reply.outcome in DECLINED
        return EXIT_WORKS if declined or names_colour(received.reply.text, colour) else EXIT_FAILS


async def _model(settings: EvalSettings, profile: Profile, url: str) -> str:
    model = settings.model or profile.default_model
    if model is None and profile.local:
        return await connections.served_model(profile, url)
    if model is None:
        raise UsageError(f"{profile.name} has no default model: give --model")
    return model


async def _ask(destination: Destination, message: Message) -> Received:
    route, profile = destination
    timeouts = base.Timeouts(connect_seconds=CONNECT_SECONDS, idle_seconds=IDLE_SECONDS, total_seconds=TOTAL_SECONDS)
    async with http_client.open_http_client(connections=1, timeouts=timeouts) as client:
        adapter = base.open_adapter(
            profile=profile,
            wire_format=route.wire_format,
            base_url=route.base_urls[0],
            api_key=profile.api_key(),
            client=client,
            timeouts=timeouts,
        )
        most = REASONING_OUTPUT_TOKENS if profile.facts(route.model).reasons else OUTPUT_TOKENS
        try:
            with anyio.fail_after(TOTAL_SECONDS):
                return await adapter.send(Call(route, (message,), parameters=Parameters(max_output_tokens=most)))
        except TimeoutError as error:
            raise CallError(f"no whole answer within {TOTAL_SECONDS:.0f} s") from error


def circle(colour: str) -> Image:
    """A circle of that colour on white, a few hundred bytes."""
    from PIL import Image as Picture  # noqa: PLC0415 (loaded for this one call)
    from PIL import ImageDraw  # noqa: PLC0415 (the same)

    picture = Picture.new("RGB", (96, 96), "white")
    ImageDraw.Draw(picture).ellipse((16, 16, 80, 80), fill=simulator.COLOURS[colour])
    target = io.BytesIO()
    picture.save(target, "PNG")
    data = target.getvalue()
    return Image(data, digest=f"sha256:{sha256(data).hexdigest()}", media_type="image/png", width_pixels=96, height_pixels=96)


def names_colour(text: str, colour: str) -> bool:
    """Whether the answer names that colour and none of the others."""
    named = set(re.findall(r"[a-z]+", text.casefold())) & set(simulator.COLOURS)
    return named == {colour}


def _report(destination: Destination, received: Received, colour: str) -> Iterator[str]:
    route, profile = destination
    reply = received.reply
    title, said = f"{profile.name}:{route.model} at {route.base_urls[0]}", words.printable(reply.text.strip(), limit=80) or "nothing"
    if reply.outcome in DECLINED:
        yield f"{title} works: it took the picture and answered in {reply.latency_seconds:.1f} s"
        yield f"  it declined to answer ({reply.outcome.value}: {reply.detail}); the way there is fine"
    elif names_colour(reply.text, colour):
        yield f"{title} works: it took the picture and saw that the circle is {colour}, in {reply.latency_seconds:.1f} s"
    else:
        yield f"{title} answers, but does not see: the circle in the picture is {colour}, and it said: {said}"
        yield "  SafeMT needs a model that sees; `providers show` names some"
    if reply.served_model and reply.served_model != route.model:
        yield f"  served by: {reply.served_model}"
    usage = reply.usage
    yield (
        "  usage: not reported, so calls cannot be priced"
        if usage is None
        else (f"  usage: {usage.input_tokens} tokens in, {usage.output_tokens} out")
    )
    price = prices.find_price(profile, route.model)
    yield "  price: not known, so --max-usd cannot be held" if price is None else f"  price: known ({price.source})"
    for quota in received.quotas:
        if quota.limit is not None:
            yield f"  limit announced: {quota.limit:,} {quota.kind.replace('_', ' ')} per {quota.window_seconds:.0f} s"


def _cures(error: SafeMTError) -> Iterator[str]:
    """What to do about it, where the error's own sentence does not say."""
    if isinstance(error, RateLimitedError):
        yield "  the account is at its limit just now; wait a moment and try again"
    elif isinstance(error, ConnectionFailedError):
        yield "  check the address (--base-url), the network, and that the server is running"
    elif isinstance(error, ServerError):
        yield "  the fault is the server's; try again, or look at its status page"
    elif isinstance(error, AccountError):
        yield "  check that the key is valid, that the account may use this model, and that the model's id is right (--model)"
