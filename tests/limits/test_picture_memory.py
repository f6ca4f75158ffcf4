"""However many calls are under way, pictures take no more memory than they may, and nobody waits for what nobody wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import anyio
import anyio.to_thread
import pytest

from safemt_api.errors import DialogueError
from safemt_api.limits.picture_memory import LARGE_BYTES, PictureMemory, Room
from safemt_api.messages import Call, Image, Route, user

CALL = Call(Route("vendor", "openai_chat", ("http://127.0.0.1:1",), "m"), ())


@dataclass
class Studio:
    """Makes pictures and counts what is being made."""

    seconds: float = 0.02
    now: int = 0
    most: int = 0
    made: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def picture(self, name: str, memory_bytes: int, data: bytes = b"x") -> Image:
        def make(_stopped: Callable[[], bool]) -> bytes:
            with self.lock:
                self.now += memory_bytes
                self.most = max(self.most, self.now)
                self.made.append(name)
            time.sleep(self.seconds)
            with self.lock:
                self.now -= memory_bytes
            return data

        return Image(make, digest=name, media_type="image/png", width_pixels=1, height_pixels=1, memory_bytes=memory_bytes)


def call(image: Image) -> Call:
    return replace(CALL, messages=(user("words", image),))


async def hold(memory: PictureMemory, image: Image) -> None:
    async with memory.ready(call(image)):
        assert image.is_ready


async def test_what_is_being_made_never_takes_more_than_there_is_room_for() -> None:
    studio, memory = Studio(), PictureMemory(decoding_bytes=100)
    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(hold, memory, studio.picture(str(number), 40))
        group.start_soon(hold, memory, studio.picture("more than all of it", 90))
    assert len(studio.made) == 13
    assert 0 < studio.most <= 100


async def test_a_picture_that_many_calls_want_is_made_once() -> None:
    studio, memory = Studio(), PictureMemory()
    image = studio.picture("one", 40)
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(hold, memory, image)
    assert studio.made == ["one"]


async def test_large_pictures_wait_for_each_other_while_small_ones_pass() -> None:
    memory = PictureMemory(sending_bytes=5 * (LARGE_BYTES + 1))
    large = [Image(bytes(LARGE_BYTES + 1), digest=str(n), media_type="image/png", width_pixels=1, height_pixels=1) for n in range(2)]
    small = Image(bytes(LARGE_BYTES), digest="small", media_type="image/png", width_pixels=1, height_pixels=1)
    async with memory.ready(call(large[0])):
        await hold(memory, small)
        with pytest.raises(TimeoutError), anyio.fail_after(0.05):
            await hold(memory, large[1])
    await hold(memory, large[1])


async def test_a_file_sent_as_it_is_is_let_go_of_when_the_last_call_is_over_and_read_again() -> None:
    reads: list[int] = []

    def read(_stopped: Callable[[], bool]) -> bytes:
        reads.append(1)
        return b"file"

    image = Image(read, digest="file", media_type="image/png", width_pixels=1, height_pixels=1, file_bytes=4)
    memory = PictureMemory()
    async with memory.ready(call(image)):
        await hold(memory, image)
        assert image.is_ready
    assert not image.is_ready
    await hold(memory, image)
    assert len(reads) == 2


async def test_cancelling_a_call_does_not_wait_for_its_picture_and_tells_the_work_to_end() -> None:
    told, began = threading.Event(), threading.Event()

    def make(stopped: Callable[[], bool]) -> bytes:
        began.set()
        while not stopped():
            time.sleep(0.001)
        told.set()
        raise DialogueError("given up")

    image = Image(make, digest="slow", media_type="image/png", width_pixels=1, height_pixels=1, memory_bytes=10)
    memory = PictureMemory(decoding_bytes=10)
    async with anyio.create_task_group() as group:
        group.start_soon(hold, memory, image)
        await anyio.to_thread.run_sync(began.wait)
        assert not told.is_set()
        group.cancel_scope.cancel()
    assert told.wait(5)
    await hold(memory, Studio().picture("next", 10))


async def test_a_picture_that_cannot_be_made_fails_its_call_alone_and_gives_its_room_back() -> None:
    def make(_stopped: Callable[[], bool]) -> bytes:
        raise DialogueError("undecodable")

    memory = PictureMemory(decoding_bytes=10)
    for _ in range(3):
        image = Image(make, digest="bad", media_type="image/png", width_pixels=1, height_pixels=1, memory_bytes=10)
        with pytest.raises(DialogueError, match="undecodable"):
            await hold(memory, image)


async def test_room_is_given_first_come_first_served() -> None:
    room, order = Room(10), list[str]()

    async def take(name: str, amount: int) -> None:
        async with room.taken(amount):
            order.append(name)
            await anyio.sleep(0.01)

    async with anyio.create_task_group() as group:
        for name, amount in (("first", 6), ("large", 9), ("small", 1)):
            group.start_soon(take, name, amount)
            await anyio.sleep(0.001)
    assert order == ["first", "large", "small"]
