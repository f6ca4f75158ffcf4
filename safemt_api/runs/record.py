"""A run as its folder tells it: ended, under way or killed; read without its lock, without changing it, and with everything checked.

The files may be torn, foreign or newer than this package. Imports polars: import it late where a start must be quick.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson
import polars as pl
from pydantic import ValidationError

from safemt_api.errors import NothingPlayedError, StoreError
from safemt_api.frames import ADDED_COLUMNS, FRAME_SCHEMA_VERSION, TRANSCRIPT_SCHEMA, VERDICT_SCHEMA, read_frame, with_repeat
from safemt_api.messages import PURPOSES, Outcome
from safemt_api.runs.folder import (
    MANIFEST_FILE,
    NEXT_FOLDER,
    SUMMARY_FILE,
    TRANSCRIPTS_FILE,
    VERDICTS_FILE,
    current_files,
    place_in,
    player_of,
    read_manifest,
    scratch,
)
from safemt_api.runs.parts import Whole, handed_in, parts_in, player_now, reader_of, whole_in
from safemt_api.runs.rows import MAX_FAILURES_KEPT, ModerationTally, VerdictTally, frame_of, rows_from
from safemt_api.runs.summary import Summary, drift_of, read_summary, scores_of
from safemt_api.specs import RULES
from safemt_api.store.books import spent_now_usd

Tally = TypeVar("Tally", VerdictTally, ModerationTally)
DIALOGUE = ("dialogue_id", "length", "repeat")
TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
GO_ON = "run the same command again, or `safemt-api resume {name}`, to have it written anew"


@dataclass(frozen=True, slots=True)
class RunData:
    """One run; ``transcripts`` and ``verdicts`` have the columns of ``safemt_api.frames``."""

    name: str
    folder: Path
    manifest: Mapping[str, Any]
    summary: Summary
    transcripts: pl.DataFrame
    verdicts: pl.DataFrame

    @property
    def model_title(self) -> str:
        """``model (provider)``, or what is known of it."""
        model = self.summary.model or "unknown model"
        return f"{model} ({self.summary.provider})" if self.summary.provider else model

    @property
    def judge_title(self) -> str:
        """The judge as it must be named beside every score."""
        rubric = self.summary.rubric
        return judge_title(self.summary.judge, None if rubric is None else rubric.model_dump())

    @property
    def complete(self) -> bool:
        """Whether every planned dialogue was tried."""
        return self.summary.status == "complete"

    @property
    def data_folder(self) -> Path | None:
        """The data folder named in the run file, when it is still there: pictures are read from it."""
        data = self.manifest.get("data")
        folder = data.get("folder") if isinstance(data, Mapping) else None
        return Path(folder) if isinstance(folder, str) and folder and Path(folder).is_dir() else None

    @property
    def started(self) -> str | None:
        """When the run was first started, as ISO 8601 in UTC."""
        return _moment(self.manifest.get("started_utc"))

    @property
    def ended(self) -> str | None:
        """When it ended last, as ISO 8601 in UTC; ``None`` while it goes on."""
        return _moment(self.manifest.get("ended_utc"))


def _moment(value: object) -> str | None:
    return value if isinstance(value, str) else None


def judge_title(judge: str | None, rubric: Mapping[str, str] | None = None) -> str:
    """A judge's name for readers: the rule-based one is always called a baseline; a set of rubrics is named with its digest's beginning."""
    if judge is None:
        return "no judge"
    title = f"baseline judge ({judge})" if judge == RULES else judge
    return title if rubric is None else f"{title}, rubric {rubric['name']} {rubric['digest'][:8]}"


def read_run(folder: Path) -> RunData:
    """``run.json``, ``summary.json`` and both parquet files of one run, all of one generation; where it goes on, as far as it came.

    Raises:
        NothingPlayedError: No dialogue is finished yet.
        StoreError: The folder or a file is missing, torn, changed by someone else, not of the expected shape, or of a newer version.
    """
    if not folder.is_dir():
        raise StoreError(folder, "there is no such run", "give the name of a folder under the results folder that holds a run.json")
    manifest = _manifest(folder)
    while True:
        try:
            found = _furthest(folder, manifest)
        except StoreError:
            found = None
        # Whoever plays the run may have put a new generation in place meanwhile; then what was read may be of two.
        before, manifest = manifest, _manifest(folder)
        if manifest.get("files") == before.get("files"):
            return found or _furthest(folder, manifest)


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if manifest is None:
        raise _missing(folder / MANIFEST_FILE)
    frames = manifest.get("frames", FRAME_SCHEMA_VERSION)
    if isinstance(frames, int) and frames > FRAME_SCHEMA_VERSION:
        raise StoreError(folder / MANIFEST_FILE, "was written by a newer safemt-api", "upgrade with `pip install --upgrade safemt-api`")
    return manifest


def _furthest(folder: Path, manifest: Mapping[str, Any]) -> RunData:
    """The run as it last ended; or, where that is further, as far as it has come since: it may be under way, or may have been killed."""
    waiting = read_unfinished(folder, manifest)
    ended = _read_generation(folder, manifest) if waiting is None or (folder / SUMMARY_FILE).exists() else None
    if ended is not None and (waiting is None or waiting.summary.played <= ended.summary.played):
        return ended
    if waiting is None or not waiting.summary.played:
        raise _nothing_played(folder)
    return RunData(folder.resolve().name, folder, manifest, waiting.summary, waiting.transcripts, waiting.verdicts)


def _nothing_played(folder: Path) -> NothingPlayedError:
    return NothingPlayedError(folder, player_now(folder, read_manifest(folder) or {}))


def _read_generation(folder: Path, manifest: Mapping[str, Any]) -> RunData:
    files = {name: folder / name for name in (SUMMARY_FILE, TRANSCRIPTS_FILE, VERDICTS_FILE)} | current_files(folder, manifest)
    try:
        summary = read_summary(files[SUMMARY_FILE])
    except FileNotFoundError:
        raise _nothing_played(folder) if manifest.get("outline") and not manifest.get("files") else _missing(files[SUMMARY_FILE]) from None
    return RunData(
        folder.resolve().name,
        folder,
        manifest,
        summary,
        _read_frame(files[TRANSCRIPTS_FILE], TRANSCRIPT_SCHEMA),
        _read_frame(files[VERDICTS_FILE], VERDICT_SCHEMA),
    )


def _missing(file: Path) -> StoreError:
    return StoreError(file, "is missing", _cure(file))


def _cure(file: Path) -> str:
    folder = file.parent.parent if file.parent.name == NEXT_FOLDER else file.parent
    player = player_of(folder)
    return GO_ON.format(name=folder.name) if player is None else f"the run is being played by {player}: look again when that has ended"


def _read_frame(file: Path, schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    try:
        frame = read_frame(file)
    except FileNotFoundError as error:
        raise _missing(file) from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(file, f"cannot be read as parquet ({error})", _cure(file)) from error
    absent = [name for name in schema if name not in frame.columns and name not in ADDED_COLUMNS]
    if absent:
        raise StoreError(file, f"lacks the column{'s' if len(absent) > 1 else ''} {', '.join(absent)}", _cure(file))
    there = {*frame.columns, "repeat"}
    columns = ((pl.col(name) if name in there else pl.lit(None)).cast(kind).alias(name) for name, kind in schema.items())
    try:
        return with_repeat(frame).select(columns).fill_nan(None)
    except pl.exceptions.PolarsError as error:
        raise StoreError(file, f"has a column of another kind ({error})", _cure(file)) from error


class Unfinished(NamedTuple):
    """A run that has not ended, or not since it went on: frames as in ``RunData``, and a summary of them that says so (``unfinished``)."""

    transcripts: pl.DataFrame
    verdicts: pl.DataFrame
    summary: Summary


def read_unfinished(folder: Path, manifest: Mapping[str, Any]) -> Unfinished | None:
    """The run as far as it came; ``None`` where no rows wait: it ended, or has not begun.

    Raises:
        StoreError: The run file is damaged.
    """
    if "shards" in manifest:
        whole = whole_in(folder, manifest)
        # A whole run was put together when its last part was over: nothing waits then.
        waiting = None if whole is None or (whole.all_over and manifest.get("ended_utc")) else _handed_in(folder, manifest)
    else:
        waiting = waiting_frames(folder)
    if waiting is None:
        return None
    try:
        return Unfinished(*waiting, Summary.model_validate(_summary(folder, manifest, *waiting)))
    except ValidationError as error:
        raise StoreError(folder / MANIFEST_FILE, "is damaged (outline)", "restore it, or choose another --run") from error


def waiting_frames(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame] | None:
    """The rows that wait beside a run, transcripts and verdicts of whole dialogues; ``None`` where there are none."""
    try:
        rows = {name: [waiting.row for waiting in rows_from(scratch(folder, name))] for name in (TRANSCRIPTS_FILE, VERDICTS_FILE)}
    except FileNotFoundError:
        return None
    return _whole_dialogues(rows)


def _handed_in(folder: Path, manifest: Mapping[str, Any]) -> tuple[pl.DataFrame, pl.DataFrame] | None:
    """The same of a run in shards, from its store."""
    rows: dict[str, list[dict[str, Any]]] = {TRANSCRIPTS_FILE: [], VERDICTS_FILE: []}
    for kind, line in handed_in(reader_of(folder, manifest), str(manifest.get("run"))):
        rows[kind].append(orjson.loads(line))
    return _whole_dialogues(rows)


def _whole_dialogues(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[pl.DataFrame, pl.DataFrame] | None:
    schemas = {TRANSCRIPTS_FILE: TRANSCRIPT_SCHEMA, VERDICTS_FILE: VERDICT_SCHEMA}
    try:
        frames = (frame_of([{name: row.get(name) for name in schema} for row in rows[kind]], schema) for kind, schema in schemas.items())
        transcripts, verdicts = map(with_repeat, frames)
    except (pl.exceptions.PolarsError, TypeError):
        return None
    # The dialogues with a verdict, given or missing, for their last turn and no later one: the last one's rows may not be all there.
    played, judged = (frame.group_by(DIALOGUE).agg(pl.col("turn").max()) for frame in (transcripts, verdicts.filter("counts")))
    whole = played.join(judged, on=(*DIALOGUE, "turn")).select(DIALOGUE)
    transcripts, verdicts = (frame.join(whole, on=DIALOGUE, how="semi", maintain_order="left") for frame in (transcripts, verdicts))
    return transcripts, verdicts


def _summary(folder: Path, manifest: Mapping[str, Any], transcripts: pl.DataFrame, verdicts: pl.DataFrame) -> dict[str, Any]:
    outline = manifest.get("outline")
    known: dict[str, Any] = {"run": folder.name, "protocol": "scripted", **(outline if isinstance(outline, Mapping) else {})}
    failed = transcripts.filter(pl.col("failure").is_not_null()).unique(DIALOGUE, maintain_order=True)
    finished = transcripts.select(DIALOGUE).n_unique() if transcripts.height else 0
    counts = known.get("dialogues")
    planned = counts.get("planned", finished) if isinstance(counts, Mapping) else finished
    player = player_now(folder, manifest)
    sent, stored = (transcripts.filter(pl.col("from_store") == there).height for there in (False, True))
    return {
        **known,
        **_how_far(player, whole_in(folder, manifest)),
        "dialogues": {"planned": planned, "finished": finished - failed.height, "failed": failed.height},
        "failures": failed.select("dialogue_id", "length", why="failure").head(MAX_FAILURES_KEPT).to_dicts(),
        "outcomes": {**{outcome.value: 0 for outcome in Outcome}, **Counter(transcripts["outcome"].to_list())},
        "verdicts": _counted(VerdictTally(), verdicts).record(),
        "moderation": None if known.get("moderator") is None else _counted(ModerationTally(), transcripts).record(),
        **scores_of(verdicts, str(known["protocol"])),
        "drift": drift_of(transcripts, verdicts, str(known["protocol"])),
        "usage": {name: int(transcripts[name].sum()) for name in TOKENS},
        "cost_usd": _cost(folder, manifest, transcripts, verdicts),
        "calls": {"sent": sent, "from_store": stored, "retried": 0, "rate_limited": 0},
        "served_models": dict(Counter(transcripts["served_model"].drop_nulls().to_list())),
        "wall_seconds": 0.0,
    }


def _how_far(player: str | None, whole: Whole | None) -> dict[str, Any]:
    """Status, and what is unfinished; a run in shards that are all over is put together elsewhere, and so ended here as well."""
    if whole is not None and whole.all_over:
        return {"status": next((one for one in ("budget_exhausted", "partial") if one in whole.statuses), "complete")}
    state = "killed" if player is None else "running"
    return {"status": "interrupted" if player is None else "partial", "unfinished": {"state": state, "player": player}}


def _counted(tally: Tally, frame: pl.DataFrame) -> Tally:
    for rows in frame.partition_by(DIALOGUE):
        tally.add(rows.to_dicts())
    return tally


def _cost(folder: Path, manifest: Mapping[str, Any], transcripts: pl.DataFrame, verdicts: pl.DataFrame) -> dict[str, float | None]:
    """What the run's books say, calls in flight included; where the store cannot be read, what these rows cost."""
    settings = part if isinstance(part := manifest.get("settings"), Mapping) else {}
    place, run_id = place_in(folder, manifest), manifest.get("id")
    ids: list[Any] = [part.id for part in parts_in(folder, manifest) or ()] or [run_id]
    found = [spent_now_usd(place, one) if place is not None and isinstance(one, str) else None for one in ids]
    told = [one for one in found if one is not None]
    rows = {
        "target": _total(transcripts["cost_usd"].to_list()),
        "judge": _total(verdicts["cost_usd"].to_list()),
        "moderator": _total(transcripts["moderator_cost_usd"].to_list()),
    }
    known = len(told) == len(found)
    parts: dict[str, float | None] = {
        purpose: round(sum(one.by_purpose[purpose] for one in told), 6) if known else rows[purpose] for purpose in PURPOSES
    }
    maybe = round(sum(one.maybe_usd for one in told), 6) if known else 0.0
    return {**parts, "total": _total(list(parts.values())), "maybe_usd": maybe, "ceiling": settings.get("max_usd")}


def _total(costs: Sequence[float | None]) -> float:
    return round(sum(cost for cost in costs if cost is not None), 6)
