"""Google's batches through the vendor's SDK: a file of requests is uploaded, a job made of it, and its file of results downloaded.

The nonce is the job's display name. A job that expired has no results at all. The results are downloaded into a temporary file, since all
else that the SDK offers holds them in memory. Reference: https://ai.google.dev/gemini-api/docs/batch-api; shapes: google-genai 3.4 SDK.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import orjson
from google.genai import types

from safemt_api.adapters.base import Connection, sent_sampling
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
    not_created,
    not_listed,
    rows_of,
    uncertain,
    unknown_batch,
)
from safemt_api.adapters.bodies import Body, count, label, mapping, read_body, words
from safemt_api.adapters.google_genai import FILTERS, GOOGLE_FAILURES, GoogleGenAI
from safemt_api.adapters.http_client import room_for
from safemt_api.errors import CallError, DialogueError, StopRunError, UnansweredRowError
from safemt_api.messages import Call, Image, Part, Reply
from safemt_api.profiles import Profile

UPLOAD_FAILURES = (*GOOGLE_FAILURES, KeyError, ValueError)
"""The SDK raises bare ones where an upload ends oddly."""

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


class GoogleBatches(GoogleGenAI):
    """Batch jobs at one address; see ``BatchAdapter``."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._connection = connection

    @property
    def limits(self) -> BatchLimits:
        """How much fits into one batch."""
        return limits_of(self._profile)

    def line(self, call: Call, row: str) -> bytes:
        """See ``BatchAdapter``."""
        if self._profile.facts(call.route.model).extra_headers:
            raise DialogueError(f"{call.route.model} needs headers of its own, which no row of a batch can have")
        return orjson.dumps({"key": row, "request": request_body(call, self._profile)})

    async def create(self, rows: Path, intent: BatchIntent) -> str:
        """See ``BatchAdapter``."""
        try:
            config = types.UploadFileConfig(display_name=intent.nonce, mime_type="application/jsonl")
            uploaded = await self._sdk.files.upload(file=rows, config=config)
        except UPLOAD_FAILURES as error:
            raise not_created(self._failure(error, intent.model)) from None
        try:
            named = types.CreateBatchJobConfig(display_name=intent.nonce)
            job = await self._sdk.batches.create(model=intent.model, src=uploaded.name or "", config=named)
        except UPLOAD_FAILURES as error:
            raise uncertain(self._failure(error, intent.model)) from None
        if not job.name:
            raise self._translator.unusable("it names no batch")
        return job.name

    async def find(self, intent: BatchIntent, *, now_utc: datetime, others: Collection[str] = ()) -> BatchSearch:
        """See ``BatchAdapter``."""
        listed = 0
        try:
            async for job in await self._sdk.batches.list(config=types.ListBatchJobsConfig(page_size=100)):
                listed += 1
                if job.display_name == intent.nonce and job.name:
                    return BatchSearch("found", job.name)
                if (job.create_time or now_utc) < intent.created_utc - CLOCKS_APART or listed > MOST_LISTED:
                    break
        except GOOGLE_FAILURES as error:
            raise self._translator.failure(error) from None
        return BatchSearch("unclear") if listed > MOST_LISTED else not_listed(intent, now_utc)

    async def poll(self, batch_id: str) -> BatchState:
        """See ``BatchAdapter``."""
        try:
            job = await self._job(batch_id)
        except CallError as error:
            if error.status == 404:
                return BatchState("unknown")
            raise
        phase = PHASES.get(job.state.name if job.state else "", "working")
        if phase != "rejected":
            return BatchState(phase)
        return BatchState(phase, error=await self._rejection(batch_id))

    async def results(self, batch_id: str) -> AsyncIterator[tuple[str, RowResult]]:
        """See ``BatchAdapter``."""
        job = await self._job(batch_id)
        name = job.dest.file_name if job.dest else None
        if not name:
            return
        ended = job.end_time or job.update_time
        with TemporaryDirectory(prefix="safemt-batch-") as folder:
            file = Path(folder) / "results.jsonl"
            try:
                with room_for(MOST_RESULT_TOKENS):
                    await self._sdk.files.download(file=name, destination=file)
            except GOOGLE_FAILURES as error:
                if getattr(error, "code", None) in (403, 404):
                    raise missing_results(self._profile, batch_id, ended and ended.astimezone(UTC)) from None
                raise self._translator.failure(error) from None
            async for body in rows_of(_chunks(file), self._connection.api_key):
                yield self._row(body)

    async def cancel(self, batch_id: str) -> None:
        """See ``BatchAdapter``."""
        try:
            await self._sdk.batches.cancel(name=batch_id)
        except GOOGLE_FAILURES as error:
            if getattr(error, "code", None) not in (400, 404, 409):  # it has ended
                raise self._translator.failure(error) from None

    async def _rejection(self, batch_id: str) -> CallError | StopRunError:
        # The SDK's own type leaves the job's error out, so its answer is read whole.
        raw: Any = await self._sdk._api_client.async_request("get", batch_id, {}, None)
        error = mapping(read_body((raw.body or "").encode(), self._connection.api_key).fields.get("error"))
        status = STATUS_OF_CODE.get(count(error.get("code")) or 0, 400)
        failed = self._translator.row({"error": error or {"message": "no reason given"}}, status=status, model="", read=self._read)
        return failed if not isinstance(failed, Reply) else DialogueError(f"{self._profile.name} failed the whole batch: {failed.detail}")

    async def _job(self, batch_id: str) -> types.BatchJob:
        try:
            return await self._sdk.batches.get(name=batch_id)
        except GOOGLE_FAILURES as error:
            if getattr(error, "code", None) == 404:
                raise unknown_batch(self._profile, batch_id) from None
            raise self._translator.failure(error) from None

    def _failure(self, error: Exception, model: str) -> CallError | StopRunError:
        if isinstance(error, (KeyError, ValueError)) and not isinstance(error, UnicodeDecodeError):
            return self._translator.unusable("it did not take the file whole")
        return self._translator.failure(error, model=model)

    def _row(self, body: Body) -> tuple[str, RowResult]:
        row, error = label(body.fields.get("key")), mapping(body.fields.get("error"))
        if not error:
            response = mapping(body.fields.get("response"))
            return row, self._translator.row(response, status=200, model=words(response.get("modelVersion")), read=self._read)
        code = count(error.get("code")) or 0
        if code == CANCELLED_CODE:
            return row, UnansweredRowError(f"{self._profile.name} ended the batch before this request")
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
