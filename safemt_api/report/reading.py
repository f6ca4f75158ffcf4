"""Read a finished or unfinished run's folder back, checking everything: the files may be torn, foreign or newer than this package."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safemt_api.calibration.agreement import krippendorff_alpha
from safemt_api.errors import NothingPlayedError, StoreError
from safemt_api.frames import ADDED_COLUMNS, FRAME_SCHEMA_VERSION, TRANSCRIPT_SCHEMA, VERDICT_SCHEMA, read_frame, with_repeat
from safemt_api.limits.limiter import NOT_BELIEVED
from safemt_api.messages import Kind, Outcome, Protocol
from safemt_api.metrics.asr import asr_by_scenario, live_asr_by_turn
from safemt_api.metrics.first_failure import first_failure
from safemt_api.metrics.trend import trend_with_length
from safemt_api.metrics.uncertainty import Estimate
from safemt_api.report import words
from safemt_api.runs.folder import NEXT_FOLDER, SUMMARY_FILE, TRANSCRIPTS_FILE, VERDICTS_FILE, current_files
from safemt_api.runs.lock import player_of
from safemt_api.runs.manifest import MANIFEST_FILE
from safemt_api.runs.unfinished import read_unfinished
from safemt_api.specs import RULES

SUMMARY_SCHEMA_VERSION = 1
ALPHA_RESAMPLES = 2000
CURVE = ("share", "ci_low", "ci_high", "if_missing_safe", "if_missing_unsafe")
GO_ON = "run the same command again, or `safemt-api resume {name}`, to have it written anew"


class _Part(BaseModel):
    """A piece of ``summary.json``: unknown keys are kept, since later versions add some."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Counts(_Part):
    """How many dialogues there are, and how far they came."""

    planned: int = 0
    finished: int = 0
    failed: int = 0


class AsrRow(_Part):
    """The attack success rate at one turn (scripted: length); shares in [0, 1], ``None`` where nothing could be judged."""

    turn: int
    unsafe: int
    safe: int
    missing: int
    asr: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    if_missing_safe: float | None = None
    if_missing_unsafe: float | None = None
    cumulative_asr: float | None = None
    cumulative_ci_low: float | None = None
    cumulative_ci_high: float | None = None
    cumulative_if_missing_safe: float | None = None
    cumulative_if_missing_unsafe: float | None = None


ROUNDING = 1e-9
"""Sums of the same numbers in another order differ by less."""


class Index(_Part):
    """The Safety Index with its 95 % interval, its outer bounds whatever the missing verdicts are, and what it was computed over.

    ``value`` is ``None`` where fewer than half of the ids are complete; the bounds and counts are ``None`` in older summaries.
    """

    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    if_missing_low: float | None = None
    if_missing_high: float | None = None
    complete_ids: int | None = None
    ids: int | None = None
    lengths: tuple[int, ...] = ()

    @property
    def basis(self) -> str:
        """Complete ids and bounds in words; empty where they are unknown."""
        return words.index_basis(self.complete_ids, self.ids, self.if_missing_low, self.if_missing_high)

    @property
    def warning(self) -> str:
        """What must follow the bounds where the value, whose second factor complete ids alone give, lies above them; else empty."""
        above = self.value is not None and self.if_missing_high is not None and self.value > self.if_missing_high + ROUNDING
        return "; the value lies above them: ids that lack a verdict waver more than the complete ones" if above else ""

    @property
    def withheld(self) -> bool:
        """Whether there are verdicts, but too few complete ids for a value."""
        return self.value is None and bool(self.ids)


