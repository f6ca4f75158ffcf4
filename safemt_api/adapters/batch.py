"""What every batch API offers: a file of requests in, half the price, and the replies within a day.

Whoever drives this (an account's queue) keeps the ledger; here is only translation. A batch survives a crash at every point because its
``BatchIntent`` is on disk before it is created: ``create`` writes the intent's nonce into whatever the vendor lets one mark (metadata,
display name, the rows' ids), and ``find`` looks for it. All rows of a batch are of one model.

    write the intent ─► line() for each call, into a file ─► create() ─► write the batch's id ─► poll() until it is final ─► results()
                                                     killed: find() ┘
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from safemt_api.errors import CallError, StopRunError
from safemt_api.messages import Call, Reply

MAX_ROW_ID_CHARACTERS = 64
"""Anthropic's bound, the tightest; its alphabet too: letters, digits, ``_`` and ``-``."""

BatchPhase = Literal["working", "ended", "rejected", "expired", "cancelled", "unknown"]
RowResult = Reply | CallError | StopRunError


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much fits into one batch, and how long its results are kept; ``None``: not published."""

    max_requests: int
    max_bytes: int
    queued_tokens: int | None
    result_days: int


@dataclass(frozen=True, slots=True)
class BatchIntent:
    """A batch that is about to be created; enough to find it again. ``nonce`` is new for every attempt, from letters and digits."""

    nonce: str
    model: str
    requests: int
    created_utc: datetime


@dataclass(frozen=True, slots=True)
class BatchState:
    """Where a batch stands.

    ``ended``, ``expired``, ``cancelled``: nothing more will happen, and ``results`` tells what was done; a row without a result was neither
    answered nor billed. ``rejected``: nothing was done at all; ``error`` says why (a ``TransientError``: the same may be taken later).
    ``unknown``: the vendor does not know the id, as it may for a moment after ``create``. ``done`` and ``total`` count rows where the
    vendor does.
    """

    phase: BatchPhase
    done: int | None = None
    total: int | None = None
    error: CallError | StopRunError | None = None


@dataclass(frozen=True, slots=True)
class BatchSearch:
    """What the vendor's list says of an intent: the batch's id, none for certain, or that it cannot be told yet."""

    answer: Literal["found", "absent", "unclear"]
    batch_id: str | None = None


def row_id(nonce: str, key: str) -> str:
    """The id of a row: the nonce, then as much of the call's key as fits, so that a result tells whose it is."""
    return f"{nonce}-{re.sub('[^a-zA-Z0-9]', '', key)[-(MAX_ROW_ID_CHARACTERS - len(nonce) - 1) :]}"


class BatchAdapter(Protocol):
    """The batches of one wire format at one address and key. Pure translation: no retry, no sleep, nothing remembered."""

    limits: BatchLimits

    def line(self, call: Call, row: str) -> bytes:
        """The call as one row of the file, without a line break; ``row`` is its id.

        Raises:
            DialogueError: What ``Adapter.send`` would raise for a call that cannot be put into words of the vendor.
        """
        ...

    async def create(self, rows: Path, intent: BatchIntent) -> str:
        """Hand in the file of rows (one a line); nothing of it is held in memory. Returns the vendor's id of the batch.

        Raises:
            CallError: With ``maybe_billed``: it may have been created all the same, so ``find`` it. Without: it was not.
            StopRunError: The account or the address as a whole is unusable.
        """
        ...

    async def find(self, intent: BatchIntent, *, now_utc: datetime, others: Collection[str] = ()) -> BatchSearch:
        """Look for a batch whose id was never written down; ``others`` are batches that are known to be of other intents.

        Raises:
            CallError, StopRunError: The vendor's list cannot be read.
        """
        ...

    async def poll(self, batch_id: str) -> BatchState:
        """Where the batch stands.

        Raises:
            CallError, StopRunError: The vendor cannot be asked; of the batch that says nothing.
        """
        ...

    def results(self, batch_id: str) -> AsyncIterator[tuple[str, RowResult]]:
        """The rows' ids with what became of each, as they come off the wire: in any order, some perhaps twice or unknown.

        A row that the batch ended without is an ``UnansweredRowError``, one that failed what it would have failed with alone. Reading may
        begin anew after an error; what was yielded stays true.

        Raises:
            ResultsGoneError: The vendor has deleted them.
            CallError, StopRunError: They cannot be read to their end.
        """
        ...

    async def cancel(self, batch_id: str) -> None:
        """Ask for the batch to end early; rows that are done stay done. Of one that has ended this changes nothing.

        Raises:
            CallError, StopRunError: The vendor cannot be asked.
        """
        ...
