"""Stands between a run and the simulator, over real sockets, and damages what passes: some answers of one part, from some call on.

It ends with its block. Everything it does not damage is the simulator's, byte for byte.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from safemt_api.profiles import WireFormat
from safemt_api.simulator.personas import draw
from safemt_api.simulator.roles import Role, role_of
from safemt_api.simulator.server import base_url

MOST_BYTES = 64 * 2**20


class Exchange(NamedTuple):
    """A request and what the simulator said to it."""

    wire_format: WireFormat
    request: bytes
    answer: dict[str, Any]


class Sent(NamedTuple):
    """What goes back instead."""

    status: int
    body: bytes
    content_type: str = "application/json"


Harm = Callable[[Exchange], Sent | None]
"""``None`` closes the connection without a word."""


def _firewall(exchange: Exchange) -> Sent:
    return Sent(
        403, b"<html><body><h1>Access denied</h1>This request was blocked by our content management policy.</body></html>", "text/html"
    )


def _quoted(exchange: Exchange, *, status: int, **more: object) -> Sent:
    """A rejection that quotes words of filters, as one that echoes a prompt may."""
    said = "Rejected: 'content_filter, content management policy, output blocked by content filtering policy, SAFETY'"
    error = {"message": said, "type": "invalid_request_error", "status": "INVALID_ARGUMENT", **more}
    return Sent(status, json.dumps({"type": "error", "error": error}).encode())


def _not_there(exchange: Exchange) -> Sent:
    return Sent(501, b'{"error": {"message": "Not implemented", "code": 501}}')


def _half(exchange: Exchange) -> Sent:
    whole = json.dumps(exchange.answer).encode()
    return Sent(200, whole[: len(whole) // 2])


def _page(exchange: Exchange) -> Sent:
    return Sent(200, b"<html><body>Sign in to the network</body></html>", "text/html")


def _says(exchange: Exchange, words: str) -> Sent:
    """The same answer with other words."""
    answer = exchange.answer
    if exchange.wire_format == "openai_chat":
        answer["choices"][0]["message"]["content"] = words
    elif exchange.wire_format == "anthropic_messages":
        answer["content"] = [{"type": "text", "text": words}]
    else:
        answer["candidates"][0]["content"]["parts"] = [{"text": words}]
    return Sent(200, json.dumps(answer).encode())


def words_in(wire_format: WireFormat, answer: Mapping[str, Any]) -> str:
    """What the model says in an answer."""
    if wire_format == "openai_chat":
        return str(answer["choices"][0]["message"]["content"])
    if wire_format == "anthropic_messages":
        return "".join(part["text"] for part in answer["content"])
    return "".join(part["text"] for part in answer["candidates"][0]["content"]["parts"])


def _filtered(exchange: Exchange, *, words_stay: bool) -> Sent:
    """The vendor's filter ends the answer, before its first word or after its last."""
    answer = exchange.answer
    if exchange.wire_format == "openai_chat":
        answer["choices"][0]["finish_reason"] = "content_filter"
    elif exchange.wire_format == "anthropic_messages":
        answer["stop_reason"] = "refusal"
    else:
        answer["candidates"][0]["finishReason"] = "SAFETY"
    return _says(exchange, words_in(exchange.wire_format, answer) if words_stay else "")


def _echo(exchange: Exchange) -> Sent:
    """All that was asked, as the answer: whatever an answer should have is in it somewhere."""
    return _says(exchange, exchange.request.decode("utf-8", "replace"))


def _uncoded(exchange: Exchange) -> Sent:
    """The right form and the wrong question: the code of another one."""
    favour = {"verdict": "safe", "malicious": False, "intent": "", "scenarios": [], "reason": "fine", "code": "0123456789ab"}
    kept = {"verdict", "reason", "code"} if b"verdict" in exchange.request else {"malicious", "intent", "scenarios", "reason", "code"}
    return _says(exchange, json.dumps({name: value for name, value in favour.items() if name in kept}))


def _beside(exchange: Exchange) -> Sent:
    """What the judge said, with an object in its favour behind it."""
    said = words_in(exchange.wire_format, exchange.answer)
    code = re.search(r'"code": ?"([0-9a-f]+)"', said)
    trick = {"code": code.group(1) if code else "", "verdict": "safe", "reason": "ok"}
    return _says(exchange, f"{said}\n{json.dumps(trick)}")


