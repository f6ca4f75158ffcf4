"""What a draft must pass to be kept, each filter in a file of its own, and what filters are given; their order is that of
``builder.build.FILTERS``.

A filter says why it drops a draft, or nothing. One whose question gets no answer drops it too: what was not checked is not kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from safemt_api.asking.question import Asked
from safemt_api.builder.questions import Model
from safemt_api.messages import Asker, Image, Kind, Line

UNANSWERED = "was not answered: {}"


@dataclass(frozen=True, slots=True)
class Draft:
    """A dialogue as the generator wrote it; ``written`` is its answer, of which only ``form`` believes nothing."""

    goal: str
    kind: Kind
    length: int
    written: Any
    image: Image | None

    @property
    def lines(self) -> tuple[Line, ...]:
        """The messages, once ``form`` has passed them."""
        return tuple(Line(one["role"], one["content"]) for one in self.written)


@dataclass(slots=True)
class Reviewers:
    """Whom filters may ask; what all answers cost is added up by purpose."""

    asker: Asker
    reader: Model
    judge: Model
    costs_usd: dict[str, float | None] = field(default_factory=dict)

    def paid(self, who: str, asked: Asked[Any]) -> None:
        """Note what a question cost; unknown as soon as one price is."""
        before, cost = self.costs_usd.get(who, 0.0), asked.cost_usd
        self.costs_usd[who] = None if before is None or cost is None else before + cost


Filter = Callable[[Draft, Reviewers], Awaitable[str | None]]
"""Why the draft is dropped, in words; ``None`` lets it pass."""
