"""A scripted asker in place of the gateway, and exhibits to judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date

import pytest

from safemt_api.errors import UsageError
from safemt_api.markers import CODE_OF_QUESTION
from safemt_api.messages import Answer, Call, Dialogue, Exhibit, Image, Kind, Line, Outcome, Reply, Route
from safemt_api.profiles import ImageRules, Limits, ModelFacts, Profile, WireFormat
from safemt_api.routes import Destination, Resolve
from safemt_api.specs import Spec

CHECKED = date(2026, 11, 21)
PICTURE = Image(b"picture", digest="sha256:picture", media_type="image/png", width_pixels=8, height_pixels=8)

Played = str | Reply | Exception

CODE = "@CODE@"
"""Stands in a scripted answer for the code of the question."""


def with_code(text: str, call: Call) -> str:
    return text.replace(CODE, call.messages[-1].text.rpartition(CODE_OF_QUESTION)[2])


class ScriptedAsker:
    """Answers each model's calls from a list, the last one over and over; keeps all calls."""

    def __init__(self, script: dict[str, Sequence[Played]] | Sequence[Played]) -> None:
        self.script = script if isinstance(script, dict) else {"*": script}
        self.calls: list[Call] = []

    async def ask(self, call: Call) -> Answer:
        answers = self.script.get(call.route.model, self.script.get("*", ["no answer is scripted"]))
        earlier = sum(1 for made in self.calls if made.route.model == call.route.model)
        self.calls.append(call)
        played = answers[min(earlier, len(answers) - 1)]
        if isinstance(played, Exception):
            raise played
        reply = played if isinstance(played, Reply) else Reply(Outcome.ANSWERED, played, latency_seconds=0.5)
        reply = replace(reply, text=with_code(reply.text, call))
        return Answer(reply, cost_usd=0.01)


@pytest.fixture
def scripted() -> Callable[[dict[str, Sequence[Played]] | Sequence[Played]], ScriptedAsker]:
    """Makes a scripted asker: a list of answers for all models, or a list for each model."""
    return ScriptedAsker


def make_profile(name: str, wire_format: WireFormat = "openai_chat") -> Profile:
    models = (
        ModelFacts(match="thinker*", reasons=True, efforts=("low", "high"), source="test", checked=CHECKED),
        ModelFacts(match="tiny*", max_output_tokens=256, source="test", checked=CHECKED),
        ModelFacts(match="blind*", vision=False, source="test", checked=CHECKED),
    )
    return Profile(
        name=name,
        title=name,
        wire_format=wire_format,
        base_url="http://127.0.0.1:1",
        images=ImageRules(media_types=("image/png",), token_rule="fixed", tokens_per_image=10, source="test", checked=CHECKED),
        limits=Limits(source="test", checked=CHECKED),
        models=models,
        source="test",
        checked=CHECKED,
    )


@pytest.fixture
def resolve() -> Resolve:
    """Knows the providers openai, google and anthropic, with any model."""
    formats: dict[str, WireFormat] = {"openai": "openai_chat", "google": "google_genai", "anthropic": "anthropic_messages"}

    def find(spec: Spec) -> Destination:
        if spec.provider not in formats:
            raise UsageError(f"no provider called {spec.provider!r}")
        wire_format = formats[spec.provider]
        return Destination(Route(spec.provider, wire_format, ("http://127.0.0.1:1",), spec.model), make_profile(spec.provider, wire_format))

    return find


@pytest.fixture
def exhibit() -> Callable[..., Exhibit]:
    """Makes an exhibit around a reply."""

    def make(
        reply: str | Reply = "Here is some text.",
        *,
        scenario: str = "Fraud",
        kind: Kind = "harmful",
        turns: Sequence[str] = ("Hello.", "And then?"),
        image: Image | None = PICTURE,
    ) -> Exhibit:
        history: list[Line] = []
        for text in turns:
            pictures = (image,) if image is not None and not history else ()
            history += [Line("user", text, images=pictures), Line("assistant", "I see.")]
        lines = tuple(history[:-1])
        dialogue = Dialogue("mm_fraud_1", scenario, len(turns), lines, "the question behind", kind)
        said = reply if isinstance(reply, Reply) else Reply(Outcome.ANSWERED, reply)
        return Exhibit(dialogue, lines, said, len(turns))

    return make
