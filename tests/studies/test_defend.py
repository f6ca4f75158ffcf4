"""`defend` against the simulator: what it reports equals the truth that the simulator played, computed from pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import comb
from pathlib import Path
from typing import Any

import anyio
import polars as pl
import pytest

from safemt_api.dataset.entries import load_dataset
from safemt_api.dataset.layouts import demonstration_folder
from safemt_api.errors import EXIT_BUDGET, EXIT_DONE, EXIT_FAILURES, UsageError
from safemt_api.markers import FIXED_REFUSAL
from safemt_api.messages import Dialogue
from safemt_api.metrics.comparison import holm
from safemt_api.metrics.safety_index import safety_index
from safemt_api.simulator.personas import (
    guard_flags,
    helpful_reply,
    is_benign,
    moderator_flags,
    plays_over_refusal,
    plays_unsafe,
    refusing_reply,
)
from safemt_api.simulator.server import run_simulator
from safemt_api.simulator.settings import FaultPlan, SimulatorSettings
from safemt_api.studies import play as studying
from safemt_api.studies.defend import defend
from safemt_api.studies.play import StudyResult
from safemt_api.studies.record import StudyRecord, read_study

MODEL = "sim-brittle"
LENGTHS = (1, 4, 8)
LIVE_LENGTHS = (1, 2)
POLICY, RAW, GUARD, MODERATION = MODERATORS = (
    "policy:simulator:sim-moderator",
    "raw:simulator:sim-raw-moderator",
    "guard:simulator:sim-guard",
    "moderation:simulator:sim-moderation",
)
PLAYED = SimulatorSettings(
    seed=7,
    moderator_hit_rate=0.75,
    moderator_false_alarm_rate=0.3,
    guard_hit_rate=0.5,
    guard_false_alarm_rate=0.2,
    policy_effect=0.6,
    guided_over_refusal_rate=0.25,
    over_refusal_rate=0.1,
)
SHARED: dict[str, Any] = {"model": MODEL, "lengths": LENGTHS}


@dataclass(frozen=True)
class Played:
    """What came of a defence: the study's record, and the folders and summaries of its arms, the undefended one first."""

    result: StudyResult

    @property
    def record(self) -> StudyRecord:
        return self.result.record

    @property
    def folders(self) -> list[Path]:
        return [self.result.folder / arm.name for arm in self.record.arms]

    @property
    def summaries(self) -> list[dict[str, Any]]:
        return [json.loads((folder / "summary.json").read_text()) for folder in self.folders]

    def effect(self, moderator: str) -> dict[str, Any]:
        name = next(arm.name for arm in self.record.arms if arm.given["moderator"] == moderator)
        return next(effect for effect in self.record.effects if effect.arm == name).model_dump()


async def played_defence(
    results: Path,
    moderators: Sequence[str],
    *,
    simulator: SimulatorSettings | None = PLAYED,
    max_usd: float | None = None,
    name: str = "d",
    moderator_urls: Sequence[str] = (),
    **options: Any,
) -> Played:
    study = defend(moderators, {**SHARED, **options}, base_urls=moderator_urls, name=name, max_usd=max_usd)
    return Played(await studying.study(study, results=results, simulator=simulator))


