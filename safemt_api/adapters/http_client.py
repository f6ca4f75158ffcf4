"""The one HTTP client that all adapters of a run share, and how much a response may hold: enforced while it is read, unpacked, before any
SDK has it all.

A server that sends without end, or a few kilobytes that unpack to gigabytes, ends one dialogue and not the process. The bound follows the
request: what was sent (servers quote requests in errors), the tokens that may come back, and room for everything around them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.request import getproxies

import httpx2

from safemt_api.adapters.base import Timeouts
from safemt_api.adapters.connections import Connections

KEEPALIVE_SECONDS = 60.0
"""Longer than a slow reply leaves a connection idle between turns; the default of 5 s would mean a TLS handshake for nearly every call."""

BASE_BYTES = 256 * 1024
BYTES_A_TOKEN = 256
"""A token of text is some 4 bytes; escaped as JSON, with a record of its own in the worst of dialects, still far below this."""

TIMES_THE_REQUEST = 2
"""An error may quote the whole request, escaped once more."""

ASSUMED_TOKENS = 8192
_tokens: ContextVar[int] = ContextVar("tokens that may come back", default=ASSUMED_TOKENS)


_least_patience: ContextVar[float] = ContextVar("seconds that a reply is waited for at least", default=0.0)


class OversizeError(httpx2.RequestError):
    """A response beyond its bound; of the kind that the SDKs pass on or wrap as their cause.

    Attributes:
        status: The response's status.
        limit_bytes: How much was allowed.
        announced_bytes: How much the server said it would send, where it said so (packed, if it is).
    """

    def __init__(self, *, status: int, limit_bytes: int, announced_bytes: int | None) -> None:
        self.status, self.limit_bytes, self.announced_bytes = status, limit_bytes, announced_bytes
        super().__init__(f"the response is larger than {limit_bytes} bytes")

    @property
    def size(self) -> str:
        """The size for a sentence."""
        announced = self.announced_bytes or 0
        told = f"; the server announced {_megabytes(announced)}" if announced > self.limit_bytes else ""
        return f"more than {_megabytes(self.limit_bytes)}{told}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"


def open_http_client(*, connections: int, timeouts: Timeouts, transport: httpx2.AsyncBaseTransport | None = None) -> httpx2.AsyncClient:
    """The client that all adapters of a run share; whoever opens it closes it.

    Args:
        connections: The most calls in flight; as many connections are kept open between calls.
        transport: Stands in for the network in tests.
    """
    # No pool timeout: a call that has been let through waits for its connection as long as it may take.
    timeout = httpx2.Timeout(timeouts.idle_seconds, connect=timeouts.connect_seconds, pool=None)

    async def keep_timeouts(request: httpx2.Request) -> None:
        # SDKs put their own timeouts on each request (google-genai one number for all four, overriding the client's); ours hold.
        request.extensions["timeout"] = timeout.as_dict() | {"read": max(timeouts.idle_seconds, _least_patience.get())}

    # Where the environment names a proxy, httpx2 goes through it, and by its own pool.
    if transport is None and not getproxies():
        transport = Connections(most=connections, keep_seconds=KEEPALIVE_SECONDS)
    return httpx2.AsyncClient(
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEPALIVE_SECONDS),
        timeout=timeout,
        follow_redirects=False,
        event_hooks={"request": [keep_timeouts], "response": [bind_response]},
        transport=transport,
    )


@contextmanager
def room_for(tokens: int, *, patience_seconds: float = 0.0) -> Iterator[None]:
    """Responses to requests that are made inside may hold so many tokens, and are waited for so long at least."""
    before, patience_before = _tokens.set(tokens), _least_patience.set(patience_seconds)
    try:
        yield
    finally:
        _tokens.reset(before)
        _least_patience.reset(patience_before)


async def bind_response(response: httpx2.Response) -> None:
    """A response hook of the HTTP client, which calls it before the body is read.

    Raises:
        OversizeError: At once where the server announces too much, else from the body's stream.
    """
    sent = _length(response.request.headers) or 0
    limit = BASE_BYTES + TIMES_THE_REQUEST * sent + BYTES_A_TOKEN * _tokens.get()
    bound = _Bound(response, limit, _length(response.headers))
    if (bound.announced_bytes or 0) > limit:
        raise bound.error()
    response.stream = bound
    # Unpacked by the bound; what stands in the headers must not be applied a second time.
    response.headers.pop("content-encoding", None)
    response.headers.pop("content-length", None)


def _length(headers: httpx2.Headers) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


class _Bound(httpx2.AsyncByteStream):
    """The unpacked body, piece by piece (httpx2 unpacks at most a megabyte at a time)."""

    def __init__(self, response: httpx2.Response, limit_bytes: int, announced_bytes: int | None) -> None:
        self._inner = httpx2.Response(response.status_code, headers=response.headers, stream=response.stream, request=response.request)
        self._limit_bytes, self.announced_bytes = limit_bytes, announced_bytes

    def error(self) -> OversizeError:
        return OversizeError(status=self._inner.status_code, limit_bytes=self._limit_bytes, announced_bytes=self.announced_bytes)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size_bytes = 0
        async for piece in self._inner.aiter_bytes():
            size_bytes += len(piece)
            if size_bytes > self._limit_bytes:
                raise self.error()
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()
