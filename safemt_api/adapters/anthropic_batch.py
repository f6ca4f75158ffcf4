"""Anthropic's message batches through the vendor's SDK: one request creates a batch with all of its rows, one answer holds the results.

Nothing can be marked but the rows, so a batch whose id is not known is told by the nonce before its rows' ids, which show only in its
results: until it has ended, whether it is the one that is looked for cannot be told. All rows of a batch are sent under the headers that
its model needs. Shapes: anthropic 2.12 SDK, types/messages. Reference:
https://platform.claude.com/docs/en/build-with-claude/batch-processing
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import httpx2
import orjson
from anthropic import RequestOptions

from safemt_api.adapters.anthropic_messages import ANTHROPIC_FAILURES, AnthropicMessages, build_request
from safemt_api.adapters.base import GROWING
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
from safemt_api.adapters.bodies import Body, count, label, mapping, words
from safemt_api.adapters.failures import status_of_type
from safemt_api.adapters.http_client import room_for
from safemt_api.messages import Call

BATCHES = "/v1/messages/batches"
BEFORE, AFTER = b'{"requests":[', b"]}"
BLOCK_BYTES = 2**18
UNANSWERED = frozenset({"expired", "canceled"})


class AnthropicBatches(Batches, AnthropicMessages):
    """Message batches at one address; see ``BatchAdapter``."""

    failures = (*ANTHROPIC_FAILURES, ValueError)

    def line(self, call: Call, row: str) -> bytes:
        """See ``BatchAdapter``."""
        # Turns of a history lie hours apart: a mark would pay for writing a cache that nobody reads. Questions about the same pictures
        # stand side by side in one batch; where more than 22 % of its rows find what others wrote, that pays for the writing.
        request = build_request(replace(call, conversation="single") if call.conversation in GROWING else call, self._profile)
        request.pop("extra_headers", None)
        return orjson.dumps({"custom_id": row, "params": {**request, **request.pop("extra_body", {})}})

    async def create(self, rows: Path, intent: BatchIntent) -> str:
        """See ``BatchAdapter``."""
        size = (await anyio.Path(rows).stat()).st_size
        length = len(BEFORE) + size - 1 + len(AFTER)  # each line break but the last becomes a comma
        headers = {**self._profile.facts(intent.model).extra_headers, "content-length": str(length)}
        options: RequestOptions = {"headers": headers}
        creation = self._sdk.post(BATCHES, cast_to=httpx2.Response, content=_body(rows, size), options=options)
        answer = await self.make(creation, intent.model, batch=True)
        batch_id = label(self.body(answer.content).fields.get("id"))
        if not batch_id:
            raise self._translator.unusable("it names no batch")
        return batch_id

    async def find(self, intent: BatchIntent, *, now_utc: datetime, others: Collection[str] = ()) -> BatchSearch:
        """See ``BatchAdapter``."""
        return await self.search(self._find(intent, now_utc, others))

    async def _find(self, intent: BatchIntent, now_utc: datetime, others: Collection[str]) -> BatchSearch:
        listed, working = 0, False
        async for batch in self._sdk.messages.batches.list(limit=100):
            listed += 1
            if batch.created_at < intent.created_utc - CLOCKS_APART or listed > MOST_LISTED:
                break
            counts = batch.request_counts
            rows = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
            if batch.id in others or rows != intent.requests:
                continue
            working = working or batch.processing_status != "ended"
            if batch.processing_status == "ended":
                # Its first row tells whose it is.
                async with aclosing(self.results(batch.id)) as results:
                    async for row, _ in results:
                        if row.partition("-")[0] == intent.nonce:
                            return BatchSearch("found", batch.id)
                        break
        return BatchSearch("unclear") if working else not_listed(intent, listed, now_utc)

    async def state(self, batch_id: str) -> BatchState:
        """See ``Batches``."""
        fields = await self._retrieve(batch_id)
        counts = {name: count(number) or 0 for name, number in mapping(fields.get("request_counts")).items()}
        total = sum(counts.values())
        ended = fields.get("processing_status") == "ended"
        return BatchState("ended" if ended else "working", total - counts.get("processing", 0), total)

    async def results(self, batch_id: str) -> AsyncGenerator[tuple[str, RowResult]]:
        """See ``BatchAdapter``."""
        fields = await self._retrieve(batch_id)
        ended = None if fields.get("archived_at") else _moment(fields.get("ended_at"))
        missing = self.missing(batch_id, ended)
        if not words(fields.get("results_url")):
            raise missing
        async with aclosing(self.read(self._content(batch_id), {404: missing})) as bodies:
            async for body in bodies:
                yield self._row(body)

    async def _content(self, batch_id: str) -> AsyncGenerator[Body]:
        async with AsyncExitStack() as stack:
            with room_for(MOST_RESULT_TOKENS):
                content = await stack.enter_async_context(self._sdk.messages.batches.with_streaming_response.results(batch_id))
            async for body in self.lines(content.iter_bytes()):
                yield body

    async def cancel(self, batch_id: str) -> None:
        """See ``BatchAdapter``."""
        await self.stop(self._sdk.messages.batches.cancel(batch_id))

    async def _retrieve(self, batch_id: str) -> Mapping[str, Any]:
        answer = await self.ask(self._sdk.messages.batches.with_raw_response.retrieve(batch_id), on={404: self.unknown(batch_id)})
        return self.body(answer.http_response.content).fields

    def _row(self, body: Body) -> tuple[str, RowResult]:
        row, result = label(body.fields.get("custom_id")), mapping(body.fields.get("result"))
        kind = words(result.get("type"))
        if kind in UNANSWERED:
            return self.unanswered(row, kind)
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
