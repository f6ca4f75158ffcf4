"""Connections to servers: HTTP/1.1, kept open between calls, the last one used first.

h11 reads and writes the protocol, httpx2 does all around it. Its own pool looks at every connection before and after each call, and hands
each piece of a message through half a dozen generators: with 32 connections that is half of the CPU time of a call.
"""

from __future__ import annotations

import select
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from functools import cached_property

import anyio
import h11
import httpx2
from anyio.abc import ByteStream, SocketAttribute

READ_BYTES = 64 * 1024
MAX_HEAD_BYTES = 100 * 1024
"""Of a response, before its body."""

Timeouts = Mapping[str, float | None]
Place = tuple[str, str, int]
"""Scheme, host and port."""


class Connections(httpx2.AsyncBaseTransport):
    """All connections of a client: to any servers, so many at once.

    Raises (from requests): httpx2's exceptions, as its own transport does.
    """

    def __init__(self, *, most: int, keep_seconds: float) -> None:
        self._room = anyio.Semaphore(most, fast_acquire=True)
        self._keep_seconds = keep_seconds
        self._idle: defaultdict[Place, list[_Connection]] = defaultdict(list)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request, give the response with its body still to be read."""
        timeouts: Timeouts = request.extensions.get("timeout", {})
        await self._room.acquire()
        connection = None
        try:
            connection = await self._connected(request.url, timeouts)
            head = await connection.ask(request, timeouts)
        except BaseException:
            self._room.release()
            if connection is not None:
                await connection.close()
            raise
        body = _Body(self, connection, timeouts.get("read"))
        told = {"http_version": b"HTTP/" + head.http_version, "reason_phrase": head.reason}
        return httpx2.Response(head.status_code, headers=head.headers.raw_items(), stream=body, extensions=told)

    async def aclose(self) -> None:
        """Close what is open and idle."""
        for connections in self._idle.values():
            while connections:
                await connections.pop().close()

    async def let_go(self, connection: _Connection) -> None:
        """Keep a connection for the next call where its server will have one, close it where not."""
        self._room.release()
        if connection.ready_for_more():
            connection.expires_at = anyio.current_time() + self._keep_seconds
            self._idle[connection.place].append(connection)
        else:
            await connection.close()

    async def _connected(self, url: httpx2.URL, timeouts: Timeouts) -> _Connection:
        if url.scheme not in ("http", "https"):
            raise httpx2.UnsupportedProtocol(f"no connections of the kind {url.scheme!r} are made")
        place = url.scheme, url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)
        idle = self._idle[place]
        while idle:
            connection = idle.pop()
            if connection.expires_at > anyio.current_time() and not connection.was_closed():
                return connection
            await connection.close()
        return _Connection(place, await self._open(place, timeouts.get("connect")))

    async def _open(self, place: Place, seconds: float | None) -> ByteStream:
        scheme, host, port = place
        context = self._tls if scheme == "https" else None
        try:
            with anyio.fail_after(seconds):
                if context is None:
                    return await anyio.connect_tcp(host, port)
                return await anyio.connect_tcp(host, port, ssl_context=context, tls_standard_compatible=False)
        except TimeoutError as error:
            raise httpx2.ConnectTimeout(str(error)) from error
        except (OSError, UnicodeError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            raise httpx2.ConnectError(str(error)) from error

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = httpx2.create_ssl_context()
        context.set_alpn_protocols(["http/1.1"])
        return context


class _Connection:
    """One connection, and where its conversation stands."""

    def __init__(self, place: Place, stream: ByteStream) -> None:
        self.place, self.expires_at = place, float("inf")
        self._stream = stream
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._descriptor: int = stream.extra(SocketAttribute.raw_socket).fileno()  # noqa: S610 (no query: anyio's attributes)

    async def ask(self, request: httpx2.Request, timeouts: Timeouts) -> h11.Response:
        """Send the request and wait for the head of the response."""
        try:
            with anyio.fail_after(timeouts.get("write")):
                await self._send(request)
        except TimeoutError as error:
            raise httpx2.WriteTimeout(str(error)) from error
        except h11.LocalProtocolError as error:
            raise httpx2.LocalProtocolError(str(error)) from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # a server may answer before it has heard all, and close: then the answer says why
        while not isinstance(event := await self.event(timeouts.get("read")), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise httpx2.RemoteProtocolError(f"the server began with {type(event).__name__}")
        return event

    async def _send(self, request: httpx2.Request) -> None:
        # Head and body in one go where the body is in one piece.
        waiting = self._protocol.send(h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)) or b""
        assert isinstance(request.stream, httpx2.AsyncByteStream)  # noqa: S101 (an AsyncClient makes no other)
        async for piece in request.stream:
            await self._stream.send(waiting + (self._protocol.send(h11.Data(data=piece)) or b""))
            waiting = b""
        if waiting := waiting + (self._protocol.send(h11.EndOfMessage()) or b""):
            await self._stream.send(waiting)

    async def event(self, seconds: float | None) -> h11.Event | type[h11.PAUSED]:
        """The next event of the response."""
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                self._protocol.receive_data(await self._received(seconds))
        except h11.RemoteProtocolError as error:
            raise httpx2.RemoteProtocolError(str(error)) from error
        return event  # type: ignore[return-value]  # mypy does not see that NEED_DATA stays in the loop

    async def _received(self, seconds: float | None) -> bytes:
        try:
            with anyio.fail_after(seconds):
                return await self._stream.receive(READ_BYTES)
        except TimeoutError as error:
            raise httpx2.ReadTimeout(str(error)) from error
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError) as error:
            raise httpx2.ReadError(str(error)) from error

    def ready_for_more(self) -> bool:
        """Whether the last request is answered to its end and the server takes another; then the conversation begins anew.

        What a server says beyond its answer would be read as the answer to the next call.
        """
        answered = self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE
        ready = answered and not self._protocol.trailing_data[0]
        if ready:
            self._protocol.start_next_cycle()
        return ready

    def was_closed(self) -> bool:
        """Whether the server has closed the connection meanwhile: nothing else can come from it unasked."""
        if hasattr(select, "poll"):
            look = select.poll()
            look.register(self._descriptor, select.POLLIN)
            return bool(look.poll(0))
        return bool(select.select([self._descriptor], [], [], 0)[0])

    async def close(self) -> None:
        """Close it, whoever is being cancelled."""
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(self._stream)


class _Body(httpx2.AsyncByteStream):
    """The body of a response, as it comes."""

    def __init__(self, connections: Connections, connection: _Connection, seconds: float | None) -> None:
        self._connections, self._connection, self._seconds = connections, connection, seconds
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self._connection.event(self._seconds), h11.Data):
            yield bytes(event.data)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._connections.let_go(self._connection)
