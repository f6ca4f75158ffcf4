"""A run in shards put together from what all of them handed in to the store: nothing is bought, and no other process's folder is needed.

Imports polars: import it late where a start must be quick.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safemt_api.errors import EXIT_BUDGET, EXIT_DONE, EXIT_FAILURES, EXIT_STOPPED, RunBusyError, StoreError
from safemt_api.files import private_file
from safemt_api.runs.attempt import whole_manifest
from safemt_api.runs.folder import (
    TRANSCRIPTS_FILE,
    VERDICTS_FILE,
    begin_generation,
    playing,
    read_manifest,
    scratch,
    settle,
    switch_generation,
)
from safemt_api.runs.parts import handed_in
from safemt_api.runs.play import RunResult
from safemt_api.runs.rows import MAX_FAILURES_KEPT, sweep, write_frames
from safemt_api.runs.settings import EvalSettings
from safemt_api.runs.summary import Status, Summary, scores
from safemt_api.store.shards import Part, Sharded, Standing, parts_of, sharded
from safemt_api.store.turns import TurnStore

PATIENCE_SECONDS = 60.0
"""So long one process waits while another puts the same run together."""

ADDED = ("dialogues", "failures", "outcomes", "verdicts", "moderation", "usage", "cost_usd", "calls", "tiers", "served_models")
"""What of a summary adds up: counts, and lists one after the other."""


def join_shards(store: TurnStore, settings: EvalSettings, name: str) -> RunResult:
    """Write the files of a whole run, all of whose parts are over, into its own folder.

    Raises:
        RunBusyError: Another process is at work in that folder, and stays there.
        StoreError: The store cannot be read or does not know the run, or the folder cannot be written.
    """
    run = store.read(sharded(name))
    if run is None:
        raise StoreError(str(store.place), f"knows nothing of run {name!r}", "run the same command again")
    with _held(settings.results / name, name):
        return write_whole(store, run, settings)


def write_whole(store: TurnStore, run: Sharded, settings: EvalSettings) -> RunResult:
    """The same, for whoever holds the folder's lock.

    Raises:
        StoreError: As ``join_shards``.
    """
    folder = settings.results / run.run
    settle(folder)
    parts = store.read(parts_of(run.run))
    records = [part.record for part in parts if part.record is not None]
    sweep(folder)
    files = {name: private_file(scratch(folder, name)) for name in (TRANSCRIPTS_FILE, VERDICTS_FILE)}
    with files[TRANSCRIPTS_FILE].open("wb") as transcripts, files[VERDICTS_FILE].open("wb") as verdicts:
        for kind, line in handed_in(store.read, run.run):
            (transcripts if kind == TRANSCRIPTS_FILE else verdicts).write(line)
    staged = begin_generation(folder)
    write_frames(folder, staged)
    outline = {**run.record["outline"], **scores(staged, settings.protocol)}
    summary = joined([Summary.model_validate(record["summary"]) for record in records], outline, max_failures=settings.max_failures)
    summary.write(staged)
    kept = {"files": (read_manifest(folder) or {}).get("files", {}), "ended_utc": datetime.now(UTC).isoformat(timespec="seconds")}
    digests = {name: records[0]["manifest"].get(name) for name in ("judge_digest", "rubric", "moderator_digest")}
    switch_generation(folder, {**whole_manifest(run, folder, store, settings.results), **digests, **kept})
    sweep(folder)
    return RunResult(summary, folder, _exit_code(summary, settings, parts), None, Standing(len(parts), run.parts))


@contextmanager
def _held(folder: Path, run: str) -> Iterator[None]:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with playing(folder, run):
                yield
                return
        except RunBusyError:
            if time.monotonic() > give_up_at:
                raise


def joined(parts: Sequence[Summary], outline: Mapping[str, Any], *, max_failures: float) -> Summary:
    """The summary of a whole run from those of its parts.

    Args:
        parts: Of shards that share no dialogue.
        outline: What is the whole run's own: its fields of before the first call, and its scores.
        max_failures: The share of dialogues that may lack a verdict.
    """
    records = [part.json_value() for part in parts]
    whole: dict[str, Any] = {**outline}
    for name in ADDED:
        whole[name] = _added([record.get(name) for record in records])
    whole["failures"] = (whole["failures"] or [])[:MAX_FAILURES_KEPT]
    whole["dialogues"]["planned"] = outline["dialogues"]["planned"]
    above = [part.cost_usd.above_reservation for part in parts]
    most = {model: max(one.get(model, 0.0) for one in above) for model in dict.fromkeys(model for one in above for model in one)}
    whole["cost_usd"] |= {"ceiling": parts[-1].cost_usd.ceiling, "above_reservation": most}
    reasons = Counter(whole["verdicts"].get("missing_reasons", {}))
    whole["verdicts"]["missing_reasons"] = dict(reasons.most_common())
    cells: Counter[tuple[str, int, str]] = Counter()
    for part in parts:
        for row in part.coverage:
            cells.update({(row.scenario, row.length, "planned"): row.planned, (row.scenario, row.length, "played"): row.played})
    places = sorted({key[:2] for key in cells})
    whole["coverage"] = [{"scenario": a, "length": b, **{what: cells[a, b, what] for what in ("planned", "played")}} for a, b in places]
    whole["wall_seconds"] = max(part.wall_seconds for part in parts)
    whole["status"] = _status(parts, whole, max_failures)
    return Summary.model_validate(whole)


def _added(values: Sequence[Any]) -> Any:
    """Numbers add up, unless one is unknown; lists stand one after the other; mappings add key by key; of words the first holds."""
    first = next((value for value in values if value is not None), None)
    if isinstance(first, Mapping):
        known = [value for value in values if value is not None]
        return {key: _added([one[key] for one in known if key in one]) for key in dict.fromkeys(key for one in known for key in one)}
    if isinstance(first, list):
        return [item for value in values if value is not None for item in value]
    if isinstance(first, (int, float)) and not isinstance(first, bool):
        if any(value is None for value in values):
            return None
        return round(sum(values), 6) if any(isinstance(value, float) for value in values) else sum(values)
    return first


def _status(parts: Sequence[Summary], whole: Mapping[str, Any], max_failures: float) -> Status:
    """As of a run in one piece: what ended a part early tells; which share lacks a verdict is the whole run's to say."""
    counts, verdicts = whole["dialogues"], whole["verdicts"]
    tried = counts["finished"] + counts["failed"]
    ends = {part.status for part in parts}
    early: tuple[Status, ...] = ("interrupted", "budget_exhausted")
    found = next((one for one in early if one in ends), None)
    if found is not None:
        return found
    silent = verdicts["due"] > 0 and verdicts["valid"] == 0
    return "partial" if tried < counts["planned"] or silent or verdicts["dialogues_without"] > max_failures * tried else "complete"


def _exit_code(summary: Summary, settings: EvalSettings, parts: Sequence[Part]) -> int:
    if summary.status == "budget_exhausted":
        return EXIT_BUDGET
    if summary.played < summary.dialogues.planned:
        return next((code for part in parts if (code := (part.record or {}).get("exit_code"))), EXIT_STOPPED)
    wanting = summary.verdicts.dialogues_without + (summary.moderation.dialogues_without if summary.moderation else 0)
    return EXIT_FAILURES if summary.status != "complete" or wanting > settings.max_failures * summary.played else EXIT_DONE
