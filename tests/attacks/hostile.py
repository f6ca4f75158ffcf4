"""A vendor on loopback that does to a run whatever an attack says, in any of the three wire formats, and bills by a count of its own.

It ends with its block; every body it sends is bounded.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import anyio
import anyio.abc
from anyio.abc import TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

from safemt_api.profiles import WireFormat

INPUT_USD_PER_MTOK, OUTPUT_USD_PER_MTOK = 1.0, 4.0
BILLED_INPUT_TOKENS = 100
KEY_VARIABLE = "HOSTILE_API_KEY"
REFUSAL = "I can't help with that."

PROFILE = """
name = "hostile"
title = "Hostile"
wire_format = "{wire_format}"
base_url = "{url}"
key_variables = ["{key_variable}"]
key_required = false
source = "made up for tests"
checked = 2026-11-21
images = {{ source = "made up for tests", checked = 2026-11-21 }}
limits = {{ source = "made up for tests", checked = 2026-11-21 }}

[[models]]
match = "*"
max_output_tokens = 400
source = "made up for tests"
checked = 2026-11-21
price = {{ input_usd_per_mtok = {input_price}, output_usd_per_mtok = {output_price}, source = "made up", checked = 2026-11-21 }}
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came: ``number`` counts from 1, ``key`` is the one in its header."""

    number: int
    method: str
    path: str
    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back; ``body`` may be pieces that are made while they are sent (with their own framing in ``headers``)."""

    body: bytes | Callable[[], AsyncIterator[bytes]]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    billed_output_tokens: int = 20
    seconds: float = 0.0


Attack = Callable[[Asked], Answer]


@dataclass
class Hostile:
    """The running server and its count."""

    wire_format: WireFormat
    url: str
    answered: int = 0
    billed_usd: float = 0.0
    bodies: Counter[str] = field(default_factory=Counter)

    def take(self, asked: Asked, answer: Answer) -> None:
        """Bill an answer, whether or not it arrives."""
        self.bodies[sha256(asked.body).hexdigest()] += 1
        if answer.status == 200:
            self.answered += 1
            self.billed_usd += (BILLED_INPUT_TOKENS * INPUT_USD_PER_MTOK + answer.billed_output_tokens * OUTPUT_USD_PER_MTOK) / 1e6

    def profile(self) -> str:
        """The vendor file that leads here."""
        return PROFILE.format(
            wire_format=self.wire_format,
            url=self.url,
            key_variable=KEY_VARIABLE,
            input_price=INPUT_USD_PER_MTOK,
            output_price=OUTPUT_USD_PER_MTOK,
        )


def usage(wire_format: WireFormat, output_tokens: int = 20, *, reasoning_tokens: int = 0) -> dict[str, Any]:
    """Honest usage as the wire format tells it."""
    both = output_tokens + reasoning_tokens
    forms: dict[str, dict[str, Any]] = {
        "openai_chat": {
            "prompt_tokens": BILLED_INPUT_TOKENS,
            "completion_tokens": both,
            "total_tokens": BILLED_INPUT_TOKENS + both,
            "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
        },
        "anthropic_messages": {"input_tokens": BILLED_INPUT_TOKENS, "output_tokens": both},
        "google_genai": {
            "promptTokenCount": BILLED_INPUT_TOKENS,
            "candidatesTokenCount": output_tokens,
            "thoughtsTokenCount": reasoning_tokens,
        },
    }
    return forms[wire_format]


def reply(wire_format: WireFormat, words: str = REFUSAL, used: object = None, *, model: str = "m-1") -> dict[str, Any]:
    """A whole reply in the wire format; ``used`` stands where usage stands."""
    told = usage(wire_format) if used is None else used
    forms: dict[str, dict[str, Any]] = {
        "openai_chat": {
            "id": "one",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": "stop"}],
            "usage": told,
        },
        "anthropic_messages": {
            "id": "one",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": words}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": told,
        },
        "google_genai": {
            "candidates": [{"content": {"role": "model", "parts": [{"text": words}]}, "finishReason": "STOP"}],
            "modelVersion": model,
            "usageMetadata": told,
        },
    }
    return forms[wire_format]


def answer(body: object, **more: Any) -> Answer:
    """JSON, or bytes as they are."""
    return Answer(body if isinstance(body, bytes) else json.dumps(body).encode(), **more)


def too_many(wire_format: WireFormat, *, retry_after: str | None = None, more: Mapping[str, str] | None = None) -> Answer:
    """A 429 as the vendor words it."""
    forms: dict[str, dict[str, Any]] = {
        "openai_chat": {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}},
        "anthropic_messages": {"type": "error", "error": {"type": "rate_limit_error", "message": "This would exceed the rate limit"}},
        "google_genai": {"error": {"code": 429, "message": "Resource has been exhausted", "status": "RESOURCE_EXHAUSTED"}},
    }
    wait = {} if retry_after is None else {"retry-after": retry_after}
    return answer(forms[wire_format], status=429, headers={**wait, **(more or {})})


async def serve_hostile(wire_format: WireFormat, attack: Attack, *, task_status: TaskStatus[Hostile]) -> None:
    """Serve until cancelled; reports the running server."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 (anyio's typed attribute, not Django's)
    server = Hostile(wire_format, f"http://127.0.0.1:{port}" + ("/v1" if wire_format == "openai_chat" else ""))
    numbers = iter(range(1, 10**9))

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            requests = BufferedByteReceiveStream(stream)
            try:
                while True:
                    asked = await _read(requests, numbers)
                    given = attack(asked)
                    if asked.method == "POST":
                        server.take(asked, given)
                    await anyio.sleep(given.seconds)
                    await _send(stream, given)
            except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # the other side has gone, or had enough

    async with listener:
        task_status.started(server)
        await listener.serve(serve)


async def _read(requests: BufferedByteReceiveStream, numbers: Any) -> Asked:
    head = (await requests.receive_until(b"\r\n\r\n", 65_536)).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    body = await requests.receive_exactly(int(headers.get("content-length", "0")))
    key = headers.get("authorization", "").removeprefix("Bearer ") or headers.get("x-api-key", "") or headers.get("x-goog-api-key", "")
    return Asked(next(numbers), method, path, key, body)


async def _send(stream: anyio.abc.SocketStream, given: Answer) -> None:
    whole = given.body if isinstance(given.body, bytes) else None
    length = {} if whole is None else {"content-length": str(len(whole))}
    lines = [f"{name}: {value}\r\n" for name, value in {"content-type": "application/json", **length, **given.headers}.items()]
    await stream.send(f"HTTP/1.1 {given.status} X\r\n{''.join(lines)}\r\n".encode("latin-1") + (whole or b""))
    if not isinstance(given.body, bytes):
        async for piece in given.body():
            await stream.send(piece)