class Tokens(_Part):
    """Tokens of all calls; replies whose usage could not be read are counted, and not in the tokens."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    unreadable: int = 0


class Costs(_Part):
    """Dollars by who asked; ``None`` where no price is known. ``maybe_usd``: for calls cut off, in none of the sums."""

    target: float | None = 0.0
    judge: float | None = 0.0
    moderator: float | None = 0.0
    total: float | None = 0.0
    maybe_usd: float = 0.0
    saved_usd: float = 0.0
    above_reservation: Mapping[str, float] = Field(default_factory=dict)
    ceiling: float | None = None


class Calls(_Part):
    """What went over the wire, and what did not need to."""

    sent: int = 0
    from_store: int = 0
    damaged: int = 0
    retried: int = 0
    rate_limited: int = 0


class Stopping(_Part):
    """How a spot check ended: overall ASR with an interval that stays valid though the run stopped when it was narrow enough."""

    method: str
    goal: float
    reached: bool
    asr: float | None = None
    half_width: float
    ci_low: float
    ci_high: float
    ids: int
    skipped_ids: int = 0
    population: int
    dialogues_saved: int
    usd_saved: float | None = None


class AnyUnsafeRow(_Part):
    """Dialogues at one turn by their repeats: with an unsafe reply, with safe ones alone, without a verdict on all; shares in [0, 1]."""

    turn: int
    any_unsafe: int
    all_safe: int
    incomplete: int
    share: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    if_missing_safe: float | None = None
    if_missing_unsafe: float | None = None


class Mixed(_Part):
    """The share of dialogues whose repeats got differing verdicts, with its 95 % interval."""

    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


class RepeatsPart(_Part):
    """What ``n`` askings of each dialogue show beside the mean over replies (``metrics.repeats``)."""

    n: int
    any_unsafe_by_turn: tuple[AnyUnsafeRow, ...] = ()
    mixed: Mixed = Mixed()
    within_sd: float | None = None

    @property
    def spread(self) -> str:
        """How much the replies to one dialogue differ, in a sentence."""
        share = f"{words.percent(self.mixed.value)} ({words.percent_interval(self.mixed.ci_low, self.mixed.ci_high)})"
        deviation = words.NOTHING if self.within_sd is None else f"{self.within_sd:.2f}"
        return (
            f"Each dialogue was asked {self.n} times, and ASR is the mean over replies. {share} of the dialogues got both safe and unsafe "
            f"verdicts; the standard deviation of a verdict within a dialogue is {deviation}."
        )


class RubricSet(_Part):
    """The set of rubrics that judges decided by."""

    name: str
    digest: str


class Progress(_Part):
    """Of a run that has not come to its end: whether it is ``running`` (by whom) or was ``killed``."""

    state: str
    player: str | None = None


class Summary(_Part):
    """``summary.json`` as promised to users and scripts."""

    schema_version: int = Field(alias="schema")
    run: str
    status: str
    provider: str | None = None
    model: str | None = None
    protocol: Protocol
    judge: str | None = None
    rubric: RubricSet | None = None
    moderator: str | None = None
    lengths: tuple[int, ...] = ()
    seed: int | None = None
    dialogues: Counts = Counts()
    outcomes: Mapping[str, int] = Field(default_factory=dict)
    asr_by_turn: tuple[AsrRow, ...] = ()
    safety_index: Index = Index()
    repeats: RepeatsPart | None = None
    stopping: Stopping | None = None
    usage: Tokens = Tokens()
    cost_usd: Costs = Costs()
    calls: Calls = Calls()
    served_models: Mapping[str, int] = Field(default_factory=dict)
    wall_seconds: float = 0.0
    unfinished: Progress | None = None


@dataclass(frozen=True, slots=True)
class RunData:
    """One run as its folder tells it. ``record`` is the summary as it was written.

    ``transcripts`` and ``verdicts`` have the columns of ``safemt_api.frames``.
    """

    name: str
    folder: Path
    manifest: Mapping[str, Any]
    record: Mapping[str, Any]
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
    """Read ``run.json``, ``summary.json`` and both parquet files of one run, all of one generation.

    Raises:
        StoreError: The folder or a file is missing, torn, changed by someone else, not of the expected shape, or of a newer version.
    """
    if not folder.is_dir():
        raise StoreError(folder, "there is no such run", "give the name of a folder under the results folder that holds a run.json")
    manifest = _read_json(folder / MANIFEST_FILE)
    while True:
        try:
            found = _furthest(folder, manifest)
        except StoreError:
            found = None
        # Whoever plays the run may have put a new generation in place meanwhile; then what was read may be of two.
        before, manifest = manifest, _read_json(folder / MANIFEST_FILE)
        if manifest.get("files") == before.get("files"):
            return found or _furthest(folder, manifest)


def _furthest(folder: Path, manifest: Mapping[str, Any]) -> RunData:
    """The run as it last ended; or, where that is further, as far as it has come since: it may be under way, or may have been killed."""
    waiting = read_unfinished(folder, manifest)
    ended = _read_generation(folder, manifest) if waiting is None or (folder / SUMMARY_FILE).exists() else None
    if ended is not None and (waiting is None or waiting.dialogues <= ended.summary.dialogues.finished + ended.summary.dialogues.failed):
        return ended
    if waiting is None or not waiting.dialogues:
        player = player_of(folder)
        raise NothingPlayedError(folder, None if player is None else str(player))
    summary = _summary_of(waiting.summary, folder / SUMMARY_FILE)
    return RunData(folder.resolve().name, folder, manifest, waiting.summary, summary, waiting.transcripts, waiting.verdicts)


def _read_generation(folder: Path, manifest: Mapping[str, Any]) -> RunData:
    files = {name: folder / name for name in (SUMMARY_FILE, TRANSCRIPTS_FILE, VERDICTS_FILE)} | current_files(folder, manifest)
    if manifest.get("outline") and not manifest.get("files") and not files[SUMMARY_FILE].exists():
        player = player_of(folder)
        raise NothingPlayedError(folder, None if player is None else str(player))
    record = _read_json(files[SUMMARY_FILE])
    return RunData(
        name=folder.resolve().name,
        folder=folder,
        manifest=manifest,
        record=record,
        summary=_summary_of(record, files[SUMMARY_FILE]),
        transcripts=_read_frame(files[TRANSCRIPTS_FILE], TRANSCRIPT_SCHEMA),
        verdicts=_read_frame(files[VERDICTS_FILE], VERDICT_SCHEMA),
    )


def _cure(file: Path) -> str:
    folder = file.parent.parent if file.parent.name == NEXT_FOLDER else file.parent
    player = player_of(folder)
    return GO_ON.format(name=folder.name) if player is None else f"the run is being played by {player}: look again when that has ended"


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes(), parse_constant=lambda _: None)
    except FileNotFoundError as error:
        raise StoreError(file, "is missing", _cure(file)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(file, f"cannot be read as JSON ({error})", _cure(file)) from error
    if not isinstance(data, dict):
        raise StoreError(file, "holds no JSON object", _cure(file))
    _refuse_newer(file, data.get("schema", SUMMARY_SCHEMA_VERSION), SUMMARY_SCHEMA_VERSION)
    _refuse_newer(file, data.get("frames", FRAME_SCHEMA_VERSION), FRAME_SCHEMA_VERSION)
    return data


def _refuse_newer(file: Path, found: object, known: int) -> None:
    if isinstance(found, int) and found > known:
        problem = f"was written by a newer safemt-api (schema {found}; this one knows {known})"
        raise StoreError(file, problem, "upgrade with `pip install --upgrade safemt-api`")


def _summary_of(record: Mapping[str, Any], file: Path) -> Summary:
    try:
        return Summary.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise StoreError(file, f"{field}: {first['msg'].lower()}", _cure(file)) from error


def _read_frame(file: Path, schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    try:
        frame = read_frame(file)
    except FileNotFoundError as error:
        raise StoreError(file, "is missing", _cure(file)) from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(file, f"cannot be read as parquet ({error})", _cure(file)) from error
    absent = [name for name in schema if name not in frame.columns and name not in ADDED_COLUMNS]
    if absent:
        raise StoreError(file, f"lacks the column{'s' if len(absent) > 1 else ''} {', '.join(absent)}", _cure(file))
    try:
        return with_repeat(frame).select(_column(frame, name).cast(kind).alias(name) for name, kind in schema.items()).fill_nan(None)
    except pl.exceptions.PolarsError as error:
        raise StoreError(file, f"has a column of another kind ({error})", _cure(file)) from error


def _column(frame: pl.DataFrame, name: str) -> pl.Expr:
    return pl.col(name) if name in frame.columns or name == "repeat" else pl.lit(None)


def score_frame(verdicts: pl.DataFrame, kind: Kind | None = "harmful") -> pl.DataFrame:
    """One row an asked dialogue for the scores: ``dialogue_id``, ``scenario``, ``length``, ``repeat``, ``verdict`` (safe, unsafe or null).

    Only rows that count are used. In the live protocol the verdict is the last turn's; a dialogue that ended before it is missing.
    """
    rows = verdicts.filter(pl.col("counts"))
    if kind is not None:
        rows = rows.filter(pl.col("kind") == kind)
    last = pl.col("label").filter(pl.col("turn") == pl.col("length")).first()
    return rows.group_by("dialogue_id", "scenario", "length", "repeat", maintain_order=True).agg(last.alias("verdict"))


def turn_frame(verdicts: pl.DataFrame, kind: Kind | None = "harmful") -> pl.DataFrame:
    """One row a judged turn: ``dialogue_id``, ``scenario``, ``length``, ``repeat``, ``turn``, ``verdict``; only rows that count."""
    rows = verdicts.filter(pl.col("counts"))
    if kind is not None:
        rows = rows.filter(pl.col("kind") == kind)
    return rows.select("dialogue_id", "scenario", "length", "repeat", "turn", verdict="label")


def scenario_scores(run: RunData) -> pl.DataFrame:
    """ASR of each scenario at each turn: ``scenario``, ``turn``, ``unsafe``, ``safe``, ``missing``, ``asr`` (null if none was judged).

    ``turn`` is the length in the scripted protocol and the position in the live one, as in ``summary.json``.
    """
    columns = ("scenario", "turn", "unsafe", "safe", "missing", "asr")
    if run.summary.protocol == "scripted":
        return asr_by_scenario(score_frame(run.verdicts)).rename({"length": "turn"}).select(columns)
    parts = turn_frame(run.verdicts).partition_by("scenario", as_dict=True)
    scored = [live_asr_by_turn(part).with_columns(scenario=pl.lit(str(key[0]))).select(columns) for key, part in sorted(parts.items())]
    return pl.concat(scored) if scored else pl.DataFrame(schema=dict.fromkeys(columns, pl.Null))


def failure_curve(run: RunData) -> pl.DataFrame:
    """Share that has failed by each turn: ``turn``, ``share``, ``ci_low``, ``ci_high``, ``if_missing_safe``, ``if_missing_unsafe``.

    Kaplan–Meier estimates. Scripted: share of ids unsafe at any length up to k. Live: share of dialogues unsafe at any turn up to t,
    which is the cumulative ASR.
    """
    if run.summary.protocol == "scripted":
        return first_failure(score_frame(run.verdicts)).select(*CURVE, turn="length")
    names = ("cumulative_asr", *(f"cumulative_{name}" for name in CURVE[1:]))
    rows = [(*(getattr(row, name) for name in names), row.turn) for row in run.summary.asr_by_turn]
    return pl.DataFrame(rows, schema={**dict.fromkeys(CURVE, pl.Float64), "turn": pl.Int64}, orient="row")


def below_seen(curve: pl.DataFrame) -> pl.DataFrame:
    """The rows of a failure curve whose estimate lies below the share that was seen to fail.

    Who lacks an earlier verdict is not at risk, so a failure of theirs is seen and yet not in the estimate: right on average, not in every
    run.
    """
    return curve.filter(pl.col("share") < pl.col("if_missing_safe") - ROUNDING)


def outcome_counts(run: RunData) -> dict[str, int]:
    """Calls to the target by outcome, in the vocabulary's order, unknown ones last."""
    known = {outcome.value: run.summary.outcomes.get(outcome.value, 0) for outcome in Outcome}
    return known | {name: count for name, count in run.summary.outcomes.items() if name not in known}


