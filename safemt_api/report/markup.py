"""Small pieces of HTML for the page: everything that is not ours is escaped on its way in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from safemt_api.report import words
from safemt_api.report.reading import index_basis
from safemt_api.report.series import series_of
from safemt_api.runs.summary import Index


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    number: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """``shown`` is HTML already escaped; ``key`` is what the column sorts by (empty: stays last)."""

    shown: str
    key: str | float | int | None = None


def safe_text(value: object) -> str:
    return escape(words.printable(str(value)))


def swatch(place: int) -> str:
    """The line of the run at ``place`` as the charts draw it."""
    series = series_of(place)
    dash = " ".join(map(str, series.dash))
    return (
        '<svg class="key" viewBox="0 0 22 8" aria-hidden="true">'
        f'<line x1="0" x2="22" y1="4" y2="4" stroke="var(--series-{series.colour + 1})" stroke-width="3" stroke-dasharray="{dash}"/></svg>'
    )


def section(key: str, title: str, content: str, note: str = "") -> str:
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{escape(title)}</h2>{said}{content}</section>'


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, caption: str = "") -> str:
    head = "".join(f'<th scope="col"{_number(column)}>{escape(column.title)}</th>' for column in columns)
    body = "".join(
        f"<tr>{''.join(_cell(column, cell, first=place == 0) for place, (column, cell) in enumerate(zip(columns, row, strict=True)))}</tr>"
        for row in rows
    )
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table class="sortable">{said}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(column: Column) -> str:
    return ' class="number"' if column.number else ""


def _cell(column: Column, cell: Cell, *, first: bool) -> str:
    tag = 'th scope="row"' if first and not column.number else "td"
    key = "" if cell.key is None else str(cell.key)
    return f'<{tag}{_number(column)} data-sort="{safe_text(key)}">{cell.shown}</{tag.partition(" ")[0]}>'


def said(value: str) -> Cell:
    return Cell(safe_text(value), value)


def counted(value: int) -> Cell:
    return Cell(words.count(value), value)


def rate(value: float | None, low: float | None, high: float | None) -> Cell:
    interval = "" if low is None or high is None else f' <small class="second">{words.percent_interval(low, high)}</small>'
    return Cell(f"{words.percent(value)}{interval}", value)


def index_cell(index: Index) -> Cell:
    """A Safety Index with its interval, and below it the complete ids and the bounds."""
    interval, basis = words.index_interval(index.ci_low, index.ci_high), index_basis(index)
    below = f' <small class="second wrap">{escape(basis)}</small>' if basis else ""
    return Cell(f'{words.index(index.value)} <small class="second">{escape(interval)}</small>{below}', index.value)


def block(content: str) -> str:
    return f'<div class="block">{content}</div>'


def beside(chart: str, table: str) -> str:
    return f'<div class="split"><div>{chart}</div><div>{table}</div></div>' if chart else table


def by_run(what: str, labels: Sequence[str], rows: Sequence[Sequence[Cell]], *, named: bool, caption: str = "") -> str:
    names = labels if named else ("This run",)
    return table([Column(what), *(Column(name, number=True) for name in names)], rows, caption=caption)
