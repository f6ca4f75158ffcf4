"""What every batch API offers: a file of requests in, half the price, and the replies within a day.

Whoever drives this (an account's queue) keeps the ledger; here is only translation. A batch survives a crash at every point because its
``BatchIntent`` is on disk before it is created: ``create`` writes the intent's nonce into whatever the vendor lets one mark (metadata,
display name, the rows' ids), and ``find`` looks for it. All rows of a batch are of one model.

    write the intent ─► line() for each call, into a file ─► create() ─► write the batch's id ─► poll() until it is final ─► results()
                                                     killed: find() ┘
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

import httpx2

from safemt_api.adapters.base import Connection, Timeouts, bare_environment, check_key
from safemt_api.adapters.bodies import Body, read_body
from safemt_api.adapters.http_client import OversizeError
from safemt_api.errors import CallError, DialogueError, ResultsGoneError, ServerError, StopRunError, UsageError
from safemt_api.messages import Call, Reply
from safemt_api.profiles import BatchFacts, Profile

MAX_ROW_ID_CHARACTERS = 64
"""Anthropic's bound, the tightest; its alphabet too: letters, digits, ``_`` and ``-``."""

BatchPhase = Literal["working", "ended", "rejected", "expired", "cancelled", "unknown"]
RowResult = Reply | CallError | StopRunError


VISIBLE_SECONDS = 300.0
"""A batch whose creation was cut off is in the vendor's list by then, or was never created (allowance: no vendor promises a time)."""

CLOCKS_APART = timedelta(hours=1)
"""A vendor's clock and ours may differ by so much."""

MOST_LISTED = 20_000
MOST_RESULT_TOKENS = 2**24
"""Room for the results of the largest batches, as the HTTP client counts it: 4 GB; they are read line by line."""

MAX_LINE_BYTES = 64 * 2**20
SETTLED_SECONDS = 900.0
"""So long after a batch's end its results may be missing because they are not there yet
(https://github.com/anthropics/anthropic-sdk-python/issues/1432); later they are gone."""

BATCH_ADAPTERS: Mapping[str, tuple[str, str]] = {
    "openai_chat": ("safemt_api.adapters.openai_batch", "OpenAIBatches"),
    "anthropic_messages": ("safemt_api.adapters.anthropic_batch", "AnthropicBatches"),
    "google_genai": ("safemt_api.adapters.google_batch", "GoogleBatches"),
}
"""Module and class by wire format."""


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

    @property
    def limits(self) -> BatchLimits:
        """How much fits into one batch."""
        ...

    def line(self, call: Call, row: str) -> bytes:
        """The call as one row of the file, without a line break; ``row`` is its id.

        Raises:
            DialogueError: What ``Adapter.send`` would raise for a call that cannot be put into words of the vendor.
        """
        ...

    async def create(self, rows: Path, intent: BatchIntent) -> str:
        """Hand in the file of rows, each ended by a line break; nothing of it is held in memory. Returns the vendor's id of the batch.

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


def open_batch_adapter(
    *, profile: Profile, wire_format: str, base_url: str, api_key: str | None, client: httpx2.AsyncClient, timeouts: Timeouts
) -> BatchAdapter:
    """The batches of one address and key; they hold nothing that would need closing.

    Raises:
        UsageError: The vendor offers none that can be used, or the key cannot be one.
    """
    if wire_format not in BATCH_ADAPTERS or profile.batch is None or not profile.batch.offered:
        raise UsageError(f"{profile.name} takes no batches in the wire format {wire_format!r}")
    check_key(profile, api_key)
    module, name = BATCH_ADAPTERS[wire_format]
    with bare_environment():
        adapter: BatchAdapter = getattr(import_module(module), name)(Connection(profile, base_url, api_key, client, timeouts))
    return adapter


def limits_of(profile: Profile) -> BatchLimits:
    """The limits that the profile tells."""
    facts = profile.batch or BatchFacts(source="none", checked=datetime.now(UTC).date())
    return BatchLimits(facts.max_requests, facts.max_bytes, facts.queued_tokens, facts.result_days)


def uncertain(error: CallError | StopRunError) -> CallError | StopRunError:
    """The failure of a creation: where the server failed, the batch may be there all the same."""
    if isinstance(error, ServerError):
        error.maybe_billed = True
    return error


def not_created(error: CallError | StopRunError) -> CallError | StopRunError:
    """The failure of what comes before the creation: there is no batch, whatever happened to the file."""
    if isinstance(error, CallError):
        error.maybe_billed = False
    return error


def not_listed(intent: BatchIntent, now_utc: datetime) -> BatchSearch:
    """The answer where the vendor's list does not have the batch."""
    return BatchSearch("absent" if (now_utc - intent.created_utc).total_seconds() >= VISIBLE_SECONDS else "unclear")


def missing_results(profile: Profile, batch_id: str, ended_utc: datetime | None) -> CallError:
    """The failure where a batch has ended and its results are not to be had: not yet, or no longer."""
    if ended_utc is not None and (datetime.now(UTC) - ended_utc).total_seconds() < SETTLED_SECONDS:
        return ServerError(f"{profile.name} does not have the results of batch {batch_id} yet", status=404, code="results_not_there")
    return ResultsGoneError(profile.name, batch_id, limits_of(profile).result_days)


def unknown_batch(profile: Profile, batch_id: str) -> CallError:
    """The failure where the vendor does not know a batch: for a moment after its creation, or for good."""
    return DialogueError(f"{profile.name} knows no batch {batch_id}", status=404, code="unknown_batch")


async def rows_of(chunks: AsyncIterator[bytes], secret: str | None) -> AsyncIterator[Body]:
    """The lines of a file of results as they come, without the API key.

    Raises:
        OversizeError: A line has no end.
    """
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield read_body(line, secret)
        if len(rest) > MAX_LINE_BYTES:
            raise OversizeError(status=200, limit_bytes=MAX_LINE_BYTES, announced_bytes=None)
    if rest.strip():
        yield read_body(rest, secret)
