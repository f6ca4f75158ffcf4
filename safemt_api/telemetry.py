"""Who is told what a run does, while it does it: nobody, unless ``--otel`` asks for OpenTelemetry (``safemt_api.otel``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from importlib import import_module

import anyio
import anyio.to_thread

from safemt_api.errors import UsageError
from safemt_api.messages import Answer, Call, Dialogue, Telling

IMPLEMENTATION = "safemt_api.otel"
"""Imported when it is asked for: OpenTelemetry is an optional extra."""

FLUSH_SECONDS = 5.0
"""How long the end of a run waits for the collector; what it has not taken by then is lost, and nothing else."""

Told = Callable[[Answer], None]


class Telemetry:
    """Tells nobody anything; see ``open_telemetry`` for one that does."""

    def dialogue(self, dialogue: Dialogue, *, run: str) -> AbstractContextManager[None]:
        """The scope of all that is asked about one dialogue."""
        return nullcontext()

    def call(self, call: Call) -> AbstractContextManager[Told]:
        """The scope of one call with all of its tries; what it is given is told of the answer."""
        return nullcontext(lambda _answer: None)

    def retried(self, error: BaseException | None, wait_seconds: float) -> None:
        """The call under way failed, and is tried again after a wait."""


SILENT = Telemetry()


@asynccontextmanager
async def open_telemetry(telling: Telling | None) -> AsyncIterator[Telemetry]:
    """Whom a run tells what it does; on leaving, what is left is sent.

    Raises:
        UsageError: OpenTelemetry is not installed.
    """
    if telling is None:
        yield SILENT
        return
    try:
        otel = import_module(IMPLEMENTATION)
    except ModuleNotFoundError as error:
        raise UsageError("--otel needs OpenTelemetry: pip install 'safemt-api[otel]'") from error
    traces, metrics = otel.open_providers()
    try:
        yield otel.OpenTelemetry(traces, metrics, words=telling == "words")
    finally:
        with anyio.move_on_after(FLUSH_SECONDS, shield=True):
            async with anyio.create_task_group() as group:
                for provider in (traces, metrics):
                    group.start_soon(partial(anyio.to_thread.run_sync, provider.shutdown, abandon_on_cancel=True))
