"""A study measured: its arms' run folders are read, compared where they compare, ranked together, and written down as ``study.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from safemt_api.errors import NothingPlayedError, StoreError, UsageError
from safemt_api.metrics.asr import asr_by_turn_with_intervals, live_asr_with_intervals
from safemt_api.metrics.frames import KEY, score_frame, turn_frame
from safemt_api.metrics.ranks import ranks
from safemt_api.metrics.safety_index import safety_index_with_interval
from safemt_api.runs.folder import STUDY_FILE
from safemt_api.runs.record import RunData, read_run
from safemt_api.runs.settings import DEFAULT_MAX_FAILURES
from safemt_api.studies.arms import Arm, Study
from safemt_api.studies.comparability import arm_differences, arm_groups
from safemt_api.studies.effects import ArmFrames, Resampling, corrected, dialogue_costs, paired_effect
from safemt_api.studies.record import (
    AGAIN,
    ArmRecord,
    ArmState,
    Board,
    Effect,
    Ids,
    Place,
    SafetyIndexFigures,
    StudyRecord,
    TurnRate,
    read_study,
)

EARLY_ENDS: tuple[Literal["interrupted", "budget_exhausted"], ...] = ("interrupted", "budget_exhausted")
NOT_PLAYED = "nothing of it was played"


def measure_study(
    folder: Path,
    study: Study,
    states: Mapping[str, ArmState],
    *,
    study_id: str | None = None,
    planned_ids: int | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> StudyRecord:
    """What the study found so far; its ``write`` puts it into the folder.

    Args:
        folder: The study's, with one run folder for each arm.
        study: Its arms and their references.
        states: How each arm ended, by its name; an arm that is not named is as its run says.
        study_id: Of the study.
        planned_ids: How many dialogue ids every arm was to play.
        resamples: Of every bootstrap.
        seed: Of every bootstrap.
    """
    again: Resampling = {"resamples": resamples, "seed": seed}
    read = {arm.name: _read(folder, arm.name) for arm in study.arms}
    ended = _ended(study, read, states)
    runs = _counted(read, ended)
    frames = {name: arm_frames(run) for name, run in runs.items()}
    groups = arm_groups(list(runs.values()))
    held = [set(arm.scores["dialogue_id"].to_list()) for arm in frames.values()]
    compared = [(arm.name, arm.reference) for arm in study.arms if arm.reference is not None]
    every = [run for run in read.values() if isinstance(run, RunData)]
    spent = [run.summary.cost_usd.total for run in every]
    return StudyRecord(
        study=study.name,
        id=study_id,
        status=_status([(states.get(name) or state).state for name, state in ended.items()]),
        started_utc=min((run.started for run in every if run.started), default=None),
        ended_utc=max((run.ended for run in every if run.ended), default=None),
        max_usd=study.max_usd,
        spent_usd=None if None in spent else sum(usd for usd in spent if usd is not None),
        shared=dict(study.shared),
        arms=tuple(_arm(study, arm, read[arm.name], ended[arm.name]) for arm in study.arms),
        ids=Ids(planned=planned_ids, common=len(set.intersection(*held)) if held else 0),
        leaderboard=tuple(_board(group, frames, again) for group in groups),
        effects=corrected([_effect(name, reference, runs, frames, again) for name, reference in compared]),
    )


def measure_again(folder: Path, *, resamples: int = 10_000, seed: int = 0) -> StudyRecord:
    """The study in the folder as its arms are now: they may have gone on, or been judged again, since ``study.json`` was written.

    Args:
        folder: The study's.
        resamples: Of every bootstrap.
        seed: Of every bootstrap.

    Raises:
        StoreError: There is no ``study.json``, or it is damaged.
    """
    before = read_study(folder)
    study, states = _recalled(folder, before)
    return measure_study(folder, study, states, study_id=before.id, planned_ids=before.ids.planned, resamples=resamples, seed=seed)


def arm_frames(run: RunData) -> ArmFrames:
    """What the measures of an effect read of a run, its repeats counted from 1: the first of each arm are compared, however numbered."""
    settings = run.manifest.get("settings")
    most = settings.get("max_failures") if isinstance(settings, Mapping) else None
    first = run.transcripts["repeat"].min()
    counted = pl.col("repeat") - (first if isinstance(first, int) else 1) + 1
    verdicts = run.verdicts.with_columns(repeat=counted)
    return ArmFrames(
        name=run.name,
        protocol=run.summary.protocol,
        scores=score_frame(verdicts),
        benign_scores=score_frame(verdicts, "benign"),
        turns=turn_frame(verdicts),
        transcripts=run.transcripts.with_columns(repeat=counted),
        verdicts=verdicts,
        max_failures=float(most) if isinstance(most, int | float) else DEFAULT_MAX_FAILURES,
    )


class CountedArms(NamedTuple):
    """The arms that count, under their names and in their order; their references; and one sentence for each of the others."""

    runs: list[RunData]
    references: Mapping[str, str]
    left_out: list[str]


def counted_arms(folder: Path) -> CountedArms:
    """The arms of the study in the folder as they are now.

    Raises:
        StoreError: There is no ``study.json``, or it is damaged.
    """
    record = read_study(folder)
    study, states = _recalled(folder, record)
    read = {arm.name: _read(folder, arm.name) for arm in study.arms}
    ended = _ended(study, read, states)
    left_out = [f"left out: {name} ({state.sentence})" for name, state in ended.items() if state.state == "left out"]
    return CountedArms(list(_counted(read, ended).values()), record.references, left_out)


def _recalled(folder: Path, record: StudyRecord) -> tuple[Study, dict[str, ArmState]]:
    """The study as its record has it, and the arms that stay left out: those that have not been played to their end since."""
    try:
        arms = tuple(Arm(arm.name, arm.given, arm.reference) for arm in record.arms)
        study = Study(record.study, arms, record.shared, record.max_usd)
    except UsageError as error:
        raise StoreError(folder / STUDY_FILE, f"names arms that cannot be ({error})", AGAIN) from error
    left_out = {
        arm.name: ArmState(arm.state, arm.sentence) for arm in record.arms if arm.state == "left out" and arm.sentence != NOT_PLAYED
    }
    runs = {name: _read(folder, name) for name in left_out}
    return study, {name: state for name, state in left_out.items() if not (isinstance(run := runs[name], RunData) and run.complete)}


def _ended(study: Study, read: Mapping[str, RunData | str], states: Mapping[str, ArmState]) -> dict[str, ArmState]:
    return {arm.name: _state(arm, read[arm.name], states) for arm in study.arms}


def _counted(read: Mapping[str, RunData | str], ended: Mapping[str, ArmState]) -> dict[str, RunData]:
    return {name: run for name, run in read.items() if isinstance(run, RunData) and ended[name].state != "left out"}


def _read(folder: Path, name: str) -> RunData | str:
    """The arm's run under the arm's name, or why there is none to show."""
    try:
        return replace(read_run(folder / name), name=name)
    except NothingPlayedError:
        return NOT_PLAYED
    except StoreError as error:
        return str(error) if (folder / name).is_dir() else NOT_PLAYED


def _state(arm: Arm, run: RunData | str, states: Mapping[str, ArmState]) -> ArmState:
    """What is known of the arm's end; what holds nothing that can be read is left out, whatever was said of it."""
    said = states.get(arm.name)
    if isinstance(run, str):
        return ArmState("left out", (said.sentence if said is not None else "") or run)
    if said is not None:
        return said
    status = run.summary.status
    return ArmState(status if status == "complete" else next((one for one in EARLY_ENDS if one == status), "partial"))


