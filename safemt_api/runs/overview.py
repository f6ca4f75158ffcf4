"""What stands in a results folder: every run and study with its state, read from disk alone, so that a killed one shows too.

Imports polars; no lock is taken for longer than a look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from safemt_api.errors import StoreError
from safemt_api.runs.folder import (
    MANIFEST_FILE,
    STUDY_FILE,
    SUMMARY_FILE,
    VERDICTS_FILE,
    current_files,
    place_in,
    player_of,
    read_manifest,
    scratch,
)
from safemt_api.runs.parts import Whole, player_now, whole_in
from safemt_api.runs.record import read_unfinished
from safemt_api.runs.summary import Summary, read_summary
from safemt_api.store.batches import Outstanding, outstanding_now

DEEPEST = 3
"""Folders below the results folder in which runs are looked for; a study's runs stand one below their study."""

State = Literal["running", "finished", "interrupted", "killed", "out of money", "stopped", "damaged"]
ENDED: Mapping[str, State] = {
    "complete": "finished",
    "interrupted": "interrupted",
    "budget_exhausted": "out of money",
    "partial": "stopped",
}


class RunOverview(NamedTuple):
    """One run, or a study with all of its arms together (``arms`` says how many; each stands as a run of its own beside it).

    Counts and ``asr`` (all lengths together, in [0, 1]; of runs alone) are of what is on disk now; ``None`` where it is not known.
    ``problem`` says why a run is ``damaged``; ``player`` which process plays it; ``age_seconds`` how long ago it was last played;
    ``in_batches`` what vendors still work on for it, in words; ``shards`` how many parts it has, ``shards_over`` how many of them are over.
    """

    run: str
    folder: str
    state: State
    model: str | None = None
    protocol: str | None = None
    judge: str | None = None
    moderator: str | None = None
    planned: int | None = None
    finished: int | None = None
    failed: int | None = None
    missing: int | None = None
    asr: float | None = None
    spent_usd: float | None = None
    ceiling_usd: float | None = None
    player: str | None = None
    started_utc: str | None = None
    age_seconds: float | None = None
    problem: str | None = None
    arms: int | None = None
    in_batches: str | None = None
    shards: int | None = None
    shards_over: int | None = None


def overview(results: Path, look: Callable[[Path, Path], RunOverview] | None = None) -> list[RunOverview]:
    """Every run and study below a results folder, the latest played first; a study stands above its arms.

    ``look`` takes the place of ``run_overview``, for whoever looks often.
    """
    runs = [(look or run_overview)(folder, results) for folder in _run_folders(results, DEEPEST)]
    studies = sorted(file.parent for file in results.glob(f"*/{STUDY_FILE}") if not file.parent.is_symlink())
    members = {folder: [one for one in runs if one.run.startswith(f"{folder.name}/")] for folder in studies}
    found = [*runs, *(study_overview(folder, arms) for folder, arms in members.items())]
    latest = {one.run.partition("/")[0]: math.inf for one in found}
    for one in found:
        if one.age_seconds is not None:
            latest[one.run.partition("/")[0]] = min(latest[one.run.partition("/")[0]], one.age_seconds)
    return sorted(found, key=lambda one: (latest[one.run.partition("/")[0]], one.run))


def study_overview(folder: Path, arms: Sequence[RunOverview]) -> RunOverview:
    """A study: its arms together. It is killed where nobody plays it and an arm neither ended nor was left out."""
    player = player_of(folder)
    states = {arm.state for arm in arms}
    order: tuple[State, ...] = ("running", "killed", "interrupted", "out of money", "stopped", "damaged")
    state: State = "running" if player is not None else next((one for one in order if one in states), "finished" if arms else "killed")
    return RunOverview(
        folder.name,
        str(folder),
        state,
        planned=_sum(arm.planned for arm in arms),
        finished=_sum(arm.finished for arm in arms),
        failed=_sum(arm.failed for arm in arms),
        missing=_sum(arm.missing for arm in arms),
        spent_usd=_sum(arm.spent_usd for arm in arms),
        ceiling_usd=next((arm.ceiling_usd for arm in arms), None),
        player=None if player is None else str(player),
        age_seconds=min((arm.age_seconds for arm in arms if arm.age_seconds is not None), default=_age_seconds(folder)),
        arms=len(arms),
    )


