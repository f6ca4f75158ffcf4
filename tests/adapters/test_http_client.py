"""A response is bounded while it is read, unpacked: one dialogue fails with the size, and memory stays flat."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import httpx2
import pytest

from safemt_api.adapters.base import Adapter, Timeouts, open_adapter
from safemt_api.adapters.http_client import (
    BASE_BYTES,
    BYTES_A_TOKEN,
    TIMES_THE_REQUEST,
    OversizeError,
    bind_response,
    open_http_client,
    room_for,
)
from safemt_api.errors import DialogueError, ServerError
from safemt_api.messages import Call, Parameters
from safemt_api.profiles import Profile, WireFormat

Connect = Callable[..., Adapter]
Serve = Callable[..., Any]
MakeCall = Callable[..., Call]

FORMATS = ("openai_chat", "anthropic_messages", "google_genai", "openai_moderation", "openai_decisions", "google_decisions")
HUGE_BYTES = 250 * 1024 * 1024
MOST_MEMORY_BYTES = 24 * 1024 * 1024
PIECE = b" " * 65_536


def gzip_bomb() -> bytes:
    """Some 250 KB that unpack to 250 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join(packer.compress(PIECE) for _ in range(HUGE_BYTES // len(PIECE))) + packer.flush()


BOMB = gzip_bomb()


async def pour(stream: anyio.abc.SocketStream, head: bytes, pieces: Callable[[], AsyncIterator[bytes]]) -> None:
    async with stream:
        try:
            await stream.receive()
            await stream.send(head)
            async for piece in pieces():
                await stream.send(piece)
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            return  # the other side has had enough


async def endless() -> AsyncIterator[bytes]:
    for _ in range(HUGE_BYTES // len(PIECE)):
        yield b"%x\r\n" % len(PIECE) + PIECE + b"\r\n"


async def plain() -> AsyncIterator[bytes]:
    for _ in range(HUGE_BYTES // len(PIECE)):
        yield PIECE


async def packed() -> AsyncIterator[bytes]:
    yield BOMB


ANSWERS: dict[str, tuple[str, Callable[[], AsyncIterator[bytes]]]] = {
    "without a length": ("transfer-encoding: chunked", endless),
    "announced": (f"content-length: {HUGE_BYTES}", plain),
    "packed": (f"content-encoding: gzip\r\ncontent-length: {len(BOMB)}", packed),
}


@asynccontextmanager
async def served(name: str, status: int) -> AsyncIterator[str]:
    headers, pieces = ANSWERS[name]
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}\r\n\r\n".encode()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 (anyio's typed attribute, not Django's)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, lambda stream: pour(stream, head, pieces))
        yield f"http://127.0.0.1:{port}"
        group.cancel_scope.cancel()


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("status", [200, 400, 500])
async def test_a_huge_response_fails_one_dialogue_and_memory_stays_flat(
    *, make_profile: Callable[..., Profile], make_call: MakeCall, wire_format: str, name: str, status: int
) -> None:
    timeouts = Timeouts(connect_seconds=5, idle_seconds=20, total_seconds=30)
    call = make_call(parameters=Parameters(max_output_tokens=1024))
    async with served(name, status) as url, open_http_client(connections=1, timeouts=timeouts) as client:
        adapter = open_adapter(
            profile=make_profile(wire_format), wire_format=wire_format, base_url=url, api_key=None, client=client, timeouts=timeouts
        )
        tracemalloc.start()
        try:
            with pytest.raises(DialogueError, match=rf"sent more than 0\.5 MB.*HTTP {status}") as caught:
                await adapter.send(call)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < MOST_MEMORY_BYTES
    assert caught.value.maybe_billed is (status == 200)
    assert ("262.1 MB" in str(caught.value)) is (name == "announced")


def text_of(wire_format: WireFormat, words: str) -> dict[str, Any]:
    bodies: dict[str, dict[str, Any]] = {
        "openai_chat": {"choices": [{"message": {"content": words}, "finish_reason": "stop"}]},
        "anthropic_messages": {"content": [{"type": "text", "text": words}], "stop_reason": "end_turn"},
        "google_genai": {"candidates": [{"content": {"parts": [{"text": words}]}, "finishReason": "STOP"}]},
    }
    return bodies[wire_format]


@pytest.mark.parametrize("wire_format", ["openai_chat", "anthropic_messages", "google_genai"])
async def test_the_longest_honest_reply_is_read_whole(connect: Connect, serve: Serve, make_call: MakeCall, wire_format: WireFormat) -> None:
    words = "é😀\n" * 8_000  # 4,000 tokens would hardly fill so much, and ASCII JSON makes six bytes of a two-byte sign
    body = json.dumps(text_of(wire_format, words)).encode()
    assert len(body) > 130_000
    call = make_call(parameters=Parameters(max_output_tokens=100))
    assert (await connect(wire_format, serve(body)).send(call)).reply.text == words


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip", "identity"])
@pytest.mark.parametrize("wire_format", ["openai_chat", "anthropic_messages", "google_genai"])
async def test_packed_replies_are_unpacked_once(connect: Connect, make_call: MakeCall, wire_format: WireFormat, encoding: str) -> None:
    body = json.dumps(text_of(wire_format, "Words.")).encode()
    for one in encoding.split(", "):
        packer = zlib.compressobj(wbits=zlib.MAX_WBITS | (16 if one == "gzip" else 0))
        body = body if one == "identity" else packer.compress(body) + packer.flush()

    def handler(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(
            200, headers={"content-encoding": encoding, "content-length": str(len(body))}, stream=httpx2.ByteStream(body)
        )

    assert (await connect(wire_format, handler).send(make_call())).reply.text == "Words."


async def test_a_broken_packing_may_be_tried_again(connect: Connect, make_call: MakeCall) -> None:
    def handler(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-encoding": "gzip"}, stream=httpx2.ByteStream(b"not packed at all"))

    with pytest.raises(ServerError, match="could not be read"):
        await connect("openai_chat", handler).send(make_call())


async def test_the_bound_follows_the_tokens_and_the_request() -> None:
    async def most(tokens: int, sent: bytes) -> int:
        request = httpx2.Request("POST", "https://x.test", content=sent)
        response = httpx2.Response(200, stream=httpx2.ByteStream(b"x" * 10_000_000), request=request)
        with room_for(tokens):
            await bind_response(response)
        with pytest.raises(OversizeError) as caught:
            await response.aread()
        return caught.value.limit_bytes

    assert await most(0, b"") == BASE_BYTES
    assert await most(1000, b"") == BASE_BYTES + 1000 * BYTES_A_TOKEN
    assert await most(1000, b"y" * 5000) == BASE_BYTES + 1000 * BYTES_A_TOKEN + TIMES_THE_REQUEST * 5000


@pytest.mark.parametrize("announced", ["", "x", "-5", "1" * 30, "٣"])
async def test_an_odd_length_in_the_headers_is_no_announcement(announced: str) -> None:
    headers = [(b"content-length", announced.encode())]
    response = httpx2.Response(200, headers=headers, stream=httpx2.ByteStream(b"body"), request=httpx2.Request("GET", "https://x.test"))
    await bind_response(response)
    assert await response.aread() == b"body"


@pytest.mark.parametrize("wire_format", ["openai_chat", "anthropic_messages", "google_genai"])
@pytest.mark.parametrize("odd", ['"\\ud83d"', '"\\ude00 and \\ud83d"', "NaN", "-Infinity", "[NaN, 1]"])
async def test_a_body_with_an_odd_value_beside_the_words_is_read_all_the_same(
    *, connect: Connect, serve: Serve, make_call: MakeCall, wire_format: WireFormat, odd: str
) -> None:
    body = json.dumps({**text_of(wire_format, "Words."), "extra": "ODD"}).replace('"ODD"', odd)
    reply = (await connect(wire_format, serve(body)).send(make_call())).reply
    assert reply.text == "Words."
    assert reply.raw == body


@pytest.mark.parametrize("wire_format", ["openai_chat", "anthropic_messages", "google_genai"])
async def test_half_a_character_in_the_words_comes_through(
    connect: Connect, serve: Serve, make_call: MakeCall, wire_format: WireFormat
) -> None:
    body = json.dumps(text_of(wire_format, "half \ud83d of a pair"))
    assert (await connect(wire_format, serve(body)).send(make_call())).reply.text == "half \ud83d of a pair"
