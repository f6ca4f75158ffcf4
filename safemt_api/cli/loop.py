"""How the event loop is run: on uvloop where it is installed."""

from __future__ import annotations

import importlib.util
import signal
import sys

BACKEND_OPTIONS = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}


def _ending_signals() -> tuple[signal.Signals, ...]:
    if sys.platform == "win32":
        return ()
    # ``nohup`` has it ignored, and means it.
    closed = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *closed)


ENDING_SIGNALS = _ending_signals()
"""End a run as interrupted (asyncio on Windows cannot wait for signals; there Ctrl-C ends it the plain way)."""
