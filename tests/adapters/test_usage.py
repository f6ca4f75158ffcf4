"""Usage that cannot be read is unknown, never zero, on every wire format."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.adapters.anthropic_messages import read_usage as anthropic_usage
from safemt_api.adapters.base import Adapter
from safemt_api.adapters.bodies import MAX_COUNT
from safemt_api.adapters.google_decisions import read_usage as google_decisions_usage
from safemt_api.adapters.google_genai import read_usage as google_usage
from safemt_api.adapters.openai_chat import read_usage as openai_usage
from safemt_api.adapters.openai_verdicts import read_usage as openai_decisions_usage
from safemt_api.messages import Call, Usage

Connect = Callable[..., Adapter]
Serve = Callable[..., Any]
MakeCall = Callable[..., Call]

Reader = Callable[[object], Usage | None]
FIELDS: dict[str, tuple[Reader, str, str, tuple[str, ...]]] = {
    "openai_chat": (openai_usage, "prompt_tokens", "completion_tokens", ("prompt_cache_hit_tokens",)),
    "anthropic_messages": (anthropic_usage, "input_tokens", "output_tokens", ("cache_read_input_tokens", "cache_creation_input_tokens")),
    "google_genai": (google_usage, "promptTokenCount", "candidatesTokenCount", ("thoughtsTokenCount", "cachedContentTokenCount")),
    "openai_decisions": (openai_decisions_usage, "input_tokens", "output_tokens", ()),
    "google_decisions": (google_decisions_usage, "total_input_tokens", "total_output_tokens", ("total_thought_tokens",)),
}
SENSELESS = ["500", "", [500], {"n": 5}, True, False, -1, -500, 1e18, 10**18, 500.0, 500.5, float("nan"), float("inf"), MAX_COUNT + 1]


@pytest.mark.parametrize("name", FIELDS)
def test_counts_that_make_sense_are_read(name: str) -> None:
    read, put_in, got_out, _ = FIELDS[name]
    assert read({put_in: 500, got_out: 60}) == Usage(input_tokens=500, output_tokens=60)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", SENSELESS, ids=repr)
def test_a_senseless_count_makes_the_usage_unknown(name: str, value: object) -> None:
    read, put_in, got_out, others = FIELDS[name]
    sound: dict[str, object] = {put_in: 500, got_out: 60}
    for field in (put_in, got_out, *others):
        assert read({**sound, field: value}) is None, field


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_or_empty_prompt_count_is_unknown(name: str) -> None:
    read, put_in, got_out, _ = FIELDS[name]
    alone: list[object] = [{}, None, [], "x", {"total_tokens": 560}, {"totalTokenCount": 560}, {got_out: 60}]
    alone += [{put_in: None, got_out: 60}, {put_in: 0, got_out: 0}]
    for usage in alone:
        assert read(usage) is None


@pytest.mark.parametrize("name", ["openai_chat", "anthropic_messages"])
def test_a_missing_output_count_is_unknown_where_the_vendor_always_sends_it(name: str) -> None:
    read, put_in, got_out, _ = FIELDS[name]
    assert read({put_in: 500}) is None
    assert read({put_in: 500, got_out: None}) is None


def test_null_details_are_no_trouble() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None, "completion_tokens_details": None}
    assert openai_usage(usage) == Usage(5, 0, 0, 2, 0)
    null = {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": None, "cache_creation_input_tokens": None}
    assert anthropic_usage(null) == Usage(5, 0, 0, 2, 0)


JSON: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just({}) | st.just([1])


@given(name=st.sampled_from(sorted(FIELDS)), data=st.data())
def test_no_usage_that_is_read_is_below_zero_or_beyond_sense(name: str, data: st.DataObject) -> None:
    read, put_in, got_out, others = FIELDS[name]
    usage = read(data.draw(st.dictionaries(st.sampled_from([put_in, got_out, *others]), JSON)))
    if usage is not None:
        assert usage.input_tokens > 0
        assert 0 <= usage.cached_input_tokens <= usage.input_tokens <= 4 * MAX_COUNT
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens <= 2 * MAX_COUNT


def spoken(wire_format: str, usage: object) -> dict[str, Any]:
    return {
        "openai_chat": {"choices": [{"message": {"content": "Words."}, "finish_reason": "stop"}], "usage": usage},
        "anthropic_messages": {"content": [{"type": "text", "text": "Words."}], "stop_reason": "end_turn", "usage": usage},
        "google_genai": {"candidates": [{"content": {"parts": [{"text": "Words."}]}, "finishReason": "STOP"}], "usageMetadata": usage},
    }[wire_format]


@pytest.mark.parametrize("wire_format", ["openai_chat", "anthropic_messages", "google_genai"])
async def test_words_that_cost_no_token_were_not_counted(connect: Connect, serve: Serve, make_call: MakeCall, wire_format: str) -> None:
    _, put_in, got_out, _ = FIELDS[wire_format]
    for usage, expected in (({put_in: 500, got_out: 0}, None), ({put_in: 500, got_out: 1}, Usage(500, output_tokens=1))):
        reply = (await connect(wire_format, serve(spoken(wire_format, usage))).send(make_call())).reply
        assert (reply.text, reply.usage) == ("Words.", expected)


@pytest.mark.parametrize("cost", ["0.01", None, True, -0.01, 1e18, float("nan"), float("inf"), [0.01]], ids=repr)
async def test_a_senseless_cost_of_openrouter_is_none(connect: Connect, serve: Serve, make_call: MakeCall, cost: object) -> None:
    body = json.dumps(spoken("openai_chat", {"prompt_tokens": 5, "completion_tokens": 2, "cost": cost}))
    reply = (await connect("openai_chat", serve(body), name="openrouter").send(make_call())).reply
    assert (reply.text, reply.cost_usd, reply.usage) == ("Words.", None, Usage(5, output_tokens=2))
