"""Live dialogues through every wire format: each request begins as the one before it, and marks stand only where they can pay."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from safemt_api.adapters.base import Adapter
from safemt_api.dialogues import Target, converse
from safemt_api.messages import Answer, Call, Conversation, Dialogue, Guidance, Image, Line, Parameters, Protocol, Route, user
from safemt_api.profiles import WIRE_FORMATS, WireFormat

Connect = Callable[..., Adapter]
Serve = Callable[..., Any]

REPLIES: dict[WireFormat, dict[str, Any]] = {
    "openai_chat": {"choices": [{"message": {"content": "A square."}, "finish_reason": "stop"}]},
    "anthropic_messages": {"content": [{"type": "text", "text": "A square."}], "stop_reason": "end_turn"},
    "google_genai": {"candidates": [{"content": {"parts": [{"text": "A square."}]}, "finishReason": "STOP"}]},
}
PICTURE = Image(b"\x89PNG bytes", digest="sha256:00", media_type="image/png", width_pixels=2, height_pixels=2)
LINES = tuple(Line("assistant" if at % 2 else "user", f"Said at {at}, äöü.", images=() if at else (PICTURE,)) for at in range(7))
DIALOGUE = Dialogue("id", "Bias", 4, LINES, "?")
MARK = {"type": "ephemeral"}
MARKING: tuple[WireFormat, ...] = ("anthropic_messages", "openai_chat")
"""Wire formats in which a vendor may want marks; of the second, only those whose profile says so (OpenRouter, DashScope)."""


class Through:
    """Asks one adapter, and lets a mock of a moderator say what stands before each turn."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    async def ask(self, call: Call) -> Answer:
        return Answer((await self._adapter.send(call)).reply)


class Speaks:
    """A moderator with one piece of guidance for every turn."""

    name = digest = "speaks"

    def __init__(self, *, flagged: bool | None, policy: str | None) -> None:
        self._guidance = Guidance("speaks", flagged, policy=policy)

    async def review(self, *, dialogue: Dialogue, history: tuple[Line, ...]) -> Guidance:
        del dialogue, history
        return self._guidance


@pytest.fixture
def play(connect: Connect, serve: Serve) -> Callable[..., Any]:
    """Plays the dialogue and returns the bodies that went out."""

    async def playing(
        wire_format: WireFormat, *, minimum: int | None = 1, protocol: Protocol = "live", moderator: Speaks | None = None
    ) -> list[dict[str, Any]]:
        server = serve(REPLIES[wire_format])
        adapter = connect(wire_format, server, facts={} if minimum is None else {"cache_minimum_tokens": minimum})
        target = Target(Route("acme", wire_format, ("https://api.example.test",), "m-1"), Parameters(max_output_tokens=64), "Be kind.")
        transcript = await converse(DIALOGUE, protocol=protocol, asker=Through(adapter), target=target, moderator=moderator)
        assert transcript.failure is None
        return [json.loads(request.content) for request in server.requests]

    return playing


