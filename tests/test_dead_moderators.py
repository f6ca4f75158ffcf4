"""A moderator that fails must not look like one that works; over real sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from safemt_api.cli.eval import shortfall, undecided
from safemt_api.errors import EXIT_DONE, EXIT_FAILURES
from safemt_api.evaluation import evaluate, open_plan
from safemt_api.messages import Protocol
from safemt_api.report.remarks import remarks
from safemt_api.report.study_tables import study_sentences
from safemt_api.runs.record import read_run
from safemt_api.runs.rejudge import rejudge
from safemt_api.runs.settings import EvalSettings
from safemt_api.simulator import SimulatorSettings
from safemt_api.simulator.settings import FaultPlan
from safemt_api.studies import play as studying
from safemt_api.studies.defend import defend
from safemt_api.studies.play import StudyResult

DEAD = "policy:simulator:sim-safe"
"""A target's persona answers as a target: no word of it is a decision."""

ALIVE = "policy:simulator:sim-moderator"
Small = dict[str, Any]


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """Options of a small run."""
    return {"model": "sim-brittle", "lengths": (1, 2, 4), "sample": 5, "seed": 11, "results": tmp_path / "results", "run": "small"}


@pytest.mark.parametrize("protocol", ["scripted", "live"])
async def test_what_only_the_moderators_failure_stopped_is_not_safe(small: Small, protocol: Protocol) -> None:
    result = await evaluate(moderator=DEAD, moderator_failure="closed", protocol=protocol, **small)
    moderation, verdicts = result.summary.json_value()["moderation"], result.summary.json_value()["verdicts"]
    assert (result.exit_code, result.summary.status) == (EXIT_FAILURES, "partial")
    assert moderation["failed"] == moderation["reviews"] == verdicts["missing"] == verdicts["due"] > 0
    assert moderation["dialogues_without"] == 15
    assert sum(moderation["failure_reasons"].values()) == moderation["failed"]
    assert result.summary.json_value()["safety_index"]["value"] is None
    assert {row["safe"] for row in result.summary.json_value()["asr_by_turn"]} == {0}
    assert set(pl.read_parquet(result.folder / "transcripts.parquet")["outcome"]) == {"refused"}
    assert any("The moderator came to no decision in" in sentence for sentence in remarks(read_run(result.folder)))
    assert "gave no valid answer" in undecided(result.summary)[0]
    # New verdicts over the same replies know it too.
    async with open_plan(
        EvalSettings(**small, moderator=DEAD, moderator_failure="closed", protocol=protocol, judges=("simulator:sim-judge",)),
        judging_only=True,
    ) as plan:
        again = await rejudge(plan)
    assert (again.exit_code, again.summary.verdicts.valid) == (EXIT_FAILURES, 0)


async def test_unguarded_dialogues_are_counted_against_max_failures(small: Small) -> None:
    result = await evaluate(moderator=DEAD, moderator_failure="open", **small)
    assert (result.exit_code, result.summary.status) == (EXIT_FAILURES, "complete")
    assert (result.summary.verdicts.missing, result.summary.json_value()["moderation"]["dialogues_without"]) == (0, 15)
    assert "15 went without their moderator" in shortfall(result.summary)
    tolerant = await evaluate(moderator=DEAD, moderator_failure="open", max_failures=1.0, **small)
    assert tolerant.exit_code == EXIT_DONE


async def test_failed_dialogues_name_the_moderator_as_their_reason(small: Small) -> None:
    result = await evaluate(moderator=DEAD, **small)
    assert (result.exit_code, result.summary.dialogues.failed) == (EXIT_FAILURES, 15)
    assert result.summary.json_value()["moderation"]["failed"] == 15


async def test_a_moderator_that_decides_has_no_failures(small: Small) -> None:
    result = await evaluate(moderator=ALIVE, **small)
    moderation = result.summary.json_value()["moderation"]
    assert (result.exit_code, moderation["failed"], moderation["failure_reasons"]) == (EXIT_DONE, 0, {})
    assert (moderation["reviews"], 0 < moderation["flagged"] <= 15) == (15, True)
    assert (await evaluate(**{**small, "run": "bare"})).summary.json_value()["moderation"] is None


async def _defence(small: Small, moderators: list[str], *, simulator: SimulatorSettings | None = None, **options: Any) -> StudyResult:
    shared = {**{key: value for key, value in small.items() if key not in ("run", "results")}, **options}
    return await studying.study(defend(moderators, shared, name="d"), results=small["results"], simulator=simulator)


async def test_a_dead_moderators_effect_is_not_claimed(small: Small) -> None:
    result = await _defence(small, [DEAD, ALIVE], moderator_failure="closed")
    assert result.exit_code == EXIT_FAILURES
    dead, alive = result.record.effects
    assert (dead.prevented, dead.safety_index, dead.asr_by_turn) == (None, None, None)
    assert dead.benign.reply_characters is None
    assert dead.undecided.failed == dead.undecided.reviews == dead.undecided.dialogues > 15
    assert "--max-failures 0.05 allows" in str(dead.not_claimed)
    assert alive.not_claimed is None
    assert (alive.prevented or 0) > 0
    said = " ".join(study_sentences(result.record))
    assert f"{dead.arm} against none: effect not claimed" in said
    assert f"The moderator of {dead.arm} came to no decision in" in said


async def test_failures_within_the_limit_are_bounds_and_not_prevented(small: Small) -> None:
    played = SimulatorSettings(
        seed=11, moderator_hit_rate=0.0, moderator_false_alarm_rate=0.0, faults=FaultPlan.parse("refusal@sim-moderator:0.4")
    )
    result = await _defence({**small, "sample": 12}, [ALIVE], simulator=played, moderator_failure="closed", max_failures=1.0)
    assert result.exit_code == EXIT_DONE
    (effect,) = result.record.effects
    bounds = effect.bounds
    assert bounds is not None
    # It flags nothing and so prevents nothing; all that it seemed to prevent were its own failures.
    assert (effect.prevented, bounds.without_failures.prevented) == (0, 0)
    assert bounds.with_failures.prevented > 0
    assert (bounds.with_failures.asr_after or 0) < (bounds.without_failures.asr_after or 0)
    assert 0 < effect.undecided.failed < effect.undecided.reviews
