"""How the event loop is run: on uvloop where it is installed."""

from __future__ import annotations

import importlib.util
import signal
import sys

BACKEND_OPTIONS = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}

ENDING_SIGNALS: tuple[signal.Signals, ...] = () if sys.platform == "win32" else (signal.SIGINT, signal.SIGTERM)
"""End a run as interrupted (asyncio on Windows cannot wait for signals; there Ctrl-C ends it the plain way)."""
