"""Pictures in bounded memory, however many calls are under way: one limit for decoding and re-encoding, one for large ones being sent."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Event
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread

from safemt_api.messages import Call, Image

DECODING_BYTES = 640_000_000
"""For all pictures being decoded and re-encoded at one time. The largest legal one takes nearly all of it."""

SENDING_BYTES = 200_000_000
"""For all large pictures on their way, with the copies that text and body of a request are."""

LARGE_BYTES = 4_000_000
"""Smaller pictures are not counted while they are sent: ``--concurrency`` bounds them well enough."""

COPIES_SENT = 5
"""The bytes, their base64 text, the body and what the SDK makes of it on the way."""


class Room:
    """So much at once and no more, first come, first served. Who asks for more than all of it gets all of it."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._turnstile = anyio.Lock(fast_acquire=True)
        self._changed = anyio.Event()

    @asynccontextmanager
    async def taken(self, amount: int) -> AsyncIterator[None]:
        """Wait for that much, hold it, give it back."""
        if amount <= 0:
            yield
            return
        amount = min(amount, self._total)
        async with self._turnstile:
            while self._free < amount:
                await self._changed.wait()
            self._free -= amount
        try:
            yield
        finally:
            self._free += amount
            self._changed.set()
            self._changed = anyio.Event()


class PictureMemory:
    """Makes the pictures of calls ready and lets go of large ones afterwards."""

    def __init__(self, *, decoding_bytes: int = DECODING_BYTES, sending_bytes: int = SENDING_BYTES) -> None:
        self._decoding, self._sending = Room(decoding_bytes), Room(sending_bytes)
        self._workers = anyio.CapacityLimiter(os.cpu_count() or 1)
        self._making: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def ready(self, call: Call) -> AsyncIterator[None]:
        """While this lasts, the pictures of the call are ready to be sent.

        Raises:
            DialogueError: One cannot be made ready.
        """
        images = [image for message in call.messages for image in message.images]
        if not images:
            yield
            return
        # A file that goes out as it is has a size known beforehand, so that it need not even be read before there is room.
        known = all(image.is_ready or image.file_bytes for image in images)
        async with self._sending.taken(_weight(images) if known else 0):
            for image in images:
                await self._make(image)
            async with self._sending.taken(0 if known else _weight(images)):
                with self._used(images):
                    yield

    async def _make(self, image: Image) -> None:
        if image.is_ready:
            return
        lock = self._making.setdefault(image.digest, anyio.Lock())
        async with lock, self._decoding.taken(image.memory_bytes):
            if image.is_ready:
                return
            gone = Event()
            try:
                await anyio.to_thread.run_sync(image.made, gone.is_set, abandon_on_cancel=True, limiter=self._workers)
            finally:
                gone.set()

    @contextmanager
    def _used(self, images: list[Image]) -> Iterator[None]:
        self._users.update(image.digest for image in images)
        try:
            yield
        finally:
            self._users.subtract(image.digest for image in images)
            for image in images:
                if not self._users[image.digest]:
                    del self._users[image.digest]
                    if image.file_bytes:
                        image.release()


def _weight(images: list[Image]) -> int:
    sizes = (len(image.data) if image.is_ready else image.file_bytes for image in images)
    return sum(COPIES_SENT * size for size in sizes if size > LARGE_BYTES)
