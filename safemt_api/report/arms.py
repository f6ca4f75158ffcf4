"""What a defence did, read from the files of its arms: one record with the paired effect of each moderator over the undefended run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from safemt_api.errors import UsageError
from safemt_api.metrics.asr import asr_by_turn_with_intervals, live_asr_with_intervals
from safemt_api.metrics.safety_index import safety_index_with_interval
from safemt_api.report import words
from safemt_api.report.reading import BASELINE_JUDGE, RunData, score_frame, turn_frame
from safemt_api.runs.defending import DEFENCE_SCHEMA
from safemt_api.runs.settings import DEFAULT_MAX_FAILURES
from safemt_api.studies.effects import KINDS, ArmFrames, Resampling, declined, dialogue_costs, paired_effect, rate

SHARED = ("provider", "model", "protocol", "judge", "lengths", "seed")


def measure_defence(undefended: RunData, defended: Sequence[RunData], *, resamples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """The record that ``defence.json`` holds; numbers that are not defined are ``None``.

    Args:
        undefended: The arm without a moderator.
        defended: The arms with one, in the order in which they are to be shown.
        resamples: Of every bootstrap.
        seed: Of every bootstrap.

    Raises:
        UsageError: An arm was judged or played in another way than the undefended one.
    """
    for arm in defended:
        _refuse_unlike(undefended, arm)
    summary = undefended.summary
    again: Resampling = {"resamples": resamples, "seed": seed}
    before = arm_frames(undefended)
    record = {
        "schema": DEFENCE_SCHEMA,
        **{name: getattr(summary, name) for name in SHARED},
        "baseline_judge": summary.judge == BASELINE_JUDGE,
        "rubric": None if summary.rubric is None else summary.rubric.model_dump(),
        "dialogues": {kind: dialogue_costs(before, kind).height for kind in KINDS},
        "undefended": _undefended(undefended, before, again),
        "moderators": [_arm(before, arm, again) for arm in defended],
    }
    cleaned: dict[str, Any] = _clean(record)
    return cleaned


def arm_frames(run: RunData) -> ArmFrames:
    """What the measures of an effect read of a run, its repeats counted from 1: the first of each arm are compared, however numbered."""
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
        max_failures=_max_failures(run),
    )


def _refuse_unlike(undefended: RunData, arm: RunData) -> None:
    differing = [name for name in (*SHARED, "rubric") if getattr(undefended.summary, name) != getattr(arm.summary, name)]
    if differing:
        raise UsageError(f"{arm.name} and {undefended.name} are no arms of one defence: they differ in {', '.join(differing)}")


def _max_failures(run: RunData) -> float:
    settings = run.manifest.get("settings")
    found = settings.get("max_failures") if isinstance(settings, Mapping) else None
    return float(found) if isinstance(found, int | float) else DEFAULT_MAX_FAILURES


def _undefended(run: RunData, frames: ArmFrames, again: Resampling) -> dict[str, Any]:
    harmful, live = frames.scores, run.summary.protocol == "live"
    by_turn = live_asr_with_intervals(frames.turns, **again) if live else asr_by_turn_with_intervals(harmful)
    over_refusal = rate(declined(frames), "declined", again)
    return {
        "run": run.name,
        "status": run.summary.status,
        "asr_by_turn": by_turn.rename({} if live else {"length": "turn"}).to_dicts() if harmful.height else [],
        "safety_index": asdict(safety_index_with_interval(harmful, **again)) if harmful.height else None,
        "over_refusal": None if over_refusal is None else over_refusal.model_dump(),
        "cost_per_dialogue_usd": {kind: dialogue_costs(frames, kind)["cost_usd"].mean() for kind in KINDS},
        "latency_per_dialogue_seconds": {kind: dialogue_costs(frames, kind)["latency_seconds"].mean() for kind in KINDS},
    }


def _arm(before: ArmFrames, arm: RunData, again: Resampling) -> dict[str, Any]:
    effect = paired_effect(before, arm_frames(arm), **again)
    corrected = f"Holm over {words.turn_word(before.protocol)}s"
    return {
        "moderator": arm.summary.moderator,
        "run": arm.name,
        "status": arm.summary.status,
        "failed_dialogues": arm.summary.dialogues.failed,
        **effect.model_dump(exclude={"arm", "reference"}),
        "test": None if effect.test is None else f"{effect.test}, {corrected}",
    }


def _clean(value: Any) -> Any:
    """NaN is no JSON: what is not defined is ``None``."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _clean(inner) for name, inner in value.items()}
    return [_clean(inner) for inner in value] if isinstance(value, list | tuple) else value
