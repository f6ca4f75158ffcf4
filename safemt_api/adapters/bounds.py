"""How much a response may hold: enforced while it is read, unpacked, before any SDK has it all.

A server that sends without end, or a few kilobytes that unpack to gigabytes, ends one dialogue and not the process. The bound follows the
request: what was sent (servers quote requests in errors), the tokens that may come back, and room for everything around them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpx2

BASE_BYTES = 256 * 1024
BYTES_A_TOKEN = 256
"""A token of text is some 4 bytes; escaped as JSON, with a record of its own in the worst of dialects, still far below this."""

TIMES_THE_REQUEST = 2
"""An error may quote the whole request, escaped once more."""

ASSUMED_TOKENS = 8192
_tokens: ContextVar[int] = ContextVar("tokens that may come back", default=ASSUMED_TOKENS)


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


@contextmanager
def room_for(tokens: int) -> Iterator[None]:
    """Responses to requests that are made inside may hold so many tokens."""
    before = _tokens.set(tokens)
    try:
        yield
    finally:
        _tokens.reset(before)


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