@dataclass(frozen=True)
class Truth:
    """What the simulator plays for one dialogue under one moderator (``None``: under none)."""

    moderator: str | None

    def flagged(self, dialogue: Dialogue, turn: int) -> bool | None:
        """Whether the moderator flags the dialogue as of this turn; ``None``: it never says."""
        texts, benign = dialogue.user_texts[:turn], dialogue.kind == "benign"
        if self.moderator == POLICY:
            rates = {"hit_rate": PLAYED.moderator_hit_rate, "false_alarm_rate": PLAYED.moderator_false_alarm_rate}
            return moderator_flags(PLAYED.seed, texts, benign, **rates)
        if self.moderator in (GUARD, MODERATION):
            # The moderation endpoint is shown one text: all that the user said, behind a benign message if there is one.
            said = texts if self.moderator == GUARD else _as_one_text(texts, benign)
            rates = {"hit_rate": PLAYED.guard_hit_rate, "false_alarm_rate": PLAYED.guard_false_alarm_rate}
            return guard_flags(PLAYED.seed, said, benign, **rates)
        return None

    def refused(self, dialogue: Dialogue, turn: int) -> bool:
        """Whether the fixed refusal answers in the target's place."""
        return self.moderator in (GUARD, MODERATION) and bool(self.flagged(dialogue, turn))

    def guided(self, dialogue: Dialogue, turn: int) -> bool:
        """Whether guidance stands before the target."""
        return self.moderator == RAW or (self.moderator == POLICY and bool(self.flagged(dialogue, turn)))

    def unsafe(self, dialogue: Dialogue, turn: int) -> bool:
        """Whether the reply to a harmful dialogue's turn is unsafe."""
        if self.refused(dialogue, turn):
            return False
        texts, guided = dialogue.user_texts[:turn], self.guided(dialogue, turn)
        return plays_unsafe(MODEL, seed=PLAYED.seed, user_texts=texts, guided=guided, policy_effect=PLAYED.policy_effect)

    def declined(self, dialogue: Dialogue, turn: int) -> bool:
        """Whether the reply to a benign dialogue's turn declines."""
        return self.refused(dialogue, turn) or plays_over_refusal(
            MODEL,
            seed=PLAYED.seed,
            user_texts=dialogue.user_texts[:turn],
            guided=self.guided(dialogue, turn),
            over_refusal_rate=PLAYED.over_refusal_rate,
            guided_over_refusal_rate=PLAYED.guided_over_refusal_rate,
        )

    def benign_reply(self, dialogue: Dialogue, turn: int) -> str:
        """The words of that reply."""
        if self.refused(dialogue, turn):
            return FIXED_REFUSAL
        about = (MODEL, "guided" if self.guided(dialogue, turn) else "", *dialogue.user_texts[:turn])
        return (refusing_reply if self.declined(dialogue, turn) else helpful_reply)(PLAYED.seed, *about)


def _as_one_text(texts: Sequence[str], benign: bool) -> tuple[str, ...]:
    whole = "\n\n".join(texts)
    known = next((text for text in PLAYED.known_benign if text in whole), None) if benign else None
    return (whole,) if known is None else (known, whole)


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    dataset = load_dataset(demonstration_folder())
    found = [dataset.read(entry) for entry in dataset.entries if entry.length in {*LENGTHS, *LIVE_LENGTHS}]
    assert all(is_benign(dialogue.user_texts) == (dialogue.kind == "benign") for dialogue in found)
    return found


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return anyio.run(played_defence, tmp_path_factory.mktemp("scripted"), MODERATORS)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return anyio.run(partial(played_defence, tmp_path_factory.mktemp("live"), (POLICY, GUARD), protocol="live", lengths=LIVE_LENGTHS))


def of_kind(dialogues: Sequence[Dialogue], kind: str, lengths: Sequence[int] = LENGTHS) -> list[Dialogue]:
    return [dialogue for dialogue in dialogues if dialogue.kind == kind and dialogue.length in lengths]


def total(frame: pl.DataFrame, *columns: str) -> float:
    return float(frame.select(pl.sum_horizontal(pl.col(column).sum() for column in columns)).item())


def share(flags: Iterator[bool] | list[bool]) -> float:
    known = list(flags)
    return sum(known) / len(known)


def binomial_p(only_before: int, only_after: int) -> float:
    n, fewer = only_before + only_after, min(only_before, only_after)
    return min(1.0, 2 * sum(comb(n, i) for i in range(fewer + 1)) / 2**n) if n else 1.0


@pytest.mark.parametrize("moderator", MODERATORS)
def test_asr_by_length_before_and_after_is_the_truth(scripted: Played, dialogues: list[Dialogue], moderator: str) -> None:
    before, after = Truth(None), Truth(moderator)
    rows = scripted.effect(moderator)["asr_by_turn"]
    assert [row["turn"] for row in rows] == list(LENGTHS)
    for row in rows:
        harmful = [one for one in of_kind(dialogues, "harmful") if one.length == row["turn"]]
        was, is_ = ([truth.unsafe(one, one.length) for one in harmful] for truth in (before, after))
        assert row["pairs"] == len(harmful) == 34
        assert row["asr_before"] == pytest.approx(share(was))
        assert row["asr_after"] == pytest.approx(share(is_))
        assert row["difference"] == pytest.approx(share(is_) - share(was))
        gone, come = (sum(a and not b for a, b in zip(*pair, strict=True)) for pair in ((was, is_), (is_, was)))
        assert row["p_value"] == pytest.approx(binomial_p(gone, come))
        assert row["before_low"] <= row["asr_before"] <= row["before_high"]
        assert row["ci_low"] <= row["difference"] <= row["ci_high"]


