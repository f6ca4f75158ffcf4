"""Anthropic's message batches through the vendor's SDK: one request creates a batch with all of its rows, one answer holds the results.

Nothing can be marked but the rows, so a batch whose id is not known is told by the nonce before its rows' ids, which show only in its
results: until it has ended, whether it is the one that is looked for cannot be told. All rows of a batch are sent under the headers that
its model needs. Shapes: anthropic 2.12 SDK, types/messages. Reference:
https://platform.claude.com/docs/en/build-with-claude/batch-processing
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import httpx2
import orjson
from anthropic import RequestOptions

from safemt_api.adapters.anthropic_messages import ANTHROPIC_FAILURES, AnthropicMessages, build_request, open_client
from safemt_api.adapters.base import Connection
from safemt_api.adapters.batch import (
    CLOCKS_APART,
    MOST_LISTED,
    MOST_RESULT_TOKENS,
    BatchIntent,
    BatchLimits,
    BatchSearch,
    BatchState,
    RowResult,
    limits_of,
    missing_results,
    not_listed,
    rows_of,
    uncertain,
    unknown_batch,
)
from safemt_api.adapters.bodies import Body, count, label, mapping, read_body, words
from safemt_api.adapters.failures import status_of_type
from safemt_api.adapters.http_client import room_for
from safemt_api.errors import CallError, UnansweredRowError
from safemt_api.messages import Call

BATCHES = "/v1/messages/batches"
BEFORE, AFTER = b'{"requests":[', b"]}"
BLOCK_BYTES = 2**18
UNANSWERED = frozenset({"expired", "canceled"})


class AnthropicBatches(AnthropicMessages):
    """Message batches at one address; see ``BatchAdapter``."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._connection = connection
        self._sdk = open_client(connection)

    @property
    def limits(self) -> BatchLimits:
        """How much fits into one batch."""
        return limits_of(self._profile)

    def line(self, call: Call, row: str) -> bytes:
        """See ``BatchAdapter``."""
        # Rows that share a beginning may lie hours apart: a mark would pay for writing a cache that nobody reads.
        request = build_request(replace(call, conversation="single"), self._profile)
        request.pop("extra_headers", None)
        return orjson.dumps({"custom_id": row, "params": {**request, **request.pop("extra_body", {})}})

    async def create(self, rows: Path, intent: BatchIntent) -> str:
        """See ``BatchAdapter``."""
        size = (await anyio.Path(rows).stat()).st_size
        length = len(BEFORE) + size - 1 + len(AFTER)  # each line break but the last becomes a comma
        headers = {**self._profile.facts(intent.model).extra_headers, "content-length": str(length)}
        options: RequestOptions = {"headers": headers}
        try:
            answer = await self._sdk.post(BATCHES, cast_to=httpx2.Response, content=_body(rows, size), options=options)
        except ANTHROPIC_FAILURES as error:
            raise uncertain(self._translator.failure(error, model=intent.model)) from None
        batch_id = label(read_body(answer.content, self._connection.api_key).fields.get("id"))
        if not batch_id:
            raise self._translator.unusable("it names no batch")
        return batch_id

    async def find(self, intent: BatchIntent, *, now_utc: datetime, others: Collection[str] = ()) -> BatchSearch:
        """See ``BatchAdapter``."""
        listed, unclear = 0, False
        try:
            async for batch in self._sdk.messages.batches.list(limit=100):
                listed += 1
                if batch.created_at < intent.created_utc - CLOCKS_APART or listed > MOST_LISTED:
                    break
                counts = batch.request_counts
                rows = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
                if batch.id in others or rows != intent.requests:
                    continue
                if batch.processing_status != "ended":
                    unclear = True
                elif (await self._nonce_of(batch.id)) == intent.nonce:
                    return BatchSearch("found", batch.id)
        except ANTHROPIC_FAILURES as error:
            raise self._translator.failure(error) from None
        return BatchSearch("unclear") if unclear or listed > MOST_LISTED else not_listed(intent, now_utc)

    async def _nonce_of(self, batch_id: str) -> str:
        async for row, _ in self.results(batch_id):
            return row.partition("-")[0]
        return ""

    async def poll(self, batch_id: str) -> BatchState:
        """See ``BatchAdapter``."""
        try:
            fields = await self._retrieve(batch_id)
        except CallError as error:
            if error.status == 404:
                return BatchState("unknown")
            raise
        counts = {name: count(number) or 0 for name, number in mapping(fields.get("request_counts")).items()}
        total = sum(counts.values())
        ended = fields.get("processing_status") == "ended"
        return BatchState("ended" if ended else "working", total - counts.get("processing", 0), total)

    async def results(self, batch_id: str) -> AsyncIterator[tuple[str, RowResult]]:
        """See ``BatchAdapter``."""
        fields = await self._retrieve(batch_id)
        ended = _moment(fields.get("ended_at"))
        if not words(fields.get("results_url")):
            raise missing_results(self._profile, batch_id, None if fields.get("archived_at") else ended)
        async with AsyncExitStack() as stack:
            try:
                with room_for(MOST_RESULT_TOKENS):
                    manager = self._sdk.messages.batches.with_streaming_response.results(batch_id)
                    content = await stack.enter_async_context(manager)
                async for body in rows_of(content.iter_bytes(), self._connection.api_key):
                    yield self._row(body)
            except ANTHROPIC_FAILURES as error:
                if getattr(error, "status_code", None) == 404:
                    raise missing_results(self._profile, batch_id, ended) from None
                raise self._translator.failure(error) from None

    async def cancel(self, batch_id: str) -> None:
        """See ``BatchAdapter``."""
        try:
            await self._sdk.messages.batches.cancel(batch_id)
        except ANTHROPIC_FAILURES as error:
            if getattr(error, "status_code", None) not in (400, 404, 409):  # it has ended
                raise self._translator.failure(error) from None

    async def _retrieve(self, batch_id: str) -> Mapping[str, Any]:
        try:
            answer = await self._sdk.messages.batches.with_raw_response.retrieve(batch_id)
        except ANTHROPIC_FAILURES as error:
            if getattr(error, "status_code", None) == 404:
                raise unknown_batch(self._profile, batch_id) from None
            raise self._translator.failure(error) from None
        return read_body(answer.http_response.content, self._connection.api_key).fields

    def _row(self, body: Body) -> tuple[str, RowResult]:
        row, result = label(body.fields.get("custom_id")), mapping(body.fields.get("result"))
        kind = words(result.get("type"))
        if kind in UNANSWERED:
            return row, UnansweredRowError(f"{self._profile.name} ended the batch before this request ({kind})")
        if kind == "succeeded":
            message = mapping(result.get("message"))
            return row, self._translator.row(message, status=200, model=words(message.get("model")), read=self._read)
        error = mapping(result.get("error"))  # of the shape of an error answer: {"type": "error", "error": {…}}
        value = error if error.get("error") else {"error": error or {"message": "the row holds no answer"}}
        return row, self._translator.row(value, status=status_of_type(value), model="", read=self._read)


async def _body(rows: Path, size: int) -> AsyncIterator[bytes]:
    yield BEFORE
    left = size
    async with await anyio.open_file(rows, "rb") as file:
        while block := await file.read(BLOCK_BYTES):
            left -= len(block)
            yield (block if left > 0 else block.removesuffix(b"\n")).replace(b"\n", b",")
    yield AFTER


def _moment(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(words(value))
    except ValueError:
        return None
