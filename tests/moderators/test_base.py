"""A moderator's failure is never silent."""

from __future__ import annotations

from typing import Any

import pytest

from safemt_api.errors import AccountError, DialogueError
from safemt_api.markers import FIXED_REFUSAL
from safemt_api.messages import DECLINED, Outcome, Reply

SPECS = ["policy:openai:any", "raw:openai:any", "guard:openai:llama-guard-4", "moderation:openai"]
FAILURES = [
    DialogueError("too long"),
    *(Reply(outcome, "safe", detail="why") for outcome in sorted(DECLINED)),
    Reply(Outcome.ERROR),
    " \n",
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_by_default_the_dialogue_fails_visibly(review: Any, scripted: Any, spec: str, failure: Any) -> None:
    with pytest.raises(DialogueError, match=rf"moderator {spec} failed on dialogue mm_fraud_1: .*--moderator-failure"):
        await review(spec, scripted([failure]))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_open_goes_on_unguarded_and_says_so(review: Any, scripted: Any, spec: str, failure: Any) -> None:
    guidance = await review(spec, scripted([failure]), failure="open")
    assert (guidance.flagged, guidance.policy, guidance.refusal) == (None, None, None)
    assert "The moderator failed (" in guidance.text
    assert "went on unguarded" in guidance.text


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_closed_answers_with_the_fixed_refusal(review: Any, scripted: Any, spec: str, failure: Any) -> None:
    guidance = await review(spec, scripted([failure]), failure="closed")
    assert (guidance.flagged, guidance.policy, guidance.refusal) == (None, None, FIXED_REFUSAL)
    assert "answered with the fixed refusal" in guidance.text


async def test_what_failing_cost_is_recorded(review: Any, scripted: Any) -> None:
    guidance = await review("openai:any", scripted(["?"]), failure="open")
    assert guidance.cost_usd == pytest.approx(0.03)
    assert guidance.latency_seconds == pytest.approx(1.5)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("failure", ["fail", "open", "closed"])
async def test_what_stops_the_run_goes_through(review: Any, scripted: Any, spec: str, failure: str) -> None:
    with pytest.raises(AccountError):
        await review(spec, scripted([AccountError("bad key")]), failure=failure)
