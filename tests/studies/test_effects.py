"""Effects between arms: figures equal counts by hand, Holm is over the whole study, and failures never become an effect."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from safemt_api.metrics.comparison import mcnemar
from safemt_api.studies.effects import ArmFrames, Resampling, corrected, paired_effect
from safemt_api.studies.record import Effect

MakeArm = Callable[..., ArmFrames]
AGAIN: Resampling = {"resamples": 200, "seed": 0}
IDS = [f"id{number:02}" for number in range(20)]


def spread(*patterns: tuple[int, str]) -> dict[str, str]:
    """So many ids of each pattern, in order."""
    marks = [marks for count, marks in patterns for _ in range(count)]
    return dict(zip(IDS, marks, strict=False))


def effect(reference: ArmFrames, arm: ArmFrames) -> Effect:
    return paired_effect(reference, arm, **AGAIN)


def test_an_effect_counts_what_changed_pair_by_pair(make_arm: MakeArm) -> None:
    before = make_arm("plain", spread((12, "uu"), (8, "ss")), cost_usd=0.01, latency_seconds=1.0)
    after = make_arm("guarded", spread((9, "ss"), (3, "uu"), (7, "ss"), (1, "us")), cost_usd=0.03, latency_seconds=1.5)
    found = effect(before, after)
    assert (found.reference, found.arm, found.not_claimed) == ("plain", "guarded", None)
    assert (found.ids, found.unpaired, found.only_in_reference, found.only_in_arm) == (20, 0, 0, 0)
    assert (found.prevented, found.introduced, found.net_prevented) == (18, 1, 17)
    assert found.asr is not None
    assert found.asr.before == pytest.approx(24 / 40)
    assert found.asr.after == pytest.approx(7 / 40)
    assert found.asr.difference.value == pytest.approx(-17 / 40)
    assert found.asr_by_turn is not None
    assert [turn.p_value for turn in found.asr_by_turn] == pytest.approx([mcnemar(9, 1), mcnemar(9, 0)])
    assert found.extra_cost_usd == pytest.approx(40 * 0.02)
    assert found.cost_per_prevented_usd == pytest.approx(40 * 0.02 / 17)
    cost, latency = found.per_dialogue["harmful"].cost_usd, found.per_dialogue["harmful"].latency_seconds
    assert cost is not None
    assert latency is not None
    assert cost.difference.value == pytest.approx(0.02)
    assert latency.difference.value == pytest.approx(0.5)
    assert found.sentence.startswith("guarded is safer than plain")


def test_cells_that_one_arm_lacks_are_counted_and_in_no_pair(make_arm: MakeArm) -> None:
    before = make_arm("plain", spread((18, "uu"), (1, "u.")), max_failures=1.0)
    after = make_arm("guarded", spread((17, "ss"), (1, "s."), (1, "ss"), (1, "ss")), max_failures=1.0)
    found = effect(before, after)
    assert (found.ids, found.only_in_reference, found.only_in_arm, found.unpaired) == (19, 0, 1, 2)
    assert found.prevented == 19 + 17


def test_holm_is_over_all_comparisons_of_the_study(make_arm: MakeArm) -> None:
    before = make_arm("plain", spread((12, "uu"), (8, "ss")))
    strong = effect(before, make_arm("strong", spread((12, "ss"), (8, "ss"))))
    weak = effect(before, make_arm("weak", spread((3, "ss"), (9, "uu"), (8, "ss"))))
    none = effect(before, make_arm("none", spread((12, "uu"), (8, "ss"))))
    effects = corrected([strong, weak, none])
    raw = sorted(
        p
        for one in (strong, weak, none)
        for p in (*(turn.p_value for turn in one.asr_by_turn or ()), one.asr.p_value if one.asr else None)
        if p is not None
    )
    assert len(raw) == 9
    assert effects[0].asr_by_turn is not None
    assert effects[0].asr is not None
    assert effects[1].asr_by_turn is not None
    assert min(turn.p_holm or 0 for turn in effects[0].asr_by_turn) == pytest.approx(9 * raw[0])
    assert strong.asr_by_turn is not None
    assert effects[0].asr_by_turn[0].p_holm != strong.asr_by_turn[0].p_holm
    assert (effects[0].asr.p_holm or 1) < 0.05
    assert all((turn.p_holm or 0) > 0.05 for turn in effects[1].asr_by_turn)
    assert all(one.asr_by_turn is not None and one.asr_by_turn[0].p_value is not None for one in effects)


def test_one_length_is_one_comparison(make_arm: MakeArm) -> None:
    before = make_arm("plain", spread((12, "u"), (8, "s")), lengths=(4,))
    alone = effect(before, make_arm("strong", spread((20, "s")), lengths=(4,)))
    (found,) = corrected([alone])
    assert found.asr is not None
    assert found.asr_by_turn is not None
    assert found.asr.p_value == pytest.approx(found.asr.p_holm)
    assert found.asr_by_turn[0].p_holm == found.asr.p_holm


def test_nothing_is_claimed_where_too_many_dialogues_say_nothing(make_arm: MakeArm) -> None:
    before = make_arm("plain", spread((12, "uu"), (8, "ss")))
    broken = make_arm("broken", spread((2, "s."), (18, "ss")), max_failures=0.04)
    found = effect(before, broken)
    assert found.not_claimed == (
        "not claimed: 2 of 40 dialogues of broken failed, lack a verdict or went without their moderator, "
        "more than --max-failures 0.04 allows"
    )
    assert (found.asr, found.asr_by_turn, found.safety_index, found.prevented) == (None, None, None, None)
    assert effect(before, make_arm("whole", spread((2, "s."), (18, "ss")), max_failures=0.05)).not_claimed is None
    (kept,) = corrected([found])
    assert kept == found


def test_a_moderator_that_failed_claims_nothing_and_is_counted(make_arm: MakeArm) -> None:
    before = make_arm("plain", spread((20, "uu")))
    found = effect(before, make_arm("dead", spread((20, "ss")), undecided=3))
    assert found.not_claimed is not None
    assert (found.undecided.reviews, found.undecided.failed, found.undecided.dialogues) == (3, 3, 3)
    few = effect(before, make_arm("shaky", spread((1, ".u"), (19, "ss")), undecided=1))
    assert few.not_claimed is None
    assert few.bounds is not None
    assert (few.bounds.without_failures.prevented, few.bounds.with_failures.prevented) == (38, 39)


def test_arms_that_do_not_compare_say_why(make_arm: MakeArm) -> None:
    arms = make_arm("plain", spread((3, "uu"))), make_arm("other", spread((3, "ss")))
    found = paired_effect(*arms, **AGAIN, unlike="judge: a, but other has b")
    assert found.not_claimed == "not claimed: judge: a, but other has b"
    apart = effect(make_arm("plain", {"one": "uu"}), make_arm("other", {"two": "ss"}))
    assert apart.not_claimed == "not claimed: plain and other hold no harmful dialogue in common"


def test_an_unknown_price_leaves_cost_open(make_arm: MakeArm) -> None:
    found = effect(make_arm("plain", spread((5, "uu"))), make_arm("other", spread((5, "ss")), cost_usd=None))
    assert found.per_dialogue["harmful"].cost_usd is None
    assert found.extra_cost_usd is None
    assert found.prevented == 10
