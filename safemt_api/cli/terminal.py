"""Where words go: tables and results to standard output, everything else to standard error; nothing from outside can steer the terminal."""

from __future__ import annotations

import importlib.util
import json
import math
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import anyio
from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from safemt_api.foreign_text import printable

PLAIN_WIDTH = 100
"""Width of tables where there is no terminal."""

ASK_ABOVE_USD = 5.0

_T = TypeVar("_T")


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


def live() -> Live:
    """A display on standard error that is drawn anew when it is told to."""
    return Live(console=error_console(), auto_refresh=False, redirect_stdout=False, redirect_stderr=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> Table:
    """An unboxed table; the first ``left`` columns hold words, the others numbers."""
    made = Table(title=Text(title) if title else None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        made.add_column(Text(name), header_style="dim", justify="left" if place < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def grid(rows: Iterable[tuple[str, str, str]], *, spaced: bool = False) -> Table:
    """Names in a style of theirs, each beside its text."""
    made = Table.grid(padding=(0, 2, 1, 0) if spaced else (0, 2))
    for name, style, text in rows:
        made.add_row(Text(name, style=style), Text(text, overflow="fold"))
    return made


def heading(text: str) -> Text:
    """A line that stands above others."""
    return Text(text, style="bold")


def show(*parts: RenderableType) -> None:
    """Tables and text of a result on standard output."""
    console = output_console()
    for part in parts:
        console.print(part)


def say(*sentences: str) -> None:
    """Sentences for the user on standard error, a line each."""
    for sentence in sentences:
        sys.stderr.write(printable(sentence) + "\n")
    sys.stderr.flush()


def put(line: str) -> None:
    """One line of a result on standard output."""
    sys.stdout.write(printable(line) + "\n")


def put_json(value: object) -> None:
    """Exactly one JSON value on standard output; a frame is a list of its rows, a record a mapping, a number that is none (NaN) null."""
    sys.stdout.write(printable(json.dumps(plain(value), indent=2, allow_nan=False)) + "\n")


def plain(value: Any) -> Any:
    """The value in terms of JSON."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        value = {one.name: getattr(value, one.name) for one in fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif hasattr(value, "to_dicts"):
        value = value.to_dicts()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, Iterable) else str(value)


def agrees(question: str) -> bool:
    """Whether the user answers the question with yes."""
    sys.stderr.write(printable(f"{question} [y/N] "))
    sys.stderr.flush()
    return sys.stdin.readline().strip().casefold() in ("y", "yes")


def should_ask(*, yes: bool, max_usd: float | None) -> bool:
    """Whether a dear run asks before it starts: on a terminal, without a ceiling, unless ``--yes`` says otherwise."""
    return not yes and max_usd is None and sys.stdin.isatty() and sys.stderr.isatty()


def run_loop(function: Callable[[], Awaitable[_T]]) -> _T:
    """Run the event loop, on uvloop where it is installed."""
    return anyio.run(function, backend_options={"use_uvloop": importlib.util.find_spec("uvloop") is not None})


def _ending_signals() -> tuple[signal.Signals, ...]:
    if sys.platform == "win32":
        return ()
    # ``nohup`` has it ignored, and means it.
    closed = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *closed)


ENDING_SIGNALS = _ending_signals()
"""End a run as interrupted (asyncio on Windows cannot wait for signals; there Ctrl-C ends it the plain way)."""
