"""Helpers of the adapter tests: adapters over a handler function, as the real SDKs see a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import date
from typing import Any

import httpx2
import pytest

from safemt_api.adapters.base import Adapter, Timeouts, open_adapter
from safemt_api.adapters.http_client import open_http_client
from safemt_api.messages import Call, Image, Message, Parameters, Route, Schema, assistant, user
from safemt_api.profiles import WIRE_FORMATS, ImageRules, Limits, ModelFacts, Profile, WireFormat

Handler = Callable[[httpx2.Request], httpx2.Response]

KEY = "sk-live-0123456789abcdef0123456789"
OPENAI_URL, OTHER_URL = "https://api.example.test/v1", "https://api.example.test"
SEEN = {"source": "made up for tests", "checked": date(2026, 11, 21)}


class Server:
    """A handler that keeps the requests it saw."""

    def __init__(self, handler: Handler) -> None:
        self.requests: list[httpx2.Request] = []
        self._handler = handler

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._handler(request)


@pytest.fixture
def make_profile() -> Callable[..., Profile]:
    """A profile of a wire format; model facts and other fields as given."""

    def make(wire_format: str, *, facts: dict[str, Any] | None = None, **fields: Any) -> Profile:
        models = (ModelFacts.model_validate({"match": "m*", **SEEN, **facts}),) if facts is not None else ()
        settings: dict[str, Any] = {"name": "acme", "title": "Acme", "key_variables": ("ACME_API_KEY",), "structured_output": True} | fields
        limits = Limits(**SEEN, **settings.pop("limits", {}))
        known: WireFormat = wire_format if wire_format in WIRE_FORMATS else "openai_chat"
        return Profile(wire_format=known, images=ImageRules(**SEEN), limits=limits, models=models, **SEEN, **settings)

    return make


@pytest.fixture
def make_call() -> Callable[..., Call]:
    """A call to model ``m-1``: by default a picture with words, a reply, and another question."""

    def make(
        *,
        messages: tuple[Message, ...] | None = None,
        parameters: Parameters | None = None,
        schema: Schema | None = None,
        system: str | None = None,
        model: str = "m-1",
    ) -> Call:
        picture = Image(b"\x89PNG bytes", digest="sha256:00", media_type="image/png", width_pixels=2, height_pixels=2)
        turns = messages or (user("What is this?", picture), assistant("A square."), user("And now?"))
        route = Route("acme", "any", ("https://api.example.test",), model)
        return Call(route, turns, system=system, parameters=parameters or Parameters(), schema=schema)

    return make


@pytest.fixture
async def connect(make_profile: Callable[..., Profile]) -> AsyncIterator[Callable[..., Adapter]]:
    """Opens an adapter whose network is a handler function."""
    async with AsyncExitStack() as stack:

        def open_(
            wire_format: WireFormat, handler: Handler, *, key: str | None = KEY, base_url: str | None = None, **profile: Any
        ) -> Adapter:
            timeouts = Timeouts()
            client = open_http_client(connections=4, timeouts=timeouts, transport=httpx2.MockTransport(handler))
            stack.push_async_callback(client.aclose)
            return open_adapter(
                profile=make_profile(wire_format, **profile),
                wire_format=wire_format,
                base_url=base_url or (OPENAI_URL if wire_format.startswith("openai") else OTHER_URL),
                api_key=key,
                client=client,
                timeouts=timeouts,
            )

        yield open_


@pytest.fixture
def serve() -> Callable[..., Server]:
    """A server that always answers the same: a JSON value, text or bytes."""

    def make(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Server:
        def handler(_request: httpx2.Request) -> httpx2.Response:
            content = {"content": body} if isinstance(body, (str, bytes)) else {"json": body}
            return httpx2.Response(status, headers=headers, **content)

        return Server(handler)

    return make


@pytest.fixture
def key() -> str:
    """The key that the adapters of these tests are opened with."""
    return KEY
