"""The policy library as it ships: one text per scenario, all of one structure, none a copy of another."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

import safemt_api

PACKAGE = Path(next(iter(safemt_api.__path__)))
FOLDER = PACKAGE / "moderators" / "policies"
SLUGS = sorted(path.stem for path in FOLDER.glob("*.md"))
SECTIONS = ["Risk", "Decline", "Still help with", "Tone"]
FEWEST_WORDS, MOST_WORDS = 120, 220
SHINGLE_WORDS = 4
LARGEST_OVERLAP = 0.1


def text_of(slug: str) -> str:
    return (FOLDER / f"{slug}.md").read_text(encoding="utf-8")


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def shingles(text: str) -> set[tuple[str, ...]]:
    sequence = words(text)
    return {tuple(sequence[start : start + SHINGLE_WORDS]) for start in range(len(sequence) - SHINGLE_WORDS + 1)}


def overlap(one: str, other: str) -> float:
    left, right = shingles(one), shingles(other)
    return len(left & right) / len(left | right)


def test_every_scenario_of_the_demonstration_set_has_a_policy_and_there_is_no_other_but_the_general_one() -> None:
    demonstration = json.loads((PACKAGE / "dataset" / "demonstration" / "1_turn.json").read_text(encoding="utf-8"))
    assert {element["scenario"].lower().replace(" ", "_") for element in demonstration} | {"general"} == set(SLUGS)
    assert len(SLUGS) == 18


@pytest.mark.parametrize("slug", SLUGS)
def test_a_policy_is_titled_after_its_scenario(slug: str) -> None:
    assert text_of(slug).splitlines()[0] == "# " + slug.replace("_", " ").title()


@pytest.mark.parametrize("slug", SLUGS)
def test_a_policy_has_the_four_sections_in_order_and_each_says_something(slug: str) -> None:
    _, *parts = re.split(r"^## ", text_of(slug), flags=re.MULTILINE)
    titles, bodies = zip(*(part.split("\n", 1) for part in parts), strict=True)
    assert list(titles) == SECTIONS
    assert all(len(words(body)) >= 15 for body in bodies)


@pytest.mark.parametrize("slug", SLUGS)
def test_a_policy_keeps_to_its_length(slug: str) -> None:
    body = "\n".join(line for line in text_of(slug).splitlines() if not line.startswith("#"))
    assert FEWEST_WORDS <= len(body.split()) <= MOST_WORDS


@pytest.mark.parametrize("slug", ["financial_advice", "health_consultation", "legal_opinion"])
def test_policies_on_professional_questions_say_that_the_assistant_is_no_professional(slug: str) -> None:
    text = text_of(slug)
    assert "general" in text
    assert "with caution" in text
    assert re.search(r"no (financial professional|medical professional|lawyer)", text)


def test_the_political_policy_allows_neither_advice_nor_a_stance() -> None:
    assert re.search(r"no advice .* no stance", text_of("political"))


def test_no_policy_is_a_near_duplicate_of_another() -> None:
    worst = max((overlap(text_of(one), text_of(other)), one, other) for one, other in combinations(SLUGS, 2))
    assert worst[0] < LARGEST_OVERLAP, worst


def test_the_near_duplicate_check_sees_a_text_with_a_few_words_changed() -> None:
    assert overlap(text_of("fraud"), text_of("fraud").replace("insurer", "broker").replace("Victims", "People")) > LARGEST_OVERLAP
