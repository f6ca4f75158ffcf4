"""Arms ranked together: scores over the dialogues that all of them hold, and the range of ranks that those leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import polars as pl

from safemt_api.metrics.asr import asr_by_turn_with_intervals, live_asr_with_intervals
from safemt_api.metrics.frames import KEY
from safemt_api.metrics.ranks import ranks
from safemt_api.metrics.safety_index import safety_index_with_interval
from safemt_api.studies.effects import ArmFrames, dialogue_costs
from safemt_api.studies.record import Board, Place, SafetyIndexFigures, TurnRate


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
