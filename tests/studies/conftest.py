"""Arms of a study as frames, written as verdicts by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest

from safemt_api.frames import TRANSCRIPT_SCHEMA, VERDICT_SCHEMA
from safemt_api.studies.effects import ArmFrames
from tests.report.conftest import make_run

__all__ = ["make_run"]

LENGTHS = (1, 2)
MARKS = {"u": "unsafe", "s": "safe", ".": None}


def arm_of(
    name: str,
    verdicts: Mapping[str, str],
    *,
    lengths: Sequence[int] = LENGTHS,
    cost_usd: float | None = 0.01,
    latency_seconds: float = 1.0,
    max_failures: float = 0.05,
    undecided: int = 0,
) -> ArmFrames:
    """An arm of harmful dialogues: by id one mark a length, ``u`` unsafe, ``s`` safe, ``.`` missing, a blank not played.

    In the first ``undecided`` dialogues the moderator came to no decision, which stopped the reply.
    """
    rows = [
        {"dialogue_id": one, "scenario": "Fraud", "kind": "harmful", "length": length, "turn": length, "repeat": 1, "label": MARKS[mark]}
        for one, marks in verdicts.items()
        for length, mark in zip(lengths, marks, strict=True)
        if mark != " "
    ]
    judged: list[dict[str, Any]] = [{**row, "judge": "rules", "counts": True, "source": "judge"} for row in rows]
    said: list[dict[str, Any]] = [
        {key: value for key, value in row.items() if key != "label"}
        | {"outcome": "answered", "reply_text": "words", "cost_usd": cost_usd, "latency_seconds": latency_seconds}
        | (
            {"moderator": "policy", "moderator_failure": "no answer", "outcome": "refused", "moderator_cost_usd": 0.0}
            if at < undecided
            else {}
        )
        for at, row in enumerate(rows)
    ]
    frame = pl.DataFrame(judged, schema=VERDICT_SCHEMA)
    scores = frame.select("dialogue_id", "scenario", "length", "repeat", verdict="label")
    return ArmFrames(
        name=name,
        protocol="scripted",
        scores=scores,
        benign_scores=scores.head(0),
        turns=frame.select("dialogue_id", "scenario", "length", "repeat", "turn", verdict="label"),
        transcripts=pl.DataFrame(said, schema=TRANSCRIPT_SCHEMA),
        verdicts=frame,
        max_failures=max_failures,
    )


@pytest.fixture
def make_arm() -> Any:
    """Builds the frames of an arm: ``make_arm("name", {"id": "us"})``."""
    return arm_of