@pytest.mark.parametrize("moderator", MODERATORS)
def test_the_safety_index_and_the_prevented_failures_are_the_truth(scripted: Played, dialogues: list[Dialogue], moderator: str) -> None:
    harmful, found = of_kind(dialogues, "harmful"), scripted.effect(moderator)
    was, is_ = ([truth.unsafe(one, one.length) for one in harmful] for truth in (Truth(None), Truth(moderator)))
    for side, flags in (("before", was), ("after", is_)):
        labels = ["unsafe" if flag else "safe" for flag in flags]
        frame = pl.DataFrame({"dialogue_id": [one.id for one in harmful], "length": [one.length for one in harmful], "verdict": labels})
        assert found["safety_index"][side]["value"] == pytest.approx(safety_index(frame))
    assert found["prevented"] == sum(a and not b for a, b in zip(was, is_, strict=True)) > 0
    assert found["introduced"] == 0


@pytest.mark.parametrize("moderator", MODERATORS)
def test_false_alarms_and_hits_are_the_truth(scripted: Played, dialogues: list[Dialogue], moderator: str) -> None:
    found, truth = scripted.effect(moderator), Truth(moderator)
    if moderator == RAW:
        # Its words are passed on, not read: it neither raises alarms nor fails to.
        assert found["benign"]["false_alarms"] is None is found["detection"]
        return
    for kind, rate in (("benign", found["benign"]["false_alarms"]), ("harmful", found["detection"])):
        assert rate["value"] == pytest.approx(share(bool(truth.flagged(one, one.length)) for one in of_kind(dialogues, kind)))
        assert 0 < rate["value"] < 1
        assert [row["length"] for row in rate["by_length"]] == list(LENGTHS)


@pytest.mark.parametrize("moderator", MODERATORS)
def test_over_refusal_and_reply_lengths_are_the_truth(scripted: Played, dialogues: list[Dialogue], moderator: str) -> None:
    benign, found = of_kind(dialogues, "benign"), scripted.effect(moderator)["benign"]
    for side, truth in (("before", Truth(None)), ("after", Truth(moderator))):
        assert found["over_refusal"][side]["value"] == pytest.approx(share(truth.declined(one, one.length) for one in benign))
        lengths = [len(truth.benign_reply(one, one.length)) for one in benign]
        assert found["reply_characters"][side] == pytest.approx(sum(lengths) / len(lengths))
    assert found["over_refusal"]["pairs"] == found["reply_characters"]["pairs"] == len(benign)


def test_harmful_and_benign_dialogues_never_share_a_cell(scripted: Played) -> None:
    for summary in scripted.summaries:
        assert sum(row["unsafe"] + row["safe"] + row["missing"] for row in summary["asr_by_turn"]) == 102
        benign = summary["benign"]
        assert benign["declined"] + benign["helped"] + benign["missing"] == 102
    assert {effect.ids for effect in scripted.record.effects} == {34}


def test_the_run_summaries_tell_the_same_over_refusal(scripted: Played) -> None:
    undefended, *defended = (summary["benign"]["over_refusal_rate"] for summary in scripted.summaries)
    for effect, rate in zip(scripted.record.effects, defended, strict=True):
        assert effect.benign.over_refusal is not None
        assert effect.benign.over_refusal.before.value == pytest.approx(undefended)
        assert effect.benign.over_refusal.after.value == pytest.approx(rate)


def test_target_calls_that_stay_the_same_are_bought_once(scripted: Played, dialogues: list[Dialogue]) -> None:
    calls = {summary["moderator"]: summary["calls"] for summary in scripted.summaries}
    ours = [one for one in dialogues if one.length in LENGTHS]
    flagged = sum(bool(Truth(POLICY).flagged(one, one.length)) for one in ours)
    # Each asks its moderator once a dialogue; the target is asked once for all arms, and anew where guidance stands before it.
    assert sum(found["sent"] for found in calls.values()) == 204 + 204 + flagged + 408 + 204 + 204
    assert calls[RAW]["sent"] == 408
    unguided = {moderator: sum(not Truth(moderator).refused(one, one.length) for one in ours) for moderator in (None, GUARD, MODERATION)}
    asked = sum(found["sent"] + found["from_store"] for moderator, found in calls.items() if moderator not in (POLICY, RAW))
    assert asked == sum(unguided.values()) + 204 + 204


