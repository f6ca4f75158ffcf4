"""Every fault as each SDK meets it over a real socket, and what the simulator's books say of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import anyio
import httpx2
import openai
import pytest
from google.genai import errors as google_errors

from safemt_api.profiles import WIRE_FORMATS, WireFormat
from safemt_api.simulator import OUTCOME_FAULTS, TRANSIENT_FAULTS, Fault, FaultPlan, SimulatorSettings, plays_unsafe

Stage = Callable[..., Any]
ALL_WIRES = pytest.mark.parametrize("wire", WIRE_FORMATS)
LINES = [("user", "a question")]
KINDS_IN_200 = ("content_filter", "refusal", "filtered_reply", "refusal_beside_words", "truncated_reply")
STATUS = {
    "rate_limit": {429},
    "rate_limit_retry_after": {429},
    "error_500": {500},
    "error_503": {503},
    "overloaded_529": {529, 503},
    "daily_quota": {429},
    "account_hold": {400, 401},
}
API_ERRORS = (openai.APIStatusError, anthropic.APIStatusError, google_errors.APIError)
NETWORK_ERRORS = (openai.APIConnectionError, anthropic.APIConnectionError, httpx2.TransportError)


def failing(kind: str, first: int = 1) -> SimulatorSettings:
    return SimulatorSettings(faults=FaultPlan((Fault(kind, first=first),), retry_after_seconds=0.25, stall_seconds=0.05))


@pytest.mark.parametrize(
    ("wire", "kind"),
    # Google tells of an account hold in a finish reason; a test of its own below
    [(wire, kind) for wire in WIRE_FORMATS for kind in STATUS if (wire, kind) != ("google_genai", "account_hold")],
)
async def test_error_statuses_reach_the_sdk_and_the_next_attempt_succeeds(wire: WireFormat, kind: str, stage: Stage) -> None:
    async with stage(failing(kind)) as playing:
        client = playing.client(wire)
        with pytest.raises(API_ERRORS) as caught:
            await client.ask("sim-safe", LINES)
        assert getattr(caught.value, "status_code", getattr(caught.value, "code", None)) in STATUS[kind]
        assert not playing.simulator.truth
        assert "simulated" in await client.text("sim-safe", LINES)
        seen = playing.simulator.statistics()
        assert (seen.faults, seen.calls, seen.answered, seen.repeated) == ({kind: 1}, 2, 1, 0)


@ALL_WIRES
@pytest.mark.parametrize("kind", ["reset", "truncated_body", "stall"])
async def test_broken_connections_reach_the_sdk_as_such(wire: WireFormat, kind: str, stage: Stage) -> None:
    async with stage(failing(kind)) as playing:
        client = playing.client(wire)
        with pytest.raises(NETWORK_ERRORS):
            await client.ask("sim-safe", LINES)
        assert "simulated" in await client.text("sim-safe", LINES)
        assert playing.simulator.statistics().in_flight == 0


@pytest.mark.parametrize(("kind", "error"), [("reset", ConnectionResetError), ("truncated_body", None)])
async def test_a_reset_is_a_real_reset_and_a_cut_body_a_real_end(kind: str, error: type[Exception] | None, stage: Stage) -> None:
    async with stage(failing(kind)) as playing, await anyio.connect_tcp("127.0.0.1", playing.simulator.port) as stream:
        body = json.dumps({"model": "sim-safe", "messages": [{"role": "user", "content": "x"}]}).encode()
        await stream.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        received = await stream.receive()
        ended: BaseException | None = None
        try:
            while True:
                received += await stream.receive()
        except anyio.EndOfStream:
            pass
        except anyio.BrokenResourceError as broken:
            ended = broken.__cause__
        assert b'"chatcmpl-' in received
        assert not received.endswith(b"}")
        assert ended is None if error is None else isinstance(ended, error)


@ALL_WIRES
@pytest.mark.parametrize("kind", ["malformed", "html"])
async def test_bodies_that_are_no_json_come_with_status_200(wire: WireFormat, kind: str, stage: Stage) -> None:
    async with stage(failing(kind)) as playing:
        path = {"openai_chat": "/chat/completions", "anthropic_messages": "/v1/messages"}.get(wire, "/v1/models/sim-safe:generateContent")
        messages = [{"role": "user", "content": "x"}]
        body = {"model": "sim-safe", "max_tokens": 99, "messages": messages, "contents": [{"role": "user", "parts": [{"text": "x"}]}]}
        reply = await playing.http.post(playing.simulator.base_url(wire) + path, json=body)
        assert reply.status_code == 200
        with pytest.raises(ValueError, match=r".*"):
            reply.json()
        assert playing.simulator.statistics().answered == 0


@ALL_WIRES
async def test_an_empty_reply_is_well_formed_and_the_next_attempt_has_words(wire: WireFormat, stage: Stage) -> None:
    async with stage(failing("empty")) as playing:
        client = playing.client(wire)
        assert await client.text("sim-brittle", LINES) == ""
        assert not playing.simulator.truth
        assert "simulated" in await client.text("sim-brittle", LINES)


async def test_an_error_in_a_200_leaves_choices_empty(stage: Stage) -> None:
    async with stage(failing("error_in_200")) as playing:
        answer = await playing.client("openai_chat").ask("sim-safe", LINES)
        assert answer.choices is None
        assert answer.model_extra["error"]["message"] == "Provider returned error"


async def test_the_wait_is_named_where_each_vendor_names_it(stage: Stage) -> None:
    async with stage(failing("rate_limit_retry_after")) as playing:
        with pytest.raises(openai.RateLimitError) as chat:
            await playing.client("openai_chat").ask("sim-safe", LINES)
        with pytest.raises(anthropic.RateLimitError) as message:
            await playing.client("anthropic_messages").ask("sim-safe", LINES)
        with pytest.raises(google_errors.ClientError) as generated:
            await playing.client("google_genai").ask("sim-safe", LINES)
        assert chat.value.response.headers["retry-after-ms"] == "250"
        assert message.value.response.headers["retry-after"] == "0.25"
        assert "'retryDelay': '0.25s'" in str(generated.value.details)
    async with stage(failing("rate_limit")) as playing:
        with pytest.raises(openai.RateLimitError) as bare:
            await playing.client("openai_chat").ask("sim-safe", LINES)
        assert "retry-after" not in bare.value.response.headers


async def test_account_holds_are_told_in_each_vendors_way(stage: Stage) -> None:
    async with stage(failing("account_hold")) as playing:
        with pytest.raises(anthropic.BadRequestError) as held:
            await playing.client("anthropic_messages").ask("sim-safe", LINES)
        assert held.value.error_code == "organization_on_hold"
        with pytest.raises(openai.AuthenticationError) as closed:
            await playing.client("openai_chat").ask("sim-safe", LINES)
        assert closed.value.code == "account_deactivated"
        answer = await playing.client("google_genai").ask("sim-safe", LINES)
        assert answer.candidates[0].finish_reason == "PUP_LIMITED_DISABLED"


async def test_daily_quotas_are_told_apart_from_pace(stage: Stage) -> None:
    async with stage(failing("daily_quota")) as playing:
        with pytest.raises(anthropic.RateLimitError) as spent:
            await playing.client("anthropic_messages").ask("sim-safe", LINES)
        assert spent.value.error_code == "enforced_spend_limit_reached"
        with pytest.raises(google_errors.ClientError, match="PerDay"):
            await playing.client("google_genai").ask("sim-safe", LINES)


async def test_openai_outcomes(stage: Stage) -> None:
    outcomes: dict[str, Any] = {}
    for kind in KINDS_IN_200:
        async with stage(SimulatorSettings(faults=FaultPlan.parse(f"{kind}:1"))) as playing:
            choice = (await playing.client("openai_chat").ask("sim-safe", LINES)).choices[0]
            (truth,) = playing.simulator.truth
            outcomes[kind] = (choice.finish_reason, bool(choice.message.content), bool(choice.message.refusal), truth.outcome, truth.fault)
    assert outcomes == {
        "content_filter": ("content_filter", False, False, "blocked_output", "content_filter"),
        "refusal": ("stop", False, True, "refused", "refusal"),
        "filtered_reply": ("content_filter", True, False, "blocked_output", "filtered_reply"),
        "refusal_beside_words": ("stop", True, True, "refused", "refusal_beside_words"),
        "truncated_reply": ("length", True, False, "truncated", "truncated_reply"),
    }


async def test_anthropic_outcomes(stage: Stage) -> None:
    outcomes: dict[str, Any] = {}
    for kind in KINDS_IN_200:
        async with stage(SimulatorSettings(faults=FaultPlan.parse(f"{kind}:1"))) as playing:
            answer = await playing.client("anthropic_messages").ask("sim-safe", LINES)
            outcomes[kind] = (answer.stop_reason, len(answer.content), playing.simulator.truth[0].outcome)
    assert outcomes == {
        "content_filter": ("refusal", 0, "refused"),
        "refusal": ("refusal", 0, "refused"),
        "filtered_reply": ("refusal", 1, "refused"),
        "refusal_beside_words": ("refusal", 1, "refused"),
        "truncated_reply": ("max_tokens", 1, "truncated"),
    }


async def test_google_outcomes(stage: Stage) -> None:
    outcomes: dict[str, Any] = {}
    for kind in KINDS_IN_200:
        async with stage(SimulatorSettings(faults=FaultPlan.parse(f"{kind}:1"))) as playing:
            answer = await playing.client("google_genai").ask("sim-safe", LINES)
            outcomes[kind] = (answer.candidates[0].finish_reason.value, bool(answer.text), playing.simulator.truth[0].outcome)
    assert outcomes == {
        "content_filter": ("SAFETY", False, "blocked_output"),
        "refusal": ("PROHIBITED_CONTENT", False, "blocked_output"),
        "filtered_reply": ("SAFETY", True, "blocked_output"),
        "refusal_beside_words": ("PROHIBITED_CONTENT", True, "blocked_output"),
        "truncated_reply": ("MAX_TOKENS", True, "truncated"),
    }


@ALL_WIRES
async def test_blocked_prompts_and_long_ones(wire: WireFormat, stage: Stage) -> None:
    async with stage(SimulatorSettings(faults=FaultPlan.parse("prompt_blocked:1"))) as playing:
        if wire == "google_genai":
            answer = await playing.client(wire).ask("sim-brittle", LINES)
            assert answer.candidates is None
            assert answer.prompt_feedback.block_reason == "PROHIBITED_CONTENT"
        else:
            with pytest.raises(
                (openai.BadRequestError, anthropic.BadRequestError), match=r"flagged|Output blocked by content filtering policy"
            ):
                await playing.client(wire).ask("sim-brittle", LINES)
        blocked = "blocked_output" if wire == "anthropic_messages" else "blocked_input"
        assert [(truth.outcome, truth.unsafe) for truth in playing.simulator.truth] == [(blocked, False)]
    async with stage(SimulatorSettings(faults=FaultPlan.parse("too_long:1"))) as playing:
        with pytest.raises(API_ERRORS, match=r"too long|maximum context length|exceeds the maximum"):
            await playing.client(wire).ask("sim-brittle", LINES)
        assert [(truth.outcome, truth.unsafe) for truth in playing.simulator.truth] == [("error", None)]


@ALL_WIRES
async def test_words_that_a_filter_or_refusal_leaves_keep_their_truth(wire: WireFormat, stage: Stage) -> None:
    said = [[("user", f"question {number}")] for number in range(12)]
    for kind in ("filtered_reply", "refusal_beside_words"):
        async with stage(SimulatorSettings(faults=FaultPlan.parse(f"{kind}:1"), keep_texts=True)) as playing:
            for lines in said:
                await playing.client(wire).ask("sim-brittle", lines)
            played = {truth.user_texts: truth.unsafe for truth in playing.simulator.truth}
        assert played == {texts: plays_unsafe("sim-brittle", seed=0, user_texts=texts) for texts in played}
        assert set(played.values()) == {True, False}


@ALL_WIRES
async def test_a_firewalls_page_is_no_error_of_the_vendor(wire: WireFormat, stage: Stage) -> None:
    async with stage(SimulatorSettings(faults=FaultPlan.parse("firewall:1"))) as playing:
        with pytest.raises(API_ERRORS) as caught:
            await playing.client(wire).ask("sim-brittle", LINES)
        assert getattr(caught.value, "status_code", getattr(caught.value, "code", None)) == 403
        assert [(truth.outcome, truth.unsafe) for truth in playing.simulator.truth] == [("error", None)]


@ALL_WIRES
async def test_unreadable_usage_comes_with_the_same_words_and_is_in_the_books(wire: WireFormat, stage: Stage) -> None:
    async with stage(SimulatorSettings(faults=FaultPlan.parse("unreadable_usage:1"))) as playing:
        assert "simulated" in await playing.client(wire).text("sim-brittle", LINES)
        (truth,) = playing.simulator.truth
        assert (truth.outcome, truth.fault) == ("answered", "unreadable_usage")
        assert playing.simulator.statistics().output_tokens > 0


@ALL_WIRES
async def test_transient_faults_never_change_the_truth(wire: WireFormat, stage: Stage) -> None:
    said = [[("user", f"question {i}")] for i in range(20)]
    outcome = "content_filter:0.2,refusal:0.1"
    mixed = f"{outcome},error_500:0.1,rate_limit:0.1,malformed:0.05,reset:0.05"
    truths = []
    for plan in (outcome, mixed):
        async with stage(SimulatorSettings(faults=FaultPlan.parse(plan))) as playing:
            client = playing.client(wire)
            for lines in said:
                await ask_until_answered(client, lines)
            truths.append({(truth.user_texts, truth.unsafe, truth.outcome) for truth in playing.simulator.truth})
            assert playing.simulator.statistics().repeated == 0
    assert truths[0] == truths[1]
    assert len(truths[0]) == len(said)
    assert {unsafe for texts, unsafe, outcome in truths[0] if outcome == "answered"} <= {True, False}


async def ask_until_answered(client: Any, lines: list[tuple[str, str]]) -> None:
    seen = len(client.address.truth)
    for _ in range(20):
        try:
            await client.ask("sim-brittle", lines)
        except (*API_ERRORS, *NETWORK_ERRORS, ValueError):
            continue
        if len(client.address.truth) > seen:
            return
    raise AssertionError("twenty attempts were not enough")


@ALL_WIRES
async def test_faults_are_played_at_their_share(wire: WireFormat, stage: Stage) -> None:
    async with stage(SimulatorSettings(faults=FaultPlan.parse("content_filter@sim-brittle:0.3"))) as playing:
        client, count = playing.client(wire), 60
        for i in range(count):
            await client.ask("sim-brittle", [("user", f"question {i}")])
            await client.ask("sim-safe", [("user", f"question {i}")])
        assert 0.15 < playing.simulator.statistics().faults["content_filter"] / count < 0.45
        for truth in playing.simulator.truth:
            played = plays_unsafe(truth.model, seed=0, user_texts=truth.user_texts)
            assert truth.unsafe == (played and truth.fault is None)


def test_every_fault_is_played_by_some_test_above() -> None:
    broken = {"reset", "truncated_body", "stall", "malformed", "html", "error_in_200", "empty"}
    outcomes = {*KINDS_IN_200, "prompt_blocked", "too_long", "firewall", "unreadable_usage"}
    assert set(STATUS) | broken == set(TRANSIENT_FAULTS)
    assert outcomes == set(OUTCOME_FAULTS)
