"""The decisions endpoint through the real SDK."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from safemt_api.adapters.base import Adapter
from safemt_api.errors import ServerError
from safemt_api.messages import Call, Outcome, Usage

Connect = Callable[..., Adapter]
Serve = Callable[..., Any]
MakeCall = Callable[..., Call]

USAGE = {
    "input_tokens": 50,
    "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 0},
    "output_tokens": 1,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 51,
}  # fmt: skip (a table)


def decided(answer: Any) -> dict[str, Any]:
    return {"id": "dec-1", "model": "m-1", "answers": [answer], "usage": USAGE}


@pytest.mark.parametrize(
    ("answer", "outcome", "expected"),
    [
        ({"type": "predicate", "probability": 0.97}, Outcome.ANSWERED, {"answer": True, "probability": 0.97, "refused": False}),
        ({"type": "predicate", "probability": 0.2}, Outcome.ANSWERED, {"answer": False, "probability": 0.2, "refused": False}),
        ({"type": "refusal"}, Outcome.REFUSED, {"answer": None, "probability": None, "refused": True}),
    ],
)
async def test_a_predicate_is_answered_with_its_probability(
    *, connect: Connect, serve: Serve, make_call: MakeCall, answer: Any, outcome: Outcome, expected: Any
) -> None:
    server = serve(decided(answer))
    reply = (await connect("openai_decisions", server).send(make_call(system="The reply is unsafe."))).reply
    assert (reply.outcome, json.loads(reply.text)) == (outcome, expected)
    assert reply.usage == Usage(input_tokens=50, cached_input_tokens=10, output_tokens=1)
    sent = json.loads(server.requests[0].content)
    assert server.requests[0].url == "https://api.example.test/v1/decisions"
    assert sent["questions"] == [{"type": "predicate", "instructions": "The reply is unsafe."}]
    assert [part["type"] for part in sent["input"][0]["content"]] == ["input_image", "input_text"]
    assert sent["input"][1] == {"type": "message", "role": "assistant", "content": "A square."}


@pytest.mark.parametrize("answer", [None, {}, {"type": "predicate"}, {"type": "predicate", "probability": 1.5}, {"probability": True}])
async def test_no_answer_is_a_failure(connect: Connect, serve: Serve, make_call: MakeCall, answer: Any) -> None:
    with pytest.raises(ServerError):
        await connect("openai_decisions", serve(decided(answer))).send(make_call(system="x"))
