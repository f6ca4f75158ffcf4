"""A run as a log of Inspect (``.eval``), which ``inspect view`` and ``inspect view bundle`` list and open.

The file is a zip archive: ``header.json`` (what was run, scores), ``summaries.json`` (a line a sample),
``_journal/start.json``, and
one file a sample. Field names follow inspect_ai's log schema (https://inspect.aisi.org.uk/eval-logs.html); the file is tried against
the real package, its viewer and its bundle (``make test-interop``). It is written sample by sample: pictures are never held together.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from safemt_api import words
from safemt_api.files import atomic_file
from safemt_api.report.payload import messages_of, thumbnail
from safemt_api.runs.record import RunData

LOG_VERSION = 2
PICTURE_SIDE_PIXELS = 640
"""Large enough to be read in the viewer, small enough (about 40 KB) for 10,000 dialogues in one log."""

Row = Mapping[str, Any]
DialogueKey = tuple[str, int, int]
"""Id, length and repeat."""
Json = dict[str, Any]

STOP_REASONS = {
    "answered": "stop",
    "truncated": "max_tokens",
    "refused": "content_filter",
    "blocked_input": "content_filter",
    "blocked_output": "content_filter",
}
STATUS = {"complete": "success", "partial": "success", "budget_exhausted": "cancelled", "interrupted": "cancelled"}


def inspect_name(run: RunData) -> str:
    """The file name that Inspect's own logs have: time, task, id; its viewer finds and sorts logs by it."""
    moment = re.sub(r"[^0-9T+-]", "-", run.started or "1970-01-01T00-00-00+00-00")
    return f"{moment}_{_task(run)}_{_log_id(run)}.eval"


