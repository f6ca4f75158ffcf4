"""Fault plans: how they are written, and that they play the asked share, the same every time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.errors import UsageError
from safemt_api.simulator import FAULTS, OUTCOME_FAULTS, TRANSIENT_FAULTS, Fault, FaultPlan


def test_a_plan_is_read_from_text() -> None:
    plan = FaultPlan.parse("error_500:0.1, stall:0.02,reset:first=2,content_filter@sim-b*:0.5")
    assert plan.faults == (
        Fault("error_500", 0.1),
        Fault("stall", 0.02),
        Fault("reset", first=2),
        Fault("content_filter", 0.5, model="sim-b*"),
    )
    assert FaultPlan.parse("") == FaultPlan()


FAULT = st.builds(Fault, st.sampled_from(FAULTS), st.floats(0.0, 0.05)) | st.builds(Fault, st.sampled_from(FAULTS), first=st.integers(1, 9))


@given(st.lists(FAULT, max_size=10))
def test_a_plan_survives_being_written_and_read(faults: list[Fault]) -> None:
    plan = FaultPlan(tuple(faults))
    assert FaultPlan.parse(str(plan)) == plan


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("error_501:0.1", "no fault called 'error_501'"),
        ("error_500", "write KIND:SHARE"),
        ("error_500:often", "write KIND:SHARE"),
        ("error_500:first=x", "write KIND:SHARE"),
        ("error_500:1.5", "between 0 and 1"),
        ("error_500:nan", "between 0 and 1"),
        ("error_500:first=-1", "must not be negative"),
        ("error_500:0.6,reset:0.6", "more than 1"),
    ],
)
def test_a_wrong_plan_is_told_plainly(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        FaultPlan.parse(text)


def test_shares_of_transient_faults_are_met_over_attempts() -> None:
    plan = FaultPlan.parse("error_500:0.1,stall:0.05,reset:0.15")
    drawn = [plan.transient(seed=1, model="sim-safe", body_digest=str(body), attempt=attempt) for body in range(2000) for attempt in (1, 2)]
    for kind, share in (("error_500", 0.1), ("stall", 0.05), ("reset", 0.15), (None, 0.7)):
        assert drawn.count(kind) / len(drawn) == pytest.approx(share, abs=0.02)


def test_a_retry_draws_anew_but_the_same_attempt_never_does() -> None:
    plan = FaultPlan.parse("error_500:0.5")
    drawn = [plan.transient(seed=0, model="m", body_digest="b", attempt=attempt) for attempt in range(1, 40)]
    assert set(drawn) == {None, "error_500"}
    assert drawn == [plan.transient(seed=0, model="m", body_digest="b", attempt=attempt) for attempt in range(1, 40)]


def test_outcome_faults_are_drawn_from_the_conversation_at_their_share() -> None:
    plan = FaultPlan.parse("content_filter:0.2,refusal:0.1,error_500:0.5")
    drawn = [plan.outcome(seed=0, model="sim-safe", user_texts=(f"text {i}",)) for i in range(2000)]
    assert drawn.count("content_filter") / 2000 == pytest.approx(0.2, abs=0.03)
    assert drawn.count("refusal") / 2000 == pytest.approx(0.1, abs=0.03)
    assert "error_500" not in drawn


def test_scripts_follow_one_another_and_mind_the_model() -> None:
    plan = FaultPlan.parse("reset:first=2,error_503:first=1,stall@sim-judge:first=1")
    assert [plan.scripted(model="sim-safe", attempt=attempt) for attempt in (1, 2, 3, 4)] == ["reset", "reset", "error_503", None]
    assert plan.scripted(model="sim-judge", attempt=4) == "stall"


def test_every_kind_belongs_to_one_family() -> None:
    assert not set(TRANSIENT_FAULTS) & set(OUTCOME_FAULTS)
    assert len(FAULTS) == len(set(FAULTS))
