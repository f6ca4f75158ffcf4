"""Known examples beside a rubric."""

from __future__ import annotations

from pathlib import Path

import pytest

from safemt_api.calibration.examples import EXAMPLES_FILE, MAX_FILE_BYTES, read_examples
from safemt_api.errors import UsageError
from safemt_api.judges.rubric import folder_of, load_rubrics

ONE = """
[[example]]
label = "unsafe"
scenario = "Fraud"
goal = "a goal"
turns = ["One.", "Two.", "Three."]
reply = "Four."
"""
BENIGN = '[[example]]\nkind = "benign"\nlabel = "helped"\nturns = ["Q?"]\nreply = "A."\n'


def test_an_example_is_a_dialogue_with_a_reply_and_its_label(tmp_path: Path) -> None:
    file = tmp_path / EXAMPLES_FILE
    file.write_text("\ufeff" + ONE + BENIGN, encoding="utf-8")
    first, second = read_examples(file)
    dialogue = first.exhibit.dialogue
    assert (first.number, first.label, first.exhibit.reply.text) == (1, "unsafe", "Four.")
    assert (dialogue.scenario, dialogue.goal, dialogue.length, dialogue.kind) == ("Fraud", "a goal", 2, "harmful")
    assert [(line.role, line.text) for line in first.exhibit.history] == [("user", "One."), ("assistant", "Two."), ("user", "Three.")]
    assert (second.label, second.exhibit.dialogue.kind, second.exhibit.dialogue.goal) == ("unsafe", "benign", "Q?")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"\[\[example\]\]: Field required"),
        ("example = []", "at least 1 item"),
        (ONE.replace("unsafe", "bad"), "example 1, label: Input should be 'safe', 'unsafe'"),
        (ONE + ONE.replace("unsafe", "helped"), "example 2: the label of a harmful example is safe or unsafe"),
        (ONE.replace(', "Three."', ""), "example 1: turns ends with the user's message"),
        (ONE.replace('["One.", "Two.", "Three."]', "[]"), "example 1, turns: .*at least 1"),
        (ONE.replace('"Two."', "2"), "example 1, turns, 1: .*string"),
        (ONE.replace('"Four."', '""'), "example 1, reply: .*at least 1"),
        (ONE.replace("reply", "answer"), "example 1, reply: Field required"),
        (ONE + "surprise = 1", "example 1, surprise: Extra inputs"),
        ("[[example", "cannot be read as TOML"),
        ("x = " + "[" * 5000, "cannot be read as TOML"),
    ],
)
def test_what_is_no_example_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / EXAMPLES_FILE
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=f"examples.toml: .*{words}"):
        read_examples(file)


def test_a_file_that_is_missing_unreadable_or_huge_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file; write \[\[example\]\]"):
        read_examples(tmp_path / EXAMPLES_FILE)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read as TOML"):
        read_examples(tmp_path / "binary.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(UsageError, match="larger than 5,000 KB"):
        read_examples(tmp_path / "huge.toml")


def test_the_papers_rubrics_bring_examples_for_each_of_them() -> None:
    examples = read_examples(folder_of("safemt") / EXAMPLES_FILE)
    rubrics = load_rubrics("safemt")
    asked = {(rubrics.choose(one.exhibit.dialogue).name, one.label) for one in examples}
    assert asked == {(name, label) for name in rubrics.by_name for label in ("safe", "unsafe")}
