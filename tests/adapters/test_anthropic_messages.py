"""Anthropic messages through the real SDK: what is sent, and what every kind of reply becomes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from safemt_api.adapters.base import DEFAULT_MAX_OUTPUT_TOKENS, Adapter, Timeouts, open_adapter
from safemt_api.errors import AccountError, DialogueError, PictureTooLargeError, ServerError, StopRunError
from safemt_api.messages import Call, Outcome, Parameters, Schema, Usage
from safemt_api.profiles import Profile

Connect = Callable[..., Adapter]
Serve = Callable[..., Any]
MakeCall = Callable[..., Call]

USAGE = {
    "input_tokens": 20,
    "cache_read_input_tokens": 100,
    "cache_creation_input_tokens": 5,
    "output_tokens": 40,
    "output_tokens_details": {"thinking_tokens": 30},
}  # fmt: skip (a table)


def message(text: str | None = "A blue square.", stop_reason: str | None = "end_turn", **extra: Any) -> dict[str, Any]:
    content = [] if text is None else [{"type": "text", "text": text, "citations": None}]
    body = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1-2026", "content": content, "stop_reason": stop_reason}
    return {**body, "stop_sequence": None, "usage": USAGE, **extra}


def error(kind: str, said: str, **details: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": said, "details": details or None}, "request_id": "req_1"}


def sent(server: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(server.requests[-1].content)
    return body


async def test_an_answer_comes_back_with_all_that_is_known_of_it(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    headers = {"request-id": "req_1", "anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "49"}
    received = await connect("anthropic_messages", serve(message(), headers=headers)).send(make_call())
    reply = received.reply
    assert (reply.outcome, reply.text, reply.finish_reason) == (Outcome.ANSWERED, "A blue square.", "end_turn")
    assert (reply.served_model, reply.request_id) == ("m-1-2026", "req_1")
    assert reply.usage == Usage(input_tokens=125, cached_input_tokens=100, cache_write_tokens=5, output_tokens=40, reasoning_tokens=30)
    assert reply.raw is not None
    assert json.loads(reply.raw) == message()
    assert [(quota.kind, quota.limit, quota.remaining) for quota in received.quotas] == [("requests", 50, 49)]


async def test_the_request_holds_what_was_asked_for_and_nothing_else(connect: Connect, serve: Serve, make_call: MakeCall, key: str) -> None:
    server = serve(message())
    await connect("anthropic_messages", server).send(make_call(system="Be kind."))
    body = sent(server)
    assert set(body) == {"model", "messages", "max_tokens", "system"}
    assert (body["system"], body["max_tokens"]) == ("Be kind.", DEFAULT_MAX_OUTPUT_TOKENS)
    picture, words = body["messages"][0]["content"]
    assert picture["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORyBieXRlcw=="}
    assert words == {"type": "text", "text": "What is this?"}
    assert body["messages"][1:] == [{"role": "assistant", "content": "A square."}, {"role": "user", "content": "And now?"}]
    assert server.requests[0].url == "https://api.example.test/v1/messages"
    assert server.requests[0].headers["authorization"] == f"Bearer {key}"


async def test_a_picture_is_never_scaled_down_in_silence(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(message())
    await connect("anthropic_messages", server).send(make_call())
    assert sent(server)["messages"][0]["content"][0]["transformations"] == {"oversized_image": "error"}


async def test_no_sampling_parameter_goes_out_under_todays_version(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(message())
    await connect("anthropic_messages", server).send(make_call(parameters=Parameters(64, 0.0, 0.5, 7)))
    assert set(sent(server)) == {"model", "messages", "max_tokens"}
    assert sent(server)["max_tokens"] == 64
    assert server.requests[0].headers["anthropic-version"] == "2026-10-21"


async def test_older_models_get_temperature_with_the_older_version(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(message())
    facts = {"takes": ("temperature",), "extra_headers": {"anthropic-version": "2023-06-01"}}
    await connect("anthropic_messages", server, facts=facts).send(make_call(parameters=Parameters(temperature=0.0, seed=3)))
    assert sent(server)["temperature"] == 0.0
    assert "seed" not in sent(server)
    assert server.requests[0].headers["anthropic-version"] == "2023-06-01"


async def test_a_long_limit_does_not_trip_the_sdks_own_refusal(
    serve: Serve, make_call: MakeCall, make_profile: Callable[..., Profile]
) -> None:
    call = make_call(parameters=Parameters(max_output_tokens=60_000))
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(serve(message()))) as plain_client:
        adapter = open_adapter(
            profile=make_profile("anthropic_messages"),
            wire_format="anthropic_messages",
            base_url="https://api.example.test",
            api_key=None,
            client=plain_client,
            timeouts=Timeouts(),
        )
        assert (await adapter.send(call)).reply.outcome is Outcome.ANSWERED


async def test_a_schema_is_sent_as_output_config(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(message())
    await connect("anthropic_messages", server).send(make_call(schema=Schema("verdict", {"type": "object"})))
    assert sent(server)["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("body", "outcome", "text", "detail"),
    [
        (
            message(None, "refusal", stop_details={"type": "refusal", "category": "bio", "explanation": "Not allowed."}),
            Outcome.REFUSED,
            "",
            "bio: Not allowed.",
        ),
        (message("I can", "refusal", stop_details=None), Outcome.REFUSED, "I can", "stopped after these words"),
        (message("Par", "max_tokens"), Outcome.TRUNCATED, "Par", None),
        (message(None, "max_tokens"), Outcome.TRUNCATED, "", None),
        (message("Par", "model_context_window_exceeded"), Outcome.TRUNCATED, "Par", None),
        (message("Yes", "stop_sequence"), Outcome.ANSWERED, "Yes", None),
        (message("Yes", "brand_new"), Outcome.ANSWERED, "Yes", None),
        (
            message(
                content=[{"type": "thinking", "thinking": "plot", "signature": "s"}, {"type": "text", "text": "Yes"}, {"type": "brand_new"}]
            ),
            Outcome.ANSWERED,
            "Yes",
            None,
        ),
    ],
)  # fmt: skip (a table)
async def test_every_way_to_end_a_reply_is_an_outcome(
    *, connect: Connect, serve: Serve, make_call: MakeCall, body: Any, outcome: Outcome, text: str, detail: str | None
) -> None:
    reply = (await connect("anthropic_messages", serve(body)).send(make_call())).reply
    assert (reply.outcome, reply.text, reply.detail) == (outcome, text, detail)


async def test_an_output_blocked_with_a_400_is_an_outcome(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    body = error("invalid_request_error", "Output blocked by content filtering policy")
    reply = (await connect("anthropic_messages", serve(body, 400)).send(make_call())).reply
    assert (reply.outcome, reply.usage) == (Outcome.BLOCKED_OUTPUT, None)


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (
            400,
            error("invalid_request_error", "Your organization is under review.", error_code="organization_on_hold"),
            AccountError,
            "on hold",
        ),
        (400, error("invalid_request_error", "Your credit balance is too low to access the API"), AccountError, "no credit"),
        (429, error("rate_limit_error", "Limit.", error_code="enforced_spend_limit_reached"), AccountError, "spending limit"),
        (429, error("rate_limit_error", "Limit.", error_code="contract_spend_limit_reached"), AccountError, "spending limit"),
        (402, error("billing_error", "Pay."), AccountError, "no credit"),
        (401, error("authentication_error", "invalid x-api-key"), AccountError, "check ACME_API_KEY"),
        (404, error("not_found_error", "model: m-1"), AccountError, "does not know the model 'm-1'"),
        (400, error("invalid_request_error", "temperature: Extra inputs are not permitted"), StopRunError, "temperature"),
        (400, error("invalid_request_error", "`temperature` is deprecated for this model."), StopRunError, "deprecated"),
        (
            400,
            error("invalid_request_error", "Too big", error_code="image_dimensions_too_large", max_side_length_pixels=8000),
            PictureTooLargeError,
            "Too big",
        ),
        (400, error("invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum"), DialogueError, "too long"),
        (413, error("request_too_large", "Request exceeds the maximum size"), DialogueError, "maximum size"),
        (529, error("overloaded_error", "Overloaded"), ServerError, "Overloaded"),
        (200, error("overloaded_error", "Overloaded"), ServerError, "Overloaded"),
        (200, message(None), ServerError, "empty"),
        (200, message(content=None), ServerError, "no content"),
        (200, message(content="text"), ServerError, "no content"),
        (200, "<html>", ServerError, "not a JSON object"),
        (200, [], ServerError, "not a JSON object"),
        (500, {"error": "a string"}, ServerError, "a string"),
        (500, [1, 2], ServerError, "HTTP 500"),
        (400, b"\xff\xff", DialogueError, "rejects"),
    ],
)  # fmt: skip (a table)
async def test_failures_are_told_apart(
    *, connect: Connect, serve: Serve, make_call: MakeCall, status: int, body: Any, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        await connect("anthropic_messages", serve(body, status)).send(make_call())
    assert type(caught.value) is kind


async def test_the_sdk_sends_each_call_once(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(error("overloaded_error", "x"), 529, {"x-should-retry": "true", "retry-after": "0"})
    with pytest.raises(ServerError):
        await connect("anthropic_messages", server).send(make_call())
    assert len(server.requests) == 1


async def test_no_credential_search_and_no_variable_of_the_sdk_leaks_in(
    *, connect: Connect, serve: Serve, make_call: MakeCall, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "default.json").write_text("{broken")
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE", "ANTHROPIC_IDENTITY_TOKEN"):
        monkeypatch.setenv(name, "leak-leak-leak")
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://leak.test")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-leak: leak")
    server = serve(message())
    await connect("anthropic_messages", server, key=None, base_url="https://api.example.test/v1").send(make_call())
    request = server.requests[0]
    assert request.url == "https://api.example.test/v1/messages"
    assert "leak" not in str(request.headers.multi_items())


async def test_effort_stands_beside_the_schema(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(message())
    adapter, schema = connect("anthropic_messages", server), Schema("verdict", {"type": "object"})
    await adapter.send(make_call(parameters=Parameters(effort="max"), schema=schema))
    config = json.loads(server.requests[-1].content)["output_config"]
    assert config == {"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}}
    await adapter.send(make_call(parameters=Parameters(effort="low")))
    assert json.loads(server.requests[-1].content)["output_config"] == {"effort": "low"}
