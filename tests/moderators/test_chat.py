"""Moderators that are chat models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.asking.material import coded
from safemt_api.errors import UsageError
from safemt_api.markers import CODE_OF_QUESTION, GUIDANCE_HEADER
from safemt_api.moderators.base import Decision
from safemt_api.moderators.chat import GENERAL, PolicyLibrary, load_policies, read_decision, scenario_slug

LIBRARY = PolicyLibrary({GENERAL: "General policy."})


def decision(malicious: Any = True, scenarios: Any = ("Fraud",), **more: Any) -> str:
    return json.dumps({"code": "@CODE@", "malicious": malicious, "intent": "to cheat", "scenarios": scenarios, "reason": "r", **more})


@pytest.mark.parametrize("spec", ["policy:openai:any", "openai:any"])
async def test_malice_puts_the_scenarios_policies_before_the_target(review: Any, scripted: Any, spec: str) -> None:
    text = decision(scenarios=["Hate Speech", "fraud", "Hate  speech"])
    guidance = await review(spec, scripted([text]))
    assert guidance.moderator == spec
    assert guidance.flagged is True
    assert guidance.policy == f"{GUIDANCE_HEADER}\n\nHate policy.\n\nFraud policy."
    assert guidance.refusal is None
    assert (guidance.intent, guidance.scenarios) == ("to cheat", ("Hate Speech", "fraud", "Hate  speech"))
    assert json.loads(guidance.text) == {**json.loads(text), "code": json.loads(guidance.text)["code"]}
    assert (guidance.latency_seconds, guidance.cost_usd) == (0.5, 0.01)


@pytest.mark.parametrize("scenarios", [[], ["Nonsense"], ["../../etc/passwd"], [""], ["General"]])
async def test_unknown_and_unnamed_scenarios_get_the_general_policy(review: Any, scripted: Any, scenarios: list[str]) -> None:
    guidance = await review("openai:any", scripted([decision(scenarios=scenarios)]))
    assert guidance.policy == f"{GUIDANCE_HEADER}\n\nGeneral policy."


async def test_no_malice_no_policy(review: Any, scripted: Any) -> None:
    guidance = await review("openai:any", scripted([decision(malicious=False, scenarios=["Fraud"])]))
    assert (guidance.flagged, guidance.policy, guidance.refusal) == (False, None, None)
    assert guidance.intent == "to cheat"


async def test_the_model_sees_the_dialogue_and_picture_but_not_the_data_sets_labels(review: Any, scripted: Any) -> None:
    asker = scripted([decision()])
    await review("openai:any", asker)
    (call,) = asker.calls
    (message,) = call.messages
    assert call.purpose == "moderator"
    assert len(message.images) == 1
    shown, _, code = message.text.rpartition(f"\n\n{CODE_OF_QUESTION}")
    assert code == coded(shown, system=call.system, images=message.images)[1]
    assert json.loads(shown) == {
        "dialogue": [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "I see."},
            {"role": "user", "content": 'And "then"?'},
        ]
    }
    assert "the question behind" not in message.text
    assert "Fraud, Hate Speech" in call.system
    assert call.schema.body["required"] == ["code", "malicious", "intent", "scenarios", "reason"]


async def test_a_model_without_sight_gets_no_picture(review: Any, scripted: Any) -> None:
    for spec, text in (("openai:blind-1", decision()), ("raw:openai:blind-1", "Take care.")):
        asker = scripted([text])
        await review(spec, asker)
        assert asker.calls[0].messages[0].images == ()


async def test_tries_are_counted_and_paid(review: Any, scripted: Any) -> None:
    asker = scripted(["well …", decision()])
    guidance = await review("openai:any", asker)
    assert [call.sample_index for call in asker.calls] == [0, 1]
    assert guidance.cost_usd == pytest.approx(0.02)
    assert guidance.latency_seconds == pytest.approx(1.0)


@pytest.mark.parametrize(
    "text",
    [
        "not malicious",
        decision(malicious="false"),
        decision(malicious=0),
        decision(malicious=None),
        decision(scenarios="Fraud"),
        decision(scenarios=[1]),
        decision(intent=None),
        decision(really_malicious=True),
        decision(malicious=True) + decision(malicious=False),
        '{"code": "@CODE@", "malicious": true, "malicious": false}',
        f"Clearly malicious. {decision(malicious=False)}",
        decision(malicious=False).replace("@CODE@", "0123456789ab"),
        '{"malicious": false}',
    ],
)
def test_a_doubtful_decision_is_none(text: str) -> None:
    assert read_decision(text, "@CODE@", LIBRARY) is None


def test_the_bare_decision_is_enough() -> None:
    assert read_decision('{"code": "c", "malicious": false}', "c", LIBRARY) == Decision(flagged=False)


PIECES = ["{", "}", '"malicious": ', "true", "false", ", ", '"scenarios": []', decision(), decision(malicious=False), "so "]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=10).map("".join)))
def test_no_text_clears_the_user_unless_it_says_so(text: str) -> None:
    found = read_decision(text, "@CODE@", LIBRARY)
    if found is not None and not found.flagged:
        assert '"malicious": false' in text
        assert decision() not in text


async def test_raw_words_are_passed_on_as_they_are(review: Any, scripted: Any) -> None:
    words = ' Take care:\n"the user" {may} mean harm.\n'
    guidance = await review("raw:openai:chat-shield", scripted([words]))
    assert guidance.policy == f"{GUIDANCE_HEADER}\n\n{words}"
    assert (guidance.text, guidance.flagged, guidance.refusal) == (words, None, None)


async def test_raw_asks_for_plain_words(review: Any, scripted: Any) -> None:
    asker = scripted(["Take care."])
    await review("raw:openai:any", asker)
    assert asker.calls[0].schema is None
    assert "dialogue" in json.loads(asker.calls[0].messages[0].text)


@pytest.mark.parametrize(
    ("scenario", "slug"),
    [("Animal Abuse", "animal_abuse"), (" hate-speech ", "hate_speech"), ("SEX", "sex"), ("a/b\\..c", "a_b_c"), ("", ""), ("Бот", "бот")],
)
def test_a_scenario_becomes_a_file_name(scenario: str, slug: str) -> None:
    assert scenario_slug(scenario) == slug


def test_the_shipped_library_has_a_general_policy() -> None:
    library = load_policies()
    assert library.by_slug[GENERAL].strip()
    assert "General" not in library.scenarios


def test_ones_own_library_stands_alone(policies: Path) -> None:
    library = load_policies(policies)
    assert library.scenarios == ("Fraud", "Hate Speech")
    assert library.for_scenarios(["Political"]) == "General policy."
    assert library.for_scenarios([]) == "General policy."
    assert library.for_scenarios(["x", "y", "FRAUD"]) == "General policy.\n\nFraud policy."


def test_the_digest_follows_every_text(policies: Path) -> None:
    before = load_policies(policies).digest
    assert load_policies(policies).digest == before
    (policies / "fraud.md").write_text("Another.", encoding="utf-8")
    changed = load_policies(policies).digest
    (policies / "fraud.md").rename(policies / "threat.md")
    assert len({before, changed, load_policies(policies).digest}) == 3


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("fraud.md", b" \n", "fraud.md: the file is empty"),
        ("fraud.md", b"\xff\xff", "fraud.md: cannot be read as UTF-8"),
        ("fraud.md", b"x" * 200_000, "fraud.md: larger than"),
        ("Hate Speech.md", b"again", "two files are for the scenario 'hate_speech'"),
    ],
)
def test_an_unusable_file_is_named(policies: Path, name: str, content: bytes, words: str) -> None:
    (policies / name).write_bytes(content)
    with pytest.raises(UsageError, match=words):
        load_policies(policies)


def test_a_library_without_a_general_policy_or_folder_is_refused(policies: Path) -> None:
    (policies / "general.md").unlink()
    with pytest.raises(UsageError, match=r"general\.md is missing"):
        load_policies(policies)
    with pytest.raises(UsageError, match="no such folder"):
        load_policies(policies / "nowhere")
