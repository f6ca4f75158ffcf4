"""Progress in a notebook: ``watch=safemt_api.progress`` shows a bar under the cell while the dialogues of a run or study finish."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib import import_module
from typing import Protocol

import anyio

from safemt_api import words
from safemt_api.errors import UsageError
from safemt_api.runs.play import RunStatistics

REFRESH_SECONDS = 0.5


class Watched(Protocol):
    """A run under way, or the arms of a study."""

    def statistics(self) -> RunStatistics | Mapping[str, RunStatistics]:
        """Its state now; of a study by arm, those that have begun."""
        ...


async def progress(watched: Watched) -> None:
    """Show a bar for a run, or one for each arm, until the playing ends.

    Raises:
        UsageError: There is no notebook to show it in.
    """
    try:
        ipython = import_module("IPython.display")
    except ModuleNotFoundError as error:
        raise UsageError("safemt_api.progress shows its bars in a notebook, and IPython is not installed") from error
    shown = ipython.display(ipython.HTML(bars(watched.statistics())), display_id=True)
    try:
        while True:
            await anyio.sleep(REFRESH_SECONDS)
            shown.update(ipython.HTML(bars(watched.statistics())))
    finally:
        shown.update(ipython.HTML(bars(watched.statistics())))


def bars(statistics: RunStatistics | Mapping[str, RunStatistics]) -> str:
    """What the cell shows, as HTML: a row a run with its bar, its ASR so far and what it has cost."""
    found = {"": statistics} if isinstance(statistics, RunStatistics) else statistics
    return f"<table>{''.join(_row(name, one) for name, one in found.items())}</table>"


def _row(name: str, one: RunStatistics) -> str:
    missing = f", {one.without_verdict:,} without verdict" if one.without_verdict else ""
    asr = "–" if one.asr_so_far is None else words.percent(one.asr_so_far)
    cells = (
        escape(words.printable(name)),
        f'<progress max="{max(one.planned, 1)}" value="{one.finished + one.unaffordable}"></progress>',
        f"{one.finished:,} of {one.planned:,} dialogues{missing}",
        f"ASR so far {asr}",
        words.dollars(one.spent_usd),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
