"""Sets of rubrics: the shipped ones hold what they promise, one's own are read or refused in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from safemt_api.errors import UsageError
from safemt_api.judges.chat import system_prompt
from safemt_api.judges.rubric import GENERAL, OVER_REFUSAL, RUBRICS_FOLDER, SHIPPED_SETS, load_rubrics, rubric_record
from safemt_api.messages import Dialogue, Line


def about(scenario: str) -> Dialogue:
    return Dialogue("a", scenario, 1, (Line("user", "q"),), "q")


@pytest.mark.parametrize(
    ("scenario", "name"),
    [
        ("Political", "political"),
        ("political ", "political"),
        ("Legal Opinion", "professional_advice"),
        ("legal_opinion", "professional_advice"),
        ("FINANCIAL  ADVICE", "professional_advice"),
        ("Health Consultation", "professional_advice"),
        ("Fraud", GENERAL),
        ("Satire", GENERAL),
        ("Something new", GENERAL),
        ("", GENERAL),
    ],
)
def test_the_scenario_chooses_the_rubric(scenario: str, name: str) -> None:
    assert load_rubrics().choose(about(scenario)).name == name


def test_benign_dialogues_are_asked_about_over_refusal() -> None:
    chosen = load_rubrics().choose(replace(about("Political"), kind="benign"))
    assert chosen.name == OVER_REFUSAL
    assert set(chosen.words) == {"refused", "helped"}


@pytest.mark.parametrize("name", SHIPPED_SETS)
def test_every_shipped_rubric_is_used_and_says_what_decides(name: str) -> None:
    rubrics = load_rubrics(name)
    assert {file.stem for file in (RUBRICS_FOLDER / name).glob("*.md")} | {OVER_REFUSAL} == set(rubrics.by_name)
    for rubric in rubrics.by_name.values():
        assert rubric.text.startswith("# ")
        for word in rubric.words:
            assert json.dumps(word) in system_prompt(rubric)


def test_every_folder_beside_them_is_a_shipped_set() -> None:
    assert {path.name for path in RUBRICS_FOLDER.iterdir() if path.is_dir()} == set(SHIPPED_SETS)


def test_the_papers_set_is_the_default_and_has_its_criteria() -> None:
    rubrics = load_rubrics()
    assert rubrics.name == "safemt"
    general, political, advice = (" ".join(rubrics.by_name[name].text.split()) for name in (GENERAL, "political", "professional_advice"))
    for criterion in ("private data", "detailed steps", "explicit sexual", "strongly approves", "a group or a single person", "prejudice"):
        assert criterion in general
    for criterion in ("whatever the advice is", "takes a stance", "stirs emotions", "safe otherwise"):
        assert criterion in political
    for criterion in ("no professional and urges caution", "That suffices", "unsafe otherwise", "General information is unsafe too"):
        assert criterion in advice
    assert all("quot" in text.casefold() for text in (general, political, advice))


def test_the_general_set_is_the_papers_general_rubric_for_all() -> None:
    rubrics, whole = load_rubrics("safemt-general"), load_rubrics("safemt")
    assert rubrics.choose(about("Political")).text == rubrics.choose(about("Fraud")).text == whole.by_name[GENERAL].text
    assert rubrics.digest != whole.digest


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A set with a rubric for law."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "general.md").write_text("In general.", encoding="utf-8")
    (folder / "law.md").write_text("For law.", encoding="utf-8")
    (folder / "README.md").write_text("Whose it is.", encoding="utf-8")
    (folder / "scenarios.toml").write_text('"Legal Opinion" = "law.md"\nfraud = "law.md"\n', encoding="utf-8")
    return folder


def test_ones_own_set_judges_by_its_table(own: Path) -> None:
    rubrics = load_rubrics(own)
    assert rubrics.name == "own"
    texts = [rubrics.choose(about(scenario)).text for scenario in ("LEGAL_OPINION", "Fraud", "Political")]
    assert texts == ["For law.", "For law.", "In general."]
    assert rubrics.choose(replace(about("Fraud"), kind="benign")).text == load_rubrics().by_name[OVER_REFUSAL].text


def test_the_digest_follows_texts_and_table_and_not_the_name(own: Path) -> None:
    digests = [load_rubrics(own).digest]
    own.rename(own.with_name("other"))
    own = own.with_name("other")
    assert load_rubrics(own).digest == digests[0]
    (own / "scenarios.toml").write_text('"Legal Opinion" = "law.md"\n', encoding="utf-8")
    digests.append(load_rubrics(own).digest)
    (own / "law.md").write_text("Otherwise.", encoding="utf-8")
    digests.append(load_rubrics(own).digest)
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("general.md", None, r"general\.md is missing"),
        ("law.md", None, r"names law\.md, which is not in the folder"),
        ("spare.md", "x", r"no scenario of scenarios\.toml is judged by spare\.md"),
        ("law.md", " ", r"law\.md: the file is empty"),
        ("scenarios.toml", "law", r"scenarios\.toml: cannot be read as TOML"),
        ("scenarios.toml", "a = 1", "write it as"),
        ("scenarios.toml", 'a = "../general.md"', "write it as"),
        ("scenarios.toml", 'a = "law.txt"', "write it as"),
        ("scenarios.toml", '"a b" = "law.md"\n"A_B" = "general.md"', "judged by two files"),
    ],
)
def test_a_set_that_is_wrong_is_refused_in_one_sentence(own: Path, file: str, content: str | None, words: str) -> None:
    if content is None:
        (own / file).unlink()
    else:
        (own / file).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        load_rubrics(own)


def test_an_unknown_set_is_told_which_there_are() -> None:
    with pytest.raises(
        UsageError, match="--rubric careless: no such set, folder or file; the shipped sets are safemt, safemt-general, careful"
    ):
        load_rubrics("careless")


def test_the_run_file_keeps_names_and_whole_paths(own: Path) -> None:
    assert rubric_record(None) is None
    assert rubric_record("careful") == "careful"
    assert rubric_record("own") == str(own)


def test_ones_own_rubric_stands_for_every_harmful_scenario(tmp_path: Path) -> None:
    file = tmp_path / "own.md"
    file.write_text("\ufeffMy criteria with {braces} and %s.", encoding="utf-8")
    rubrics = load_rubrics(file)
    for scenario in ("Political", "Legal Opinion", "Fraud"):
        assert rubrics.choose(about(scenario)).text == "My criteria with {braces} and %s."
    assert "{braces}" in system_prompt(rubrics.choose(about("Fraud")))
    assert rubrics.choose(replace(about("Fraud"), kind="benign")).text == load_rubrics().by_name[OVER_REFUSAL].text


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe\x00", b"x" * 200_000, None])
def test_an_unusable_rubric_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "own.md"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"--rubric .*own\.md"):
        load_rubrics(file)
