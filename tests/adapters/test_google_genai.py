"""generateContent through the real SDK: what is sent, and what every kind of reply becomes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from safemt_api.adapters.base import Adapter
from safemt_api.adapters.google_genai import build_config, split_version
from safemt_api.errors import AccountError, DialogueError, RateLimitedError, ServerError, StopRunError, UsageError
from safemt_api.messages import Call, Outcome, Parameters, Schema, Usage
from safemt_api.profiles import Profile

Connect = Callable[..., Adapter]
Serve = Callable[..., Any]
MakeCall = Callable[..., Call]

USAGE = {
    "promptTokenCount": 300,
    "cachedContentTokenCount": 100,
    "candidatesTokenCount": 10,
    "thoughtsTokenCount": 30,
    "totalTokenCount": 340,
}


def generated(text: str | None = "A blue square.", finish_reason: str | None = "STOP", **extra: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0, "finishReason": finish_reason}
    if text is not None:
        candidate["content"] = {"role": "model", "parts": [{"text": "plot", "thought": True}, {"text": text}]}
    return {"candidates": [candidate], "usageMetadata": USAGE, "modelVersion": "m-1-2026", "responseId": "resp-1", **extra}


def failed(code: int, status: str, said: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": said, "status": status, "details": list(details)}}


def quota(quota_id: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota_id}]}


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "46s"}


def sent(server: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(server.requests[-1].content)
    return body


async def test_an_answer_comes_back_with_all_that_is_known_of_it(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    reply = (await connect("google_genai", serve(generated())).send(make_call())).reply
    assert (reply.outcome, reply.text, reply.finish_reason) == (Outcome.ANSWERED, "A blue square.", "STOP")
    assert (reply.served_model, reply.request_id) == ("m-1-2026", "resp-1")
    assert reply.usage == Usage(input_tokens=300, cached_input_tokens=100, output_tokens=40, reasoning_tokens=30)
    assert reply.raw is not None
    assert json.loads(reply.raw) == generated()


async def test_the_request_holds_what_was_asked_for_and_nothing_else(connect: Connect, serve: Serve, make_call: MakeCall, key: str) -> None:
    server = serve(generated())
    await connect("google_genai", server).send(make_call(system="Be kind."))
    body = sent(server)
    assert {name for name, value in body.items() if value} == {"contents", "systemInstruction"}
    assert body["systemInstruction"]["parts"] == [{"text": "Be kind."}]
    picture, words = body["contents"][0]["parts"]  # the SDK writes mime_type; the API reads both spellings
    assert picture["inlineData"] == {"data": "iVBORyBieXRlcw==", "mime_type": "image/png"}
    assert words == {"text": "What is this?"}
    assert [content["role"] for content in body["contents"]] == ["user", "model", "user"]
    assert server.requests[0].url == "https://api.example.test/v1/models/m-1:generateContent"
    assert server.requests[0].headers["x-goog-api-key"] == key


async def test_parameters_go_out_only_where_the_model_takes_them(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    asked = Parameters(max_output_tokens=64, temperature=0.0, top_p=0.5, seed=7)
    server = serve(generated())
    await connect("google_genai", server).send(make_call(parameters=asked))
    assert sent(server)["generationConfig"] == {"maxOutputTokens": 64}
    await connect("google_genai", server, facts={"takes": ("temperature", "seed")}).send(make_call(parameters=asked))
    assert sent(server)["generationConfig"] == {"maxOutputTokens": 64, "temperature": 0.0, "seed": 7}


async def test_schema_and_extras_reach_the_server(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(generated())
    facts = {"extra_body": {"safetySettings": [{"category": "X", "threshold": "OFF"}]}, "extra_headers": {"x-model": "1"}}
    adapter = connect("google_genai", server, facts=facts, extra_headers={"x-vendor": "2"})
    await adapter.send(make_call(schema=Schema("verdict", {"type": "object"})))
    body = sent(server)
    assert body["generationConfig"]["responseMimeType"] == "application/json"
    assert body["generationConfig"]["responseJsonSchema"] == {"type": "object"}
    assert body["safetySettings"] == [{"category": "X", "threshold": "OFF"}]
    headers = server.requests[0].headers
    assert (headers["x-model"], headers["x-vendor"]) == ("1", "2")


async def test_continuation_tokens_are_not_followed(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    body = generated("Par", "CONTINUATION")
    body["candidates"][0]["continuationToken"] = "dG9rZW4="
    server = serve(body)
    reply = (await connect("google_genai", server).send(make_call())).reply
    assert (reply.outcome, reply.text, len(server.requests)) == (Outcome.TRUNCATED, "Par", 1)


def test_everything_automatic_is_switched_off(make_call: MakeCall, make_profile: Callable[..., Profile]) -> None:
    config = build_config(make_call(), make_profile("google_genai"))
    assert config.automatic_continuation is False
    assert config.automatic_function_calling is not None
    assert config.automatic_function_calling.disable is True


async def test_the_shared_client_is_used_even_where_aiohttp_is_installed(
    connect: Connect, serve: Serve, make_call: MakeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("google.genai._api_client.has_aiohttp", True)
    server = serve(generated())
    await connect("google_genai", server).send(make_call())
    assert len(server.requests) == 1


async def test_the_sdk_sends_each_call_once_and_lets_httpx_errors_through(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(failed(503, "UNAVAILABLE", "The model is overloaded."), 503)
    with pytest.raises(ServerError):
        await connect("google_genai", server).send(make_call())
    assert len(server.requests) == 1


async def test_timeouts_are_ours_and_the_server_is_told_seconds(connect: Connect, make_call: MakeCall) -> None:
    seen: dict[str, Any] = {}

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.update(request.extensions["timeout"], told=request.headers["x-server-timeout"])
        return httpx2.Response(200, json=generated())

    await connect("google_genai", handler).send(make_call())
    assert seen == {"connect": 10.0, "read": 120.0, "write": 120.0, "pool": None, "told": "600"}


@pytest.mark.parametrize(
    ("body", "outcome", "text", "detail"),
    [
        (
            {
                "promptFeedback": {"blockReason": "SAFETY", "safetyRatings": [{"category": "HARM_CATEGORY_X", "blocked": True}]},
                "usageMetadata": {"promptTokenCount": 9},
            },
            Outcome.BLOCKED_INPUT,
            "",
            "HARM_CATEGORY_X",
        ),
        ({"promptFeedback": {"blockReason": "BRAND_NEW"}}, Outcome.BLOCKED_INPUT, "", "BRAND_NEW"),
        (generated(None, "SAFETY"), Outcome.BLOCKED_OUTPUT, "", None),
        (generated("Par", "PROHIBITED_CONTENT"), Outcome.BLOCKED_OUTPUT, "Par", "stopped after these words"),
        (generated(None, "SPII"), Outcome.BLOCKED_OUTPUT, "", None),
        (generated(None, "OTHER"), Outcome.TRUNCATED, "", None),
        (generated("Par", "RECITATION"), Outcome.TRUNCATED, "Par", None),
        (generated("Par", "MAX_TOKENS"), Outcome.TRUNCATED, "Par", None),
        (generated(None, "MAX_TOKENS"), Outcome.TRUNCATED, "", None),
        (generated("Yes", "BRAND_NEW_REASON"), Outcome.ANSWERED, "Yes", None),
        (generated("Yes", None), Outcome.ANSWERED, "Yes", None),
    ],
)  # fmt: skip (a table)
async def test_every_way_to_end_a_reply_is_an_outcome_and_nothing_warns(
    *, connect: Connect, serve: Serve, make_call: MakeCall, body: Any, outcome: Outcome, text: str, detail: str | None
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reply = (await connect("google_genai", serve(body)).send(make_call())).reply
    assert (reply.outcome, reply.text, reply.detail) == (outcome, text, detail)


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (200, generated(None, "PUP_LIMITED_DISABLED"), AccountError, "safety reasons"),
        (200, generated(""), ServerError, "empty"),
        (200, generated(None, "MALFORMED_RESPONSE"), ServerError, "MALFORMED_RESPONSE"),
        (200, {"candidates": [], "usageMetadata": USAGE}, ServerError, "empty"),
        (200, {"candidates": "x", "promptFeedback": 3}, ServerError, "empty"),
        (200, {}, ServerError, "not a JSON object"),
        (200, "", ServerError, "not a JSON object"),
        (200, "<html>", ServerError, "not a JSON object"),
        (200, [], ServerError, "not a JSON object"),
        (200, failed(503, "UNAVAILABLE", "Overloaded"), ServerError, "Overloaded"),
        (
            400,
            failed(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", {"reason": "API_KEY_INVALID"}),
            AccountError,
            "check ACME_API_KEY",
        ),
        (400, failed(400, "FAILED_PRECONDITION", "User location is not supported for the API use."), AccountError, "location"),
        (400, failed(400, "INVALID_ARGUMENT", "Unable to process input image."), DialogueError, "image"),
        (
            400,
            failed(400, "INVALID_ARGUMENT", 'Invalid JSON payload received. Unknown name "responseJsonSchema"'),
            StopRunError,
            "Unknown name",
        ),
        (403, failed(403, "PERMISSION_DENIED", "Denied."), AccountError, "ACME_API_KEY"),
        (404, failed(404, "NOT_FOUND", "models/m-1 is not found for API version v1"), AccountError, "'m-1'"),
        (
            429,
            failed(
                429,
                "RESOURCE_EXHAUSTED",
                "You exceeded your current quota, please check your plan and billing details.",
                quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
                RETRY_INFO,
            ),
            AccountError,
            "daily quota",
        ),
        (
            429,
            failed(429, "RESOURCE_EXHAUSTED", "Quota exceeded for metric: x, limit: 0, model: m-1", RETRY_INFO),
            AccountError,
            "daily quota",
        ),
        (500, failed(500, "INTERNAL", "An internal error has occurred."), ServerError, "internal error"),
        (500, {"error": "a string"}, ServerError, "a string"),
        (500, [{"error": {"code": 500, "message": "in a list"}}], ServerError, "in a list"),
        (500, [1, 2], ServerError, "HTTP 500"),
        (500, b"\xff\xfe\x00bad", ServerError, "acme"),
        (302, "", StopRunError, "no such path"),
    ],
)  # fmt: skip (a table)
async def test_failures_are_told_apart(
    *, connect: Connect, serve: Serve, make_call: MakeCall, status: int, body: Any, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        await connect("google_genai", serve(body, status)).send(make_call())


async def test_a_quota_per_minute_is_pace_and_its_retry_info_is_read(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    said = "You exceeded your current quota, please check your plan and billing details."
    body = failed(429, "RESOURCE_EXHAUSTED", said, quota("GenerateRequestsPerMinutePerProject"), RETRY_INFO)
    with pytest.raises(RateLimitedError) as caught:
        await connect("google_genai", serve(body, 429)).send(make_call())
    assert caught.value.retry_after_seconds == 46.0


async def test_no_variable_of_the_sdk_leaks_in(
    *, connect: Connect, serve: Serve, make_call: MakeCall, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION"):
        monkeypatch.setenv(name, "leak-leak-leak")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "beta")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "https://leak.test")
    server = serve(generated())
    await connect("google_genai", server, key=None).send(make_call())
    assert server.requests[0].url == "https://api.example.test/v1/models/m-1:generateContent"
    assert "leak" not in str(server.requests[0].headers.multi_items())
    assert not caplog.records


@pytest.mark.parametrize(
    ("address", "split"),
    [
        ("https://x.test", ("https://x.test", "v1")),
        ("https://x.test/v1beta", ("https://x.test", "v1beta")),
        ("http://127.0.0.1:8000/api/v1", ("http://127.0.0.1:8000/api", "v1")),
        ("https://x.test/vision", ("https://x.test/vision", "v1")),
    ],
)
def test_an_address_may_name_the_api_version(address: str, split: tuple[str, str]) -> None:
    assert split_version(address) == split


async def test_extra_query_is_refused_rather_than_dropped(connect: Connect, serve: Serve) -> None:
    with pytest.raises(UsageError, match="extra_query"):
        connect("google_genai", serve({}), extra_query={"a": "b"})


async def test_thinking_and_filters_are_set_where_asked_for(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(generated())
    adapter = connect("google_genai", server)
    await adapter.send(make_call(parameters=Parameters(effort="minimal", safety_threshold="block_only_high")))
    body = sent(server)
    assert body["generationConfig"]["thinkingConfig"] == {"thinking_level": "MINIMAL"}  # the SDK writes it so; the API reads both forms
    assert {one["category"].removeprefix("HARM_CATEGORY_") for one in body["safetySettings"]} == {
        "HARASSMENT",
        "HATE_SPEECH",
        "SEXUALLY_EXPLICIT",
        "DANGEROUS_CONTENT",
    }
    assert {one["threshold"] for one in body["safetySettings"]} == {"BLOCK_ONLY_HIGH"}
    await adapter.send(make_call(parameters=Parameters(safety_threshold="off")))
    assert {one["threshold"] for one in sent(server)["safetySettings"]} == {"OFF"}
    await adapter.send(make_call())
    assert "safetySettings" not in sent(server)
