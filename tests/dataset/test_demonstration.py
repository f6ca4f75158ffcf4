"""The demonstration set as it ships: raw checks of its files, so that a slip in the data is found without the code that reads it."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import safemt_api

LENGTHS = (1, 2, 4, 6, 8)
FOLDER = Path(next(iter(safemt_api.__path__))) / "dataset" / "demonstration"
SCENARIOS = {
    "Animal Abuse",
    "Bias",
    "Economic Harm",
    "Financial Advice",
    "Fraud",
    "Hate Speech",
    "Health Consultation",
    "Illegal Activity",
    "Legal Opinion",
    "Malware",
    "Physical Harm",
    "Political",
    "Privacy Violation",
    "Satire",
    "Sex",
    "Threat",
    "Violence",
}
REQUIRED_KEYS = {"id", "scenario", "image_path", "dialogue", "question", "kind"}
METHODS = {"lead-in", "fiction", "purpose", "in-context"}
PLACEHOLDER = " LEFT OUT]"
LONGEST_ASSISTANT_MESSAGE = 600
LARGEST_PNG_BYTES = 12_000
LARGEST_FOLDER_BYTES = 1_200_000

Element = dict[str, Any]


def elements(length: int) -> list[Element]:
    loaded: list[Element] = json.loads((FOLDER / f"{length}_turn.json").read_text(encoding="utf-8"))
    return loaded


def contents(element: Element, role: str) -> list[str]:
    return [message["content"] for message in element["dialogue"] if message["role"] == role]


def slug(scenario: str) -> str:
    return scenario.lower().replace(" ", "_")


@pytest.mark.parametrize("length", LENGTHS)
def test_every_file_holds_as_many_harmful_as_benign_dialogues(length: int) -> None:
    assert Counter(element["kind"] for element in elements(length)) == {"harmful": 34, "benign": 34}


@pytest.mark.parametrize("length", LENGTHS)
def test_every_scenario_has_two_ids_of_each_kind(length: int) -> None:
    counts = Counter((element["scenario"], element["kind"]) for element in elements(length))
    assert counts == {(scenario, kind): 2 for scenario in SCENARIOS for kind in ("harmful", "benign")}


@pytest.mark.parametrize("length", LENGTHS)
def test_every_element_has_the_keys_of_the_layout_and_known_values(length: int) -> None:
    for element in elements(length):
        assert element.keys() - {"method"} == REQUIRED_KEYS, element["id"]
        assert ("method" in element) is (element["kind"] == "harmful"), element["id"]
        assert element.get("method", "lead-in") in METHODS, element["id"]


@pytest.mark.parametrize("length", LENGTHS)
def test_ids_name_kind_and_scenario_and_are_unique(length: int) -> None:
    prefixes = {"harmful": "demo_", "benign": "demo_benign_"}
    ids = {element["id"] for element in elements(length)}
    assert ids == {f"{prefixes[kind]}{slug(name)}_{number}" for kind in prefixes for name in SCENARIOS for number in (1, 2)}
    assert len(ids) == len(elements(length))


@pytest.mark.parametrize("length", LENGTHS)
def test_a_dialogue_alternates_and_has_as_many_user_turns_as_its_file_says(length: int) -> None:
    for element in elements(length):
        roles = [message["role"] for message in element["dialogue"]]
        assert roles == ["user", "assistant"] * (length - 1) + ["user"], element["id"]
        assert all(message.keys() == {"role", "content"} for message in element["dialogue"]), element["id"]


@pytest.mark.parametrize("length", LENGTHS)
def test_no_message_is_empty_or_has_space_around_it(length: int) -> None:
    for element in elements(length):
        for message in element["dialogue"]:
            assert message["content"], element["id"]
            assert message["content"] == message["content"].strip(), element["id"]


@pytest.mark.parametrize("length", LENGTHS)
def test_scripted_assistant_messages_are_short(length: int) -> None:
    longest = max((len(text) for element in elements(length) for text in contents(element, "assistant")), default=0)
    assert longest <= LONGEST_ASSISTANT_MESSAGE


def test_an_id_keeps_everything_but_its_dialogue_across_lengths() -> None:
    def without_dialogue(length: int) -> list[Element]:
        return [{key: value for key, value in element.items() if key != "dialogue"} for element in elements(length)]

    assert all(without_dialogue(length) == without_dialogue(1) for length in LENGTHS)


def test_length_one_is_the_bare_question() -> None:
    assert all(contents(element, "user") == [element["question"]] for element in elements(1))


def test_every_family_of_attack_is_there_several_times_and_an_id_keeps_its_own() -> None:
    families = Counter(element["method"] for element in elements(8) if element["kind"] == "harmful")
    assert families.keys() == METHODS
    assert min(families.values()) >= 6


@pytest.mark.parametrize("length", LENGTHS[1:])
def test_every_longer_harmful_dialogue_veils_its_question_from_length_two_on(length: int) -> None:
    for element in elements(length):
        if element["kind"] == "harmful":
            assert contents(element, "user")[-1] != element["question"], element["id"]


@pytest.mark.parametrize("length", LENGTHS[1:])
def test_in_context_dialogues_hold_other_requests_answered_by_placeholders(length: int) -> None:
    for element in elements(length):
        answered = [PLACEHOLDER in text for text in contents(element, "assistant")]
        assert all(answered) if element.get("method") == "in-context" else not any(answered), element["id"]


def test_longer_dialogues_keep_the_opening_and_the_order_of_the_shorter_ones() -> None:
    for shorter, longer in pairwise(LENGTHS[1:]):
        for short, long in zip(elements(shorter), elements(longer), strict=True):
            turns, more_turns = contents(short, "user"), contents(long, "user")
            assert turns[0] == more_turns[0], short["id"]
            remaining = iter(more_turns)
            assert all(turn in remaining for turn in turns[:-1]), short["id"]


def test_each_id_opens_with_a_text_of_its_own_and_no_message_repeats_in_a_dialogue() -> None:
    openings = {contents(element, "user")[0] for element in elements(8)}
    assert len(openings) == 68
    for element in elements(8):
        texts = [message["content"] for message in element["dialogue"]]
        assert len(set(texts)) == len(texts), element["id"]


def test_each_id_has_a_picture_of_its_own_in_the_folder_of_its_scenario() -> None:
    paths = {element["image_path"] for element in elements(1)}
    on_disk = {path.relative_to(FOLDER).as_posix() for path in (FOLDER / "images").rglob("*") if path.is_file()}
    assert len(paths) == 68
    assert paths == on_disk
    for element in elements(1):
        name = slug(element["scenario"])
        assert element["image_path"].startswith(f"images/{name}/{name}_"), element["id"]


def test_every_picture_opens_and_is_what_its_name_says() -> None:
    formats: Counter[str] = Counter()
    for element in elements(1):
        path = FOLDER / element["image_path"]
        with Image.open(path) as image:
            image.load()
            assert image.size == (640, 480), path.name
            assert image.format == {".png": "PNG", ".jpg": "JPEG"}[path.suffix], path.name
            formats[str(image.format)] += 1
        assert path.suffix != ".png" or path.stat().st_size <= LARGEST_PNG_BYTES, path.name
    assert formats["JPEG"] >= 1


def test_no_two_pictures_are_the_same() -> None:
    digests = {(FOLDER / element["image_path"]).read_bytes() for element in elements(1)}
    assert len(digests) == 68


def test_the_folder_stays_small_and_holds_nothing_else() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST_FOLDER_BYTES
    assert {path.name for path in FOLDER.iterdir()} == {"README.md", "images", *(f"{length}_turn.json" for length in LENGTHS)}


def test_the_readme_states_licence_and_purpose() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "Apache-2.0" in text
    assert "not a benchmark" in text
    assert "mild by design" in text
