"""At what temperature judges are asked, and whether they see the picture: the same for every kind of judge."""

from __future__ import annotations

from typing import Any

import pytest

from safemt_api.errors import UsageError
from safemt_api.judges.base import Manner
from safemt_api.judges.bench import Bench
from safemt_api.messages import images_of

KINDS = ("openai:gpt-6-luna", "guard:openai:llama-guard4", "decisions:openai")


@pytest.mark.parametrize("spec", KINDS)
async def test_words_alone_hide_the_picture_from_every_kind_of_judge(scripted: Any, resolve: Any, exhibit: Any, spec: str) -> None:
    usual, blind = scripted(["unsafe"] * 3), scripted(["unsafe"] * 3)
    shown = exhibit()
    assert images_of(shown.history)
    await Bench.of([spec]).joined(usual, resolve).judge(shown)
    await Bench.of([spec], manner=Manner(sees="words")).joined(blind, resolve).judge(shown)
    assert usual.calls[0].messages[0].images == images_of(shown.history)
    assert all(not message.images for call in blind.calls for message in call.messages)
    assert blind.calls[0].messages[-1].text


@pytest.mark.parametrize("spec", KINDS)
async def test_a_temperature_goes_into_every_call_beside_the_limits(scripted: Any, resolve: Any, exhibit: Any, spec: str) -> None:
    usual, warm = scripted(["unsafe"] * 3), scripted(["unsafe"] * 3)
    await Bench.of([spec]).joined(usual, resolve).judge(exhibit())
    await Bench.of([spec], manner=Manner(temperature=0.3)).joined(warm, resolve).judge(exhibit())
    assert {call.parameters.temperature for call in warm.calls} == {0.3}
    assert {call.parameters.temperature for call in usual.calls} == {None}
    assert warm.calls[0].parameters.max_output_tokens == usual.calls[0].parameters.max_output_tokens


def test_the_digest_tells_the_manner(scripted: Any, resolve: Any) -> None:
    manners = (Manner(), Manner(temperature=0.0), Manner(temperature=0.5), Manner(sees="words"), Manner(sees="picture"))
    judges = [Bench.of(["openai:gpt-6-luna", "rules"], manner=manner).joined(scripted([]), resolve) for manner in manners]
    assert len({judge.digest for judge in judges}) == len(manners)
    assert {judge.name for judge in judges} == {judges[0].name}
    assert {judge.baseline for judge in judges} == {judges[0].baseline}


async def test_a_judges_own_options_stand_over_those_of_all(scripted: Any, resolve: Any, exhibit: Any) -> None:
    asker = scripted(["unsafe"] * 9)
    judges = Bench.of(["openai:a", "openai:b,sees=picture,temperature=1"], manner=Manner(0.3, "words")).each(asker, resolve)
    for judge in judges:
        await judge.judge(exhibit())
    asked = {call.route.model: (len(call.messages[0].images), call.parameters.temperature) for call in asker.calls}
    assert asked == {"a": (0, 0.3), "b": (1, 1.0)}
    alone = Bench.of(["openai:b,sees=picture,temperature=1"]).joined(asker, resolve)
    assert alone.digest == judges[1].digest
    assert alone.name == "openai:b,sees=picture,temperature=1"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("temperature=hot", "temperature is 'hot'; give a number from 0 to 100"),
        ("temperature=nan", "give a number from 0"),
        ("temperature=-1", "give a number from 0"),
        ("sees=pictures", r"did you mean 'picture'\?\); give words, picture|give picture, words"),
        ("effort=huge", "effort is 'huge'.*give none, minimal, low"),
    ],
)
def test_an_option_that_makes_no_sense_names_the_judge_and_the_cure(scripted: Any, resolve: Any, option: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Bench.of([f"openai:b,{option}"]).joined(scripted([]), resolve)
