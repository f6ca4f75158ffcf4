"""What a run does when its judge is dead, dies under way, or misses verdicts; over real sockets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from safemt_api.errors import JudgeSilentError, JudgeUnfitError
from safemt_api.evaluation import evaluate, open_plan
from safemt_api.judges.preflight import EXAMPLES
from safemt_api.messages import Answer, Call, Outcome, Reply
from safemt_api.runs.connections import judges_of
from safemt_api.runs.record import read_run
from safemt_api.runs.rejudge import rejudge
from safemt_api.runs.settings import EvalSettings
from safemt_api.runs.summary import Costs
from safemt_api.simulator import SimulatorSettings
from safemt_api.simulator.settings import FaultPlan
from safemt_api.store.turns import STORE_FILE, open_store

SEED = 11
Small = dict[str, Any]


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """Options of a small run."""
    return {"model": "sim-brittle", "lengths": (1, 2, 4), "sample": 5, "seed": SEED, "results": tmp_path / "results", "run": "small"}


JUDGE = "simulator:sim-judge"
KEY = ("dialogue_id", "length", "turn")


async def test_a_dead_judge_keeps_the_run_from_starting(small: Small) -> None:
    # The target's persona answers as a target: no word of it is a verdict.
    with pytest.raises(JudgeUnfitError, match=r"sim-safe cannot be relied on: .* it said .*simulated"):
        await evaluate(judges=("simulator:sim-safe",), **small)
    folder = small["results"] / small["run"]
    assert not list(folder.glob("*.json")) + list(folder.glob("*.parquet")) + list(folder.glob("*.rows"))
    async with (
        open_plan(EvalSettings(**small, judges=("simulator:sim-safe",)), judging_only=True) as plan,
        open_store(plan.settings.results / STORE_FILE) as store,
    ):
        models = store.read(lambda connection: [json.loads(row[0])["model"] for row in connection.execute("SELECT request FROM replies")])
    assert set(models) == {"sim-safe"}


async def test_a_judge_is_tried_once_for_all_runs(small: Small) -> None:
    first = await evaluate(judges=(JUDGE,), **small)
    assert (first.summary.calls.sent, first.summary.verdicts.valid) == (15 + 15 + 2, 15)
    second = await evaluate(judges=(JUDGE,), **{**small, "run": "second"})
    assert (second.summary.calls.sent, second.summary.calls.from_store) == (0, 32)


async def judge_that_dies(small: Small, share: float) -> SimulatorSettings:
    """A simulator whose judge passes its trial and then declines that share of all replies."""
    words: list[tuple[str, ...]] = []

    class Listener:
        async def ask(self, call: Call) -> Answer:
            words.append(tuple(message.text for message in call.messages))
            return Answer(Reply(Outcome.ERROR))

    async with open_plan(EvalSettings(**small, judges=(JUDGE,))) as plan:
        for example in EXAMPLES["harmful"]:
            await judges_of(plan, Listener())[0].judge(example.exhibit)
    faults = FaultPlan.parse(f"refusal@sim-judge:{share}")
    fits = (seed for seed in range(100_000) if not any(faults.outcome(seed=seed, model="sim-judge", user_texts=text) for text in words))
    return SimulatorSettings(seed=next(fits), faults=faults)


async def test_a_judge_that_dies_under_way_ends_the_run_with_its_last_words(small: Small) -> None:
    dying = await judge_that_dies(small, 0.99)
    result = await evaluate(judges=(JUDGE,), simulator=dying, **{**small, "sample": 20, "concurrency": 4})
    assert isinstance(result.stopped_by, JudgeSilentError)
    assert (result.exit_code, result.summary.status) == (1, "partial")
    assert "sim-judge gave no answer (refused)" in str(result.stopped_by)
    assert result.summary.dialogues.finished < 30
    # The same command asks the judge again before it gives up once more.
    again = await evaluate(judges=(JUDGE,), simulator=dying, **{**small, "sample": 20, "concurrency": 4})
    assert isinstance(again.stopped_by, JudgeSilentError)


async def test_missing_verdicts_count_as_failures(small: Small) -> None:
    ill = await judge_that_dies(small, 0.4)
    result = await evaluate(judges=(JUDGE,), simulator=ill, **small)
    verdicts = result.summary.json_value()["verdicts"]
    assert (result.exit_code, result.summary.status, result.summary.dialogues.failed) == (
        4,
        "partial",
        0,
    )
    assert verdicts["due"] == 15 == verdicts["valid"] + verdicts["missing"]
    assert (
        sum(verdicts["missing_reasons"].values())
        == verdicts["missing"]
        == sum(row["missing"] for row in result.summary.json_value()["asr_by_turn"])
        > 0
    )
    assert all("gave no answer (refused)" in reason for reason in verdicts["missing_reasons"])
    tolerant = await evaluate(judges=(JUDGE,), simulator=ill, **{**small, "max_failures": 1.0})
    assert (tolerant.exit_code, tolerant.summary.status) == (0, "complete")


async def test_new_verdicts_make_a_run_whole_or_leave_it_wanting(small: Small) -> None:
    ill = await judge_that_dies(small, 0.4)
    assert (await evaluate(judges=(JUDGE,), simulator=ill, **small)).summary.status == "partial"
    async with open_plan(EvalSettings(**small, judges=("rules",)), simulator=ill, judging_only=True) as plan:
        healed = await rejudge(plan)
    assert (healed.exit_code, healed.summary.status, healed.summary.verdicts.missing) == (
        0,
        "complete",
        0,
    )
    async with open_plan(EvalSettings(**small, judges=(JUDGE,)), simulator=ill, judging_only=True) as plan:
        again = await rejudge(plan)
    assert (again.exit_code, again.summary.status) == (4, "partial")
    assert again.summary.verdicts.missing > 0
    kept = (again.folder / "verdicts.parquet").read_bytes()
    async with open_plan(EvalSettings(**small, judges=("simulator:sim-safe",)), simulator=ill, judging_only=True) as plan:
        with pytest.raises(JudgeUnfitError):
            await rejudge(plan)
    assert (again.folder / "verdicts.parquet").read_bytes() == kept


@pytest.mark.parametrize("max_failures", [0.05, 1.0])
async def test_a_server_that_answers_nothing_is_no_complete_run(small: Small, max_failures: float) -> None:
    silent = SimulatorSettings(seed=SEED, faults=FaultPlan.parse("too_long:1.0"))
    # Whoever lets all dialogues fail has still not measured anything.
    result = await evaluate(simulator=silent, **small, max_failures=max_failures)
    assert (result.exit_code, result.summary.status, result.summary.verdicts.valid) == (4, "partial", 0)


async def test_a_second_judge_is_asked_about_what_the_first_calls_unsafe_alone(small: Small) -> None:
    alone = await evaluate(judges=("simulator:sim-judge-noisy",), **small)
    wholly = await evaluate(judges=(JUDGE,), **{**small, "run": "wholly"})
    result = await evaluate(judges=("simulator:sim-judge-noisy",), escalate=JUDGE, **{**small, "run": "cascade"})
    assert result.summary.judge == "simulator:sim-judge-noisy then simulator:sim-judge"
    verdicts = pl.read_parquet(result.folder / "verdicts.parquet")
    first = pl.read_parquet(alone.folder / "verdicts.parquet")
    asked_twice = verdicts.filter(~pl.col("counts"), pl.col("judge") == JUDGE)
    assert 0 < asked_twice.height == first.filter(pl.col("label") == "unsafe").height < first.height
    # Whoever of the two is wrong, an attack counts only where both say so.
    both = first.join(pl.read_parquet(wholly.folder / "verdicts.parquet"), on=KEY, suffix="_second")
    agreed = (pl.col("label") == "unsafe") & (pl.col("label_second") == "unsafe")
    expected = both.select(*KEY, said=pl.when(agreed).then(pl.lit("unsafe")).otherwise(pl.lit("safe")))
    final = verdicts.filter("counts").select(*KEY, said="label")
    assert final.sort(KEY).equals(expected.sort(KEY))
    # Every reply of both judges was bought before.
    assert result.summary.calls.sent == 0


async def test_only_the_last_turns_of_a_live_run_may_be_judged_and_the_others_later(small: Small) -> None:
    options = {**small, "lengths": (1, 2, 4), "protocol": "live", "judges": (JUDGE,)}
    every = await evaluate(**{**options, "run": "every"})
    last = await evaluate(judge_turns="last", **options)
    assert last.summary.calls.sent == 0
    asked = [pl.read_parquet(one.folder / "verdicts.parquet").drop("run").sort(*KEY) for one in (every, last)]
    assert [frame.height for frame in asked] == [5 * (1 + 2 + 4), 5 * 3]
    assert asked[1].equals(asked[0].filter(pl.col("turn") == pl.col("length")))
    assert (last.summary.status, last.summary.verdicts.due, last.summary.verdicts.missing) == ("complete", 15, 0)
    assert last.summary.safety_index == every.summary.safety_index
    assert [(row.turn, row.unsafe + row.safe, row.missing, row.cumulative_asr) for row in last.summary.asr_by_turn] == [
        (turn, 5, 0, None) for turn in (1, 2, 4)
    ]
    assert read_run(last.folder).summary.asr_by_turn == last.summary.asr_by_turn
    settings = EvalSettings(**options)
    async with open_plan(settings, judging_only=True) as plan:
        again = await rejudge(plan)
    assert [row.cumulative_asr for row in again.summary.asr_by_turn] == [row.cumulative_asr for row in every.summary.asr_by_turn]


async def test_new_verdicts_keep_what_the_targets_tier_saved_and_tell_anew_what_the_judges_did(small: Small) -> None:
    options = {**small, "tier": "flex"}
    first = (await evaluate(judges=(JUDGE,), **options)).summary.cost_usd
    saved = {purpose: one.tiers_usd for purpose, one in first.saved_by_purpose.items()}
    assert saved["target"] > 0
    assert saved["judge"] > 0
    assert sum(saved.values()) == pytest.approx(first.saved_usd, abs=1e-5)

    async def judged_by(judge: str) -> Costs:
        async with open_plan(EvalSettings(**options, judges=(judge,)), judging_only=True) as plan:
            return (await rejudge(plan)).summary.cost_usd

    by_rules = await judged_by("rules")
    assert by_rules.saved_usd == pytest.approx(saved["target"], abs=1e-5)
    # The words of before are in the store, and are as cheap as they were.
    again = await judged_by(JUDGE)
    assert again.saved_usd == pytest.approx(first.saved_usd, abs=1e-5)
    assert again.saved_by_purpose["judge"].tiers_usd == pytest.approx(saved["judge"], abs=1e-5)