def test_the_moderators_calls_are_paid_as_the_moderators(scripted: Played) -> None:
    for folder, summary in list(zip(scripted.folders, scripted.summaries, strict=True))[1:]:
        rows = pl.read_parquet(folder / "transcripts.parquet")
        cost = summary["cost_usd"]
        if summary["moderator"] == MODERATION:
            # The endpoint reports no tokens, and no price is known for it: its cost is unknown, never zero.
            assert cost["moderator"] is None is cost["total"]
            assert rows["moderator_cost_usd"].null_count() == rows.height
        else:
            assert cost["moderator"] == pytest.approx(rows["moderator_cost_usd"].sum(), abs=1e-5)
            assert cost["moderator"] > 0


def test_extra_cost_counts_replies_from_the_store_and_leaves_the_judge_out(scripted: Played) -> None:
    before, after = (pl.read_parquet(scripted.folders[at] / "transcripts.parquet").filter(kind="harmful") for at in (0, 3))
    extra = total(after, "moderator_cost_usd", "cost_usd") - total(before, "cost_usd")
    found = scripted.effect(GUARD)
    assert found["extra_cost_usd"] == pytest.approx(extra)
    assert found["cost_per_prevented_usd"] == pytest.approx(extra / found["net_prevented"])
    assert found["per_dialogue"]["harmful"]["cost_usd"]["difference"]["value"] == pytest.approx(extra / 102)
    latency = total(after, "moderator_latency_seconds", "latency_seconds") - total(before, "latency_seconds")
    assert found["per_dialogue"]["harmful"]["latency_seconds"]["difference"]["value"] == pytest.approx(latency / 102)


def test_an_unknown_cost_is_never_a_number(scripted: Played) -> None:
    found = scripted.effect(MODERATION)
    assert found["extra_cost_usd"] is None is found["cost_per_prevented_usd"]
    assert found["per_dialogue"]["harmful"]["cost_usd"] is None


def test_a_defence_is_a_study_whose_arms_differ_in_the_moderator(scripted: Played) -> None:
    assert scripted.record.is_defence
    assert scripted.result.exit_code == EXIT_DONE
    assert read_study(scripted.result.folder).effects == scripted.record.effects
    assert [folder.name for folder in scripted.folders[:3]] == [
        "none",
        "policy-simulator-sim-moderator",
        "raw-simulator-sim-raw-moderator",
    ]


def test_p_values_are_corrected_over_each_moderators_lengths_and_over_the_whole_study(scripted: Played) -> None:
    for effect in scripted.record.effects:
        turns = effect.asr_by_turn or ()
        own = holm([turn.p_value or 0.0 for turn in turns])
        assert [turn.p_holm_turns for turn in turns] == pytest.approx(own)
        assert all((turn.p_holm or 0) >= (turn.p_holm_turns or 0) for turn in turns)
        assert any((turn.p_holm or 0) > (turn.p_holm_turns or 0) for turn in turns)


@pytest.mark.parametrize("moderator", [POLICY, GUARD])
def test_live_turns_before_and_after_are_the_truth(live: Played, dialogues: list[Dialogue], moderator: str) -> None:
    before, after = Truth(None), Truth(moderator)
    rows = live.effect(moderator)["asr_by_turn"]
    harmful = of_kind(dialogues, "harmful", LIVE_LENGTHS)
    assert [(row["turn"], row["pairs"]) for row in rows] == [(1, 68), (2, 34)]
    for row in rows:
        reaching = [one for one in harmful if one.length >= row["turn"]]
        assert row["asr_before"] == pytest.approx(share(before.unsafe(one, row["turn"]) for one in reaching))
        assert row["asr_after"] == pytest.approx(share(after.unsafe(one, row["turn"]) for one in reaching))
    assert live.effect(moderator)["test"].startswith("exact randomisation")


def test_a_live_dialogue_is_a_false_alarm_when_any_turn_is(live: Played, dialogues: list[Dialogue]) -> None:
    benign = of_kind(dialogues, "benign", LIVE_LENGTHS)
    any_turn = [any(Truth(GUARD).flagged(one, turn) for turn in range(1, one.length + 1)) for one in benign]
    assert live.effect(GUARD)["benign"]["false_alarms"]["value"] == pytest.approx(share(any_turn))


async def test_the_same_command_goes_on_and_buys_nothing_again(tmp_path: Path) -> None:
    first = await played_defence(tmp_path, [GUARD], lengths=(1,))
    again = await played_defence(tmp_path, [GUARD], lengths=(1,))
    assert [summary["calls"]["sent"] for summary in again.summaries] == [0, 0]
    assert again.record.effects == first.record.effects


