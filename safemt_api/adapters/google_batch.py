"""Google's batches through the vendor's SDK: a file of requests is uploaded, a job made of it, and its file of results downloaded.

The nonce is the job's display name. A job that expired has no results at all. The results are downloaded into a temporary file, since all
else that the SDK offers holds them in memory. Reference: https://ai.google.dev/gemini-api/docs/batch-api; shapes: google-genai 3.4 SDK.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import orjson
from google.genai import types

from safemt_api.adapters.base import sent_sampling
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
from safemt_api.adapters.google_genai import FILTERS, GOOGLE_FAILURES, GoogleGenAI
from safemt_api.adapters.http_client import room_for
from safemt_api.errors import CallError, DialogueError, StopRunError
from safemt_api.messages import Call, Image, Part, Reply
from safemt_api.profiles import Profile

PHASES: Mapping[str, Any] = {
    "JOB_STATE_SUCCEEDED": "ended",
    "JOB_STATE_PARTIALLY_SUCCEEDED": "ended",
    "JOB_STATE_FAILED": "rejected",
    "JOB_STATE_CANCELLED": "cancelled",
    "JOB_STATE_EXPIRED": "expired",
}
"""By state; all others are on their way."""

STATUS_OF_CODE: Mapping[int, int] = {3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 13: 500, 14: 503, 16: 401}
"""HTTP status by gRPC's code, in which a row's error may be told (google/rpc/code.proto)."""

CANCELLED_CODE = 1
CHUNK_BYTES = 2**20


class GoogleBatches(Batches, GoogleGenAI):
    """Batch jobs at one address; see ``BatchAdapter``."""

    failures = (*GOOGLE_FAILURES, ValueError)

    def line(self, call: Call, row: str) -> bytes:
        """See ``BatchAdapter``."""
        if self._profile.facts(call.route.model).extra_headers:
            raise DialogueError(f"{call.route.model} needs headers of its own, which no row of a batch can have")
        return orjson.dumps({"key": row, "request": request_body(call, self._profile)})

    async def create(self, rows: Path, intent: BatchIntent) -> str:
        """See ``BatchAdapter``."""
        config = types.UploadFileConfig(display_name=intent.nonce, mime_type="application/jsonl")
        uploaded = await self.make(self._upload(rows, config), intent.model, batch=False)
        named = types.CreateBatchJobConfig(display_name=intent.nonce)
        creation = self._sdk.batches.create(model=intent.model, src=uploaded.name or "", config=named)
        job = await self.make(creation, intent.model, batch=True)
        if not job.name:
            raise self._translator.unusable("it names no batch")
        return job.name

    async def _upload(self, rows: Path, config: types.UploadFileConfig) -> types.File:
        with suppress(KeyError, ValueError):  # the SDK raises bare ones where an upload ends oddly
            return await self._sdk.files.upload(file=rows, config=config)
        raise self._translator.unusable("it did not take the file whole")

    async def find(self, intent: BatchIntent, *, now_utc: datetime, others: Collection[str] = ()) -> BatchSearch:
        """See ``BatchAdapter``."""
        return await self.search(self._find(intent, now_utc))

    async def _find(self, intent: BatchIntent, now_utc: datetime) -> BatchSearch:
        listed = 0
        async for job in await self._sdk.batches.list(config=types.ListBatchJobsConfig(page_size=100)):
            listed += 1
            if job.display_name == intent.nonce and job.name:
                return BatchSearch("found", job.name)
            if (job.create_time or now_utc) < intent.created_utc - CLOCKS_APART or listed > MOST_LISTED:
                break
        return not_listed(intent, listed, now_utc)

    async def state(self, batch_id: str) -> BatchState:
        """See ``Batches``."""
        job = await self._job(batch_id)
        phase = PHASES.get(job.state.name if job.state else "", "working")
        return BatchState(phase, error=await self._rejection(batch_id) if phase == "rejected" else None)

    async def results(self, batch_id: str) -> AsyncIterator[tuple[str, RowResult]]:
        """See ``BatchAdapter``."""
        job = await self._job(batch_id)
        name, ended = job.dest.file_name if job.dest else None, job.end_time or job.update_time
        if not name:
            return
        missing = self.missing(batch_id, ended and ended.astimezone(UTC))
        with TemporaryDirectory(prefix="safemt-batch-") as folder:
            file = Path(folder) / "results.jsonl"
            with room_for(MOST_RESULT_TOKENS):
                await self.ask(self._sdk.files.download(file=name, destination=file), on={403: missing, 404: missing})
            async for body in self.lines(_chunks(file)):
                yield self._row(body)

    async def cancel(self, batch_id: str) -> None:
        """See ``BatchAdapter``."""
        await self.stop(self._sdk.batches.cancel(name=batch_id))

    async def _job(self, batch_id: str) -> types.BatchJob:
        return await self.ask(self._sdk.batches.get(name=batch_id), on={404: self.unknown(batch_id)})

    async def _rejection(self, batch_id: str) -> CallError | StopRunError:
        # The SDK's own type leaves the job's error out, so its answer is read whole.
        raw: Any = await self.ask(self._sdk._api_client.async_request("get", batch_id, {}, None))
        error = mapping(self.body((raw.body or "").encode()).fields.get("error"))
        status = STATUS_OF_CODE.get(count(error.get("code")) or 0, 400)
        failed = self._translator.row({"error": error or {"message": "no reason given"}}, status=status, model="", read=self._read)
        return failed if not isinstance(failed, Reply) else DialogueError(f"{self._profile.name} failed the whole batch: {failed.detail}")

    def _row(self, body: Body) -> tuple[str, RowResult]:
        row, error = label(body.fields.get("key")), mapping(body.fields.get("error"))
        if not error:
            response = mapping(body.fields.get("response"))
            return row, self._translator.row(response, status=200, model=words(response.get("modelVersion")), read=self._read)
        code = count(error.get("code")) or 0
        if code == CANCELLED_CODE:
            return self.unanswered(row, "cancelled")
        return row, self._translator.row({"error": error}, status=STATUS_OF_CODE.get(code, code), model="", read=self._read)


async def _chunks(file: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(file, "rb") as opened:
        while chunk := await opened.read(CHUNK_BYTES):
            yield chunk


def request_body(call: Call, profile: Profile) -> dict[str, Any]:
    """The body of generateContent for the call; a test holds it against what the SDK sends for the same call alone."""
    model, parameters, facts = call.route.model, call.parameters, profile.facts(call.route.model)
    sampling = sent_sampling(profile, model, parameters)
    generation: dict[str, Any] = {{"top_p": "topP"}.get(name, name): value for name, value in sampling.items()}
    if parameters.max_output_tokens is not None:
        generation["maxOutputTokens"] = parameters.max_output_tokens
    if call.schema is not None and profile.takes_structured_output(model):
        generation |= {"responseMimeType": "application/json", "responseJsonSchema": dict(call.schema.body)}
    if parameters.effort is not None:
        generation["thinkingConfig"] = {"thinkingLevel": parameters.effort.upper()}
    roles = {"assistant": "model", "user": "user"}
    body: dict[str, Any] = {
        "contents": [{"role": roles[message.role], "parts": [_part(part) for part in message.parts]} for message in call.messages]
    }
    if call.system is not None:
        body["systemInstruction"] = {"role": "user", "parts": [{"text": call.system}]}
    if generation:
        body["generationConfig"] = generation
    if parameters.safety_threshold is not None:
        body["safetySettings"] = [{"category": name, "threshold": parameters.safety_threshold.upper()} for name in FILTERS]
    return body | dict(facts.extra_body)


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Image):
        return {"inlineData": {"data": part.base64, "mimeType": part.media_type}}
    return {"text": part.text}