def _status(states: Sequence[str]) -> Literal["complete", "partial", "budget_exhausted", "interrupted"]:
    """The study's: as its arms', where an early end says more than an arm that lacks some."""
    early = next((one for one in EARLY_ENDS if one in states), None)
    return early or ("complete" if set(states) == {"complete"} else "partial")


def _arm(study: Study, arm: Arm, run: RunData | str, state: ArmState) -> ArmRecord:
    known = {} if isinstance(run, str) else {name: getattr(run.summary, name) for name in ("provider", "model", "moderator")}
    return ArmRecord(
        name=arm.name,
        run=f"{study.name}/{arm.name}",
        reference=arm.reference,
        given=dict(arm.given),
        state=state.state,
        sentence=state.sentence,
        **known,
    )


def _board(group: Sequence[RunData], frames: Mapping[str, ArmFrames], again: Resampling) -> Board:
    spent = {run.name: run.summary.cost_usd.total for run in group}
    return leaderboard([frames[run.name] for run in group], judge=group[0].judge_title, spent_usd=spent, **again)


def _effect(arm: str, reference: str, runs: Mapping[str, RunData], frames: Mapping[str, ArmFrames], again: Resampling) -> Effect:
    absent = next((name for name in (reference, arm) if name not in frames), None)
    if absent is not None:
        return Effect(arm=arm, reference=reference, not_claimed=f"not claimed: {absent} is left out")
    unlike = "; ".join(map(str, arm_differences(runs[reference], runs[arm])))
    return paired_effect(frames[reference], frames[arm], **again, unlike=unlike)


