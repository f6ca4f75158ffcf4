"""Work done by several at a time, with what goes on beside it: a display, the stall detector, and the signals that end it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, TypeVar

import anyio

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[], Coroutine[Any, Any, None]]
AT_ONCE = "ended at once: every reply that had arrived is kept, and the same command goes on; calls under way may have been billed"
EXIT_AT_ONCE = 130


async def work_watched(
    work: Work, *, beside: Sequence[Work], signals: tuple[signal.Signals, ...], interrupted: Callable[[], None], ending: Callable[[], None]
) -> None:
    """Do the work with the others beside it, which end when it ends, or all of it when one of the signals arrives.

    Args:
        work: What is to be done.
        beside: What goes on beside it.
        signals: The first of these ends the work; the next one ends the process at once, and says so.
        interrupted: Told that a signal arrived.
        ending: Told that the work is over or was cancelled, before what it had begun is wound up.

    Raises:
        BaseExceptionGroup: The work, or something beside it, raised.
    """
    async with anyio.create_task_group() as group:

        async def listen() -> None:
            with anyio.open_signal_receiver(*signals) as received:
                async for _ in received:
                    break
            interrupted()
            for one in signals:
                signal.signal(one, _end_at_once)
            group.cancel_scope.cancel()

        async def tell_the_end() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ending()

        for other in (*beside, tell_the_end, listen) if signals else (*beside, tell_the_end):
            group.start_soon(other)
        await work()
        group.cancel_scope.cancel()


async def work_through(
    todo: Sequence[T], work: Callable[[T], Coroutine[Any, Any, R | None]], done: Callable[[R], bool], *, workers: int
) -> None:
    """Work through a list in its order, so many at a time.

    Args:
        todo: What is to be worked on.
        work: Works on one; ``None`` where nothing came of it.
        done: Told of what came of one as soon as it is there; whether that is enough: what has begun then ends, and nothing more begins.
        workers: Most that are worked on at a time.

    Raises:
        BaseExceptionGroup: One raised.
    """
    waiting, enough = iter(todo), False

    async def go_on() -> None:
        nonlocal enough
        # All workers take from one iterator: nobody else runs between two awaits.
        while not enough and (one := next(waiting, None)) is not None:
            found = await work(one)
            if found is not None:
                enough |= done(found)

    async with anyio.create_task_group() as group:
        for _ in range(min(workers, len(todo))):
            group.start_soon(go_on)


async def shown(watch: Callable[[Any], Coroutine[Any, Any, None]], execution: Any) -> None:
    """Display what is under way for as long as there is somewhere to: a terminal that was closed is no reason to end it."""
    with suppress(OSError):
        await watch(execution)


@contextmanager
def handlers_kept(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Whatever a signal does in the block, afterwards it does what it did before."""
    before = {one: signal.getsignal(one) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            if signal.getsignal(one) is _end_at_once:
                signal.signal(one, handler)


def _end_at_once(_: int, __: FrameType | None) -> NoReturn:
    # Straight out: whatever winds up slowly is what the user does not want to wait for. A reply is on disk before anyone uses it.
    cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
    os.write(2, f"{cursor}\n{AT_ONCE}\n".encode())
    os._exit(EXIT_AT_ONCE)
