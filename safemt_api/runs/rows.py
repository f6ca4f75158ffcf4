"""Finished dialogues as rows of a run's files (columns: ``safemt_api.frames``), counted and collected as they come.

Rows wait in line-by-line files beside the run. These are scratch: what is durable is the turn store, from which the same command rebuilds
them; so they are neither synced nor trusted when a run goes on. Until it ends, and where it is killed, they are what a report can read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import orjson

from safemt_api.adapters.bodies import identity
from safemt_api.dataset.images import SourceImage
from safemt_api.files import private_file, private_folder, unwritable
from safemt_api.messages import Dialogue, Line, Outcome, Transcript, Turn, Verdict, images_of, said
from safemt_api.metrics.drift import Watch
from safemt_api.runs.folder import TRANSCRIPTS_FILE, VERDICTS_FILE, scratch

if TYPE_CHECKING:
    import polars as pl


class Finished(NamedTuple):
    """A dialogue that was played and judged. ``verdicts`` are paired with the turn numbers they judge."""

    transcript: Transcript
    verdicts: tuple[tuple[int, Verdict], ...]
    provider: str
    model: str


def transcript_rows(finished: Finished, run: str) -> Iterator[dict[str, Any]]:
    """One row a turn."""
    transcript = finished.transcript
    dialogue = transcript.dialogue
    for index, turn in enumerate(transcript.turns):
        yield {
            "run": run,
            "dialogue_id": dialogue.id,
            "scenario": dialogue.scenario,
            "kind": dialogue.kind,
            "method": dialogue.method,
            "length": dialogue.length,
            "protocol": transcript.protocol,
            "turn": turn.turn,
            "messages": messages_json(history_before(transcript, index)),
            "user_text": turn.user_text,
            **_reply_columns(turn),
            "provider": finished.provider,
            "model": finished.model,
            **_image_columns(dialogue),
            **_guidance_columns(turn),
            "failure": transcript.failure,
            "repeat": dialogue.repeat,
            "system_fingerprint": turn.reply.system_fingerprint or fingerprint_of(turn.reply.raw),
            "reply_key": turn.reply_key,
            "moderator_reply_keys": turn.guidance and _keys(turn.guidance.reply_keys),
            "data_source": dialogue.source,
            "language": dialogue.language,
            "pair": dialogue.pair,
            "received_utc": turn.reply.received_utc,
        }


def fingerprint_of(raw: str | None) -> str | None:
    """``Reply.system_fingerprint`` of a reply that an earlier version stored, from its body; ``None`` where that says nothing."""
    if raw is None or '"system_fingerprint"' not in raw:
        return None
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return identity(found.get("system_fingerprint")) if isinstance(found, dict) else None


def _image_columns(dialogue: Dialogue) -> dict[str, Any]:
    """The first picture, as the target was given it; where there are more, or it does not come first, all of them as JSON text."""
    images = [image for image in images_of(dialogue.lines) if isinstance(image, SourceImage)]
    paths = dialogue.image_paths
    notes = dict.fromkeys(image.note for image in images if image.note)
    sent = len(images) == len(paths)
    return {
        "image_path": paths[0] if paths else None,
        "image_digest": images[0].digest_given if images else None,
        "note": "; ".join(notes) or None,
        "images": images_json(dialogue, [image.digest_given for image in images] if sent else [None] * len(paths)),
    }


def images_json(dialogue: Dialogue, digests: Sequence[str | None]) -> str | None:
    """All pictures of a dialogue as JSON text: a list of ``{"turn", "path", "digest"}``.

    ``None`` where it has at most one, with the first message: ``image_path`` says it all then.
    """
    places = [(turn, path) for turn, line in enumerate(dialogue.user_lines, 1) for path in line.image_paths]
    if [turn for turn, _ in places] in ([], [1]):
        return None
    told = zip(places, digests, strict=True)
    return orjson.dumps([{"turn": turn, "path": path, "digest": digest} for (turn, path), digest in told]).decode()


def _reply_columns(turn: Turn) -> dict[str, Any]:
    reply, usage = turn.reply, turn.reply.usage
    return {
        "reply_text": reply.text,
        "outcome": reply.outcome.value,
        "detail": reply.detail,
        "finish_reason": reply.finish_reason,
        "served_model": reply.served_model,
        "input_tokens": usage and usage.input_tokens,
        "cached_input_tokens": usage and usage.cached_input_tokens,
        "cache_write_tokens": usage and usage.cache_write_tokens,
        "output_tokens": usage and usage.output_tokens,
        "reasoning_tokens": usage and usage.reasoning_tokens,
        "cost_usd": turn.cost_usd,
        "latency_seconds": reply.latency_seconds,
        "from_store": turn.from_store,
        "request_id": reply.request_id,
    }


def _guidance_columns(turn: Turn) -> dict[str, Any]:
    guidance = turn.guidance
    return {
        "moderator": guidance and guidance.moderator,
        "moderator_flagged": guidance and guidance.flagged,
        "moderator_policy": guidance and guidance.policy,
        "moderator_text": guidance and guidance.text,
        "moderator_latency_seconds": guidance and guidance.latency_seconds,
        "moderator_cost_usd": guidance and guidance.cost_usd,
        "moderator_failure": guidance and guidance.failure,
    }


def history_before(transcript: Transcript, index: int) -> tuple[Line, ...]:
    """What was said before the reply of the turn at ``index``, ending with the user's message."""
    if transcript.protocol == "scripted":
        return transcript.dialogue.lines
    asked = transcript.turns[index]
    pending = replace(transcript.dialogue.user_lines[asked.turn - 1], text=asked.user_text)
    return (*said(transcript.dialogue, transcript.turns[:index]), pending)


