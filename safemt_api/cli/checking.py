"""What ``providers check`` does: one tiny call with a small picture, explained in plain words."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import choice

import anyio
import PIL.Image
import PIL.ImageDraw

from safemt_api.adapters.base import Received, Timeouts, open_adapter
from safemt_api.adapters.http_client import open_http_client
from safemt_api.cli.loop import BACKEND_OPTIONS
from safemt_api.cli.printing import say
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
from safemt_api.evaluation import open_router
from safemt_api.markers import COLOUR_QUESTION
from safemt_api.messages import DECLINED, Call, Image, Message, Parameters, user
from safemt_api.prices import find_price
from safemt_api.profiles import Profile
from safemt_api.report import words
from safemt_api.routes import Destination
from safemt_api.runs.discovering import served_model
from safemt_api.runs.settings import EvalSettings
from safemt_api.simulator.requests import COLOURS

WITHOUT_PICTURE = "Answer with the single word: ready"
OUTPUT_TOKENS = 256
REASONING_OUTPUT_TOKENS = 2048
TIMEOUTS = Timeouts(connect_seconds=10.0, idle_seconds=60.0, total_seconds=90.0)
EXIT_WORKS, EXIT_FAILS = 0, 2


def run_check(name: str, *, model: str | None, base_url: str | None, folder: Path | None) -> int:
    """Try the vendor; returns the exit code."""
    settings = EvalSettings(provider=name, model=model, base_urls=(base_url,) if base_url else (), providers=folder, judges=("rules",))
    return anyio.run(partial(_check, settings), backend_options=BACKEND_OPTIONS)


async def _check(settings: EvalSettings) -> int:
    name = settings.provider or ""
    async with open_router(settings) as router:
        profile = router.profile(name)
        profile.api_key()
        destination = router.destination(name, await _model(settings, profile, router.destination(name, "").route.base_urls[0]))
        return await _try(destination)


async def _model(settings: EvalSettings, profile: Profile, url: str) -> str:
    model = settings.model or profile.default_model
    if model is None and profile.local:
        return await served_model(profile, url)
    if model is None:
        raise UsageError(f"{profile.name} has no default model: give --model")
    return model


async def _try(destination: Destination) -> int:
    colour = choice(tuple(COLOURS))
    title = f"{destination.profile.name}:{destination.route.model} at {destination.route.base_urls[0]}"
    try:
        received = await _ask(destination, user(COLOUR_QUESTION, circle(colour)))
    except DialogueError as error:
        return await _without_picture(destination, title, error)
    except SafeMTError as error:
        say(f"{title} does not work: {error}")
        for cure in _cures(error):
            say(cure)
        return EXIT_FAILS
    for line in _report(destination, received, colour):
        say(line)
    declined = received.reply.outcome in DECLINED
    return EXIT_WORKS if declined or names_colour(received.reply.text, colour) else EXIT_FAILS


async def _without_picture(destination: Destination, title: str, first: DialogueError) -> int:
    try:
        await _ask(destination, user(WITHOUT_PICTURE))
    except SafeMTError as error:
        say(f"{title} does not work: {error}")
        return EXIT_FAILS
    say(f"{title} answers words but refuses pictures: {first}. SafeMT needs a model that sees; `providers show` names some.")
    return EXIT_FAILS


async def _ask(destination: Destination, message: Message) -> Received:
    route, profile = destination
    async with open_http_client(connections=1, timeouts=TIMEOUTS) as client:
        adapter = open_adapter(
            profile=profile,
            wire_format=route.wire_format,
            base_url=route.base_urls[0],
            api_key=profile.api_key(),
            client=client,
            timeouts=TIMEOUTS,
        )
        most = REASONING_OUTPUT_TOKENS if profile.facts(route.model).reasons else OUTPUT_TOKENS
        try:
            with anyio.fail_after(TIMEOUTS.total_seconds):
                return await adapter.send(Call(route, (message,), parameters=Parameters(max_output_tokens=most)))
        except TimeoutError as error:
            raise CallError(f"no whole answer within {TIMEOUTS.total_seconds:.0f} s") from error


def circle(colour: str) -> Image:
    """A circle of that colour on white, a few hundred bytes."""
    picture = PIL.Image.new("RGB", (96, 96), "white")
    PIL.ImageDraw.Draw(picture).ellipse((16, 16, 80, 80), fill=COLOURS[colour])
    target = io.BytesIO()
    picture.save(target, "PNG")
    data = target.getvalue()
    return Image(data, digest=f"sha256:{sha256(data).hexdigest()}", media_type="image/png", width_pixels=96, height_pixels=96)


def names_colour(text: str, colour: str) -> bool:
    """Whether the answer names that colour and none of the others."""
    named = set(re.findall(r"[a-z]+", text.casefold())) & set(COLOURS)
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
    price = find_price(profile, route.model)
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
