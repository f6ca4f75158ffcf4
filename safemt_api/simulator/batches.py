"""Files and batches in three wire formats: what a vendor's batch API takes, how long it works, what it answers, and how it fails.

Rows are answered by the same code as calls alone, so that a row's truth is the call's. Waiting is played on a clock of its own that
``POST /simulator/advance`` moves on: a day passes at once. Shapes: openai ``types/batch.py``, anthropic ``types/messages``, google-genai
``batches.py`` and ``files.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import parse_qs

import orjson

from safemt_api.profiles import WireFormat
from safemt_api.simulator.answers import Headers, TroubleError
from safemt_api.simulator.requests import Request
from safemt_api.simulator.settings import SimulatorSettings

LIFE_SECONDS = 86_400.0
"""After so long a batch expires, whatever it has come to."""

GOOGLE_LIFE_SECONDS = 2 * LIFE_SECONDS
GONE_AFTER = timedelta(days=31)
WRONG_ROW = "The request in row 1 cannot be read."
HIDDEN_POLLS = 2
"""``batch_hidden``: so many looks at a new batch are answered with 404."""

REJECTIONS = frozenset({"batch_rejected", "file_rejected"})

Phase = Literal["working", "cancelled", "expired", "ended", "rejected"]
AnswerRow = Callable[["Batch", str, bytes], tuple[int, bytes]]
"""From a batch, the path and the body of one of its calls to status and body of its answer."""


@dataclass(slots=True)
class Row:
    """One request of a batch: its id, its body, and what came of it once it was worked on."""

    row_id: str
    body: bytes
    answer: tuple[int, bytes] | None = None


@dataclass(slots=True)
class Batch:
    """One batch. ``mark`` is what the client can find it by (metadata, display name); times are seconds of the desk's clock."""

    batch_id: str
    wire_format: WireFormat
    model: str
    mark: Any
    rows: list[Row]
    headers: Mapping[str, str]
    created: float
    created_utc: datetime
    fault: str | None
    polls: int = 0
    cancelled: float | None = None
    input_file: str = ""
    downloads: int = 0


@dataclass(slots=True)
class Reply:
    """What the desk answers: a JSON value or a file's bytes."""

    value: Any = None
    content: bytes | None = None
    headers: Headers = ()
    status: int = 200
    ending: Literal["whole", "reset", "cut"] = "whole"


