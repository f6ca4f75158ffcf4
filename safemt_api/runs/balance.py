"""Keeps runs over the same dialogues together, id by id, so that wherever they end early all of them hold the same ids.

Nobody begins an id that is more than a window ahead of the slowest run; a window is wide enough to keep every run's calls in flight, so the
slowest run never waits for another. Under a ceiling an id is opened for all runs together, when the money reaches for all of its
dialogues in all of them; once one does not fit, no run begins that id or a later one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import ceil

import anyio

from safemt_api.dataset.entries import Entry
from safemt_api.errors import BudgetExhaustedError
from safemt_api.limits.budget import Purse


class Balance:
    """The common front of several runs.

    Args:
        entries: The dialogues of each run, id by id in the order of play; the same in all runs.
        runs: Their names.
        concurrency: Most calls that one run has in flight.
        purse: What all of them spend from.
    """

    def __init__(self, entries: Sequence[Entry], runs: Sequence[str], *, concurrency: int, purse: Purse | None = None) -> None:
        ids = list(dict.fromkeys(entry.id for entry in entries))
        self._place = {one: place for place, one in enumerate(ids)}
        self._due = Counter(entry.id for entry in entries)
        each = max(1.0, len(entries) / max(1, len(ids)))
        # Twice what is in flight: a run that is at its limit always finds more to begin.
        self._window = ceil(2 * concurrency / each) + 1
        self._ids, self._purse = ids, purse
        self._opened = 0
        self._done: dict[str, Counter[str]] = {run: Counter() for run in runs}
        self._front = dict.fromkeys(runs, 0)
        self._out_of_money: tuple[int, BudgetExhaustedError] | None = None
        self._moved = anyio.Event()

    @asynccontextmanager
    async def passing(self, run: str, entry: Entry) -> AsyncIterator[None]:
        """One dialogue of a run, begun when it may be.

        Raises:
            BudgetExhaustedError: The money did not reach for this id in some run.
        """
        place = self._place[entry.id]
        while True:
            moved = self._moved
            if await self._may_begin(place):
                break
            await moved.wait()
        try:
            if self._out_of_money is not None and self._beyond(place):
                first = self._out_of_money[1]
                raise BudgetExhaustedError(first.ceiling_usd, first.committed_usd, first.needed_usd)
            yield
        except BudgetExhaustedError as error:
            if self._out_of_money is None or place < self._out_of_money[0]:
                self._out_of_money = place, error
            raise
        finally:
            self._ended(run, entry.id)

    def leave(self, run: str) -> None:
        """The run is over, however it ended: nobody waits for it any more."""
        self._front.pop(run, None)
        self._wake()

    async def _may_begin(self, place: int) -> bool:
        if self._beyond(place):
            return True
        if place >= min(self._front.values(), default=len(self._ids)) + self._window:
            return False
        while (opened := self._opened) <= place and await self._has_room():
            # Another dialogue may have opened the same one while we looked.
            self._opened = max(self._opened, opened + 1)
        return place < self._opened

    async def _has_room(self) -> bool:
        """Whether the money reaches for one more id in all runs, beside what the ids that are open may still need.

        With nothing open one is opened all the same: its replies may be in the store, and each call must find its own money.
        """
        if self._purse is None or self._purse.ceiling_usd is None:
            return True
        opened = sum(self._due[one] for one in self._ids[: self._opened])
        unfinished = sum(opened - self._done[run].total() for run in self._front)
        if unfinished <= 0:
            return True
        waiting = max(0, unfinished - len(self._purse.envelopes))
        needed = (waiting + len(self._front) * self._due[self._ids[self._opened]]) * self._purse.needed_usd()
        return needed <= await self._purse.room_usd()

    def _beyond(self, place: int) -> bool:
        return self._out_of_money is not None and place >= self._out_of_money[0]

    def _ended(self, run: str, dialogue_id: str) -> None:
        done = self._done[run]
        done[dialogue_id] += 1
        if run in self._front:
            front = self._front[run]
            while front < len(self._ids) and done[self._ids[front]] >= self._due[self._ids[front]]:
                front += 1
            self._front[run] = front
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = anyio.Event()
