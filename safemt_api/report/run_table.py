"""The table of a results folder's runs, for the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from safemt_api.report import words
from safemt_api.runs.overview import RunOverview, overview

EVERY_SECONDS = 2.0


def run_table(found: Sequence[RunOverview], results: Path) -> RenderableType:
    """One row a run, readable at 80 columns; what is wrong with a damaged one stands below."""
    if not found:
        return Text(f"no runs in {results}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=False)
    for name, justify in (
        ("run", "left"),
        ("state", "left"),
        ("done", "right"),
        ("missing", "right"),
        ("ASR", "right"),
        ("cost", "right"),
        ("age", "right"),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left", header_style="dim", overflow="fold")
    for one in found:
        done = words.NOTHING if one.planned is None else f"{_share_done(one)} of {one.planned:,}"
        age = words.NOTHING if one.age_seconds is None else brief_age(one.age_seconds)
        spent = words.NOTHING if one.spent_usd is None else words.dollars(one.spent_usd)
        name = one.run if one.arms is None else f"{one.run} ({one.arms} arms)"
        table.add_row(name, _state(one), done, words.count(one.missing), words.percent(one.asr), spent, age)
    return table


def _share_done(one: RunOverview) -> str:
    return f"{(one.finished or 0) + (one.failed or 0):,}"


def _state(one: RunOverview) -> str:
    if one.state == "running":
        return f"running ({(one.player or '').partition(' since ')[0]})"
    return f"damaged: {one.problem}" if one.state == "damaged" else one.state


def brief_age(seconds: float) -> str:
    """An age in its largest unit: 40 s, 12 min, 3 h, 9 d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def watch_table(results: Path, console: Console) -> None:
    """Keep the table fresh until Ctrl-C."""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            started = time.monotonic()
            live.update(run_table(overview(results), results), refresh=True)
            # A folder that takes long to look through is looked at less often.
            time.sleep(max(EVERY_SECONDS, 4 * (time.monotonic() - started)))