@dataclass
class BatchDesk:
    """The files and batches of one account.

    Args:
        answer_row: Answers one row, and books it.
    """

    settings: SimulatorSettings
    answer_row: AnswerRow
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    offset_seconds: float = 0.0
    now: float = 0.0

    def handle(self, request: Request, now: float) -> Reply | None:
        """The answer to a request about files or batches; ``None`` where it is about something else."""
        self.now = now + self.offset_seconds
        path = re.sub(r"^(/upload)?/v1beta/", r"\1/v1/", request.path)
        asked = {name: values[0] for name, values in parse_qs(request.target.partition("?")[2]).items()}
        answer = {"openai_chat": self._openai, "anthropic_messages": self._anthropic, "google_genai": self._google}[request.wire_format]
        return answer(request.method, path, asked, request.headers, request.body)

    def record(self) -> list[dict[str, Any]]:
        """Every batch with its mark, its state and how many of its rows were answered, for tests and benchmarks."""
        return [
            {
                "id": batch.batch_id,
                "mark": batch.mark,
                "model": batch.model,
                "rows": len(batch.rows),
                "first_row": batch.rows[0].row_id,
                "phase": self._phase(batch),
                "answered": sum(row.answer is not None and row.answer[0] == 200 for row in batch.rows),
                "fault": batch.fault,
            }
            for batch in self.batches.values()
        ]

    # How a batch goes on.

    def _add(self, wire_format: WireFormat, model: str, mark: Any, rows: list[Row], headers: Mapping[str, str], **more: Any) -> Batch:
        number = len(self.batches) + 1
        names = {"openai_chat": f"batch_{number:06}", "anthropic_messages": f"msgbatch_{number:06}", "google_genai": f"batches/{number:06}"}
        fault = self.settings.faults.batch(seed=self.settings.seed, model=model, number=number)
        created = datetime.now(UTC) + timedelta(seconds=self.offset_seconds)
        batch = Batch(names[wire_format], wire_format, model, mark, rows, headers, self.now, created, fault, **more)
        self.batches[batch.batch_id] = batch
        return batch

    def _get(self, batch_id: str) -> Batch:
        batch = self.batches.get(batch_id)
        if batch is not None and batch.fault == "batch_hidden":
            batch.polls += 1
            batch = batch if batch.polls > HIDDEN_POLLS else None
        if batch is None:
            raise TroubleError("unknown_path", f"No batch found with id '{batch_id}'.")
        return batch

    def _elapsed(self, batch: Batch) -> float:
        return (self.now if batch.cancelled is None else batch.cancelled) - batch.created

    def _phase(self, batch: Batch) -> Phase:
        life = GOOGLE_LIFE_SECONDS if batch.wire_format == "google_genai" else LIFE_SECONDS
        if batch.fault in REJECTIONS:
            return "rejected"
        if batch.cancelled is not None:
            return "cancelled"
        if batch.fault == "batch_stuck":
            return "expired" if self._elapsed(batch) >= life else "working"
        if self._elapsed(batch) < self.settings.batch_seconds:
            return "working"
        return "expired" if batch.fault == "batch_expired" else "ended"

    def _done(self, batch: Batch) -> int:
        """How many rows, from the first, have been worked on by now."""
        whole = len(batch.rows)
        if batch.fault in REJECTIONS:
            return 0
        if batch.fault in ("batch_expired", "batch_stuck"):
            whole //= 2
        share = 1.0 if self.settings.batch_seconds <= 0 else self._elapsed(batch) / self.settings.batch_seconds
        return min(whole, int(whole * share))

    def _work(self, batch: Batch) -> None:
        """Answer what has been worked on by now; each row once."""
        paths = {"openai_chat": "/v1/chat/completions", "anthropic_messages": "/v1/messages"}
        path = paths.get(batch.wire_format, f"/v1/models/{batch.model}:generateContent")
        for row in batch.rows[: self._done(batch)]:
            if row.answer is None:
                row.answer = self.answer_row(batch, path, row.body)

    def _ended_utc(self, batch: Batch) -> datetime:
        if batch.fault == "results_gone":
            return datetime.now(UTC) - GONE_AFTER
        return batch.created_utc + timedelta(seconds=min(self._elapsed(batch), max(self.settings.batch_seconds, 0.0)))

    def _lines(self, batch: Batch, write: Callable[[Row], dict[str, Any] | None]) -> bytes:
        """The file of results: each row that there is something to tell of, the last one first."""
        rows = list(reversed(batch.rows))
        if batch.fault == "rows_twice":
            rows += rows[:3]
        if batch.fault == "rows_unknown":
            rows.insert(0, Row("nobody-asked-this", batch.rows[0].body, batch.rows[0].answer))
        written = (write(row) for row in rows)
        return b"".join(orjson.dumps(one) + b"\n" for one in written if one is not None)

    def _download(self, batch: Batch, content: bytes) -> Reply:
        batch.downloads += 1
        if batch.fault == "results_gone":
            raise TroubleError("unknown_path", "The results of this batch are no longer available.")
        cut = batch.fault == "results_cut" and batch.downloads == 1
        return Reply(content=content, ending="cut" if cut else "whole")

    def _created(self, batch: Batch, value: dict[str, Any]) -> Reply:
        return Reply(value, ending="reset" if batch.fault == "create_lost" else "whole")

    def _check_rows(self, rows: list[Row]) -> list[Row]:
        if not rows or len({row.row_id for row in rows}) != len(rows):
            raise TroubleError("bad_request", "each request of a batch needs an id of its own, and there must be one at least")
        return rows

    def _listed(self, wire_format: WireFormat) -> list[Batch]:
        unmade = "file_rejected" if wire_format == "anthropic_messages" else None  # where a wrong row is found before there is a batch
        return [batch for batch in reversed(self.batches.values()) if batch.wire_format == wire_format and (batch.fault or "") != unmade]

    # OpenAI: files and batches.

    def _openai(self, method: str, path: str, asked: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> Reply | None:
        if path == "/v1/files" and method == "POST":
            file_id = f"file-{len(self.files) + 1:06}"
            self.files[file_id] = _uploaded(headers.get("content-type", ""), body)
            about = {"object": "file", "bytes": len(self.files[file_id]), "filename": "rows.jsonl", "purpose": "batch"}
            return Reply({"id": file_id, "created_at": int(datetime.now(UTC).timestamp()), "status": "processed", **about})
        found = re.fullmatch(r"/v1/files/((?:output|errors)-)?([\w-]+)/content", path)
        if found and found[1]:
            return self._openai_results(self._get(found[2]), errors=found[1] == "errors-")
        if path == "/v1/batches" and method == "POST":
            return self._openai_create(_object(body))
        if path == "/v1/batches":
            return Reply(_page([self._openai_batch(batch) for batch in self._listed("openai_chat")], asked.get("after"), asked))
        found = re.fullmatch(r"/v1/batches/([\w-]+)(/cancel)?", path)
        if not found:
            return None
        batch = self._get(found[1])
        self._cancel(batch, asked=bool(found[2]))
        return Reply(self._openai_batch(batch))

    def _openai_create(self, given: Mapping[str, Any]) -> Reply:
        content = self.files.get(str(given.get("input_file_id")))
        if content is None or given.get("endpoint") != "/v1/chat/completions" or given.get("completion_window") != "24h":
            raise TroubleError("bad_request", "input_file_id, endpoint or completion_window is not right", parameter="input_file_id")
        lines = [_object(line) for line in content.splitlines() if line.strip()]
        rows = self._check_rows([Row(str(line.get("custom_id")), orjson.dumps(line.get("body"))) for line in lines])
        models = {str((line.get("body") or {}).get("model")) for line in lines}
        if len(models) != 1:
            raise TroubleError("bad_request", f"a batch is of one model, not of {len(models)}", parameter="model")
        batch = self._add("openai_chat", models.pop(), given.get("metadata"), rows, {}, input_file=str(given["input_file_id"]))
        return self._created(batch, self._openai_batch(batch))

    def _openai_batch(self, batch: Batch) -> dict[str, Any]:
        self._work(batch)
        phase = self._phase(batch)
        status = {"working": "in_progress", "ended": "completed", "rejected": "failed"}.get(phase, phase)
        answered = [row.answer[0] == 200 for row in batch.rows if row.answer is not None]
        final = phase not in ("working", "rejected")
        full = "Enqueued token limit reached for this model."
        problem: dict[str, Any] = {"code": "token_limit_exceeded", "message": full, "line": None, "param": None}
        if batch.fault == "file_rejected":
            problem |= {"code": "invalid_request", "message": WRONG_ROW, "line": 1}
        ended = int(self._ended_utc(batch).timestamp())
        return {
            "id": batch.batch_id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "input_file_id": batch.input_file,
            "created_at": int(batch.created_utc.timestamp()),
            "status": status,
            "model": batch.model,
            "metadata": batch.mark,
            "errors": {"object": "list", "data": [problem]} if phase == "rejected" else None,
            "output_file_id": f"output-{batch.batch_id}" if final and any(answered) else None,
            "error_file_id": f"errors-{batch.batch_id}" if final and not all([*answered, len(answered) == len(batch.rows)]) else None,
            "request_counts": {"total": len(batch.rows), "completed": sum(answered), "failed": len(answered) - sum(answered)},
            **({f"{status}_at": ended} if final else {}),
        }

    def _openai_results(self, batch: Batch, *, errors: bool) -> Reply:
        code = {"cancelled": "batch_cancelled"}.get(self._phase(batch), "batch_expired")

        def write(row: Row) -> dict[str, Any] | None:
            if errors == (row.answer is not None and row.answer[0] == 200):
                return None
            head = {"id": f"batch_req_{row.row_id}", "custom_id": row.row_id}
            if row.answer is None:
                return {**head, "response": None, "error": {"code": code, "message": "This request was not executed."}}
            response = {"status_code": row.answer[0], "request_id": f"req_{row.row_id}", "body": orjson.loads(row.answer[1])}
            return {**head, "response": response, "error": None}

        return self._download(batch, self._lines(batch, write))

    # Anthropic: message batches.

    def _anthropic(self, method: str, path: str, asked: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> Reply | None:
        if path == "/v1/messages/batches" and method == "POST":
            requests = _object(body).get("requests")
            if not isinstance(requests, list) or not all(isinstance(one, dict) for one in requests):
                raise TroubleError("bad_request", "requests: a list of objects is needed")
            rows = self._check_rows([Row(str(one.get("custom_id")), orjson.dumps(one.get("params"))) for one in requests])
            if not all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", row.row_id) for row in rows):
                raise TroubleError("bad_request", "requests: custom_id must match ^[a-zA-Z0-9_-]{1,64}$")
            version = {"anthropic-version": headers.get("anthropic-version", "")}
            batch = self._add("anthropic_messages", str((requests[0].get("params") or {}).get("model")), None, rows, version)
            if batch.fault == "file_rejected":
                raise TroubleError("bad_request", WRONG_ROW)
            return self._created(batch, self._anthropic_batch(batch))
        if path == "/v1/messages/batches":
            return Reply(_page([self._anthropic_batch(one) for one in self._listed("anthropic_messages")], asked.get("after_id"), asked))
        found = re.fullmatch(r"/v1/messages/batches/([\w-]+)(/cancel|/results)?", path)
        if not found:
            return None
        batch = self._get(found[1])
        if found[2] == "/results":
            return self._download(batch, self._lines(batch, self._anthropic_row(batch)))
        self._cancel(batch, asked=bool(found[2]))
        return Reply(self._anthropic_batch(batch))

    def _anthropic_batch(self, batch: Batch) -> dict[str, Any]:
        self._work(batch)
        phase = self._phase(batch)
        ended = phase != "working"
        answers = [row.answer for row in batch.rows]
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        for answer in answers:
            counts["processing" if not ended else self._anthropic_kind(batch, answer)] += 1
        url = f"http://127.0.0.1/v1/messages/batches/{batch.batch_id}/results"
        return {
            "id": batch.batch_id,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts,
            "created_at": batch.created_utc.isoformat(),
            "expires_at": (batch.created_utc + timedelta(seconds=LIFE_SECONDS)).isoformat(),
            "ended_at": self._ended_utc(batch).isoformat() if ended else None,
            "archived_at": self._ended_utc(batch).isoformat() if ended and batch.fault == "results_gone" else None,
            "cancel_initiated_at": None,
            "results_url": url.replace("http://127.0.0.1", "") if ended and batch.fault != "results_gone" else None,
        }

    def _anthropic_kind(self, batch: Batch, answer: tuple[int, bytes] | None) -> str:
        if batch.fault == "batch_rejected":
            return "errored"
        if answer is None:
            return "canceled" if self._phase(batch) == "cancelled" else "expired"
        return "succeeded" if answer[0] == 200 else "errored"

    def _anthropic_row(self, batch: Batch) -> Callable[[Row], dict[str, Any]]:
        def write(row: Row) -> dict[str, Any]:
            kind = self._anthropic_kind(batch, row.answer)
            result: dict[str, Any] = {"type": kind}
            if kind == "succeeded" and row.answer is not None:
                result["message"] = orjson.loads(row.answer[1])
            elif kind == "errored":
                refused = b'{"type":"error","error":{"type":"overloaded_error","message":"This batch could not be worked on."}}'
                result["error"] = orjson.loads(row.answer[1] if row.answer is not None else refused)
            return {"custom_id": row.row_id, "result": result}

        return write

    # Google: resumable uploads, batch jobs, downloads.

    def _google(self, method: str, path: str, asked: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> Reply | None:
        if path == "/upload/v1/files":
            return self._google_upload(asked, headers, body)
        found = re.fullmatch(r"/v1/files/([\w-]+):download", path)
        if found:
            return self._google_results(found[1])
        found = re.fullmatch(r"/v1/models/([^/:]+):batchGenerateContent", path)
        if found and method == "POST":
            return self._google_create(found[1], _object(body))
        if path == "/v1/batches":
            jobs = [self._google_job(batch) for batch in self._listed("google_genai")]
            start = int(asked.get("pageToken") or 0)
            size = int(asked.get("pageSize") or 50)
            token = {"nextPageToken": str(start + size)} if start + size < len(jobs) else {}
            return Reply({"operations": jobs[start : start + size], **token})
        found = re.fullmatch(r"/v1/(batches/[\w-]+)(:cancel)?", path)
        if not found:
            return None
        batch = self._get(found[1])
        self._cancel(batch, asked=bool(found[2]))
        return Reply({} if found[2] else self._google_job(batch))

    def _google_upload(self, asked: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> Reply:
        command = headers.get("x-goog-upload-command", "")
        if command == "start":
            upload = f"upload-{len(self.uploads) + 1}"
            self.uploads[upload] = bytearray()
            url = f"http://{headers.get('host', '')}/upload/v1/files?upload_id={upload}"
            return Reply({}, headers=(("x-goog-upload-url", url), ("x-goog-upload-status", "active")))
        upload = asked.get("upload_id", "")
        if upload not in self.uploads:
            raise TroubleError("bad_request", "no such upload")
        self.uploads[upload] += body
        if "finalize" not in command:
            return Reply({}, headers=(("x-goog-upload-status", "active"),))
        name = f"file{len(self.files) + 1:06}"
        self.files[name] = bytes(self.uploads.pop(upload))
        about = {"name": f"files/{name}", "mimeType": "application/jsonl", "sizeBytes": str(len(self.files[name]))}
        return Reply({"file": about}, headers=(("x-goog-upload-status", "final"),))

    def _google_create(self, model: str, given: Mapping[str, Any]) -> Reply:
        batch_of = given.get("batch") if isinstance(given.get("batch"), dict) else {}
        config = (batch_of or {}).get("inputConfig") or {}
        content = self.files.get(str(config.get("fileName", "")).removeprefix("files/"))
        if content is None:
            raise TroubleError("bad_request", "batch.inputConfig.fileName names no file")
        lines = [_object(line) for line in content.splitlines() if line.strip()]
        rows = self._check_rows([Row(str(line.get("key")), orjson.dumps(line.get("request"))) for line in lines])
        batch = self._add("google_genai", model, (batch_of or {}).get("displayName"), rows, {})
        return self._created(batch, self._google_job(batch))

    def _google_job(self, batch: Batch) -> dict[str, Any]:
        self._work(batch)
        phase = self._phase(batch)
        states = {"working": "RUNNING", "ended": "SUCCEEDED", "rejected": "FAILED"}
        metadata: dict[str, Any] = {
            "displayName": batch.mark,
            "model": f"models/{batch.model}",
            "state": f"BATCH_STATE_{states.get(phase, phase.upper())}",
            "createTime": batch.created_utc.isoformat(),
            "updateTime": self._ended_utc(batch).isoformat(),
        }
        job: dict[str, Any] = {"name": batch.batch_id, "metadata": metadata, "done": phase != "working"}
        if phase in ("ended", "cancelled"):
            metadata["endTime"] = self._ended_utc(batch).isoformat()
            metadata["output"] = {"responsesFile": f"files/results-{batch.batch_id.removeprefix('batches/')}"}
        if phase == "rejected":
            full = {"code": 8, "message": "Enqueued tokens for this model are used up.", "status": "RESOURCE_EXHAUSTED"}
            wrong = {"code": 3, "message": WRONG_ROW, "status": "INVALID_ARGUMENT"}
            job["error"] = full if batch.fault == "batch_rejected" else wrong
        return job

    def _google_results(self, name: str) -> Reply:
        batch = self._get(f"batches/{name.removeprefix('results-')}")

        def write(row: Row) -> dict[str, Any]:
            if row.answer is None:
                return {"key": row.row_id, "error": {"code": 1, "message": "The batch was cancelled."}}
            body = orjson.loads(row.answer[1])
            return {"key": row.row_id, **({"response": body} if row.answer[0] == 200 else {"error": body.get("error", body)})}

        return self._download(batch, self._lines(batch, write))

    def _cancel(self, batch: Batch, *, asked: bool) -> None:
        if not asked:
            return
        if self._phase(batch) != "working":
            raise TroubleError("bad_request", "the batch has ended already")
        self._work(batch)
        batch.cancelled = self.now


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise TroubleError("bad_request", f"a line is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise TroubleError("bad_request", "a JSON object is needed")
    return found


def _page(listed: list[dict[str, Any]], after: str | None, asked: Mapping[str, str]) -> dict[str, Any]:
    size = int(asked.get("limit") or 20)
    start = next((at + 1 for at, one in enumerate(listed) if one["id"] == after), 0)
    shown = listed[start : start + size]
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return {"object": "list", "data": shown, "has_more": start + size < len(listed), **ends}


def _uploaded(content_type: str, body: bytes) -> bytes:
    """The bytes of the part called ``file`` in a multipart form."""
    found = re.search(r'boundary="?([^";]+)', content_type)
    for part in body.split(b"--" + found[1].encode()) if found else []:
        head, _, content = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            return content.removesuffix(b"\r\n")
    raise TroubleError("bad_request", "file: a part of this name is needed", parameter="file")
