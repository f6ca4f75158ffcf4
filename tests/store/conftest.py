"""Calls and replies to keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from safemt_api.messages import Call, Image, Outcome, Parameters, Reply, Route, Schema, Usage, assistant, user

PICTURE = Image(b"bytes", digest="sha256:picture", media_type="image/png", width_pixels=8, height_pixels=6)


@pytest.fixture
def call() -> Call:
    """A call that uses everything a call can hold."""
    return Call(
        route=Route("openai", "openai_chat", ("https://api.openai.com/v1",), "gpt-x", extras='{"body":{"a":1}}'),
        messages=(user("Hello…", PICTURE), assistant("Hi."), user("And \u2019then\u2019?")),
        purpose="target",
        system="Be brief.",
        parameters=Parameters(max_output_tokens=64, temperature=0.5),
        schema=Schema("verdict", {"type": "object", "properties": {"b": {}, "a": {}}}),
        sample_index=2,
    )


@pytest.fixture
def reply() -> Callable[..., Reply]:
    """Makes a reply with every field set."""

    def make(text: str = "Words.", **changes: Any) -> Reply:
        values: dict[str, Any] = {
            "detail": "why",
            "finish_reason": "stop",
            "served_model": "gpt-x-1",
            "usage": Usage(10, 4, 2, 7, 3),
            "cost_usd": 0.25,
            "request_id": "req",
            "latency_seconds": 1.5,
            "raw": '{"id": "x"}',
        }
        return Reply(Outcome.ANSWERED, text, **{**values, **changes})

    return make