def write_inspect_log(run: RunData, target: Path) -> None:
    """Write the log, whole or not at all: one sample a dialogue, one score a judge (1 = unsafe; a missing verdict is no score, never 0).

    Raises:
        StoreError: The file cannot be written.
    """
    header, summaries = inspect_header(run), []
    with atomic_file(target) as stream, ZipFile(stream, "w", ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", _dumped({name: header[name] for name in ("version", "eval", "plan")}))
        for sample in inspect_samples(run):
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", _dumped(sample))
            summaries.append(_summary(sample))
        archive.writestr("summaries.json", _dumped(summaries))
        archive.writestr("header.json", _dumped(header))


def _dumped(value: object) -> bytes:
    return json.dumps(value, allow_nan=False).encode("utf-8")


def _task(run: RunData) -> str:
    return f"safemt-{run.summary.protocol}"


def _log_id(run: RunData) -> str:
    return sha256(f"{run.name} {run.started}".encode()).hexdigest()[:22]


def _model(run: RunData) -> str:
    return f"{run.summary.provider or 'unknown'}/{run.summary.model or 'unknown'}"


def inspect_header(run: RunData) -> Json:
    """The log without its samples."""
    started = run.started or "1970-01-01T00:00:00+00:00"
    dialogues, log_id = run.transcripts.select("dialogue_id", "length").n_unique(), _log_id(run)
    epochs = max(1, run.transcripts["repeat"].n_unique())
    judges = run.verdicts["judge"].drop_nulls().unique(maintain_order=True).to_list() or ["none"]
    usage = run.summary.usage
    used = _usage(usage.input_tokens, usage.output_tokens, usage.cached_input_tokens)
    return {
        "version": LOG_VERSION,
        "status": STATUS.get(run.summary.status, "success"),
        "eval": {
            "eval_id": log_id,
            "run_id": log_id,
            "task_id": log_id,
            "created": started,
            "task": _task(run),
            "task_args": {"lengths": list(run.summary.lengths), "judge": run.summary.judge, "seed": run.summary.seed},
            "dataset": {"name": "safemt", "samples": dialogues, "shuffled": False},
            "model": _model(run),
            "config": {"epochs": epochs},
            "metadata": {"run": run.name, "status": run.summary.status, "judge": run.judge_title},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {
            "total_samples": run.summary.dialogues.planned or dialogues * epochs,
            "completed_samples": run.summary.dialogues.finished,
            "scores": [
                {"name": judge, "scorer": judge, "metrics": _metrics(run) if place == 0 else {}} for place, judge in enumerate(judges)
            ],
        },
        "stats": {"started_at": started, "completed_at": run.ended or started, "model_usage": {_model(run): used}},
    }


def _metrics(run: RunData) -> Json:
    word = words.turn_word(run.summary.protocol)
    index = run.summary.safety_index
    values = {f"asr_{word}_{row.turn}": row.asr for row in run.summary.asr_by_turn} | {
        "safety_index": index.value,
        "safety_index_if_missing_low": index.if_missing_low,
        "safety_index_if_missing_high": index.if_missing_high,
        "safety_index_complete_ids": index.complete_ids,
        "safety_index_ids": index.ids,
    }
    return {name: {"name": name, "value": value} for name, value in values.items() if value is not None}


def _usage(input_tokens: int | None, output_tokens: int | None, cached_tokens: int | None) -> Json:
    counts = {"input_tokens": input_tokens or 0, "output_tokens": output_tokens or 0}
    return counts | {"total_tokens": sum(counts.values()), "input_tokens_cache_read": cached_tokens or 0}


def inspect_samples(run: RunData) -> Iterator[Json]:
    """The samples, all lengths of an id together."""
    verdicts: dict[DialogueKey, list[Row]] = defaultdict(list)
    for row in run.verdicts.iter_rows(named=True):
        verdicts[row["dialogue_id"], row["length"], row["repeat"]].append(row)
    turns: dict[DialogueKey, list[Row]] = defaultdict(list)
    for row in run.transcripts.iter_rows(named=True):
        turns[row["dialogue_id"], row["length"], row["repeat"]].append(row)
    pictures = _Pictures(run.data_folder)
    first = run.transcripts["repeat"].min()
    for key in sorted(turns):
        epoch = 1 + key[2] - (first if isinstance(first, int) else 1)
        yield _sample(
            run, *key[:2], epoch=epoch, rows=sorted(turns[key], key=itemgetter("turn")), verdicts=verdicts[key], pictures=pictures
        )


@dataclass(slots=True)
class _Pictures:
    """Small copies of the data set's pictures as data URLs; the last one is kept, since an id's lengths follow each other."""

    folder: Path | None
    last: tuple[str, str | None] = field(default=("", None))

    def url(self, path: str | None) -> str | None:
        if path is None or self.folder is None:
            return None
        if self.last[0] != path:
            data = thumbnail(self.folder, path, side_pixels=PICTURE_SIDE_PIXELS)
            self.last = path, None if data is None else f"data:image/webp;base64,{b64encode(data).decode('ascii')}"
        return self.last[1]


def _sample(
    run: RunData, dialogue_id: str, length: int, *, epoch: int, rows: Sequence[Row], verdicts: Sequence[Row], pictures: _Pictures
) -> Json:
    last, seconds = rows[-1], sum(row["latency_seconds"] or 0.0 for row in rows)
    asked, attachments = _asked(last, pictures.url(last["image_path"]))
    reply = {"role": "assistant", "content": last["reply_text"] or "", "model": last["model"] or "", "source": "generate"}
    answered = last["outcome"] != "error"
    usage = _usage(*(sum(row[name] or 0 for row in rows) for name in ("input_tokens", "output_tokens", "cached_input_tokens")))
    sample: Json = {
        "id": f"{dialogue_id}_{length}-turn",
        "epoch": epoch,
        "input": asked,
        "target": "safe",
        "messages": [*asked, reply] if answered else asked,
        "output": _output(last, reply) if answered else {"model": last["model"] or "", "choices": []},
        "scores": _scores(verdicts, last["turn"]) if last["turn"] == length else {},
        "metadata": {
            name: last[name]
            for name in ("dialogue_id", "scenario", "kind", "length", "method", "outcome", "image_path", "protocol", "note")
        },
        "model_usage": {_model(run): usage},
        "total_time": seconds,
        "working_time": seconds,
        "attachments": attachments,
    }
    if len(rows) > 1:
        sample["metadata"]["turns"] = [_turn(row, verdicts) for row in rows]
    if last["failure"]:
        sample["error"] = {"message": last["failure"], "traceback": "", "traceback_ansi": ""}
    return sample


def _asked(last: Row, picture: str | None) -> tuple[list[Json], dict[str, str]]:
    """The messages up to the last user message; the picture stands in the first, as a reference to the sample's attachments."""
    messages: list[Json] = [{"role": "user" if role == "user" else "assistant", "content": content} for role, content in messages_of(last)]
    if picture is None or not messages:
        return messages, {}
    name = sha256(picture.encode()).hexdigest()[:32]
    words_too = {"type": "text", "text": messages[0]["content"]}
    messages[0] = messages[0] | {"content": [{"type": "image", "image": f"attachment://{name}"}, words_too]}
    return messages, {name: picture}


def _output(row: Row, reply: Json) -> Json:
    return {
        "model": row["served_model"] or row["model"] or "",
        "choices": [{"message": reply, "stop_reason": STOP_REASONS.get(row["outcome"], "unknown")}],
        "usage": _usage(row["input_tokens"], row["output_tokens"], row["cached_input_tokens"]),
        "time": row["latency_seconds"],
    }


def _scores(verdicts: Sequence[Row], turn: int) -> Json:
    known = [row for row in verdicts if row["turn"] == turn and row["label"] is not None]
    return {
        row["judge"] or "none": {
            "value": int(row["label"] == "unsafe"),
            "answer": row["label"],
            "explanation": row["reason"],
            "metadata": {"source": row["source"], "counts": row["counts"], "probability_unsafe": row["probability_unsafe"]},
        }
        for row in known
    }


def _turn(row: Row, verdicts: Sequence[Row]) -> Json:
    """A live dialogue's turn: its outcome, tokens and time, and what each judge said of it."""
    said = [{"judge": one["judge"], "label": one["label"], "reason": one["reason"]} for one in verdicts if one["turn"] == row["turn"]]
    return {name: row[name] for name in ("turn", "outcome", "input_tokens", "output_tokens", "latency_seconds")} | {"verdicts": said}


def _summary(sample: Json) -> Json:
    """The sample as the viewer's list shows it, without its messages."""
    last = sample["input"][-1]["content"]
    text = last if isinstance(last, str) else last[-1]["text"]
    kept = ("id", "epoch", "target", "scores", "model_usage", "total_time", "working_time")
    metadata = {name: value for name, value in sample["metadata"].items() if name != "turns"}
    shown = {"input": text, "metadata": metadata, "completed": True, "message_count": len(sample["messages"])}
    error = {"error": sample["error"]["message"]} if "error" in sample else {}
    return {name: sample[name] for name in kept} | shown | error
