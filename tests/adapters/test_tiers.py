"""Service tiers on the wire: flex is asked for, waited for, told apart from a pace, and the tier that served is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from safemt_api.adapters.base import Adapter
from safemt_api.errors import NoCapacityError, RateLimitedError, ServerError
from safemt_api.messages import Call

Connect = Callable[..., Adapter]
MakeCall = Callable[..., Call]

OPENAI = {"choices": [{"message": {"content": "Words."}, "finish_reason": "stop"}], "service_tier": "flex"}
GOOGLE = {"candidates": [{"content": {"parts": [{"text": "Words."}]}, "finishReason": "STOP"}]}
ANTHROPIC = {"content": [{"type": "text", "text": "Words."}], "stop_reason": "end_turn", "usage": {"service_tier": "batch"}}


def error(status: int, code: str, message: str) -> httpx2.Response:
    return httpx2.Response(status, json={"error": {"message": message, "code": code, "status": code}})


@pytest.mark.parametrize(("tier", "seconds"), [("flex", 900.0), ("standard", 120.0)])
async def test_flex_is_asked_of_openai_and_waited_for(connect: Connect, make_call: MakeCall, tier: Any, seconds: float) -> None:
    seen: list[httpx2.Request] = []

    def serve(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json=OPENAI)

    reply = (await connect("openai_chat", serve).send(replace(make_call(), service_tier=tier))).reply
    assert reply.served_tier == "flex"
    assert json.loads(seen[0].content).get("service_tier") == (tier if tier == "flex" else None)
    assert seen[0].extensions["timeout"]["read"] == seconds


async def test_flex_is_asked_of_google_and_read_from_its_header(connect: Connect, make_call: MakeCall) -> None:
    seen: list[httpx2.Request] = []

    def serve(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json=GOOGLE, headers={"x-gemini-service-tier": "FLEX"})

    reply = (await connect("google_genai", serve).send(replace(make_call(), service_tier="flex"))).reply
    assert reply.served_tier == "flex"
    assert json.loads(seen[0].content)["serviceTier"] == "flex"
    assert seen[0].headers["x-server-timeout"] == "900"
    assert seen[0].extensions["timeout"]["read"] == 900.0


@pytest.mark.parametrize(
    ("wire_format", "body", "tier"),
    [
        ("openai_chat", {**OPENAI, "service_tier": "default"}, "standard"),
        ("openai_chat", {**OPENAI, "service_tier": "priority"}, "priority"),
        ("openai_chat", {**OPENAI, "service_tier": None}, None),
        ("openai_chat", {**OPENAI, "service_tier": {"x": 1}}, None),
        ("anthropic_messages", ANTHROPIC, "batch"),
        ("google_genai", GOOGLE | {"usageMetadata": {"serviceTier": "standard"}}, "standard"),
        ("google_genai", GOOGLE, None),
    ],
)
async def test_the_tier_that_served_is_the_vendors_word(
    *, connect: Connect, make_call: MakeCall, wire_format: str, body: dict[str, Any], tier: str | None
) -> None:
    adapter = connect(wire_format, lambda _: httpx2.Response(200, json=body))
    assert (await adapter.send(make_call())).reply.served_tier == tier


@pytest.mark.parametrize(
    ("wire_format", "answer"),
    [
        ("openai_chat", error(429, "resource_unavailable", "Resource unavailable, try again later.")),
        ("openai_chat", error(429, "rate_limit_exceeded", "Resource unavailable for flex requests.")),
        ("openai_chat", error(498, "capacity_exceeded", "Flex tier capacity exceeded.")),
        ("google_genai", error(503, "UNAVAILABLE", "The model is overloaded.")),
    ],
)
async def test_a_refusal_of_flex_is_no_word_on_the_pace(
    connect: Connect, make_call: MakeCall, wire_format: str, answer: httpx2.Response
) -> None:
    adapter = connect(wire_format, lambda _: httpx2.Response(answer.status_code, content=answer.content))
    with pytest.raises(NoCapacityError) as caught:
        await adapter.send(replace(make_call(), service_tier="flex"))
    assert not caught.value.maybe_billed
    assert caught.value.__cause__ is None


async def test_a_pace_and_a_broken_server_stay_what_they_are(connect: Connect, make_call: MakeCall) -> None:
    flex = replace(make_call(), service_tier="flex")
    with pytest.raises(RateLimitedError):
        await connect("openai_chat", lambda _: error(429, "rate_limit_exceeded", "Rate limit reached for requests")).send(flex)
    with pytest.raises(ServerError):
        await connect("google_genai", lambda _: error(503, "UNAVAILABLE", "Down.")).send(make_call())
    with pytest.raises(ServerError):
        await connect("google_genai", lambda _: error(500, "INTERNAL", "Down.")).send(flex)