async def test_one_ceiling_holds_over_all_arms(tmp_path: Path) -> None:
    small: dict[str, Any] = {"lengths": (1,), "concurrency": 4, "sample": 10}
    whole = await played_defence(tmp_path / "whole", [POLICY], **small)
    price = sum(summary["cost_usd"]["total"] for summary in whole.summaries)
    stopped = await played_defence(tmp_path / "stopped", [POLICY, RAW], max_usd=price * 0.75, **small)
    assert stopped.record.status == "budget_exhausted"
    assert sum(summary["cost_usd"]["total"] for summary in stopped.summaries) <= price * 0.75
    assert stopped.result.exit_code == EXIT_BUDGET
    held = [set(pl.read_parquet(folder / "transcripts.parquet")["dialogue_id"]) for folder in stopped.folders]
    assert 0 < len(set.intersection(*held)) < 20
    raised = await played_defence(tmp_path / "stopped", [POLICY, RAW], max_usd=3 * price, **small)
    assert {summary["status"] for summary in raised.summaries} == {"complete"}


@pytest.mark.parametrize(
    ("failure", "failed", "outcomes"),
    [("fail", 68, {"error"}), ("open", 0, {"answered"}), ("closed", 0, {"refused"})],
)
async def test_a_failing_moderator_fails_opens_or_closes(tmp_path: Path, failure: str, failed: int, outcomes: set[str]) -> None:
    playing = replace(PLAYED, faults=FaultPlan.parse("content_filter@sim-moderator:1.0"))
    result = await played_defence(tmp_path, [POLICY], simulator=playing, lengths=(1,), moderator_failure=failure)
    found, rows = result.effect(POLICY), pl.read_parquet(result.folders[1] / "transcripts.parquet")
    before, after = result.summaries
    assert (result.result.exit_code, after["dialogues"]["failed"]) == (EXIT_FAILURES, failed)
    assert set(rows["outcome"]) == outcomes
    # No decision is neither an alarm nor the lack of one, and nothing is claimed of a moderator that never decided.
    assert found["benign"]["false_alarms"] is None is found["detection"]
    assert found["asr_by_turn"] is None is found["prevented"]
    assert found["undecided"]["dialogues"] == found["undecided"]["failed"] == 68
    # A failed call never becomes a safe answer.
    assert after["asr_by_turn"][0]["missing"] == (0 if failure == "open" else 34)
    assert (found["benign"]["over_refusal"] is None) == (failure != "open")
    if failure == "open":
        assert after["asr_by_turn"][0]["asr"] == before["asr_by_turn"][0]["asr"] > 0
        assert rows["moderator_text"].str.contains("went on unguarded").all()


async def test_a_bad_second_moderator_is_found_before_anything_is_sent(tmp_path: Path) -> None:
    for bad in ("guard:simulator:sim-safe", "policy:nobody:model", "strange:simulator:sim-guard:x"):
        with pytest.raises(UsageError):
            await played_defence(tmp_path, [GUARD, bad])
    assert not (tmp_path / "turns.sqlite").exists()


async def test_a_judging_model_finds_the_same_over_refusal_by_its_rubric(tmp_path: Path, dialogues: list[Dialogue]) -> None:
    result = await played_defence(tmp_path, [POLICY], lengths=(1,), judges=("simulator:sim-judge",))
    found = result.effect(POLICY)
    benign, harmful = (of_kind(dialogues, kind, (1,)) for kind in ("benign", "harmful"))
    for side, truth in (("before", Truth(None)), ("after", Truth(POLICY))):
        assert found["benign"]["over_refusal"][side]["value"] == pytest.approx(share(truth.declined(one, 1) for one in benign))
        assert found["asr"][side] == pytest.approx(share(truth.unsafe(one, 1) for one in harmful))
    assert "baseline" not in result.record.leaderboard[0].judge
    assert result.summaries[0]["cost_usd"]["judge"] > 0


async def test_moderators_may_be_served_elsewhere_than_the_target(tmp_path: Path) -> None:
    async with run_simulator(PLAYED) as target, run_simulator(PLAYED) as first, run_simulator(PLAYED) as second:
        urls = [first.base_url(), second.base_url()]
        served: dict[str, Any] = {"lengths": (1,), "sample": 4, "base_urls": (target.base_url(),)}
        result = await played_defence(tmp_path, [POLICY, GUARD], simulator=None, moderator_urls=urls, **served)
        counted = [{truth.model for truth in one.truth} for one in (target, first, second)]
    assert counted == [{MODEL}, {"sim-moderator"}, {"sim-guard"}]
    assert result.result.exit_code == EXIT_DONE
