"""Where words go: tables and results to standard output, everything else to standard error."""

from __future__ import annotations

import sys

from rich.console import Console

from safemt_api.report import words

PLAIN_WIDTH = 100
"""Width of tables where there is no terminal."""


def output_console() -> Console:
    """The console for results."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False, markup=False, emoji=False, soft_wrap=False)


def error_console() -> Console:
    """The console for progress."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def say(sentence: str) -> None:
    """One sentence for the user on standard error; nothing in it can steer the terminal."""
    sys.stderr.write(words.printable(sentence) + "\n")
    sys.stderr.flush()