def spoken(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [message for message in body.pop("messages", None) or body.pop("contents") if message["role"] != "system"]


def marks(messages: list[dict[str, Any]]) -> list[int]:
    """Where marks stand; takes them away."""
    found = []
    for at, message in enumerate(messages):
        for block in message["content"] if isinstance(message["content"], list) else ():
            if block.pop("cache_control", None) is not None:
                assert block is message["content"][-1]
                found.append(at)
    return found


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
async def test_each_turn_begins_with_the_bytes_of_the_turn_before(play: Callable[..., Any], wire_format: WireFormat) -> None:
    bodies = await play(wire_format)
    turns = [spoken(body) for body in bodies]
    assert len(turns) == 4
    for turn in turns if wire_format in MARKING else ():
        marks(turn)
    for before, after in pairwise(turns):
        assert json.dumps(after).startswith(json.dumps(before)[:-1])
    assert all(body == bodies[0] for body in bodies)


@pytest.mark.parametrize("wire_format", MARKING)
async def test_marks_write_at_the_newest_message_and_the_last_turn_only_reads(play: Callable[..., Any], wire_format: WireFormat) -> None:
    bodies = await play(wire_format)
    (first,) = spoken(dict(bodies[0]))
    assert first["content"][-1] == {"type": "text", "text": "Said at 0, äöü.", "cache_control": MARK}
    assert first["content"][0]["type"].startswith("image")
    # The last call marks what the third one wrote: reading needs a mark, and nothing more is worth writing.
    assert [marks(spoken(body)) for body in bodies] == [[0], [2], [4], [4]]


@pytest.mark.parametrize("wire_format", MARKING)
@pytest.mark.parametrize("minimum", [None, 10_000])
async def test_nothing_is_marked_that_the_vendor_would_not_cache(
    play: Callable[..., Any], minimum: int | None, wire_format: WireFormat
) -> None:
    assert [marks(spoken(body)) for body in await play(wire_format, minimum=minimum)] == [[], [], [], []]


@pytest.mark.parametrize("wire_format", MARKING)
async def test_instructions_that_every_call_begins_with_are_marked_where_they_are_long_enough(
    connect: Connect, serve: Serve, make_call: Callable[..., Call], wire_format: WireFormat
) -> None:
    server = serve(REPLIES[wire_format])
    adapter = connect(wire_format, server, facts={"cache_minimum_tokens": 1024})
    long = replace(make_call(system="Judge it. " * 1000), purpose="judge")
    for call in (long, replace(long, purpose="target"), replace(long, system="Judge it.")):
        await adapter.send(call)
    marked = [json.loads(request.content) for request in server.requests]
    systems = [body.get("system") or body["messages"][0]["content"] for body in marked]
    assert systems[0] == [{"type": "text", "text": long.system, "cache_control": MARK}]
    assert systems[1:] == [long.system, "Judge it."]


@pytest.mark.parametrize("wire_format", MARKING)
@pytest.mark.parametrize(("conversation", "minimum", "marked"), [("repeated", 64, True), ("single", 64, False), ("repeated", 9999, False)])
async def test_questions_that_begin_with_the_same_pictures_are_marked_behind_them(
    *,
    connect: Connect,
    serve: Serve,
    make_call: Callable[..., Call],
    wire_format: WireFormat,
    conversation: Conversation,
    minimum: int,
    marked: bool,
) -> None:
    server = serve(REPLIES[wire_format])
    adapter = connect(wire_format, server, facts={"cache_minimum_tokens": minimum})
    question = make_call(messages=(user("Judge this reply.", PICTURE, PICTURE),), system="Judge it. " * 20)
    await adapter.send(replace(question, purpose="judge", conversation=conversation))
    (message,) = spoken(json.loads(server.requests[0].content))
    assert ["cache_control" in block for block in message["content"]] == [False, marked, False]


async def test_openai_s_own_marks_stand_also_where_the_turn_before_wrote_and_nothing_else_is_cached(
    connect: Connect, serve: Serve, make_call: Callable[..., Call]
) -> None:
    server = serve(REPLIES["openai_chat"])
    adapter = connect("openai_chat", server, facts={"cache_minimum_tokens": 1, "cache_marks": "breakpoint"})
    await adapter.send(replace(make_call(system="Be kind."), conversation="growing"))
    await adapter.send(replace(make_call(system="Judge it."), purpose="judge"))
    growing, single = (json.loads(request.content) for request in server.requests)
    assert [growing["prompt_cache_options"], single["prompt_cache_options"]] == [{"mode": "explicit"}] * 2
    ends = [message["content"][-1].get("prompt_cache_breakpoint") for message in spoken(dict(growing))]
    assert ends == [{"mode": "explicit"}, None, {"mode": "explicit"}]
    system = {"type": "text", "text": "Judge it.", "prompt_cache_breakpoint": {"mode": "explicit"}}
    assert single["messages"][0]["content"] == [system]
    assert "prompt_cache_breakpoint" not in json.dumps(single["messages"][1:])


async def test_the_scripted_protocol_marks_nothing(play: Callable[..., Any]) -> None:
    (body,) = await play("anthropic_messages", protocol="scripted")
    assert body["messages"][1]["content"] == LINES[1].text
    assert "cache_control" not in json.dumps(body)


@pytest.mark.parametrize(("flagged", "policy", "marked"), [(True, "Decline.", True), (False, None, True), (None, "My own words.", False)])
async def test_a_moderators_own_words_leave_nothing_to_repeat(
    play: Callable[..., Any], flagged: bool | None, policy: str | None, marked: bool
) -> None:
    bodies = await play("anthropic_messages", moderator=Speaks(flagged=flagged, policy=policy))
    assert ("cache_control" in json.dumps(bodies)) is marked


@pytest.mark.parametrize("wire_format", [one for one in WIRE_FORMATS if one != "anthropic_messages"])
async def test_vendors_that_cache_by_themselves_get_no_marks(play: Callable[..., Any], wire_format: WireFormat) -> None:
    assert "cache_control" not in json.dumps(await play(wire_format, minimum=None))
