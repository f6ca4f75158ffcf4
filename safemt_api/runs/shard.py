"""Which part of a run a process plays: ``3/16`` is the third of sixteen. Several processes, on any machines, play one run so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from safemt_api.errors import UsageError

MOST_PARTS = 10_000
SHARDS_FOLDER = "shards"
"""In a run's folder; each shard is an ordinary run in a folder of its own below it."""

_FORM = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


class Shard(NamedTuple):
    """Part ``part`` of ``parts``, from 1 on."""

    part: int
    parts: int

    def __str__(self) -> str:
        return f"{self.part}/{self.parts}"

    @property
    def folder_name(self) -> str:
        """Its folder below the run's own."""
        return f"{SHARDS_FOLDER}/{self.part}-of-{self.parts}"


class Order(NamedTuple):
    """What a worker is to play: settings as a run file holds them, and where; never a key."""

    settings: Mapping[str, Any]
    run: str
    results: str
    shard: str


class Played(NamedTuple):
    """What came of a shard: its exit code, and the sentence where it could not go on (``setup``: nor begin; ``busy``: nor yet)."""

    exit_code: int
    sentence: str = ""
    setup: bool = False
    busy: bool = False


def read_shard(text: str | None) -> Shard | None:
    """The shard that ``--shard`` names, if it names one.

    Raises:
        UsageError: It is no part of so many.
    """
    if text is None:
        return None
    found = _FORM.fullmatch(text)
    shard = Shard(int(found[1]), int(found[2])) if found else Shard(0, 0)
    if not 1 <= shard.part <= shard.parts <= MOST_PARTS:
        raise UsageError(f"--shard {text[:40]!r}: give the part and how many there are, such as 3/16 (1/16 to 16/16)")
    return shard
