"""A run that is being played, or was killed, as far as it came: read from the rows that wait beside it, without its lock and unchanged.

Imports polars: import it late.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson
import polars as pl

from safemt_api.frames import TRANSCRIPT_SCHEMA, VERDICT_SCHEMA, with_repeat
from safemt_api.messages import PURPOSES, Outcome
from safemt_api.runs.collecting import MAX_FAILURES_KEPT, frame_of, scratch
from safemt_api.runs.folder import TRANSCRIPTS_FILE, VERDICTS_FILE
from safemt_api.runs.lock import player_of
from safemt_api.runs.summarising import scores_of
from safemt_api.runs.tally import ModerationTally, VerdictTally
from safemt_api.store.books import spent_now_usd

Tally = TypeVar("Tally", VerdictTally, ModerationTally)
DIALOGUE = ("dialogue_id", "length", "repeat")
TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")


class Unfinished(NamedTuple):
    """Frames with the columns of ``safemt_api.frames``, and a summary of them with ``unfinished`` beside its promised fields."""

    transcripts: pl.DataFrame
    verdicts: pl.DataFrame
    summary: dict[str, Any]

    @property
    def dialogues(self) -> int:
        """How many dialogues were played and judged."""
        return self.transcripts.select(DIALOGUE).n_unique() if self.transcripts.height else 0


def read_unfinished(folder: Path, manifest: Mapping[str, Any]) -> Unfinished | None:
    """The run as far as it came; ``None`` where no rows wait: it ended, or has not begun."""
    waiting = waiting_frames(folder)
    return None if waiting is None else Unfinished(*waiting, _summary(folder, manifest, *waiting))


def waiting_frames(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame] | None:
    """The rows that wait beside a run, transcripts and verdicts of whole dialogues; ``None`` where there are none."""
    try:
        transcripts = frame_of(_rows(scratch(folder, TRANSCRIPTS_FILE), TRANSCRIPT_SCHEMA), TRANSCRIPT_SCHEMA)
        verdicts = frame_of(_rows(scratch(folder, VERDICTS_FILE), VERDICT_SCHEMA), VERDICT_SCHEMA)
    except (FileNotFoundError, pl.exceptions.PolarsError, TypeError):
        return None
    transcripts, verdicts = with_repeat(transcripts), with_repeat(verdicts)
    whole = _whole(transcripts, verdicts)
    transcripts, verdicts = (frame.join(whole, on=DIALOGUE, how="semi", maintain_order="left") for frame in (transcripts, verdicts))
    return transcripts, verdicts


def _rows(file: Path, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows up to the first that is torn: whoever was killed may have written half of the last one."""
    rows: list[dict[str, Any]] = []
    with file.open("rb") as lines:
        for line in lines:
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                break
            if not isinstance(row, dict):
                break
            rows.append({name: row.get(name) for name in schema})
    return rows


def _whole(transcripts: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """The dialogues with a verdict, given or missing, for each turn: the last one's rows may not be all there."""
    turns = transcripts.group_by(DIALOGUE).agg(turns=pl.len())
    judged = verdicts.filter("counts").group_by(DIALOGUE).agg(judged=pl.len())
    return turns.join(judged, on=DIALOGUE).filter(pl.col("turns") == pl.col("judged")).select(DIALOGUE)


def _summary(folder: Path, manifest: Mapping[str, Any], transcripts: pl.DataFrame, verdicts: pl.DataFrame) -> dict[str, Any]:
    outline = manifest.get("outline")
    known: dict[str, Any] = dict(outline) if isinstance(outline, Mapping) else {}
    failed = transcripts.filter(pl.col("failure").is_not_null()).unique(DIALOGUE, maintain_order=True)
    finished = transcripts.select(DIALOGUE).n_unique() if transcripts.height else 0
    planned = known.get("dialogues", {}).get("planned", finished)
    player = player_of(folder)
    return {
        "schema": 1,
        "run": folder.name,
        "protocol": "scripted",
        **known,
        "status": "interrupted" if player is None else "partial",
        "unfinished": {"state": "killed" if player is None else "running", "player": None if player is None else str(player)},
        "dialogues": {"planned": planned, "finished": finished - failed.height, "failed": failed.height},
        "failures": failed.select("dialogue_id", "length", why="failure").head(MAX_FAILURES_KEPT).to_dicts(),
        "outcomes": {**{outcome.value: 0 for outcome in Outcome}, **Counter(transcripts["outcome"].to_list())},
        "verdicts": _counted(VerdictTally(), verdicts).record(),
        "moderation": None if known.get("moderator") is None else _counted(ModerationTally(), transcripts).record(),
        **scores_of(verdicts, str(known.get("protocol", "scripted"))),
        "usage": {name: int(transcripts[name].sum()) for name in TOKENS},
        "cost_usd": _cost(folder, manifest, transcripts, verdicts),
        "calls": {
            "sent": transcripts.filter(~pl.col("from_store")).height,
            "from_store": transcripts.filter("from_store").height,
            "retried": 0,
            "rate_limited": 0,
        },
        "served_models": dict(Counter(transcripts["served_model"].drop_nulls().to_list())),
        "wall_seconds": 0.0,
    }


def _counted(tally: Tally, frame: pl.DataFrame) -> Tally:
    for rows in frame.partition_by(DIALOGUE):
        tally.add(rows.to_dicts())
    return tally


def _cost(folder: Path, manifest: Mapping[str, Any], transcripts: pl.DataFrame, verdicts: pl.DataFrame) -> dict[str, float | None]:
    """What the run's books say, calls in flight included; where the store cannot be read, what these rows cost."""
    store, settings = (part if isinstance(part := manifest.get(name), Mapping) else {} for name in ("store", "settings"))
    path, run_id = store.get("path"), manifest.get("id")
    spent = spent_now_usd(folder / path, run_id) if isinstance(path, str) and isinstance(run_id, str) else None
    rows = {
        "target": _total(transcripts["cost_usd"].to_list()),
        "judge": _total(verdicts["cost_usd"].to_list()),
        "moderator": _total(transcripts["moderator_cost_usd"].to_list()),
    }
    parts: dict[str, float] = {purpose: rows[purpose] if spent is None else round(spent.by_purpose[purpose], 6) for purpose in PURPOSES}
    maybe = 0.0 if spent is None else round(spent.maybe_usd, 6)
    return {**parts, "total": round(sum(parts.values()), 6), "maybe_usd": maybe, "ceiling": settings.get("max_usd")}


def _total(costs: Sequence[float | None]) -> float:
    return round(sum(cost for cost in costs if cost is not None), 6)