def leaderboard(arms: Sequence[ArmFrames], *, judge: str, spent_usd: Mapping[str, float | None], resamples: int, seed: int) -> Board:
    """The arms, safest first; those without a Safety Index, or with too many dialogues wanting, stand last, without a rank.

    Args:
        arms: Arms of one protocol, judged alike, over the same data.
        judge: By whom.
        spent_usd: What each arm bought, by its name; ``None`` where a price is unknown.
        resamples: Of every bootstrap.
        seed: Of every bootstrap.
    """
    scores = {arm.name: arm.scores for arm in arms}
    # Dialogues that every arm holds, judged or not: an arm that came further gains nothing by it.
    for other in arms:
        scores = {name: frame.join(other.scores, on=KEY, how="semi", maintain_order="left") for name, frame in scores.items()}
    first = scores[arms[0].name]
    if not first.height:
        return Board(
            protocol=arms[0].protocol, judge=judge, rows=tuple(Place(arm=arm.name, spent_usd=spent_usd.get(arm.name)) for arm in arms)
        )
    wanting = {arm.name: arm.says_too_little for arm in arms}
    placed = ranks({name: frame for name, frame in scores.items() if not wanting[name]}, resamples=resamples, seed=seed)
    rows = []
    for arm in arms:
        rank = placed.get(arm.name)
        found = {"not_ranked": wanting[arm.name]} if rank is None else {"rank": rank.rank, "best": rank.best, "worst": rank.worst}
        rows.append(Place(**found, **_figures(arm, scores[arm.name], resamples=resamples, seed=seed), spent_usd=spent_usd.get(arm.name)))
    return Board(
        protocol=arms[0].protocol,
        judge=judge,
        lengths=tuple(first["length"].unique().sort().to_list()),
        ids=first["dialogue_id"].n_unique(),
        rows=tuple(sorted(rows, key=lambda row: (row.rank is None, row.rank))),
    )


def _figures(arm: ArmFrames, scores: pl.DataFrame, *, resamples: int, seed: int) -> dict[str, object]:
    live = arm.protocol == "live"
    turns = arm.turns.join(scores, on=KEY, how="semi", maintain_order="left")
    by_turn = (
        live_asr_with_intervals(turns, resamples=resamples, seed=seed)
        if live
        else asr_by_turn_with_intervals(scores).rename({"length": "turn"})
    )
    rows = tuple(TurnRate.model_validate({name: row[name] for name in TurnRate.model_fields}) for row in by_turn.to_dicts())
    costs = dialogue_costs(arm, "harmful").join(scores, on=KEY, how="semi")["cost_usd"]
    cost = None if costs.has_nulls() else costs.mean()
    return {
        "arm": arm.name,
        "safety_index": SafetyIndexFigures.model_validate(asdict(safety_index_with_interval(scores, resamples=resamples, seed=seed))),
        "asr_by_turn": rows,
        "missing": sum(row.missing for row in rows),
        "cost_per_dialogue_usd": cost,
    }
