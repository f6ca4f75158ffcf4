"""How runs are told apart on one page: by colour and dash together, so that 64 runs differ, also for eyes and printers without colour."""

from __future__ import annotations

from typing import NamedTuple

COLOURS = 8
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3), (4, 2), (10, 4), (1, 3), (6, 2, 2, 2))


class Series(NamedTuple):
    """One run's look: ``colour`` counts from 0 in the palette, ``dash`` is in pixels of line and gap."""

    colour: int
    dash: tuple[int, ...]


def series_of(place: int) -> Series:
    """The look of the run at ``place`` (from 0): after eight runs the colours come again, each with another dash."""
    colour = place % COLOURS
    return Series(colour, DASHES[(colour + place // COLOURS) % len(DASHES)])
