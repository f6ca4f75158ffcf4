"""One way to ask a simulator in each wire format, through the vendors' own SDKs over real sockets."""

from __future__ import annotations

import warnings
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any, NamedTuple

import httpx2
import pytest
from anthropic import AsyncAnthropic
from google import genai
from google.genai import types
from openai import AsyncOpenAI
from PIL import Image

from safemt_api.profiles import WireFormat
from safemt_api.simulator import Simulator, SimulatorAddress, SimulatorSettings, run_simulator

Lines = Sequence[tuple[str, str]]


def png(width: int = 60, height: int = 50) -> bytes:
    """A small real picture."""
    stream = BytesIO()
    Image.new("RGB", (width, height), (10, 120, 200)).save(stream, "PNG")
    return stream.getvalue()


class Asked(NamedTuple):
    """What to ask."""

    model: str
    lines: Lines
    system: str | None
    image: bytes | None
    media_type: str
    schema: dict[str, Any] | None
    limit: int


@dataclass
class Client:
    """Asks in one wire format; what comes back is the SDK's own object."""

    wire_format: WireFormat
    address: Simulator | SimulatorAddress
    http: httpx2.AsyncClient
    plain_http: httpx2.Client
    key: str = "test-key"

    async def ask(
        self,
        model: str,
        lines: Lines,
        *,
        system: str | None = None,
        image: bytes | None = None,
        media_type: str = "image/png",
        schema: dict[str, Any] | None = None,
        max_tokens: int = 2000,
    ) -> Any:
        """The SDK's answer to a conversation whose picture, if any, stands in the first message."""
        asker = {"openai_chat": self._openai, "anthropic_messages": self._anthropic, "google_genai": self._google}[self.wire_format]
        return await asker(Asked(model, lines, system, image, media_type, schema, max_tokens))

    async def _openai(self, asked: Asked) -> Any:
        model, lines, system, image, media_type, schema, limit = asked
        client = AsyncOpenAI(api_key=self.key, base_url=self.address.base_url("openai_chat"), max_retries=0, http_client=self.http)
        messages: list[Any] = [{"role": role, "content": text} for role, text in lines]
        if image is not None:
            url = f"data:{media_type};base64,{b64encode(image).decode()}"
            messages[0]["content"] = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": lines[0][1]}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        more: dict[str, Any] = {}
        if schema is not None:
            more["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        return await client.chat.completions.create(model=model, messages=messages, max_completion_tokens=limit, **more)

    async def _anthropic(self, asked: Asked) -> Any:
        model, lines, system, image, media_type, schema, limit = asked
        url = self.address.base_url("anthropic_messages")
        client = AsyncAnthropic(api_key=self.key, base_url=url, max_retries=0, http_client=self.http, timeout=5.0)
        messages: list[Any] = [{"role": role, "content": text} for role, text in lines]
        if image is not None:
            source = {"type": "base64", "media_type": media_type, "data": b64encode(image).decode()}
            messages[0]["content"] = [{"type": "image", "source": source}, {"type": "text", "text": lines[0][1]}]
        more: dict[str, Any] = {} if system is None else {"system": system}
        if schema is not None:
            more["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        return await client.messages.create(model=model, messages=messages, max_tokens=limit, **more)

    async def _google(self, asked: Asked) -> Any:
        model, lines, system, image, media_type, schema, limit = asked
        contents: list[Any] = [
            types.Content(role="model" if role == "assistant" else "user", parts=[types.Part(text=text)]) for role, text in lines
        ]
        if image is not None:
            contents[0].parts.insert(0, types.Part.from_bytes(data=image, mime_type=media_type))
        config: dict[str, Any] = {"max_output_tokens": limit, "system_instruction": system, "automatic_continuation": False}
        if schema is not None:
            config |= {"response_mime_type": "application/json", "response_json_schema": schema}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return await self._google_client.aio.models.generate_content(
                model=model, contents=contents, config=types.GenerateContentConfig(**{k: v for k, v in config.items() if v is not None})
            )

    @cached_property
    def _google_client(self) -> genai.Client:
        """Made once: it costs 0.1 s each time."""
        options = types.HttpOptions(
            base_url=self.address.base_url("google_genai"),
            timeout=5000,
            retry_options=types.HttpRetryOptions(attempts=1),
            httpx_async_client=self.http,
            httpx_client=self.plain_http,
        )
        return genai.Client(api_key=self.key, http_options=options)

    async def text(self, model: str, lines: Lines, **more: Any) -> str:
        """Only the words of the answer."""
        return words_of(await self.ask(model, lines, **more))


def words_of(answer: Any) -> str:
    """The words of any SDK's answer."""
    if hasattr(answer, "choices"):
        return answer.choices[0].message.content or ""
    if hasattr(answer, "candidates"):
        return answer.text or ""
    return "".join(block.text for block in answer.content)


ClientMaker = Callable[..., Client]


@dataclass
class Stage:
    """A running simulator and clients for it."""

    simulator: Simulator
    http: httpx2.AsyncClient
    plain_http: httpx2.Client

    def client(self, wire_format: WireFormat, *, key: str = "test-key") -> Client:
        """A client of the wire format."""
        return Client(wire_format, self.simulator, self.http, self.plain_http, key)


@asynccontextmanager
async def _stage(settings: SimulatorSettings | None = None) -> AsyncIterator[Stage]:
    transport = httpx2.AsyncHTTPTransport(verify=False)
    with httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(500))) as plain:
        async with run_simulator(settings) as simulator, httpx2.AsyncClient(timeout=5.0, transport=transport) as http:
            yield Stage(simulator, http, plain)


@pytest.fixture
def stage() -> Callable[..., Any]:
    """``async with stage(settings) as playing:`` a simulator on a free port, and clients for it."""
    return _stage


@pytest.fixture
def picture() -> bytes:
    """A small real PNG."""
    return png()


@pytest.fixture
def words() -> Callable[[Any], str]:
    """Reads the words of any SDK's answer."""
    return words_of
