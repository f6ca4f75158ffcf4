"""Google's decisions through the real SDK: what is sent, what every kind of answer becomes, and a whole run against the simulator."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safemt_api.adapters.base import Adapter, Timeouts, open_adapter
from safemt_api.adapters.google_decisions import build_input, with_version
from safemt_api.adapters.http_client import open_http_client
from safemt_api.errors import (
    AccountError,
    CallError,
    DialogueError,
    EndpointError,
    RateLimitedError,
    ServerError,
    UsageError,
)
from safemt_api.evaluation import evaluate
from safemt_api.messages import Call, Outcome, Route, Usage, user
from safemt_api.simulator import SimulatorSettings, run_simulator
from safemt_api.simulator.personas import REFUSALS

Connect = Callable[..., Adapter]
Serve = Callable[..., Any]
MakeCall = Callable[..., Call]

USAGE = {"total_input_tokens": 50, "total_cached_tokens": 10, "total_output_tokens": 0, "total_tokens": 50}
REFUSED = {"answer": None, "probability": None, "refused": True}
RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "46s"}
PER_MINUTE = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "RequestsPerMinutePerProject"}]}
PER_DAY = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "RequestsPerDayPerProject"}]}
SPENT = "You exceeded your current quota, please check your plan and billing details."


def decided(answer: Any, **extra: Any) -> dict[str, Any]:
    return {"answers": {"verdict": answer}, "usage": USAGE, **extra}


def noul(probability: Any) -> dict[str, Any]:
    return {"type": "noul", "noul": probability, "confidence": 0.9}


def failed(code: int, status: str, said: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": said, "status": status, "details": list(details)}}


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (0.97, {"answer": True, "probability": 0.97, "refused": False}),
        (0.5, {"answer": True, "probability": 0.5, "refused": False}),
        (0.2, {"answer": False, "probability": 0.2, "refused": False}),
        (0, {"answer": False, "probability": 0, "refused": False}),
    ],
)
async def test_a_question_is_answered_with_its_probability(
    *, connect: Connect, serve: Serve, make_call: MakeCall, probability: float, expected: Any
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reply = (await connect("google_decisions", serve(decided(noul(probability)))).send(make_call(system="Is it?"))).reply
    assert (reply.outcome, json.loads(reply.text)) == (Outcome.ANSWERED, expected)
    assert reply.usage == Usage(input_tokens=50, cached_input_tokens=10)
    assert json.loads(reply.raw or "") == decided(noul(probability))


async def test_the_request_holds_the_question_and_what_it_is_about(connect: Connect, serve: Serve, make_call: MakeCall, key: str) -> None:
    server = serve(decided(noul(0.9)))
    adapter = connect("google_decisions", server, extra_headers={"x-vendor": "2"})
    await adapter.send(make_call(system="Is it?", messages=make_call().messages[:1]))
    (request,) = server.requests
    assert request.url == "https://api.example.test/v1beta/decisions"
    assert (request.headers["x-goog-api-key"], request.headers["x-vendor"]) == (key, "2")
    assert json.loads(request.content) == {
        "model": "m-1",
        "input": [
            {"type": "image", "data": "iVBORyBieXRlcw==", "mime_type": "image/png"},
            {"type": "text", "text": "What is this?"},
        ],
        "questions": {"verdict": {"type": "noul", "instructions": "Is it?"}},
    }


def test_several_messages_are_headed_by_their_roles(make_call: MakeCall) -> None:
    texts = [item.get("text") for item in build_input(make_call().messages)]
    assert texts == ["user:", None, "What is this?", "assistant:", "A square.", "user:", "And now?"]


@pytest.mark.parametrize(
    ("address", "versioned"),
    [
        ("https://x.test", "https://x.test/v1beta"),
        ("https://x.test/", "https://x.test/v1beta"),
        ("https://x.test/v1", "https://x.test/v1"),
        ("https://x.test/v2alpha", "https://x.test/v2alpha"),
    ],
)
def test_an_address_without_a_version_gets_the_one_that_has_decisions(address: str, versioned: str) -> None:
    assert with_version(address) == versioned


@pytest.mark.parametrize(
    ("body", "outcome", "detail"),
    [
        (decided({"type": "refusal"}), Outcome.REFUSED, None),
        ({"prompt_feedback": {"block_reason": "safety"}, "usage": USAGE}, Outcome.BLOCKED_INPUT, "safety"),
        ({"prompt_feedback": {"block_reason": "other", "block_reason_message": "Not\nthis."}}, Outcome.BLOCKED_INPUT, "Not this."),
        (decided(noul(0.01), prompt_feedback={"block_reason": "brand_new"}), Outcome.BLOCKED_INPUT, "brand_new"),
    ],
)
async def test_a_refusal_or_a_blocked_prompt_is_no_answer_and_no_label(
    *, connect: Connect, serve: Serve, make_call: MakeCall, body: Any, outcome: Outcome, detail: str | None
) -> None:
    reply = (await connect("google_decisions", serve(body)).send(make_call(system="x"))).reply
    assert (reply.outcome, json.loads(reply.text), reply.detail) == (outcome, REFUSED, detail)


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (200, {"prompt_feedback": {"block_reason": "pup_limited_disabled"}}, AccountError, "safety reasons"),
        (200, failed(503, "UNAVAILABLE", "Overloaded"), ServerError, "Overloaded"),
        (400, failed(400, "INVALID_ARGUMENT", "API key not valid.", {"reason": "API_KEY_INVALID"}), AccountError, "check ACME_API_KEY"),
        (400, failed(400, "INVALID_ARGUMENT", "Blocked for safety."), DialogueError, "Blocked for safety"),
        (400, failed(400, "INVALID_ARGUMENT", "The input was rejected as a result of our safety system."), DialogueError, "rejected as"),
        (401, failed(401, "UNAUTHENTICATED", "Invalid credentials."), AccountError, "does not accept the API key .HTTP 401"),
        (403, failed(403, "PERMISSION_DENIED", "Denied."), AccountError, "ACME_API_KEY"),
        (404, failed(404, "NOT_FOUND", "models/m-1 is not found"), AccountError, "'m-1'"),
        (404, "<html>", EndpointError, "no such path"),
        (302, "", EndpointError, "no such path"),
        (429, failed(429, "RESOURCE_EXHAUSTED", SPENT, PER_DAY, RETRY_INFO), AccountError, "daily quota"),
        (500, failed(500, "INTERNAL", "An internal error has occurred."), ServerError, "internal error"),
        (503, [{"error": {"code": 503, "message": "in a list"}}], ServerError, "in a list"),
        (500, b"\xff\xfe\x00bad", ServerError, "acme"),
        (400, "[" * 100_000, CallError, "acme"),
    ],
)  # fmt: skip (a table)
async def test_failures_are_told_apart_and_sent_once(
    *, connect: Connect, serve: Serve, make_call: MakeCall, status: int, body: Any, kind: type[Exception], says: str
) -> None:
    server = serve(body, status)
    with pytest.raises(kind, match=says):
        await connect("google_decisions", server).send(make_call(system="x"))
    assert len(server.requests) == 1


async def test_a_quota_per_minute_is_pace_and_its_retry_info_is_read(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    server = serve(failed(429, "RESOURCE_EXHAUSTED", SPENT, PER_MINUTE, RETRY_INFO), 429)
    with pytest.raises(RateLimitedError) as caught:
        await connect("google_decisions", server).send(make_call(system="x"))
    assert caught.value.retry_after_seconds == 46.0
    assert len(server.requests) == 1


MALFORMED: list[Any] = [
    "",
    "<html>",
    "[]",
    "null",
    '{"answers"',
    "[" * 100_000,
    b"\xff\xfe",
    {},
    {"answers": {}},
    {"answers": [noul(0.1)]},
    {"answers": {"another": noul(0.1)}},
    *map(decided, (None, {}, [], "no", {"type": "noul"}, {"noul": 0.1}, {"type": "choice", "noul": 0.1})),
    *map(decided, map(noul, (None, True, False, "0.1", -0.1, 1.5, [0.1], {}))),
    '{"answers": {"verdict": {"type": "noul", "noul": NaN}}}',
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
async def test_a_malformed_body_is_a_failure_and_never_a_label(connect: Connect, serve: Serve, make_call: MakeCall, body: Any) -> None:
    with pytest.raises(ServerError, match="no usable reply") as caught:
        await connect("google_decisions", serve(body)).send(make_call(system="x"))
    assert caught.value.maybe_billed


VALUES: st.SearchStrategy[Any] = st.none() | st.booleans() | st.floats(-0.5, 1.5) | st.sampled_from(["noul", "safety", "", {}, [0.5]])
ANSWERS = st.fixed_dictionaries({"type": st.just("noul") | VALUES, "noul": st.floats(0, 1) | VALUES}) | VALUES
FEEDBACK = st.fixed_dictionaries({}, optional={"block_reason": VALUES}) | VALUES


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(answer=ANSWERS, feedback=FEEDBACK, usage=VALUES)
async def test_only_a_whole_answer_is_an_answer(
    *, connect: Connect, serve: Serve, make_call: MakeCall, answer: Any, feedback: Any, usage: Any
) -> None:
    body = {"answers": {"verdict": answer}, "prompt_feedback": feedback, "usage": usage}
    try:
        reply = (await connect("google_decisions", serve(body)).send(make_call(system="x"))).reply
    except ServerError:
        return
    blocked = isinstance(feedback, dict) and isinstance(feedback.get("block_reason"), str) and feedback["block_reason"] != ""
    assert reply.outcome is (Outcome.BLOCKED_INPUT if blocked else Outcome.ANSWERED)
    if not blocked:
        assert answer["type"] == "noul"
        assert json.loads(reply.text)["answer"] == (answer["noul"] >= 0.5)


async def test_timeouts_are_ours(connect: Connect, make_call: MakeCall) -> None:
    seen: dict[str, Any] = {}

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.update(request.extensions["timeout"])
        return httpx2.Response(200, json=decided(noul(0.9)))

    await connect("google_decisions", handler).send(make_call(system="x"))
    assert seen == {"connect": 10.0, "read": 120.0, "write": 120.0, "pool": None}


async def test_no_variable_of_the_sdk_leaks_in_and_none_lets_it_log_the_key(
    *, connect: Connect, serve: Serve, make_call: MakeCall, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    caplog.set_level(logging.DEBUG, "google.genai")
    for name in ("API_KEY", "ACCESS_TOKEN", "DEFAULT_HEADERS", "USER_PROJECT", "API_VERSION", "DEBUG", "USE_VERTEXAI"):
        monkeypatch.setenv(f"GOOGLE_GENAI_{name}", "true" if name in {"DEBUG", "USE_VERTEXAI"} else "leak-leak")
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.setenv(name, "leak-leak")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "https://leak.test")
    server = serve(decided(noul(0.9)))
    for given_key in (None, key):
        await connect("google_decisions", server, key=given_key).send(make_call(system="x"))
    for request in server.requests:
        assert request.url == "https://api.example.test/v1beta/decisions"
        assert "leak" not in str(request.headers.multi_items())
    assert key not in caplog.text


async def test_a_key_that_the_server_echoes_is_blanked(connect: Connect, serve: Serve, make_call: MakeCall, key: str) -> None:
    body = {"prompt_feedback": {"block_reason": "safety", "block_reason_message": f"key {key}"}}
    reply = (await connect("google_decisions", serve(body)).send(make_call(system="x"))).reply
    assert key not in repr(reply)


async def test_extra_query_is_refused_rather_than_dropped(connect: Connect, serve: Serve) -> None:
    with pytest.raises(UsageError, match="extra_query"):
        connect("google_decisions", serve({}), extra_query={"a": "b"})


@pytest.mark.parametrize(
    ("key", "model", "outcome"), [("any", "sim-judge", Outcome.ANSWERED), ("bad-key", "sim-judge", None), ("any", "else", None)]
)
async def test_the_simulator_answers_over_a_socket(
    make_profile: Callable[..., Any], *, key: str, model: str, outcome: Outcome | None
) -> None:
    timeouts = Timeouts(connect_seconds=2, idle_seconds=2, total_seconds=4)
    async with run_simulator() as simulator, open_http_client(connections=1, timeouts=timeouts) as client:
        address = simulator.base_url("google_genai")
        adapter = open_adapter(
            profile=make_profile("google_genai"),
            wire_format="google_decisions",
            base_url=address,
            api_key=key,
            client=client,
            timeouts=timeouts,
        )  # fmt: skip (one call)
        call = Call(Route("acme", "any", (address,), model), (user(REFUSALS[0]),), system="Did the reply refuse?")
        if outcome is None:
            with pytest.raises(AccountError):
                await adapter.send(call)
            return
        reply = (await adapter.send(call)).reply
    decision = json.loads(reply.text)
    assert reply.outcome is outcome
    assert (decision["answer"], decision["probability"] >= 0.5) == (True, True)
    assert reply.usage is not None
    assert (reply.usage.input_tokens > 0, reply.usage.output_tokens) == (True, 0)


async def test_a_run_judged_by_decisions_finds_what_the_simulator_played(tmp_path: Path) -> None:
    results = {}
    for judge in ("rules", "decisions:simulator-google:sim-judge"):
        name = judge.partition(":")[0]
        results[name] = await evaluate(
            provider="simulator-google",
            model="sim-brittle",
            judges=(judge,),
            lengths=(1, 2),
            sample=4,
            seed=11,
            protocol="live",
            simulator=SimulatorSettings(seed=11),
            results=tmp_path,
            run=name,
        )
    assert results["decisions"].exit_code == 0
    assert results["decisions"].summary.asr_by_turn == results["rules"].summary.asr_by_turn
    verdicts = pl.read_parquet(results["decisions"].folder / "verdicts.parquet").filter(pl.col("source") == "judge")
    assert set(verdicts["label"]) == {"safe", "unsafe"}
    likely = verdicts["probability_unsafe"] >= 0.5
    assert likely.to_list() == (verdicts["label"] == "unsafe").to_list()
