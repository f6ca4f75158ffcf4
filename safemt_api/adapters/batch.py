"""What every batch API offers: a file of requests in, half the price, and the replies within a day.

Whoever drives this (an account's queue) keeps the ledger; here is only translation. A batch survives a crash at every point because its
``BatchIntent`` is on disk before it is created: ``create`` writes the intent's nonce into whatever the vendor lets one mark (metadata,
display name, the rows' ids), and ``find`` looks for it. All rows of a batch are of one model.

    write the intent ─► line() for each call, into a file ─► create() ─► write the batch's id ─► poll() until it is final ─► results()
                                                     killed: find() ┘
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import httpx2

from safemt_api.adapters.base import Connection, Timeouts, bare_environment, check_key
from safemt_api.adapters.bodies import Body, read_body
from safemt_api.adapters.http_client import OversizeError
from safemt_api.adapters.translation import Translator
from safemt_api.errors import (
    CallError,
    DialogueError,
    ResultsGoneError,
    ServerError,
    StopRunError,
    UnansweredRowError,
    UsageError,
)
from safemt_api.messages import Call, Reply
from safemt_api.profiles import Profile

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

ENDED_STATUSES = frozenset({400, 404, 409})
"""By which vendors say that a batch cannot be cancelled any more."""

Answer = TypeVar("Answer")
Cases = Mapping[int, CallError]
NO_CASES: Cases = {}
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


class Batches:
    """What the batches of all vendors share, beside the adapter of single calls that each of them also is."""

    failures: tuple[type[Exception], ...]
    _connection: Connection
    _translator: Translator

    @property
    def limits(self) -> BatchLimits:
        """How much fits into one batch, as the profile tells it."""
        facts = self._connection.profile.batch
        assert facts is not None  # noqa: S101 (open_batch_adapter refuses a vendor without)
        return BatchLimits(facts.max_requests, facts.max_bytes, facts.queued_tokens, facts.result_days)

    async def state(self, batch_id: str) -> BatchState:
        """Where a batch stands that the vendor knows."""
        raise NotImplementedError

    async def poll(self, batch_id: str) -> BatchState:
        """See ``BatchAdapter``."""
        try:
            return await self.state(batch_id)
        except CallError as error:
            if error.status != 404:
                raise
            return BatchState("unknown")

    # What the SDK raises is translated outside its handler, so that no exception of ours has it as its context: it holds the key.
    # The SDKs let what their JSON readers and models raise, ValueErrors all, through as it is.

    async def ask(self, work: Awaitable[Answer], *, on: Cases = NO_CASES, model: str = "") -> Answer:
        """What the SDK answers; ``on`` says what an error's status means here, beside what it means everywhere."""
        try:
            return await work
        except self.failures as error:
            caught: Exception = error
        raise self.failure(caught, on, model)

    async def search(self, work: Awaitable[BatchSearch]) -> BatchSearch:
        """The end of a search; the SDKs do not check what a list holds."""
        with suppress(TypeError, AttributeError):
            return await self.ask(work)
        raise self._translator.unusable("its list of batches cannot be read")

    async def make(self, work: Awaitable[Answer], model: str, *, batch: bool) -> Answer:
        """A step of a creation; ``batch``: it is the one that makes the batch, which may be there although the server failed."""
        try:
            return await self.ask(work, model=model)
        except CallError as error:
            error.maybe_billed = batch and (error.maybe_billed or isinstance(error, ServerError))
            raise

    async def read(self, bodies: AsyncGenerator[Body], on: Cases) -> AsyncGenerator[Body]:
        """The lines of a file of results, as they come."""
        caught: Exception | None = None
        async with aclosing(bodies):
            try:
                async for body in bodies:
                    yield body
            except self.failures as error:
                caught = error
        if caught is not None:
            raise self.failure(caught, on)

    def failure(self, error: Exception, on: Cases, model: str = "") -> CallError | StopRunError:
        """Our exception for an SDK's."""
        if isinstance(error, ValueError):
            return self._translator.unusable(f"it could not be read ({type(error).__name__})")
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        return on[status] if isinstance(status, int) and status in on else self._translator.failure(error, model=model)

    def unknown(self, batch_id: str) -> CallError:
        """The failure where the vendor does not know a batch: for a moment after its creation, or for good."""
        return DialogueError(f"{self._translator.vendor} knows no batch {batch_id}", status=404, code="unknown_batch")

    def missing(self, batch_id: str, ended_utc: datetime | None) -> CallError:
        """The failure where a batch has ended and its results are not to be had: not yet, or no longer."""
        vendor = self._translator.vendor
        if ended_utc is not None and (datetime.now(UTC) - ended_utc).total_seconds() < SETTLED_SECONDS:
            return ServerError(f"{vendor} does not have the results of batch {batch_id} yet", status=404, code="results_not_there")
        return ResultsGoneError(vendor, batch_id, self.limits.result_days)

    async def stop(self, work: Awaitable[object]) -> None:
        """Cancel a batch; one that has ended is left as it is."""
        try:
            await self.ask(work)
        except CallError as error:
            if error.status not in ENDED_STATUSES:
                raise

    def unanswered(self, row: str, why: str) -> tuple[str, RowResult]:
        """A row that the batch ended without."""
        return row, UnansweredRowError(f"{self._translator.vendor} ended the batch before this request ({why})")

    def body(self, content: bytes) -> Body:
        """What the vendor says, without the API key."""
        return read_body(content, self._connection.api_key)

    async def lines(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[Body]:
        """The lines of a file of results as they come.

        Raises:
            OversizeError: A line has no end.
        """
        rest = b""
        async for chunk in chunks:
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                if line.strip():
                    yield self.body(line)
            if len(rest) > MAX_LINE_BYTES:
                raise OversizeError(status=200, limit_bytes=MAX_LINE_BYTES, announced_bytes=None)
        if rest.strip():
            yield self.body(rest)


def not_listed(intent: BatchIntent, listed: int, now_utc: datetime) -> BatchSearch:
    """The answer where so many batches were looked through and none was the intent's."""
    shows = (now_utc - intent.created_utc).total_seconds() >= VISIBLE_SECONDS
    return BatchSearch("absent" if shows and listed <= MOST_LISTED else "unclear")