def judges_alpha(run: RunData) -> Estimate | None:
    """Krippendorff's alpha among the judges that gave verdicts of their own; ``None`` with fewer than two, or where it is undefined."""
    asked = run.verdicts.filter(pl.col("source") == "judge", pl.col("kind") == "harmful")
    members = asked.filter(~pl.col("counts"))
    raters = members if members["judge"].n_unique() > 1 else asked
    if raters["judge"].n_unique() < 2:
        return None
    estimate = krippendorff_alpha(
        raters.select("dialogue_id", "length", "repeat", "turn", "judge", verdict="label"), resamples=ALPHA_RESAMPLES
    )
    return None if math.isnan(estimate.value) else estimate


def stopping_sentence(stopping: Stopping) -> str:
    """What a spot check found, whether it stopped early, and what that saved."""
    seen = f"{words.count(stopping.ids)} of {words.count(stopping.population)} ids"
    left_out = f" ({words.count(stopping.skipped_ids)} more had no verdict)" if stopping.skipped_ids else ""
    goal = f"±{100 * stopping.goal:g} points"
    saved = f"{words.count(stopping.dialogues_saved)} dialogues"
    if stopping.usd_saved is not None:
        saved += f" and about {words.dollars(stopping.usd_saved)}"
    ending = f"reached the goal of {goal} and saved {saved}" if stopping.reached else f"did not reach the goal of {goal}"
    return (
        f"Spot check: {seen}{left_out} give an overall ASR of {words.percent(stopping.asr)} "
        f"(95% interval {words.percent_interval(stopping.ci_low, stopping.ci_high)}, valid though the run might stop at any moment: "
        f"{stopping.method}). It {ending}. The other intervals take no account of the stopping."
    )


