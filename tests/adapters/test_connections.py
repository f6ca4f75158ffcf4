"""Connections over real sockets: kept where the server keeps them, given back whatever happens, and httpx2's errors for what goes wrong."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import httpx2
import pytest
from anyio.streams.tls import TLSListener

from safemt_api.adapters.base import Timeouts
from safemt_api.adapters.connections import Connections
from safemt_api.adapters.http_client import open_http_client

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Serve = Callable[[anyio.abc.ByteStream], Awaitable[None]]


@asynccontextmanager
async def served(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def once(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            try:
                await serve(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                return  # the other side has gone

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 (anyio's typed attribute, not Django's)
    async with listener, anyio.create_task_group() as group:
        secured = listener if tls is None else TLSListener(listener, tls, standard_compatible=False)
        group.start_soon(secured.serve, once)
        yield port
        group.cancel_scope.cancel()


async def answer(stream: anyio.abc.ByteStream, *, count: int = 1, with_: bytes = OK) -> None:
    """Read a request of a head alone, so many times, and answer each."""
    for _ in range(count):
        heard = b""
        while b"\r\n\r\n" not in heard:
            heard += await stream.receive()
        await stream.send(with_)


def opened(*, most: int = 4, seconds: float = 5.0) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=Connections(most=most, keep_seconds=60), timeout=seconds)


class Counted:
    """Serves as told, and counts the connections."""

    def __init__(self, serve: Serve) -> None:
        self.connections, self._serve = 0, serve

    async def __call__(self, stream: anyio.abc.ByteStream) -> None:
        self.connections += 1
        await self._serve(stream)


async def test_a_connection_serves_one_call_after_the_other() -> None:
    server = Counted(partial(answer, count=9))
    async with served(server) as port, opened() as client:
        for _ in range(5):
            assert (await client.get(f"http://127.0.0.1:{port}/a")).text == "ok"
    assert server.connections == 1


async def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    server = Counted(answer)
    async with served(server) as port, opened() as client:
        for _ in range(3):
            assert (await client.get(f"http://127.0.0.1:{port}/a")).text == "ok"
            await anyio.sleep(0.05)
    assert server.connections == 3


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2", b"HTTP/1.0 200 OK"])
async def test_a_server_that_says_so_gets_a_new_connection_each_time(head: bytes) -> None:
    server = Counted(partial(answer, with_=head + b"\r\n\r\nok"))
    async with served(server) as port, opened() as client:
        assert [(await client.get(f"http://127.0.0.1:{port}/a")).text for _ in range(2)] == ["ok", "ok"]
    assert server.connections == 2


async def test_what_a_server_says_beyond_its_answer_is_not_taken_for_the_answer_to_the_next_call() -> None:
    server = Counted(partial(answer, count=2, with_=OK + OK.replace(b"ok", b"no")))
    async with served(server) as port, opened() as client:
        assert [(await client.get(f"http://127.0.0.1:{port}/a")).text for _ in range(3)] == ["ok"] * 3
    assert server.connections == 3


async def test_an_answer_in_chunks_after_one_that_only_informs_is_read_whole() -> None:
    informed = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
    async with served(partial(answer, with_=informed)) as port, opened() as client:
        response = await client.get(f"http://127.0.0.1:{port}/a")
    assert (response.status_code, response.text, response.http_version, response.reason_phrase) == (200, "ok", "HTTP/1.1", "OK")


async def test_an_answer_that_comes_before_the_request_is_heard_is_read() -> None:
    async def refuse(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno")
        for _ in range(2):
            await stream.receive()

    async with served(refuse) as port, opened() as client:
        response = await client.post(f"http://127.0.0.1:{port}/a", content=bytes(3_000_000))
    assert (response.status_code, response.text) == (413, "no")


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", httpx2.RemoteProtocolError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", httpx2.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", httpx2.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n", httpx2.RemoteProtocolError),
    ],
)
async def test_what_is_no_whole_answer_is_an_error_and_gives_its_place_back(said: bytes, error: type[Exception]) -> None:
    async with served(partial(answer, with_=said)) as port, opened(most=1) as client:
        for _ in range(3):
            with pytest.raises(error), anyio.fail_after(5):
                await client.get(f"http://127.0.0.1:{port}/a")


async def test_silence_ends_after_the_time_for_it_and_a_cancelled_call_gives_its_place_back() -> None:
    async def silent(stream: anyio.abc.ByteStream) -> None:
        while True:
            await stream.receive()

    async with served(silent) as port, opened(most=1, seconds=0.2) as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.get(f"http://127.0.0.1:{port}/a")
        with anyio.move_on_after(0.05):
            await client.get(f"http://127.0.0.1:{port}/a")
        with pytest.raises(httpx2.ReadTimeout), anyio.fail_after(5):
            await client.get(f"http://127.0.0.1:{port}/a")


async def test_no_more_calls_are_under_way_than_there_may_be() -> None:
    server = Counted(partial(answer, count=99))
    async with served(server) as port, opened(most=2) as client, anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(client.get, f"http://127.0.0.1:{port}/a")
    assert server.connections <= 2


async def test_where_nobody_listens_no_connection_is_made() -> None:
    async with opened() as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get("http://127.0.0.1:9/a")
        with pytest.raises(httpx2.UnsupportedProtocol):
            await client.get("gopher://127.0.0.1/a")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate of its own making for this machine, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    file = tmp_path / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(tmp_path / "key.pem"), "-out", str(file)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + (tmp_path / "key.pem").read_bytes())
    return file


async def test_a_certificate_is_checked(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with served(partial(answer, count=9), context) as port:
        async with opened() as client:
            with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(f"https://127.0.0.1:{port}/a")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with opened() as client:
            assert [(await client.get(f"https://127.0.0.1:{port}/a")).text for _ in range(2)] == ["ok", "ok"]


async def test_a_proxy_of_the_environment_is_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    async def proxy(stream: anyio.abc.ByteStream) -> None:
        heard.append(await stream.receive())
        await stream.send(OK)

    async with served(proxy) as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        async with open_http_client(connections=1, timeouts=Timeouts()) as client:
            assert (await client.get("http://models.example.test/v1")).text == "ok"
    assert heard[0].startswith(b"GET http://models.example.test/v1 HTTP/1.1")
