"""Where words go: tables and results to standard output, everything else to standard error; nothing from outside can steer the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from safemt_api.foreign_text import printable

PLAIN_WIDTH = 100
"""Width of tables where there is no terminal."""


class PlainConsole(Console):
    """A console that shows text and its own styles, and no escape sequence that came with a text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable, their words made printable; rich's own control segments stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def output_console() -> Console:
    """The console for results."""
    return PlainConsole(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False, markup=False, emoji=False, soft_wrap=False)


def error_console() -> Console:
    """The console for progress."""
    return PlainConsole(stderr=True, highlight=False, markup=False, emoji=False)


def say(sentence: str) -> None:
    """One sentence for the user on standard error."""
    sys.stderr.write(printable(sentence) + "\n")
    sys.stderr.flush()


def put(line: str) -> None:
    """One line of a result on standard output."""
    sys.stdout.write(printable(line) + "\n")


def agrees(question: str) -> bool:
    """Whether the user answers the question with yes."""
    sys.stderr.write(printable(f"{question} [y/N] "))
    sys.stderr.flush()
    return sys.stdin.readline().strip().casefold() in ("y", "yes")
