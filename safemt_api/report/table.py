"""What a table is: columns of cells, said once; the terminal, the page and the papers' forms (LaTeX, CSV, Markdown) spell it.

How a metric comes into view, in three files: compute it (``metrics/``), give it a field of the summary, and add one ``Column`` that reads
the field to the table where it belongs (``tables.py``, ``study_tables.py``). Every renderer shows it from then on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from safemt_api import words

Medium = Literal["terminal", "page", "paper"]
EVERYWHERE: tuple[Medium, ...] = ("terminal", "page", "paper")
SIGNIFICANT = 0.05
"""A corrected p value below it gets a star."""

COLOURS = 8
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3), (4, 2), (10, 4), (1, 3), (6, 2, 2, 2))


class Series(NamedTuple):
    """One run's look: ``colour`` counts from 0 in the palette, ``dash`` is in pixels of line and gap."""

    colour: int
    dash: tuple[int, ...]


def series_of(place: int) -> Series:
    """The look of the run at ``place`` (from 0), by colour and dash together, so that 64 runs differ, also for eyes and printers without
    colour: after eight runs the colours come again, each with another dash."""
    colour = place % COLOURS
    return Series(colour, DASHES[(colour + place // COLOURS) % len(DASHES)])


@dataclass(frozen=True, slots=True)
class Cell:
    """One value as it is spelled, and what belongs to it.

    ``value`` is what a column sorts by (``None`` stays last); ``interval`` is its 95 % interval, with ``low`` and ``high`` as numbers;
    ``brief`` stands for ``text`` where there is little room; ``lines`` are facts below it, where there is much; ``look`` is the run whose
    line and colour stand before it, and ``bar`` a range of places from 1 among how many.
    """

    text: str
    value: float | str | None = None
    interval: str = ""
    low: float | None = None
    high: float | None = None
    star: bool = False
    brief: str = ""
    lines: tuple[str, ...] = ()
    look: int | None = None
    bar: tuple[int, int, int] | None = None


NOTHING = Cell(words.NOTHING)


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and its cells, one a row.

    ``long`` is the heading where there is room, ``named`` says that it is a name from outside, ``on`` who shows the column at all. On the
    narrow terminal ``interval`` says where intervals stand: in a column of their own (headed ``beside``), in a line below, in brackets
    after the value, or nowhere; columns of one ``part`` make a table of their own under that title, after the others; and where ``basis``
    names the value, the cells' lines stand below the row.
    """

    title: str
    cells: Sequence[Cell]
    long: str = ""
    on: tuple[Medium, ...] = EVERYWHERE
    number: bool = True
    named: bool = False
    interval: Literal["beside", "below", "after", "nowhere"] = "nowhere"
    beside: str = "95% interval"
    part: str = ""
    basis: str = ""

    def heading(self, medium: Medium) -> str:
        """What stands above the column; the page's begin with a capital, but names, units and single letters do not."""
        if medium == "terminal":
            return self.title
        title = self.long or self.title
        as_it_is = medium == "paper" or self.named or not title[1:2].isalpha()
        return title if as_it_is else title[:1].upper() + title[1:]


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its ``title`` in one line, or in a ``caption`` where there is room; ``name`` is for files and labels, ``notes`` go below."""

    title: str
    columns: tuple[Column, ...]
    caption: str = ""
    name: str = ""
    notes: tuple[str, ...] = ()

    def shown(self, medium: Medium) -> list[Column]:
        """The columns that the medium shows."""
        return [column for column in self.columns if medium in column.on]


def rows_of(columns: Sequence[Column]) -> list[tuple[Cell, ...]]:
    """The cells of the columns, row by row."""
    return list(zip(*(column.cells for column in columns), strict=True))


def known(value: float | None) -> float | None:
    """The number, or ``None`` where it is not one: a statistic that is not defined."""
    return None if value is None or math.isnan(value) else value


def said(text: object, *, look: int | None = None, lines: tuple[str, ...] = ()) -> Cell:
    """Words."""
    return Cell(str(text), str(text), look=look, lines=lines)


def count(number: int | None) -> Cell:
    """A whole number."""
    return Cell(words.count(number), number)


def percent(share: float | None, low: float | None = None, high: float | None = None, *, star: bool = False) -> Cell:
    """A share in [0, 1] with its interval."""
    share, low, high = known(share), known(low), known(high)
    interval = "" if low is None or high is None else words.percent_interval(low, high)
    return Cell(words.percent(share), share, interval, low, high, star)


def percents(low: float | None, high: float | None) -> Cell:
    """Bounds of a share."""
    return Cell(words.percent_interval(known(low), known(high)), known(low))


def index(value: float | None, low: float | None = None, high: float | None = None, *, lines: tuple[str, ...] = ()) -> Cell:
    """A Safety Index with its interval."""
    value, low, high = known(value), known(low), known(high)
    interval = "" if low is None or high is None else words.index_interval(low, high)
    return Cell(words.index(value), value, interval, low, high, lines=lines)


def indexes(low: float | None, high: float | None) -> Cell:
    """Bounds of a Safety Index."""
    return Cell(words.index_interval(known(low), known(high)), known(low))


def points(value: float | None, low: float | None = None, high: float | None = None) -> Cell:
    """A difference of shares in percentage points with its interval."""
    return _signed(value, low, high, lambda share: f"{100 * share:+.1f}")


def change(value: float | None, low: float | None = None, high: float | None = None) -> Cell:
    """A difference of Safety Indexes with its interval."""
    return _signed(value, low, high, lambda number: f"{number:+.3f}")


def _signed(value: float | None, low: float | None, high: float | None, spell: Callable[[float], str]) -> Cell:
    value, low, high = known(value), known(low), known(high)
    interval = "" if low is None or high is None else f"{spell(low)} to {spell(high)}"
    return Cell(words.NOTHING if value is None else spell(value), value, interval, low, high)


def dollars(usd: float | None) -> Cell:
    """Money; unknown where no price is known."""
    return Cell(words.dollars(usd), usd)


def p_value(value: float | None) -> Cell:
    """A p value with three decimals."""
    value = known(value)
    return Cell(words.NOTHING if value is None else "<0.001" if value < 0.001 else f"{value:.3f}", value)


def extra_dollars(usd: float | None, *, sign: bool = True) -> Cell:
    """An amount that is more or less than another."""
    return NOTHING if usd is None else Cell(f"{'-' if usd < 0 else '+' if sign else ''}{words.dollars(abs(usd))}", usd)


def seconds(more: float | None) -> Cell:
    """A span that is more or less than another."""
    return NOTHING if more is None else Cell(f"{more:+.2f}", more)


def relative(change_of: float | None) -> Cell:
    """A relative change in percent."""
    return NOTHING if change_of is None else Cell(f"{100 * change_of:+.1f}%", change_of)
