"""The numbers that the page shows of runs and studies: taken from their summaries and records where they ended, and computed by the same
functions from what is there where they did not. Tables are the report's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from safemt_api.errors import StoreError
from safemt_api.metrics.asr import tallied
from safemt_api.metrics.frames import checked, score_frame
from safemt_api.report import web
from safemt_api.report.sections import OUTCOME_NOTE, SCORE_NOTE, Block, Section, study_sections
from safemt_api.report.study_tables import study_sentences
from safemt_api.report.table import series_of
from safemt_api.report.tables import asr_table, cost_table, outcome_table
from safemt_api.runs.folder import STUDY_FILE, SUMMARY_FILE, current_files, read_manifest
from safemt_api.runs.overview import RunOverview
from safemt_api.runs.record import RunData
from safemt_api.runs.summary import Summary, read_summary, scores_of
from safemt_api.studies.record import StudyRecord, read_study
from safemt_api.view.holdings import Entry, Library
from safemt_api.view.index import stamp
from safemt_api.view.shelf import Shelf

AGE_STEP_SECONDS = 10
"""Ages are told in such steps, so that an answer stays the same where nothing has happened."""


WAIT_FACTOR, LEAST_WAIT_SECONDS = 40.0, 2.0
"""Scores of a run under way are computed anew after so many times what they took: 2 s of a small run, 12 s of one of 10,000 dialogues."""


class Scores(NamedTuple):
    """What was computed of one state of a run, and its summary where it has ended; ``due_at`` says when a new state is worth computing."""

    state: object
    found: dict[str, Any]
    summary: Summary | None
    due_at: float


def listed(library: Library) -> dict[str, Any]:
    """The list of runs and studies, each with its ASR so far."""
    return {"results": str(library.results), "runs": [_listed(one, library.entries.get(one.run)) for one in library.overview()]}


def _listed(one: RunOverview, entry: Entry | None) -> dict[str, Any]:
    age = None if one.age_seconds is None else AGE_STEP_SECONDS * round(one.age_seconds / AGE_STEP_SECONDS)
    asr: dict[str, float | None] = {"asr_low": None, "asr_high": None}
    if entry is not None and entry.asr is not None:
        asr = {"asr": entry.asr.value, "asr_low": entry.asr.ci_low, "asr_high": entry.asr.ci_high}
    return {**one._asdict(), "age_seconds": age, **asr}


def figures(library: Library, shelf: Shelf, *, study: str | None) -> dict[str, Any]:
    """A study or some runs: what it is, how far it came, what it found."""
    there = {one.run: one for one in library.overview()}
    names = {name: name.partition("/")[2] or name if study else name for name in shelf.entries}
    folder = library.results / study if study in there else None
    # Pages look again and again, and every list waits meanwhile: what has not changed is not drawn anew.
    state = (None if folder is None else stamp(folder / STUDY_FILE), [scores_now(entry).state for entry in shelf.entries.values()])
    if shelf.told is None or shelf.told[0] != state:
        record = None if folder is None else _record(folder)
        of_study = () if record is None else study_sections(record, list(names.values()), None)
        tables = web.fragment([*of_study, *_run_sections(shelf, names)])
        shelf.told = (state, [] if record is None else list(study_sentences(record)), tables)
    _, sentences, tables = shelf.told
    return {
        "name": study or " · ".join(names.values()),
        "study": _listed(there[study], None) if study in there else None,
        "arms": [
            {"run": name, "name": names[name], "look": list(series_of(place)), **_arm(entry, there.get(name), alone=len(names) == 1)}
            for place, (name, entry) in enumerate(shelf.entries.items())
        ],
        "sentences": sentences,
        "tables": tables,
    }


def _record(folder: Path) -> StudyRecord | None:
    """What the study found; ``None`` while it has not been measured: then its file names its arms and no more."""
    try:
        found = read_study(folder) if (folder / STUDY_FILE).is_file() else None
    except StoreError:
        return None
    return found if found is not None and (found.leaderboard or found.effects) else None


def _run_sections(shelf: Shelf, names: Mapping[str, str]) -> Iterator[Section]:
    """What the summaries of those runs tell that have ended."""
    nothing = pl.DataFrame()
    runs = [
        RunData(names[name], entry.folder, {}, summary, nothing, nothing)
        for name, entry in shelf.entries.items()
        if (summary := scores_now(entry).summary) is not None
    ]
    if len(runs) == len(shelf.entries) == 1:
        yield Section("turns", "ASR in numbers", "Numbers", [Block(tables=[asr_table(runs[0])])], SCORE_NOTE)
    if runs:
        yield Section("outcomes", "Outcomes", "Outcomes", [Block(tables=[outcome_table(runs)])], OUTCOME_NOTE)
        yield Section("cost", "Cost and calls", "Cost", [Block(tables=[cost_table(runs)])])


def _arm(entry: Entry, one: RunOverview | None, *, alone: bool) -> dict[str, Any]:
    overview = {} if one is None else _listed(one, entry)
    found = {name: value for name, value in scores_now(entry).found.items() if alone or name != "scenario_lengths"}
    return {**overview, "problem": entry.index.problem or overview.get("problem"), **found}


def scores_now(entry: Entry) -> Scores:
    """The run's scores: of its summary where it has ended, else of what there is, as it was some moments ago."""
    state = (entry.index.version, stamp(entry.folder / SUMMARY_FILE))
    known = entry.scores
    if isinstance(known, Scores) and (known.state == state or (entry.index.under_way and time.monotonic() < known.due_at)):
        return known
    started = time.monotonic()
    summary = None if entry.index.under_way else _summary(entry.folder)
    found = _scored(entry, summary)
    ended = time.monotonic()
    entry.scores = Scores(state, found, summary, ended + max(LEAST_WAIT_SECONDS, WAIT_FACTOR * (ended - started)))
    return entry.scores


def _scored(entry: Entry, summary: Summary | None) -> dict[str, Any]:
    verdicts = entry.index.scored
    final = score_frame(verdicts)
    cells = checked(final) if final.height else final
    if summary is not None:
        protocol: str = summary.protocol
        scores = summary.model_dump(mode="json", include={"asr_by_turn", "safety_index"})
    else:
        protocol = (entry.found.protocol if entry.found else None) or "scripted"
        scores = scores_of(verdicts, protocol)
    return {
        "asr_by_turn": scores["asr_by_turn"],
        "safety_index": scores["safety_index"],
        "protocol": protocol,
        "scenarios": _tallied(cells, ["scenario"]),
        "scenario_lengths": _tallied(cells, ["scenario", "length"]),
    }


def _tallied(frame: pl.DataFrame, by: list[str]) -> list[dict[str, Any]]:
    """ASR with its counts, for a map of cells."""
    return tallied(frame, by).select(*by, "unsafe", "safe", "missing", "asr").to_dicts() if frame.height else []


def _summary(folder: Path) -> Summary | None:
    try:
        return read_summary(current_files(folder, read_manifest(folder) or {}).get(SUMMARY_FILE, folder / SUMMARY_FILE))
    except (StoreError, FileNotFoundError):
        return None


def data_folder_of(folder: Path) -> Path | None:
    """Where a run's pictures are, when that is still there."""
    try:
        data = (read_manifest(folder) or {}).get("data")
    except StoreError:
        return None
    found = data.get("folder") if isinstance(data, Mapping) else None
    return Path(found) if isinstance(found, str) and found and Path(found).is_dir() else None
