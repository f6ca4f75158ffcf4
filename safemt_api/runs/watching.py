"""What goes on beside the work of a run: whoever displays it, the stall detector, and the signals that end it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio

Work = Callable[[], Coroutine[Any, Any, None]]


async def work_watched(work: Work, *, beside: Sequence[Work], signals: tuple[signal.Signals, ...]) -> bool:
    """Do the work with the others beside it, which end when it ends; true when a signal cut it short.

    Raises:
        BaseExceptionGroup: The work, or something beside it, raised.
    """
    interrupted = False
    async with anyio.create_task_group() as group:

        async def listen() -> None:
            nonlocal interrupted
            with anyio.open_signal_receiver(*signals) as received:
                async for _ in received:
                    interrupted = True
                    group.cancel_scope.cancel()
                    return

        for other in (*beside, listen) if signals else beside:
            group.start_soon(other)
        await work()
        group.cancel_scope.cancel()
    return interrupted