def _sum(values: Iterable[Any]) -> Any:
    """The sum of what is known; ``None`` where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    try:
        inside = sorted(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink() and not one.name.startswith("."))
    except OSError:
        return
    for one in inside:
        if (one / MANIFEST_FILE).is_file():
            yield one
        elif depth > 1:
            yield from _run_folders(one, depth - 1)


def run_overview(folder: Path, results: Path) -> RunOverview:
    """One run as it stands on disk."""
    name = folder.relative_to(results).as_posix()
    age = _age_seconds(folder)
    try:
        manifest = read_manifest(folder) or {}
        whole = whole_in(folder, manifest)
        if whole is not None:
            return _sharded_overview(folder, name, manifest, whole)
        player = player_of(folder)
        summary = _summary(folder, manifest, running=player is not None)
    except StoreError as error:
        return RunOverview(name, str(folder), "damaged", age_seconds=age, problem=str(error))
    ended = "killed" if summary is None or summary.unfinished is not None else ENDED.get(summary.status, "stopped")
    return RunOverview(
        name,
        str(folder),
        ended if player is None else "running",
        **_figures(folder, manifest, summary),
        player=None if player is None else str(player),
        started_utc=manifest.get("started_utc") if isinstance(manifest.get("started_utc"), str) else None,
        age_seconds=age,
        in_batches=in_batches(batches_of(folder, manifest)),
    )


def _sharded_overview(folder: Path, name: str, manifest: Mapping[str, Any], whole: Whole) -> RunOverview:
    """A run in shards: all of them together, wherever they are played, as its store tells."""
    counts, player = whole.counts, player_now(folder, manifest)
    early = next((ENDED[one] for one in ("interrupted", "budget_exhausted", "partial") if one in whole.statuses), None)
    ended: State = "finished" if early is None else early
    joined = _summary(folder, manifest, running=False) if whole.all_over and manifest.get("ended_utc") else None
    figures = _figures(folder, manifest, joined)
    if joined is None and "planned" in figures:
        judged = counts.get("judged", 0)
        figures |= {
            "finished": int(counts.get("finished", 0) - counts.get("failed", 0)),
            "failed": int(counts.get("failed", 0)),
            "missing": int(counts.get("missing", 0)),
            "asr": counts.get("unsafe", 0) / judged if judged else None,
            "spent_usd": round(counts.get("spent_usd", 0.0), 6),
        }
    return RunOverview(
        name,
        str(folder),
        "running" if player is not None else ended if whole.all_over else "killed" if whole.killed else early or "interrupted",
        **figures,
        player=player,
        started_utc=manifest.get("started_utc") if isinstance(manifest.get("started_utc"), str) else None,
        age_seconds=None if whole.silent_seconds is None else min(whole.silent_seconds, _age_seconds(folder) or math.inf),
        shards=whole.parts,
        shards_over=whole.over,
    )


def batches_of(folder: Path, manifest: Mapping[str, Any]) -> list[Outstanding]:
    """The batches that vendors still work on for a run, as its store tells."""
    place, run_id = place_in(folder, manifest), manifest.get("id")
    return outstanding_now(place, run_id) if place is not None and isinstance(run_id, str) else []


def in_batches(found: Sequence[Outstanding]) -> str | None:
    """What is out at which vendor since when, in a sentence; ``None`` where nothing is."""
    parts = []
    for vendor in dict.fromkeys(one.account.partition(" ")[0] for one in found):
        own = [one for one in found if one.account.partition(" ")[0] == vendor]
        calls, since = sum(one.rows for one in own), min(one.since_utc for one in own)[:16].replace("T", " ")
        parts.append(f"{calls:,} call{'s' * (calls > 1)} in {len(own)} batch{'es' * (len(own) > 1)} at {vendor} since {since} UTC")
    return ", ".join(parts) or None


def _summary(folder: Path, manifest: Mapping[str, Any], *, running: bool) -> Summary | None:
    """What is known of the run's numbers: the rows that wait beside a run which is played or was killed, else its summary."""
    ended = manifest.get("ended_utc") is not None and not running
    waiting = read_unfinished(folder, manifest) if not ended and scratch(folder, VERDICTS_FILE).exists() else None
    if waiting is not None:
        return waiting.summary
    try:
        return read_summary(current_files(folder, manifest).get(SUMMARY_FILE, folder / SUMMARY_FILE))
    except FileNotFoundError:
        return None


def _figures(folder: Path, manifest: Mapping[str, Any], summary: Summary | None) -> dict[str, Any]:
    if summary is None:
        outline = {"run": folder.name, "protocol": "scripted", "status": "partial", **_mapping(manifest.get("outline"))}
        try:
            summary = Summary.model_validate(outline)
        except ValidationError:
            return {}
    return {
        **{name: getattr(summary, name) for name in ("model", "protocol", "judge", "moderator", "asr")},
        **{name: getattr(summary.dialogues, name) for name in ("planned", "finished", "failed")},
        "missing": summary.missing if summary.asr_by_turn else None,
        "spent_usd": summary.cost_usd.total if "cost_usd" in summary.model_fields_set else None,
        "ceiling_usd": summary.cost_usd.ceiling,
    }


def _age_seconds(folder: Path) -> float | None:
    """Since anything in the run's folder was last written."""
    try:
        latest = max(file.stat().st_mtime for file in folder.iterdir() if file.is_file())
    except (OSError, ValueError):
        return None
    return max(0.0, datetime.now(UTC).timestamp() - latest)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