def remarks(run: RunData) -> list[str]:
    """Sentences that belong beside the scores.

    How far an unfinished run is, how often the moderator failed, a first failure below what was seen, how steady repeats are, a spot
    check's end, the trend with length (scripted), several judges' agreement, a model that changed under its name, damaged replies, what a
    vendor said of its limits that was not believed.
    """
    spot = [] if run.summary.stopping is None else [stopping_sentence(run.summary.stopping)]
    trend = [trend_with_length(score_frame(run.verdicts)).sentence] if run.summary.protocol == "scripted" else []
    return [
        *_progress_said(run),
        *_undecided_said(run),
        *_below_seen_said(run),
        *([] if run.summary.repeats is None else [run.summary.repeats.spread]),
        *spot,
        *trend,
        *_agreement_said(run),
        *_change_said(run.summary.served_models),
        *_damage_said(run.summary.calls.damaged),
        *_disbelief_said(run.manifest),
    ]


def _undecided_said(run: RunData) -> Iterator[str]:
    failed = run.transcripts.filter(pl.col("moderator_failure").is_not_null())
    if failed.height:
        reviews = run.transcripts.filter(pl.col("moderator").is_not_null())
        commonest = words.printable(str(failed["moderator_failure"].value_counts(sort=True)["moderator_failure"][0]))
        yield (
            f"The moderator came to no decision in {words.count(failed.height)} of {words.count(reviews.height)} reviews, most often: "
            f"{commonest}. A reply that only this stopped has no verdict."
        )


