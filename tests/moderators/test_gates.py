"""Moderators that open or shut."""

from __future__ import annotations

from typing import Any

import pytest

from safemt_api.markers import FIXED_REFUSAL


@pytest.mark.parametrize(
    ("model", "unsafe", "safe"),
    [
        ("llama-guard-4-12b", "\n\nunsafe\nS2", "\n\nsafe"),
        ("shieldgemma-2b", "Yes", "No"),
        ("qwen3guard-gen-8b", "Safety: Unsafe\nCategories: Violent", "Safety: Safe\nCategories: None"),
        (
            "wildguard",
            "Harmful request: yes\nResponse refusal: n/a\nHarmful response: n/a",
            "Harmful request: no\nResponse refusal: n/a\nHarmful response: n/a",
        ),
    ],
)
async def test_an_unsafe_user_side_is_answered_with_the_fixed_refusal(
    review: Any, scripted: Any, model: str, unsafe: str, safe: str
) -> None:
    shut = await review(f"guard:openai:{model}", scripted([unsafe]))
    assert (shut.flagged, shut.refusal, shut.policy, shut.text) == (True, FIXED_REFUSAL, None, unsafe)
    assert (shut.latency_seconds, shut.cost_usd) == (0.5, 0.01)
    opened = await review(f"guard:openai:{model}", scripted([safe]))
    assert (opened.flagged, opened.refusal, opened.policy) == (False, None, None)


async def test_a_guard_is_shown_the_dialogue_up_to_the_pending_message(review: Any, scripted: Any) -> None:
    asker = scripted(["safe"])
    await review("guard:openai:llama-guard-4-12b", asker)
    (call,) = asker.calls
    assert [message.role for message in call.messages] == ["user", "assistant", "user"]
    assert len(call.messages[0].images) == 1
    assert call.purpose == "moderator"


@pytest.mark.parametrize(("flagged", "refusal"), [("true", FIXED_REFUSAL), ("false", None)])
async def test_moderation_sees_all_the_user_said_with_the_picture(review: Any, scripted: Any, flagged: str, refusal: str | None) -> None:
    asker = scripted([f'{{"flagged": {flagged}, "categories": {{"violence": {flagged}}}, "scores": {{}}}}'])
    guidance = await review("moderation:openai", asker)
    (call,) = asker.calls
    assert (call.route.wire_format, call.route.model) == ("openai_moderation", "omni-moderation-latest")
    assert call.messages[0].text == 'Hello.\n\nAnd "then"?'
    assert len(call.messages[0].images) == 1
    assert guidance.refusal == refusal
    assert guidance.intent == ("violence" if refusal else "")
