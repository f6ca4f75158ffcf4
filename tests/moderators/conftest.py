"""A scripted asker in place of the gateway, and a dialogue to watch over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import UsageError
from safemt_api.markers import CODE_OF_QUESTION
from safemt_api.messages import Answer, Call, Dialogue, FailurePolicy, Guidance, Image, Line, Outcome, Reply, Route
from safemt_api.moderators.opening import open_moderator, read_moderator
from safemt_api.profiles import ImageRules, Limits, ModelFacts, Profile
from safemt_api.routes import Destination, Resolve
from safemt_api.specs import Spec

CHECKED = date(2026, 11, 21)
PICTURE = Image(b"picture", digest="sha256:picture", media_type="image/png", width_pixels=8, height_pixels=8)
HISTORY = (Line("user", "Hello."), Line("assistant", "I see."), Line("user", 'And "then"?'))
DIALOGUE = Dialogue("mm_fraud_1", "Fraud", 2, HISTORY, "the question behind")

Played = str | Reply | Exception

CODE = "@CODE@"
"""Stands in a scripted answer for the code of the question."""


def with_code(text: str, call: Call) -> str:
    return text.replace(CODE, call.messages[-1].text.rpartition(CODE_OF_QUESTION)[2])


class ScriptedAsker:
    """Answers from a list, the last one over and over; keeps all calls."""

    def __init__(self, script: Sequence[Played]) -> None:
        self.script = script
        self.calls: list[Call] = []

    async def ask(self, call: Call) -> Answer:
        played = self.script[min(len(self.calls), len(self.script) - 1)]
        self.calls.append(call)
        if isinstance(played, Exception):
            raise played
        reply = played if isinstance(played, Reply) else Reply(Outcome.ANSWERED, played, latency_seconds=0.5)
        reply = replace(reply, text=with_code(reply.text, call))
        return Answer(reply, cost_usd=0.01)


@pytest.fixture
def scripted() -> Callable[[Sequence[Played]], ScriptedAsker]:
    """Makes a scripted asker."""
    return ScriptedAsker


@pytest.fixture
def resolve() -> Resolve:
    """Knows the provider openai, with any model; those called blind take no picture."""

    def find(spec: Spec) -> Destination:
        if spec.provider != "openai":
            raise UsageError(f"no provider called {spec.provider!r}")
        profile = Profile(
            name="openai",
            title="OpenAI",
            wire_format="openai_chat",
            images=ImageRules(media_types=("image/png",), token_rule="fixed", tokens_per_image=10, source="test", checked=CHECKED),
            limits=Limits(source="test", checked=CHECKED),
            models=(ModelFacts(match="blind*", vision=False, source="test", checked=CHECKED),),
            source="test",
            checked=CHECKED,
        )
        return Destination(Route("openai", "openai_chat", ("http://127.0.0.1:1",), spec.model), profile)

    return find


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A small policy library."""
    folder = tmp_path / "policies"
    folder.mkdir()
    for name, text in {"general": "General policy.", "fraud": "Fraud policy.", "hate_speech": "Hate policy."}.items():
        (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def review(resolve: Any, policies: Path) -> Callable[..., Awaitable[Guidance]]:
    """Opens the moderator and lets it review the dialogue."""

    async def ask(spec: str, asker: ScriptedAsker, *, failure: FailurePolicy = "fail", image: Image | None = PICTURE) -> Guidance:
        moderator = open_moderator(read_moderator(spec), asker=asker, resolve=resolve, policies=policies, failure=failure)
        assert moderator is not None
        history = (HISTORY[0] if image is None else replace(HISTORY[0], images=(image,)), *HISTORY[1:])
        return await moderator.review(dialogue=DIALOGUE, history=history)

    return ask