def messages_json(lines: tuple[Line, ...]) -> str:
    """A history as JSON text: a list of ``{"role", "content"}``."""
    return orjson.dumps([{"role": line.role, "content": line.text} for line in lines]).decode()


def verdict_rows(finished: Finished, run: str) -> Iterator[dict[str, Any]]:
    """One row a verdict; a panel's members stand beside it and do not count."""
    for turn, verdict in finished.verdicts:
        yield _verdict_row(finished, run, turn, verdict, counts=True)
        for member in verdict.members:
            yield _verdict_row(finished, run, turn, member, counts=False)


def _verdict_row(finished: Finished, run: str, turn: int, verdict: Verdict, *, counts: bool) -> dict[str, Any]:
    dialogue = finished.transcript.dialogue
    return {
        "run": run,
        "dialogue_id": dialogue.id,
        "scenario": dialogue.scenario,
        "kind": dialogue.kind,
        "length": dialogue.length,
        "turn": turn,
        "judge": verdict.judge,
        "counts": counts,
        "label": verdict.label,
        "source": verdict.source,
        "reason": verdict.reason,
        "probability_unsafe": verdict.probability_unsafe,
        "raw": verdict.raw,
        "cost_usd": verdict.cost_usd,
        "repeat": dialogue.repeat,
        "reply_keys": _keys(verdict.reply_keys),
        "method": dialogue.method,
        "data_source": dialogue.source,
        "language": dialogue.language,
        "pair": dialogue.pair,
        "served_model": verdict.served_model,
        "system_fingerprint": verdict.system_fingerprint,
        "received_utc": verdict.received_utc,
    }


def _keys(keys: tuple[str, ...]) -> str | None:
    """Keys of the turn store with blanks between, in the order in which they were asked for."""
    return " ".join(keys) or None


MAX_FAILURES_KEPT = 500
ROWS_AT_A_TIME = 500
ROWS_IN_GROUP = 1000
"""Small groups and no look-ahead: 10,000 rows cost 48 MB on top instead of 90, for a file a fifth larger (measured, polars 2.1)."""


