"""The simulator's socket: a small HTTP/1.1 server on loopback that can also break off, stall and reset.

Written on ``asyncio.Protocol`` because benchmarks measure our client against it: a general server would cost more than the client. Timers
stand in for tasks, so that nothing outlives the server.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from safemt_api.errors import UsageError
from safemt_api.profiles import WireFormat
from safemt_api.simulator.answers import TroubleError, trouble_body
from safemt_api.simulator.books import SimulatorStatistics, Truth
from safemt_api.simulator.requests import Request
from safemt_api.simulator.service import Response, Service
from safemt_api.simulator.settings import SimulatorSettings

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})
MAX_BODY_BYTES = 64 * 2**20
MAX_HEAD_BYTES = 64 * 2**10
_RESET_AFTER_SECONDS = 0.02
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}


class Simulator:
    """A running simulator."""

    def __init__(self, service: Service, port: int) -> None:
        self._service, self.port = service, port

    @property
    def settings(self) -> SimulatorSettings:
        """What it plays."""
        return self._service.settings

    @property
    def calls(self) -> Counter[str]:
        """Calls by digest of path and body."""
        return self._service.books.calls

    @property
    def truth(self) -> list[Truth]:
        """What was played, once per body, oldest first."""
        return list(self._service.books.truths.values())

    @property
    def batches(self) -> list[dict[str, Any]]:
        """Every batch that was created, as ``/simulator/batches`` tells it."""
        return self._service.desk.record()

    def advance(self, seconds: float) -> None:
        """Let so much time pass for batches."""
        self._service.desk.offset_seconds += seconds

    def base_url(self, wire_format: WireFormat = "openai_chat") -> str:
        """The address to give to a client of the wire format."""
        return base_url(self.port, wire_format)

    def statistics(self) -> SimulatorStatistics:
        """What went through so far."""
        return self._service.books.statistics()

    def reset(self) -> None:
        """Forget all that went through."""
        self._service.reset()


def base_url(port: int, wire_format: WireFormat = "openai_chat") -> str:
    """The address of a simulator on this port for a client of the wire format."""
    return f"http://{LOOPBACK}:{port}" + ("/v1" if wire_format == "openai_chat" else "")


@asynccontextmanager
async def run_simulator(settings: SimulatorSettings | None = None, *, port: int = 0, host: str = LOOPBACK) -> AsyncIterator[Simulator]:
    """A simulator on loopback for as long as the block lasts; ``port`` 0 takes a free one. Needs asyncio (uvloop is welcome).

    Raises:
        UsageError: ``host`` is not loopback, or the port is taken.
    """
    if host not in LOOPBACK_NAMES:
        raise UsageError(f"the simulator listens on loopback only, not on {host!r}; use {LOOPBACK}")
    service, connections = Service(settings or SimulatorSettings()), set[_Connection]()
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(lambda: _Connection(service, connections), host.strip("[]"), port, backlog=1024)
    except (OSError, OverflowError) as error:
        raise UsageError(f"the simulator cannot listen on port {port} ({error}); choose another --port, or 0 for a free one") from error
    try:
        yield Simulator(service, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for connection in tuple(connections):
            connection.close()
        await server.wait_closed()


class _BadRequestError(Exception):
    """A request that cannot be read; the connection ends with this status."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


class _Connection(asyncio.Protocol):
    """One kept-alive connection: one request at a time, in order."""

    def __init__(self, service: Service, connections: set[_Connection]) -> None:
        self._service, self._connections = service, connections
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None
        self._body_bytes = 0
        self._busy = self._counted = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self)
        self._stop_timer()
        self._idle()

    def close(self) -> None:
        """End the connection at once."""
        self._stop_timer()
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._serve()

    def _serve(self) -> None:
        while not self._busy and not self._transport.is_closing():
            try:
                request = self._next_request()
            except _BadRequestError as error:
                _, body, _ = trouble_body("openai_chat", TroubleError("bad_request", error.message), request_id="")
                self._transport.write(_head(Response(error.status, body), close=True) + body)
                self._transport.close()
                return
            if request is None:
                return
            self._respond(request)

    def _next_request(self) -> Request | None:
        if self._head is None and not self._read_head():
            return None
        assert self._head is not None  # noqa: S101 (set by _read_head; tells the type checker)
        if len(self._received) < self._body_bytes:
            return None
        body = bytes(memoryview(self._received)[: self._body_bytes])
        del self._received[: self._body_bytes]
        (method, target, headers), self._head = self._head, None
        return Request(method, target, headers, body)

    def _read_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > MAX_HEAD_BYTES:
                raise _BadRequestError(431, "the request's header is too large")
            return False
        lines = self._received[:end].decode("latin-1").split("\r\n")
        del self._received[: end + 4]
        first = lines[0].split(" ")
        if len(first) != 3:
            raise _BadRequestError(400, "the request's first line is not HTTP")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self._body_bytes = _body_bytes(headers)
        # A web page that points its own name at 127.0.0.1 must not reach the simulator (DNS rebinding).
        host = headers.get("host", "")
        if (host if host.endswith("]") else host.rpartition(":")[0] or host).lower() not in LOOPBACK_NAMES:
            raise _BadRequestError(421, "the simulator answers to loopback names only")
        self._head = (first[0], first[1], headers)
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _respond(self, request: Request) -> None:
        self._busy, self._counted = True, request.method == "POST"
        self._service.books.call_in_flight(+self._counted)
        response = self._service.handle(request, now=self._loop.time())
        last = request.headers.get("connection", "").lower() == "close"
        send = partial(self._send, response, last)
        if response.ending == "stall":
            self._timer = self._loop.call_later(self._service.settings.faults.stall_seconds, self.close)
        elif response.delayed and self._service.settings.latency_seconds > 0:
            self._timer = self._loop.call_later(self._service.work_seconds(self._loop.time()), self._send_and_serve, send)
        else:
            send()

    def _send_and_serve(self, send: partial[None]) -> None:
        self._timer = None
        send()
        self._serve()

    def _send(self, response: Response, last: bool) -> None:
        if self._transport.is_closing():
            return
        if response.ending != "whole":
            self._transport.write(_head(response, close=False) + response.body[: len(response.body) // 2])
            if response.ending == "cut":
                self._transport.close()
            else:
                # the first half needs a moment to leave: a reset throws away whatever still waits in the socket
                self._timer = self._loop.call_later(_RESET_AFTER_SECONDS, self._reset)
            return
        self._service.sent(response)
        self._transport.write(_head(response, close=last) + response.body)
        self._idle()
        if last:
            self._transport.close()

    def _reset(self) -> None:
        # a socket that lingers for zero seconds sends RST instead of FIN when it is closed (man 7 socket, SO_LINGER)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _idle(self) -> None:
        if self._busy:
            self._busy = False
            self._service.books.call_in_flight(-self._counted)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _body_bytes(headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise _BadRequestError(411, "send the body with a content-length; the simulator takes no chunks")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise _BadRequestError(400, "content-length is no number")
    if len(length) > 12 or int(length) > MAX_BODY_BYTES:
        raise _BadRequestError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    return int(length)


def _head(response: Response, *, close: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Unknown')}",
        f"content-type: {response.content_type}",
        f"content-length: {len(response.body)}",
        *(f"{name}: {value}" for name, value in response.headers),
    ]
    if close:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
