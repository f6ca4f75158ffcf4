"""A moderator that fails must not look like one that works; over real sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from safemt_api.cli.running import shortfall, undecided
from safemt_api.defence import defend
from safemt_api.evaluation import evaluate, open_plan
from safemt_api.messages import Protocol
from safemt_api.report.arm_tables import undecided_sentences
from safemt_api.report.reading import read_run, remarks
from safemt_api.runs.execution import EXIT_DONE, EXIT_FAILURES
from safemt_api.runs.rejudging import rejudge
from safemt_api.runs.settings import EvalSettings
from safemt_api.simulator import SimulatorSettings
from safemt_api.simulator.faults import FaultPlan

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
    moderation, verdicts = result.summary["moderation"], result.summary["verdicts"]
    assert (result.exit_code, result.summary["status"]) == (EXIT_FAILURES, "partial")
    assert moderation["failed"] == moderation["reviews"] == verdicts["missing"] == verdicts["due"] > 0
    assert moderation["dialogues_without"] == 15
    assert sum(moderation["failure_reasons"].values()) == moderation["failed"]
    assert result.summary["safety_index"]["value"] is None
    assert {row["safe"] for row in result.summary["asr_by_turn"]} == {0}
    assert set(pl.read_parquet(result.folder / "transcripts.parquet")["outcome"]) == {"refused"}
    assert any("The moderator came to no decision in" in sentence for sentence in remarks(read_run(result.folder)))
    assert "gave no valid answer" in undecided(result.summary)[0]
    # New verdicts over the same replies know it too.
    async with open_plan(
        EvalSettings(**small, moderator=DEAD, moderator_failure="closed", protocol=protocol, judges=("simulator:sim-judge",)),
        judging_only=True,
    ) as plan:
        again = await rejudge(plan)
    assert (again.exit_code, again.summary["verdicts"]["valid"]) == (EXIT_FAILURES, 0)


async def test_unguarded_dialogues_are_counted_against_max_failures(small: Small) -> None:
    result = await evaluate(moderator=DEAD, moderator_failure="open", **small)
    assert (result.exit_code, result.summary["status"]) == (EXIT_FAILURES, "complete")
    assert (result.summary["verdicts"]["missing"], result.summary["moderation"]["dialogues_without"]) == (0, 15)
    assert "15 went without their moderator" in shortfall(result.summary)
    tolerant = await evaluate(moderator=DEAD, moderator_failure="open", max_failures=1.0, **small)
    assert tolerant.exit_code == EXIT_DONE


async def test_failed_dialogues_name_the_moderator_as_their_reason(small: Small) -> None:
    result = await evaluate(moderator=DEAD, **small)
    assert (result.exit_code, result.summary["dialogues"]["failed"]) == (EXIT_FAILURES, 15)
    assert result.summary["moderation"]["failed"] == 15


async def test_a_moderator_that_decides_has_no_failures(small: Small) -> None:
    result = await evaluate(moderator=ALIVE, **small)
    moderation = result.summary["moderation"]
    assert (result.exit_code, moderation["failed"], moderation["failure_reasons"]) == (EXIT_DONE, 0, {})
    assert (moderation["reviews"], 0 < moderation["flagged"] <= 15) == (15, True)
    assert (await evaluate(**{**small, "run": "bare"})).summary["moderation"] is None


async def test_a_dead_moderators_effect_is_not_claimed(small: Small) -> None:
    settings = EvalSettings(**small, moderator_failure="closed")
    result = await defend(settings, moderators=[DEAD, ALIVE])
    assert result.exit_code == EXIT_FAILURES
    assert result.record is not None
    dead, alive = result.record["moderators"]
    assert (dead["prevented"], dead["safety_index"], dead["asr_by_turn"]) == (None, None, None)
    assert dead["benign"]["reply_characters"] is None
    assert dead["undecided"]["failed"] == dead["undecided"]["reviews"] == dead["undecided"]["dialogues"] > 15
    assert "--max-failures 0.05 allows" in dead["not_claimed"]
    assert alive["not_claimed"] is None
    assert alive["prevented"] > 0
    (sentence, count) = undecided_sentences(result.record)
    assert "not claimed" in sentence
    assert "came to no decision" in count


async def test_failures_within_the_limit_are_bounds_and_not_prevented(small: Small) -> None:
    played = SimulatorSettings(
        seed=11, moderator_hit_rate=0.0, moderator_false_alarm_rate=0.0, faults=FaultPlan.parse("refusal@sim-moderator:0.4")
    )
    settings = EvalSettings(**{**small, "sample": 12}, moderator_failure="closed", max_failures=1.0)
    result = await defend(settings, moderators=[ALIVE], simulator=played)
    assert (result.exit_code, result.record is not None) == (EXIT_DONE, True)
    (arm,) = (result.record or {})["moderators"]
    # It flags nothing and so prevents nothing; all that it seemed to prevent were its own failures.
    assert (arm["prevented"], arm["bounds"]["without_failures"]["prevented"]) == (0, 0)
    assert arm["bounds"]["with_failures"]["prevented"] > 0
    assert arm["bounds"]["with_failures"]["asr_after"] < arm["bounds"]["without_failures"]["asr_after"]
    assert 0 < arm["undecided"]["failed"] < arm["undecided"]["reviews"]