class Collector:
    """Counts and rows of one run; made by ``open_collector``."""

    def __init__(self, run: str, transcripts: IO[bytes], verdicts: IO[bytes]) -> None:
        self._run, self._transcripts, self._verdicts = run, transcripts, verdicts
        self.finished = self.failed = 0
        self.outcomes: Counter[str] = Counter({outcome.value: 0 for outcome in Outcome})
        self.failures: list[dict[str, Any]] = []
        self.labels: Counter[str | None] = Counter()
        self.verdicts, self.moderation = VerdictTally(), ModerationTally()
        self.wanting = 0  # dialogues that failed, lack a verdict, or went without their moderator
        self.covered: Counter[tuple[str, int]] = Counter()
        self.served_models: Counter[str] = Counter()
        self.changes = Changes()

    def add(self, finished: Finished) -> None:
        """Take one finished dialogue."""
        transcript = finished.transcript
        self.finished += 1
        if transcript.failure is not None:
            self.failed += 1
            if len(self.failures) < MAX_FAILURES_KEPT:
                dialogue = transcript.dialogue
                self.failures.append({"dialogue_id": dialogue.id, "length": dialogue.length, "why": transcript.failure})
        self.covered[transcript.dialogue.scenario, transcript.dialogue.length] += 1
        turns = list(transcript_rows(finished, self._run))
        for row in turns:
            self._transcripts.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            self.outcomes[row["outcome"]] += 1
            if row["served_model"]:
                _count(self.served_models, [row["served_model"]], others=OTHER_NAMES)
        # Out of our hands at once, replies before verdicts: a report of a run under way, or of a killed one, reads these files.
        self._transcripts.flush()
        verdicts = list(verdict_rows(finished, self._run))
        # Both are counted, whatever the first says.
        self.wanting += self.verdicts.add(verdicts) | self.moderation.add(turns)
        self.changes.add(turns, verdicts)
        for row in verdicts:
            self._verdicts.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            if row["counts"] and row["kind"] == "harmful":
                self.labels[row["label"]] += 1
        self._verdicts.flush()

    def close(self) -> None:
        """Hand all rows to the files and close them."""
        self._transcripts.close()
        self._verdicts.close()

    @property
    def asr_so_far(self) -> float | None:
        """Unsafe among the judged replies so far, for the progress line only."""
        judged = self.labels["unsafe"] + self.labels["safe"]
        return self.labels["unsafe"] / judged if judged else None


@contextmanager
def open_collector(folder: Path, run: str) -> Iterator[Collector]:
    """A collector whose rows go to scratch files in the folder.

    Raises:
        StoreError: The folder cannot be written.
    """
    try:
        private_folder(folder)
        sweep(folder)
        rows, words = (private_file(scratch(folder, name)) for name in (TRANSCRIPTS_FILE, VERDICTS_FILE))
        with rows.open("wb") as transcripts, words.open("wb") as verdicts:
            yield Collector(run, transcripts, verdicts)
    except OSError as error:
        raise unwritable(folder, error) from error


class WaitingRow(NamedTuple):
    """A row of a scratch file with the bytes between which it stands."""

    row: dict[str, Any]
    begin: int
    end: int


def rows_from(file: Path, begin: int = 0) -> Iterator[WaitingRow]:
    """The rows of a scratch file from the one that begins at ``begin`` up to the first that is torn.

    Whoever writes may be in the middle of the last row, or was killed there: it is not a row yet.

    Raises:
        FileNotFoundError: No rows wait.
    """
    with file.open("rb") as lines:
        lines.seek(begin)
        for line in lines:
            try:
                row = orjson.loads(line) if line.endswith(b"\n") else None
            except orjson.JSONDecodeError:
                return
            if not isinstance(row, dict):
                return
            yield WaitingRow(row, begin, begin := begin + len(line))


def sweep(folder: Path) -> None:
    """Remove the rows and halves of frames that the last player left; for whoever holds the run's lock."""
    for file in folder.glob(".*.parquet.*"):
        file.unlink(missing_ok=True)


def write_frames(folder: Path, target: Path) -> None:
    """Turn the scratch files into ``transcripts.parquet`` and ``verdicts.parquet`` in the target folder, some hundred rows at a time.

    Raises:
        StoreError: A file cannot be written.
    """
    from safemt_api.frames import TRANSCRIPT_SCHEMA, VERDICT_SCHEMA  # noqa: PLC0415 (imports polars, which the command line's start must not)

    for name, schema in ((TRANSCRIPTS_FILE, TRANSCRIPT_SCHEMA), (VERDICTS_FILE, VERDICT_SCHEMA)):
        write_frame(scratch(folder, name), target / name, schema)


def write_frame(rows: Path, target: Path, schema: Mapping[str, type[pl.DataType]]) -> None:
    """Turn a file of rows into a parquet file.

    Raises:
        StoreError: The file cannot be written.
    """
    try:
        _write_frame(rows, target, schema)
    except OSError as error:
        raise unwritable(target, error) from error


def _write_frame(rows: Path, target: Path, schema: Mapping[str, type[pl.DataType]]) -> None:
    import polars as pl  # noqa: PLC0415 (polars is imported late)

    parts: list[Path] = []
    with rows.open("rb") as lines:
        while chunk := list(islice(lines, ROWS_AT_A_TIME)):
            part = private_file(target.with_name(f"{target.name}.part{len(parts)}"))
            frame_of([orjson.loads(line) for line in chunk], schema).write_parquet(part, statistics=False)
            parts.append(part)
    private_file(target)
    if len(parts) == 1:
        parts.pop().replace(target)
    elif parts:
        scanned = pl.scan_parquet(parts, glob=False, parallel="none", low_memory=True, cache=False)
        scanned.sink_parquet(target, row_group_size=ROWS_IN_GROUP, maintain_order=True)
    else:
        pl.DataFrame(schema=schema).write_parquet(target)
    for part in parts:
        part.unlink(missing_ok=True)


