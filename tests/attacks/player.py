"""``safemt-api`` in a real process, to be killed for real, that starts in a moment: forked from a server that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from datetime import UTC, datetime, tzinfo
from itertools import cycle
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = (
    "safemt_api.cli.app",
    "safemt_api.cli.eval",
    "safemt_api.runs.play",
    "safemt_api.report.page",
    "openai",
    "anthropic",
    "google.genai",
    "polars",
)


def begun(words: tuple[str, ...], said: Path, *, clock_jump_seconds: float = 0.0, room_bytes: int | None = None) -> BaseProcess:
    """The command in a process of its own, which writes to ``said``.out and ``said``.err.

    Args:
        words: What to tell ``safemt-api``.
        said: Where its output goes.
        clock_jump_seconds: Its wall clock jumps so far ahead and back again at every look.
        room_bytes: No file may grow beyond so many bytes, as on a full disk.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=play, args=(words, str(said), clock_jump_seconds, room_bytes), daemon=True)
    for suffix in (".out", ".err"):  # it may be killed before it writes
        said.with_suffix(suffix).touch()
    process.start()
    return process


def play(words: tuple[str, ...], said: str, clock_jump_seconds: float, room_bytes: int | None) -> None:
    """What the process does."""
    for number, name in ((0, os.devnull), (1, f"{said}.out"), (2, f"{said}.err")):
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w")))
    sys.modules["altair"] = None  # type: ignore[assignment] # as where the extra is not installed: charts would be most of the time
    if clock_jump_seconds:
        jump_clock(clock_jump_seconds)
    if room_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, room_bytes))
    from safemt_api.cli import main

    main(list(words))


def jump_clock(seconds: float) -> None:
    """Whoever of ours looks at the wall clock sees it jump ahead and back."""
    offsets, real = cycle((0.0, seconds, -seconds)), time.time

    class Jumping(datetime):
        """A ``datetime`` whose ``now`` cannot be trusted."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Jumping:
            return cls.fromtimestamp(real() + next(offsets), tz or UTC)

    time.time = lambda: real() + next(offsets)
    for name, module in list(sys.modules.items()):
        if name.startswith("safemt_api") and getattr(module, "datetime", None) is datetime:
            module.datetime = Jumping  # type: ignore[attr-defined] # a module's import, replaced as a whole
