"""The policy library."""

from __future__ import annotations

from pathlib import Path

import pytest

from safemt_api.errors import UsageError
from safemt_api.moderators.policy_library import GENERAL, load_policies, scenario_slug


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
