"""What a local server says of its models becomes a model, or one sentence."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import orjson
import pytest
from anyio.abc import SocketAttribute, SocketStream

from safemt_api.errors import AccountError, EndpointError, UsageError
from safemt_api.profiles import load_profiles
from safemt_api.runs.discovering import served_model


@asynccontextmanager
async def server_that_says(status: int, body: object) -> AsyncIterator[str]:
    content = orjson.dumps(body)
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(head + content)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        yield f"http://127.0.0.1:{listener.extra_attributes[SocketAttribute.local_port]()}/v1"
        group.cancel_scope.cancel()


async def test_a_model_whose_id_would_steer_the_terminal_is_refused() -> None:
    async with server_that_says(200, {"data": [{"id": "tiny\x1b]0;title\x07"}]}) as url:
        with pytest.raises(UsageError, match=r"serves a model whose id holds U\+001B"):
            await served_model(load_profiles()["vllm"], url)


async def test_a_list_without_end_is_a_sentence() -> None:
    async with server_that_says(200, {"data": [{"id": "x" * 8_000_000}]}) as url:
        with pytest.raises(EndpointError, match=r"sent more than 2\.4 MB; the server announced 8\.0 MB, which is no list"):
            await served_model(load_profiles()["vllm"], url)


async def test_a_key_in_the_list_is_blanked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sk-0123456789abcdef")
    async with server_that_says(200, {"data": [{"id": "sk-0123456789abcdef"}, {"id": "%73k-0123456789abcdef"}]}) as url:
        with pytest.raises(UsageError, match=r"serves \[key\], \[key\]: choose one"):
            await served_model(load_profiles()["vllm"], url)


async def test_the_one_model_is_found() -> None:
    async with server_that_says(200, {"data": [{"id": "tiny"}]}) as url:
        assert await served_model(load_profiles()["vllm"], url) == "tiny"


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (200, {"data": [{"id": "a"}, {"id": "b"}]}, UsageError, "serves a, b: choose one with --model"),
        (200, {"data": []}, UsageError, "did not name its models .HTTP 200.: choose one"),
        (200, ["nonsense"], UsageError, "did not name its models"),
        (401, {"error": "Unauthorized"}, AccountError, "vllm does not accept the API key .HTTP 401.: check VLLM_API_KEY"),
        (403, {}, AccountError, "check VLLM_API_KEY"),
    ],
)
async def test_anything_else_is_a_sentence(status: int, body: object, error: type[Exception], said: str) -> None:
    async with server_that_says(status, body) as url:
        with pytest.raises(error, match=said):
            await served_model(load_profiles()["vllm"], url)


async def test_silence_names_the_address() -> None:
    with pytest.raises(EndpointError, match=r"nothing answers at http://127.0.0.1:9/v1 .* is vLLM server running"):
        await served_model(load_profiles()["vllm"], "http://127.0.0.1:9/v1")
