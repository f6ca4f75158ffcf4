"""Chat completions through the real SDK: what is sent, and what every kind of reply becomes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from safemt_api.adapters.base import Adapter, unsupported_parameters
from safemt_api.errors import AccountError, DialogueError, RateLimitedError, ServerError, StopRunError
from safemt_api.messages import Call, Outcome, Parameters, Schema, Usage, user
from safemt_api.profiles import Profile

Connect = Callable[..., Adapter]
Serve = Callable[..., Any]
MakeCall = Callable[..., Call]

USAGE = {
    "prompt_tokens": 120,
    "completion_tokens": 40,
    "total_tokens": 160,
    "prompt_tokens_details": {"cached_tokens": 100},
    "completion_tokens_details": {"reasoning_tokens": 30},
}  # fmt: skip (a table)


def completion(message: dict[str, Any] | None = None, finish_reason: str | None = "stop", **extra: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "A blue square.", "refusal": None, **(message or {})}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m-1-2026", "choices": [choice], "usage": USAGE}
    return {**body, **extra}


def sent(server: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(server.requests[-1].content)
    return body


async def test_an_answer_comes_back_with_all_that_is_known_of_it(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    headers = {"x-request-id": "req_1", "x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499"}
    received = await connect("openai_chat", serve(completion(), headers=headers)).send(make_call())
    reply = received.reply
    assert (reply.outcome, reply.text, reply.finish_reason) == (Outcome.ANSWERED, "A blue square.", "stop")
    assert (reply.served_model, reply.request_id, reply.cost_usd) == ("m-1-2026", "req_1", None)
    assert reply.usage == Usage(input_tokens=120, cached_input_tokens=100, output_tokens=40, reasoning_tokens=30)
    assert reply.raw is not None
    assert json.loads(reply.raw) == completion()
    assert reply.latency_seconds >= 0
    assert (received.quotas[0].kind, received.quotas[0].limit, received.quotas[0].remaining) == ("requests", 500, 499)


async def test_the_request_holds_what_was_asked_for_and_nothing_else(connect: Connect, serve: Serve, make_call: MakeCall, key: str) -> None:
    server = serve(completion())
    await connect("openai_chat", server).send(make_call(system="Be kind."))
    body = sent(server)
    assert set(body) == {"model", "messages"}
    assert body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORyBieXRlcw=="}},
                {"type": "text", "text": "What is this?"},
            ],
        },
        {"role": "assistant", "content": "A square."},
        {"role": "user", "content": "And now?"},
    ]
    assert server.requests[0].url == "https://api.example.test/v1/chat/completions"
    assert server.requests[0].headers["authorization"] == f"Bearer {key}"


async def test_parameters_go_out_only_where_the_model_takes_them(
    *, connect: Connect, serve: Serve, make_call: MakeCall, make_profile: Callable[..., Profile]
) -> None:
    asked = Parameters(max_output_tokens=64, temperature=0.0, top_p=0.5, seed=7)
    server = serve(completion())
    await connect("openai_chat", server).send(make_call(parameters=asked))
    assert set(sent(server)) == {"model", "messages", "max_tokens"}
    facts = {"takes": ("temperature", "seed"), "max_output_parameter": "max_completion_tokens"}
    await connect("openai_chat", server, facts=facts).send(make_call(parameters=asked))
    body = sent(server)
    assert (body["temperature"], body["seed"], body["max_completion_tokens"]) == (0.0, 7, 64)
    assert not {"top_p", "max_tokens"} & set(body)
    assert unsupported_parameters(make_profile("openai_chat", facts=facts), "m-1", asked) == ("top_p",)
    assert unsupported_parameters(make_profile("openai_chat"), "m-1", Parameters(max_output_tokens=1)) == ()


async def test_profile_extras_reach_the_server(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(completion())
    facts = {"extra_body": {"reasoning_effort": "low"}, "extra_headers": {"x-model": "1"}}
    extras = {"extra_query": {"api-version": "v1"}, "extra_headers": {"x-vendor": "2"}, "system_role": "developer"}
    await connect("openai_chat", server, facts=facts, **extras).send(make_call(system="s"))
    request = server.requests[0]
    assert (request.headers["x-model"], request.headers["x-vendor"], request.url.params["api-version"]) == ("1", "2", "v1")
    assert (sent(server)["reasoning_effort"], sent(server)["messages"][0]["role"]) == ("low", "developer")


async def test_a_schema_is_sent_only_to_models_that_keep_to_it(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    schema = Schema("verdict", {"type": "object"})
    server = serve(completion())
    await connect("openai_chat", server).send(make_call(schema=schema))
    assert sent(server)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "schema": {"type": "object"}, "strict": True},
    }
    await connect("openai_chat", server, structured_output=False).send(make_call(schema=schema))
    assert "response_format" not in sent(server)


@pytest.mark.parametrize(
    ("body", "outcome", "text", "detail"),
    [
        (completion({"content": None, "refusal": "I can't help."}), Outcome.REFUSED, "I can't help.", "I can't help."),
        (completion({"content": "Part"}, "content_filter"), Outcome.BLOCKED_OUTPUT, "Part", "stopped after these words"),
        (
            completion({"content": "Sure: …", "refusal": "I can't help."}),
            Outcome.REFUSED,
            "Sure: …",
            "stopped after these words: I can't help.",
        ),
        (completion({"content": " \n", "refusal": "I can't help."}), Outcome.REFUSED, "I can't help.", "I can't help."),
        (completion({"content": None}, "content_filter: OTHER"), Outcome.BLOCKED_OUTPUT, "", None),
        (completion({"content": "Par"}, "length"), Outcome.TRUNCATED, "Par", None),
        (completion({"content": None}, "length"), Outcome.TRUNCATED, "", None),
        (completion({"content": "Hm."}, "brand_new"), Outcome.ANSWERED, "Hm.", None),
        (completion({"content": "Hm."}, None), Outcome.ANSWERED, "Hm.", None),
        (completion({"content": "Yes", "reasoning": "secret thought", "reasoning_content": "another"}), Outcome.ANSWERED, "Yes", None),
        (completion({"content": "<think>plot</think>\n\nYes"}), Outcome.ANSWERED, "Yes", None),
        (completion({"content": "<think>plot"}, "length"), Outcome.TRUNCATED, "", None),
        (completion({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Yes"}]}), Outcome.ANSWERED, "Yes", None),
        (
            completion(
                choices=[
                    {
                        "message": {"content": ""},
                        "finish_reason": "content_filter",
                        "content_filter_results": {"hate": {"filtered": True}, "sexual": {"filtered": False}},
                    }
                ]
            ),
            Outcome.BLOCKED_OUTPUT,
            "",
            "hate",
        ),
    ],
)  # fmt: skip (a table)
async def test_every_way_to_end_a_reply_is_an_outcome(
    *, connect: Connect, serve: Serve, make_call: MakeCall, body: Any, outcome: Outcome, text: str, detail: str | None
) -> None:
    reply = (await connect("openai_chat", serve(body)).send(make_call())).reply
    assert (reply.outcome, reply.text, reply.detail) == (outcome, text, detail)


AZURE_FILTER = {
    "error": {
        "message": "The response was filtered due to the prompt triggering the content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {
                "hate": {"filtered": False, "severity": "safe"},
                "violence": {"filtered": True, "severity": "medium"},
            },
        },
    }
}  # fmt: skip (a table)


@pytest.mark.parametrize(
    ("status", "body", "outcome", "detail"),
    [
        (400, AZURE_FILTER, Outcome.BLOCKED_INPUT, "violence"),
        (
            400,
            {
                "error": {
                    "message": "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
                    "type": "invalid_request_error",
                    "param": None,
                    "code": "invalid_prompt",
                }
            },
            Outcome.BLOCKED_INPUT,
            "flagged",
        ),
        (400, {"error": {"message": "Rejected.", "code": "content_policy_violation"}}, Outcome.BLOCKED_INPUT, "Rejected."),
        (400, {"error": {"message": "This was flagged for cyber risk.", "code": "cyber_policy"}}, Outcome.BLOCKED_INPUT, "cyber"),
        (
            400,
            {"error": {"message": "Input data may contain inappropriate content.", "code": "data_inspection_failed"}},
            Outcome.BLOCKED_INPUT,
            "Input data",
        ),
        (
            400,
            {"error": {"message": "Output data may contain inappropriate content.", "code": "data_inspection_failed"}},
            Outcome.BLOCKED_OUTPUT,
            "Output data",
        ),
        (
            403,
            {
                "error": {
                    "code": 403,
                    "message": "Your chosen model requires moderation and your input was flagged",
                    "metadata": {"reasons": ["violence"], "flagged_input": "how to…", "provider_name": "X"},
                }
            },
            Outcome.BLOCKED_INPUT,
            "violence",
        ),
        (
            200,
            {"error": {"code": 403, "message": "Flagged", "metadata": {"reasons": ["hate"], "flagged_input": "x"}}},
            Outcome.BLOCKED_INPUT,
            "hate",
        ),
        (
            400,
            {"error": {"message": "Could not finish the message because max_tokens or model output limit was reached."}},
            Outcome.TRUNCATED,
            "Could not finish",
        ),
    ],
)  # fmt: skip (a table)
async def test_a_refused_request_for_its_content_is_an_outcome_without_usage(
    *, connect: Connect, serve: Serve, make_call: MakeCall, status: int, body: Any, outcome: Outcome, detail: str
) -> None:
    reply = (await connect("openai_chat", serve(body, status)).send(make_call())).reply
    assert (reply.outcome, reply.text, reply.usage) == (outcome, "", None)
    assert reply.detail is not None
    assert detail in reply.detail
    assert reply.raw is not None
    assert json.loads(reply.raw) == body


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (completion({"content": ""}), ServerError),
        (completion({"content": None}, "tool_calls"), ServerError),
        (completion({"content": "Par"}, "error"), ServerError),
        (completion({"content": "Par"}, "insufficient_system_resource"), ServerError),
        (completion(choices=[]), ServerError),
        (completion(choices=None), ServerError),
        (completion(choices="x"), ServerError),
        (completion(choices=[None]), ServerError),
        (completion(choices=[{"message": "x", "finish_reason": 7}]), ServerError),
        ({}, ServerError),
        ([], ServerError),
        ("null", ServerError),
        ("<html>not json</html>", ServerError),
        ('{"choices": [', ServerError),
        (b"\xff\xfe", ServerError),
        ("[" * 100_000, ServerError),
        ({"error": {"code": 502, "message": "Provider returned error"}}, ServerError),
        ({"error": {"code": "weird", "message": "?"}}, ServerError),
        ({"error": "Overloaded"}, ServerError),
        ({"error": {"code": 429, "message": "slow down"}}, RateLimitedError),
        ({"error": {"code": 401, "message": "no"}}, AccountError),
        ({"error": {"code": 402, "message": "no credits"}}, AccountError),
        ({"error": {"code": 400, "message": "bad picture"}}, DialogueError),
        ({"choices": [{"error": {"code": 502, "message": "upstream"}, "message": {"content": "Par"}}]}, ServerError),
    ],
)  # fmt: skip (a table)
async def test_a_200_that_is_no_answer_is_a_classified_failure(
    *, connect: Connect, serve: Serve, make_call: MakeCall, body: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        await connect("openai_chat", serve(body)).send(make_call())


async def test_an_empty_answer_may_have_been_billed(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    with pytest.raises(ServerError) as caught:
        await connect("openai_chat", serve(completion({"content": ""}))).send(make_call())
    assert caught.value.maybe_billed


async def test_a_wrong_content_type_does_not_matter(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(json.dumps(completion()), headers={"content-type": "text/html"})
    assert (await connect("openai_chat", server).send(make_call())).reply.text == "A blue square."


async def test_the_sdk_sends_each_call_once(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve({"error": {"message": "busy"}}, 503, {"x-should-retry": "true", "retry-after": "0"})
    with pytest.raises(ServerError):
        await connect("openai_chat", server).send(make_call())
    assert len(server.requests) == 1


async def test_the_pictures_base64_is_made_once(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    call, adapter = make_call(), connect("openai_chat", serve(completion()))
    await adapter.send(call)
    made = call.messages[0].images[0].base64
    await adapter.send(call)
    assert call.messages[0].images[0].base64 is made


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, None),
        ("x", None),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 8}, Usage(10, 8, 0, 5, 0)),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35, "completion_tokens_details": {"reasoning_tokens": 20}},
            Usage(10, 0, 0, 25, 20),
        ),
    ],
)  # fmt: skip (a table)
async def test_usage_of_any_dialect_is_normalised(
    *, connect: Connect, serve: Serve, make_call: MakeCall, usage: Any, expected: Usage | None
) -> None:
    assert (await connect("openai_chat", serve(completion(usage=usage))).send(make_call())).reply.usage == expected


async def test_a_cost_counts_where_the_profile_says_that_it_is_in_usd(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    body = completion(usage={**USAGE, "cost": 0.0125})
    assert (await connect("openai_chat", serve(body), name="any", reports_cost=True).send(make_call())).reply.cost_usd == 0.0125
    assert (await connect("openai_chat", serve(body), name="openrouter").send(make_call())).reply.cost_usd is None


async def test_no_key_is_needed_and_no_variable_of_the_sdk_leaks_in(
    *, connect: Connect, serve: Serve, make_call: MakeCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "leak-leak-leak")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://leak.test/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer leak\nx-leak: leak")
    server = serve(completion())
    await connect("openai_chat", server, key=None).send(make_call())
    request = server.requests[0]
    assert request.headers["authorization"] == "Bearer none"
    assert request.url.host == "api.example.test"
    assert "leak" not in str(request.headers.multi_items())


async def test_azure_takes_the_key_as_a_bearer_token_at_its_v1_address(
    *, connect: Connect, serve: Serve, make_call: MakeCall, key: str
) -> None:
    server = serve(completion())
    await connect("openai_chat", server, base_url="https://res.openai.azure.com/openai/v1").send(make_call())
    assert server.requests[0].url == "https://res.openai.azure.com/openai/v1/chat/completions"
    assert server.requests[0].headers["authorization"] == f"Bearer {key}"


async def test_an_echoed_key_is_blanked_everywhere(connect: Connect, serve: Serve, make_call: MakeCall, key: str) -> None:
    server = serve(completion({"content": f"Your key is {key}"}), headers={"x-request-id": key})
    reply = (await connect("openai_chat", server).send(make_call())).reply
    assert key not in repr(reply)
    assert reply.text == "Your key is [key]"


async def test_text_only_dialogues_send_plain_strings(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(completion())
    await connect("openai_chat", server).send(make_call(messages=(user("Hi"),)))
    assert sent(server)["messages"] == [{"role": "user", "content": "Hi"}]


async def test_a_refused_parameter_stops_the_run_and_is_named(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    body = {
        "error": {"message": "Unsupported value: 'temperature' does not support 0", "param": "temperature", "code": "unsupported_value"}
    }
    with pytest.raises(StopRunError, match="does not take temperature for m-1"):
        await connect("openai_chat", serve(body, 400)).send(make_call())


async def test_timeouts_of_the_http_layer_are_ours(connect: Connect, make_call: MakeCall) -> None:
    seen: dict[str, Any] = {}

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.update(request.extensions["timeout"])
        return httpx2.Response(200, json=completion())

    await connect("openai_chat", handler).send(make_call())
    assert seen == {"connect": 10.0, "read": 120.0, "write": 120.0, "pool": None}


async def test_the_window_of_announced_requests_is_the_profiles(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(completion(), headers={"x-ratelimit-limit-requests": "14400", "x-ratelimit-limit-tokens": "6000"})
    by_day = await connect("openai_chat", server, limits={"requests_window_seconds": 86_400}).send(make_call())
    by_minute = await connect("openai_chat", server, name="groq").send(make_call())
    assert [quota.window_seconds for quota in by_day.quotas] == [86_400.0, 60.0]
    assert [quota.window_seconds for quota in by_minute.quotas] == [60.0, 60.0]


async def test_effort_goes_out_as_the_wire_format_has_it(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(completion())
    adapter = connect("openai_chat", server)
    await adapter.send(make_call(parameters=Parameters(effort="low")))
    assert json.loads(server.requests[-1].content)["reasoning_effort"] == "low"
    await adapter.send(make_call())
    assert "reasoning_effort" not in json.loads(server.requests[-1].content)
