"""OpenAI's batches through the vendor's SDK: a file of requests is uploaded, a batch made of it, and its files of results read.

The nonce stands in the batch's metadata. Requests that failed are in a second file, and so are those that a batch expired or was cancelled
before it came to. Reference: https://platform.openai.com/docs/guides/batch; shapes: openai 3.54 SDK, types/batch.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from safemt_api.adapters.base import Connection
from safemt_api.adapters.batch import (
    CLOCKS_APART,
    MOST_LISTED,
    MOST_RESULT_TOKENS,
    Batches,
    BatchIntent,
    BatchSearch,
    BatchState,
    RowResult,
    not_listed,
)
from safemt_api.adapters.bodies import Body, count, first, label, mapping, words
from safemt_api.adapters.failures import Case, meaning, read_failure
from safemt_api.adapters.http_client import room_for
from safemt_api.adapters.openai_chat import OpenAIChat, build_request
from safemt_api.adapters.openai_verdicts import OPENAI_FAILURES, open_client
from safemt_api.errors import CallError, DialogueError, RateLimitedError, StopRunError
from safemt_api.messages import Call

ENDPOINT: Final = "/v1/chat/completions"
NONCE = "safemt_nonce"
KEPT_SECONDS = 30 * 86400
"""The longest that the vendor lets files be kept; it deletes them by itself."""

PHASES: Mapping[str, Any] = {"completed": "ended", "failed": "rejected", "expired": "expired", "cancelled": "cancelled"}
"""By status; all others are on their way."""

UNANSWERED = frozenset({"batch_expired", "batch_cancelled"})
QUEUE_FULL = frozenset({"token_limit_exceeded", "billing_hard_limit_reached_for_batch"})
"""Codes of a batch that was rejected after it had been created because too much was queued
(https://github.com/openai/openai-python/issues/1643, /2084)."""


class OpenAIBatches(Batches, OpenAIChat):
    """Batches of chat completions at one address; see ``BatchAdapter``."""

    failures = (*OPENAI_FAILURES, ValueError)

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._sdk = open_client(connection)

    def line(self, call: Call, row: str) -> bytes:
        """See ``BatchAdapter``."""
        facts = self._profile.facts(call.route.model)
        if facts.extra_headers:
            raise DialogueError(f"{call.route.model} needs headers of its own, which no row of a batch can have")
        # Nothing is marked but instructions that all rows share: how often one finds what another wrote, the vendor does not say.
        body = {**build_request(replace(call, conversation="single"), self._profile), **facts.extra_body}
        return orjson.dumps({"custom_id": row, "method": "POST", "url": ENDPOINT, "body": body})

    async def create(self, rows: Path, intent: BatchIntent) -> str:
        """See ``BatchAdapter``."""
        with rows.open("rb") as file:  # read piece by piece while it is sent
            upload = self._sdk.files.create(
                file=(f"{intent.nonce}.jsonl", file, "application/jsonl"),
                purpose="batch",
                expires_after={"anchor": "created_at", "seconds": KEPT_SECONDS},
            )
            uploaded = await self.make(upload, intent.model, batch=False)
        creation = self._sdk.batches.with_raw_response.create(
            input_file_id=getattr(uploaded, "id", None) or "none",  # the SDK does not check what it read
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={NONCE: intent.nonce},
            output_expires_after={"anchor": "created_at", "seconds": KEPT_SECONDS},
        )
        created = await self.make(creation, intent.model, batch=True)
        batch_id = label(self.body(created.http_response.content).fields.get("id"))
        if not batch_id:
            raise self._translator.unusable("it names no batch")
        return batch_id

    async def find(self, intent: BatchIntent, *, now_utc: datetime, others: Collection[str] = ()) -> BatchSearch:
        """See ``BatchAdapter``."""
        return await self.search(self._find(intent, now_utc))

    async def _find(self, intent: BatchIntent, now_utc: datetime) -> BatchSearch:
        oldest, listed = (intent.created_utc - CLOCKS_APART).timestamp(), 0
        async for batch in self._sdk.batches.list(limit=100):
            listed += 1
            if (batch.metadata or {}).get(NONCE) == intent.nonce:
                return BatchSearch("found", batch.id)
            if batch.created_at < oldest or listed > MOST_LISTED:
                break
        return not_listed(intent, listed, now_utc)

    async def state(self, batch_id: str) -> BatchState:
        """See ``Batches``."""
        fields = await self._retrieve(batch_id)
        counts = mapping(fields.get("request_counts"))
        phase = PHASES.get(words(fields.get("status")), "working")
        done = [number for name in ("completed", "failed") if (number := count(counts.get(name))) is not None]
        rejection = self._rejection(fields) if phase == "rejected" else None
        return BatchState(phase, sum(done) if done else None, count(counts.get("total")), rejection)

    async def results(self, batch_id: str) -> AsyncIterator[tuple[str, RowResult]]:
        """See ``BatchAdapter``."""
        fields = await self._retrieve(batch_id)
        files = [file for name in ("output_file_id", "error_file_id") if (file := words(fields.get(name)))]
        missing = self.missing(batch_id, _ended(fields))
        if not files and count(mapping(fields.get("request_counts")).get("completed")):
            raise missing
        for file in files:
            async with aclosing(self.read(self._content(file), {404: missing})) as bodies:
                async for body in bodies:
                    yield self._row(body)

    async def _content(self, file: str) -> AsyncGenerator[Body]:
        async with AsyncExitStack() as stack:
            with room_for(MOST_RESULT_TOKENS):
                content = await stack.enter_async_context(self._sdk.files.with_streaming_response.content(file))
            async for body in self.lines(content.iter_bytes()):
                yield body

    async def cancel(self, batch_id: str) -> None:
        """See ``BatchAdapter``."""
        await self.stop(self._sdk.batches.cancel(batch_id))

    async def _retrieve(self, batch_id: str) -> Mapping[str, Any]:
        answer = await self.ask(self._sdk.batches.with_raw_response.retrieve(batch_id), on={404: self.unknown(batch_id)})
        return self.body(answer.http_response.content).fields

    def _rejection(self, fields: Mapping[str, Any]) -> CallError | StopRunError:
        error = first(mapping(fields.get("errors")).get("data"))
        failure = read_failure(status=400, headers={}, body=Body("", {"error": error or {"message": "no reason given"}}))
        if failure.has(*QUEUE_FULL):
            return RateLimitedError(f"{self._profile.name} has no room in the queue for a batch: {failure.message}", code="queue_full")
        return meaning(Case(failure, self._profile, self._connection.base_url, words(fields.get("model"))))

    def _row(self, body: Body) -> tuple[str, RowResult]:
        row, error = label(body.fields.get("custom_id")), mapping(body.fields.get("error"))
        if label(error.get("code")) in UNANSWERED:
            return self.unanswered(row, error["code"])
        response = mapping(body.fields.get("response"))
        value = mapping(response.get("body")) if response else {"error": error or {"message": "the row holds no answer"}}
        status = count(response.get("status_code")) if response else 0
        return row, self._translator.row(value, status=status or 0, model=words(value.get("model")), read=self._read)


def _ended(fields: Mapping[str, Any]) -> datetime | None:
    moments = (_moment(fields.get(name)) for name in ("completed_at", "expired_at", "cancelled_at", "failed_at"))
    return max((moment for moment in moments if moment is not None), default=None)


def _moment(value: object) -> datetime | None:
    """A Unix time, where it is one."""
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int) and 0 < value < 2**33 else None
