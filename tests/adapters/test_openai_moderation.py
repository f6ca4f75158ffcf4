"""The moderation endpoint through the real SDK."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from safemt_api.adapters.base import Adapter
from safemt_api.errors import AccountError, ServerError
from safemt_api.messages import Call, Outcome

RESULT = {"flagged": True, "categories": {"violence": True, "hate": False}, "category_scores": {"violence": 0.93, "hate": 0.01}}
BODY = {"id": "modr-1", "model": "omni-moderation-latest", "results": [RESULT]}


async def test_words_and_picture_are_classified_together(
    connect: Callable[..., Adapter], serve: Callable[..., Any], make_call: Callable[..., Call]
) -> None:
    server = serve(BODY)
    reply = (await connect("openai_moderation", server).send(make_call(model="omni-moderation-latest"))).reply
    assert reply.outcome is Outcome.ANSWERED
    assert json.loads(reply.text) == {
        "flagged": True,
        "categories": {"violence": True, "hate": False},
        "scores": {"violence": 0.93, "hate": 0.01},
    }
    sent = json.loads(server.requests[0].content)
    assert server.requests[0].url == "https://api.example.test/v1/moderations"
    assert [part["type"] for part in sent["input"]] == ["image_url", "text", "text", "text"]
    assert sent["input"][0]["image_url"]["url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize("body", [{}, {"results": []}, {"results": [{"flagged": None}]}, "<html>", {"results": "x"}])
async def test_a_reply_without_a_verdict_is_never_taken_for_harmless(
    connect: Callable[..., Adapter], serve: Callable[..., Any], make_call: Callable[..., Call], body: Any
) -> None:
    with pytest.raises(ServerError):
        await connect("openai_moderation", serve(body)).send(make_call())


async def test_its_failures_go_through_the_same_door(
    connect: Callable[..., Adapter], serve: Callable[..., Any], make_call: Callable[..., Call]
) -> None:
    with pytest.raises(AccountError, match="ACME_API_KEY"):
        await connect("openai_moderation", serve({"error": {"message": "no"}}, 401)).send(make_call())