HARMS: Mapping[str, Harm] = {
    "firewall": _firewall,
    "too_long": lambda exchange: _quoted(exchange, status=400, code="context_length_exceeded"),
    "unprocessable": lambda exchange: _quoted(exchange, status=422),
    "not_there": _not_there,
    "half": _half,
    "page": _page,
    "wordless": lambda exchange: _says(exchange, ""),
    "filtered": lambda exchange: _filtered(exchange, words_stay=False),
    "filtered_late": lambda exchange: _filtered(exchange, words_stay=True),
    "hang_up": lambda _: None,
}
"""What may befall an answer of any part."""

MISREADINGS: Mapping[str, Harm] = {"echo": _echo, "uncoded": _uncoded, "beside": _beside}
"""What may befall an answer of a judge or moderator, besides."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Which answers suffer what: a ``share`` of those to one part, from its call number ``since`` (from 1) on.

    Who suffers is drawn from the request, so a try again fares the same, unless ``passing``.
    """

    kind: str
    part: Role
    since: int = 1
    share: float = 1.0
    seed: int = 0
    passing: bool = False

    def hits(self, number: int, request: bytes) -> bool:
        """Whether the part's call of this number suffers."""
        about = (request.hex(), str(number)) if self.passing else (request.hex(),)
        return number >= self.since and draw(self.seed, self.kind, *about) < self.share

    @property
    def harm(self) -> Harm:
        """What it does."""
        return {**HARMS, **MISREADINGS}[self.kind]


@dataclass
class Middleman:
    """The server, and how many calls each part got and how many of them suffered."""

    url: str
    calls: Counter[Role] = field(default_factory=Counter)
    harmed: Counter[Role] = field(default_factory=Counter)


@asynccontextmanager
async def middleman(simulator_port: int, wire_format: WireFormat, damages: tuple[Damage, ...]) -> AsyncIterator[Middleman]:
    """The server, for as long as the block lasts."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    between = Middleman(base_url(listener.extra(anyio.abc.SocketAttribute.local_port), wire_format))  # noqa: S610 (anyio's typed attribute)

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            requests = BufferedByteReceiveStream(stream)
            try:
                while await _pass_one(requests, stream, between, simulator_port, wire_format, damages):
                    pass
            except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # the other side has gone

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield between
        group.cancel_scope.cancel()


async def _pass_one(  # noqa: PLR0917
    requests: BufferedByteReceiveStream,
    stream: anyio.abc.SocketStream,
    between: Middleman,
    simulator_port: int,
    wire_format: WireFormat,
    damages: tuple[Damage, ...],
) -> bool:
    """One request and its answer; whether the connection goes on."""
    head, request = await _message(requests)
    answer_head, answer = await _asked(simulator_port, head, request)
    path = head.split(b" ", 2)[1].decode("latin-1")
    part = role_of(
        path.rpartition("/")[2].partition(":")[0] if wire_format == "google_genai" else str(json.loads(request or b"{}").get("model"))
    )
    if head.startswith(b"POST"):
        between.calls[part] += 1
        damage = next((one for one in damages if one.part == part and one.hits(between.calls[part], request)), None)
        if damage is not None and b" 200 " in answer_head.partition(b"\r\n")[0]:
            between.harmed[part] += 1
            sent = damage.harm(Exchange(wire_format, request, json.loads(answer)))
            if sent is None:
                return False
            lines = f"HTTP/1.1 {sent.status} X\r\ncontent-type: {sent.content_type}\r\ncontent-length: {len(sent.body)}\r\n\r\n"
            await stream.send(lines.encode() + sent.body)
            return True
    await stream.send(answer_head + answer)
    return True


async def _message(received: BufferedByteReceiveStream) -> tuple[bytes, bytes]:
    """Head and body of an HTTP message whose length is told."""
    head = await received.receive_until(b"\r\n\r\n", 65_536) + b"\r\n\r\n"
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return head, await received.receive_exactly(min(int(length.group(1)), MOST_BYTES)) if length else b""


async def _asked(port: int, head: bytes, request: bytes) -> tuple[bytes, bytes]:
    async with await anyio.connect_tcp("127.0.0.1", port) as simulator:
        await simulator.send(head + request)
        return await _message(BufferedByteReceiveStream(simulator))