def _below_seen_said(run: RunData) -> Iterator[str]:
    below = below_seen(failure_curve(run))
    if below.height:
        seen = ", ".join(f"{words.percent(row['if_missing_safe'])} by {row['turn']}" for row in below.iter_rows(named=True))
        yield (
            "First failure is estimated from dialogues that lack no earlier verdict, and comes out below what was seen here; at least so "
            f"many did fail: {seen}."
        )


def _progress_said(run: RunData) -> Iterator[str]:
    unfinished, counts = run.summary.unfinished, run.summary.dialogues
    if unfinished is None:
        return
    so_far = f"{words.count(counts.finished + counts.failed)} of {words.count(counts.planned)} dialogues"
    if unfinished.state == "running":
        yield f"This run is being played by {unfinished.player}; these are the {so_far} that are finished so far."
    else:
        yield f"This run was cut short; these are the {so_far} that were finished. `safemt-api resume {run.folder}` goes on with it."


def _agreement_said(run: RunData) -> Iterator[str]:
    alpha = judges_alpha(run)
    if alpha is not None:
        interval = f"95% interval {alpha.ci_low:.2f} to {alpha.ci_high:.2f}"
        yield f"Agreement of the judges: Krippendorff's alpha {alpha.value:.2f} ({interval})."


def _change_said(served: Mapping[str, int]) -> Iterator[str]:
    if len(served) > 1:
        counts = ", ".join(f"{name} ({words.count(number)} replies)" for name, number in sorted(served.items(), key=lambda one: -one[1]))
        yield f"The model changed during the run: {counts} answered under one name. The scores mix them."


def _disbelief_said(manifest: Mapping[str, Any]) -> Iterator[str]:
    limits = manifest.get("limits")
    for account, history in (limits if isinstance(limits, Mapping) else {}).items():
        for entry in history if isinstance(history, list) else ():
            cause = str(entry.get("cause")) if isinstance(entry, Mapping) else ""
            if cause.endswith(NOT_BELIEVED):
                yield f"{words.printable(str(account), limit=60)}: {words.printable(cause)}."


def _damage_said(damaged: int) -> Iterator[str]:
    if damaged:
        were = "reply in the store was damaged and was" if damaged == 1 else "replies in the store were damaged and were"
        yield f"{words.count(damaged)} {were} asked for again."
