"""Who answered, in the order in which replies came: has a vendor put something else behind the name?

Replies tell two things of their origin. The *served model* is a name: two names are two models by the vendor's own word, so each is a part
of its own and no rule is needed. A *system fingerprint* names a back end, and behind a load balancer there are several: that they take
turns is no change. There a rule decides:

    Twenty replies in a row carry only fingerprints that none of the first twenty of the present era carried: a new era has begun. Where
    twenty later replies carry fingerprints of an earlier era's first twenty, it was not for good, and all that lies between is one era
    again (fewer are stragglers: calls that were under way). More than eight different fingerprints among twenty name no back ends (some
    servers make one up for each reply), and say nothing.

Where a load balancer deals each reply to one of k back ends by itself, some set of them must then hold twenty given replies and be absent
from twenty others: p ** 20 * (1 - p) ** 20 at most, which is 4 ** -20 at its highest. A run of N replies calls a change that is none with a
chance below N * 2 ** k / 4 ** 20: one in 40,000 for 100,000 replies from eight back ends. Back ends that keep whole stretches of a run to
themselves and never come back are not told from a change, by this or any rule.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Told = Literal["served_model", "system_fingerprint"]
TOLD: tuple[Told, ...] = ("served_model", "system_fingerprint")

ROW = 20
"""So many replies in a row make a change of fingerprints."""

MOST_VALUES = 8
"""More different values tell nothing."""

MOST_KEPT = 1000
"""A server that makes up a value for each reply is not remembered without end."""

Values = tuple[str, ...]


@dataclass(slots=True)
class Era:
    """What the replies of an era told, and how often; ``first`` is what its first twenty did."""

    first: set[str] = field(default_factory=set)
    values: Counter[str] = field(default_factory=Counter)
    begun_with: int = 0


class Succession:
    """Fingerprints as they come; ``add`` says when others have replaced those before."""

    def __init__(self) -> None:
        self.eras = [Era()]
        self._last: deque[str] = deque(maxlen=ROW)

    def add(self, value: str, *, fresh: bool = True) -> bool:
        """Take the next one; one that is not ``fresh`` came on another day, out of order, and only tells what there was before."""
        era = self.eras[-1]
        if len(era.values) < MOST_KEPT or value in era.values:
            era.values[value] += 1
        if era.begun_with < ROW or not fresh:
            era.first.add(value)
            era.begun_with += 1
            return False
        if value in era.first:
            self._last.clear()
            return False
        self._last.append(value)
        row = set(self._last)
        if len(self._last) < ROW or len(row) > MOST_VALUES or len(era.first) > MOST_VALUES:
            return False
        self.eras.append(Era(row, Counter({one: era.values.pop(one, 1) for one in row}), ROW))
        self._last.clear()
        return True

    def for_good(self) -> list[Values]:
        """The values of each era that no later one brought back; each value stands once: where it began an era, else where it came last."""
        kept: list[Era] = []
        for era in self.eras:
            came_back = (sum(count for value, count in era.values.items() if value in one.first) >= ROW for one in kept)
            back = next((place for place, again in enumerate(came_back) if again), len(kept))
            joined = [*kept[back:], era]
            first = set().union(*(one.first for one in joined))
            strays = set().union(*(one.first for one in kept[:back])) - first
            values = Counter({value: count for one in joined for value, count in one.values.items() if value not in strays})
            kept[back:] = [Era(first, values)]
            for earlier in kept[:back]:
                for value in values:
                    earlier.values.pop(value, None)
        return [tuple(era.values) for era in kept]


def parts(told: Iterable[str], what: Told) -> Sequence[Values]:
    """What belongs together, in order: the values of each part; fewer than two where nothing changed or nothing can be told."""
    if what == "served_model":
        names = list(dict.fromkeys(told))
        return [(name,) for name in names] if len(names) <= MOST_VALUES else []
    succession = Succession()
    for value in told:
        succession.add(value)
    return succession.for_good()


@dataclass(frozen=True, slots=True)
class Change:
    """What was told before, and what is told now."""

    what: Told
    before: Values
    now: Values

    def sentence(self, who: str) -> str:
        """The change in words; ``who`` is the target or a judge."""
        before, now = (", ".join(values[:MOST_VALUES]) for values in (self.before, self.now))
        if self.what == "served_model":
            return f"{who} changed: a reply is from {now}, those before from {before} (the served model, by the vendor's word)"
        return f"{who} changed: the last {ROW} replies are from {now}, those before from {before} (system fingerprints)"


class Watch:
    """What one party's replies tell, as they come."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._fingerprints = Succession()

    def add(self, served_model: str | None, fingerprint: str | None, *, fresh: bool = True) -> list[Change]:
        """Take the next reply; what has changed with it. ``fresh``: see ``Succession.add``."""
        found: list[Change] = []
        if served_model is not None and served_model not in self._names and len(self._names) < MOST_VALUES:
            if self._names:
                found.append(Change("served_model", tuple(self._names), (served_model,)))
            self._names[served_model] = None
        if fingerprint is not None and self._fingerprints.add(fingerprint, fresh=fresh):
            before, now = self._fingerprints.eras[-2:]
            found.append(Change("system_fingerprint", tuple(before.values), tuple(now.values)))
        return found