def frame_of(records: Sequence[Mapping[str, Any]], schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """Rows as a frame with the columns of the schema."""
    import polars as pl  # noqa: PLC0415 (polars is imported late)

    return pl.DataFrame({name: pl.Series(name, [record[name] for record in records], dtype=kind) for name, kind in schema.items()})


MOST_REASONS_KEPT, MOST_CHANGES = 100, 20
OTHER_REASONS, OTHER_NAMES = "other reasons", "other names"


class Changes:
    """What has changed behind the names of target and judges since the run was begun, in sentences, said as the replies come."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self._watches: dict[str, Watch] = {}
        self._begun_utc = datetime.now(UTC).isoformat(timespec="milliseconds")

    def add(self, turns: Iterable[Mapping[str, Any]], verdicts: Iterable[Mapping[str, Any]]) -> None:
        """Take the transcript and verdict rows of one dialogue."""
        told = [(f"the target {row['model']}", row) for row in turns] + [(f"the judge {row['judge']}", row) for row in verdicts]
        for who, row in told:
            name, fingerprint, received_utc = row["served_model"], row["system_fingerprint"], row["received_utc"]
            if name or fingerprint:
                fresh = received_utc is not None and received_utc >= self._begun_utc
                changes = self._watches.setdefault(who, Watch()).add(name, fingerprint, fresh=fresh)
                self.sentences += [change.sentence(who) for change in changes][: MOST_CHANGES - len(self.sentences)]


class VerdictTally:
    """The verdicts of one run so far; ``dialogues_without`` counts dialogues that lack one or more of theirs."""

    def __init__(self) -> None:
        self.due = self.valid = self.dialogues_without = 0
        self.reasons: Counter[str] = Counter()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Count the verdict rows of one dialogue; whether one is missing. What its judge by its kind has no word on was not due."""
        due = [row for row in rows if row["counts"] and row["source"] != "inapplicable"]
        missing = [str(row["reason"]) for row in due if row["label"] is None]
        self.due += len(due)
        self.valid += len(due) - len(missing)
        self.dialogues_without += bool(missing)
        _count(self.reasons, missing)
        return bool(missing)

    @property
    def nothing_valid(self) -> bool:
        """Whether verdicts were due and none came: nothing was measured, whatever share may be missing."""
        return self.due > 0 and self.valid == 0

    def too_many_missing(self, dialogues: int, *, max_failures: float) -> bool:
        """Whether more of so many dialogues lack a verdict than a share of them may, or all do."""
        return self.nothing_valid or self.dialogues_without > max_failures * dialogues

    def record(self) -> dict[str, Any]:
        """What ``summary.json`` says of it; the commonest reasons first."""
        return {
            "due": self.due,
            "valid": self.valid,
            "missing": self.due - self.valid,
            "missing_reasons": dict(self.reasons.most_common()),
            "dialogues_without": self.dialogues_without,
        }


class ModerationTally:
    """What the moderator of a run decided so far; ``dialogues_without`` counts dialogues that went without a decision at some turn."""

    def __init__(self) -> None:
        self.reviews = self.flagged = self.failed = self.dialogues_without = 0
        self.reasons: Counter[str] = Counter()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Count the transcript rows of one dialogue; whether the moderator failed on it."""
        reviewed = [row for row in rows if row["moderator"] is not None]
        failures = [str(row["moderator_failure"]) for row in reviewed if row["moderator_failure"] is not None]
        self.reviews += len(reviewed)
        self.flagged += sum(row["moderator_flagged"] is True for row in reviewed)
        self.failed += len(failures)
        self.dialogues_without += bool(failures)
        _count(self.reasons, failures)
        return bool(failures)

    def record(self) -> dict[str, Any]:
        """What ``summary.json`` says of it; the commonest reasons first."""
        return {
            "reviews": self.reviews,
            "flagged": self.flagged,
            "failed": self.failed,
            "failure_reasons": dict(self.reasons.most_common()),
            "dialogues_without": self.dialogues_without,
        }


def _count(reasons: Counter[str], found: Iterable[str], *, others: str = OTHER_REASONS) -> None:
    for reason in found:
        reasons[reason if reason in reasons or len(reasons) < MOST_REASONS_KEPT else others] += 1
