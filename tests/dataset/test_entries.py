"""A folder in the official layout is checked whole, held lightly and read late."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safemt_api.dataset.entries import Entry, load_dataset
from safemt_api.dataset.layouts import demonstration_folder
from safemt_api.dataset.picture_files import Inspection, inspect_image
from safemt_api.errors import DatasetError, UsageError

Make = Callable[..., Any]


def problems_of(folder: Path) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        load_dataset(folder)
    return [str(problem) for problem in caught.value.problems]


def test_a_good_folder_gives_entries_lengths_and_dialogues(folder: Make, element: Make) -> None:
    dataset = load_dataset(folder({1: [element("a"), element("b")], 4: [element("b", 4)]}))
    assert dataset.lengths == (1, 4)
    assert dataset.problems == ()
    assert dataset.ids == ("a", "b")
    assert [(entry.id, entry.length, entry.file, entry.index) for entry in dataset.entries] == [
        ("a", 1, "1_turn.json", 0),
        ("b", 1, "1_turn.json", 1),
        ("b", 4, "4_turn.json", 0),
    ]
    dialogue = dataset.read(dataset.entries[2])
    assert (dialogue.id, dialogue.length, len(dialogue.lines), dialogue.image_paths) == ("b", 4, 7, ("images/a.png",))


def test_entries_hold_no_words_and_share_repeated_texts(folder: Make, element: Make) -> None:
    words = "a very long secret text"
    said = [{"role": "user", "content": words}]
    dataset = load_dataset(folder({1: [element("x", question=words, dialogue=said), element("y")], 2: [element("x", 2)]}))
    assert words not in repr(dataset.entries)
    first, second, third = dataset.entries
    assert first.scenario is second.scenario
    assert first.image_paths[0] is second.image_paths[0]
    assert first.id is third.id
    assert set(Entry.__slots__) == {
        "id", "scenario", "kind", "length", "image_paths", "file", "index", "offset_bytes", "size_bytes", "digest", "repeat",
        "method", "source", "language", "pair", "user_only",
    }  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=6), mark=st.booleans(), indent=st.sampled_from([None, 1]))
def test_what_is_read_late_is_what_stands_in_the_file(
    folder: Make, element: Make, texts: list[str], mark: bool, indent: int | None
) -> None:
    elements = [element(f"id_{n}", dialogue=[{"role": "user", "content": text}], question=text) for n, text in enumerate(texts)]
    raw = json.dumps(elements, ensure_ascii=False, indent=indent).encode("utf-8-sig" if mark else "utf-8")
    dataset = load_dataset(folder({1: raw}))
    assert [dataset.read(entry).user_texts for entry in dataset.entries] == [(text,) for text in texts]


def test_a_missing_folder_or_length_is_a_usage_error_that_says_what_is_there(folder: Make, element: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"holds no 1_turn\.json"):
        load_dataset(tmp_path)
    root = folder({1: [element()], 2: [element(length=2)]})
    with pytest.raises(UsageError, match=r"no 6_turn\.json, 8_turn\.json in .*; lengths there: 1, 2"):
        load_dataset(root, lengths=[1, 6, 8])
    with pytest.raises(UsageError, match="no length is chosen"):
        load_dataset(root, lengths=[])
    assert load_dataset(root, lengths=[2]).lengths == (2,)


def test_all_problems_of_all_files_are_listed_at_once_with_file_index_and_id(folder: Make, element: Make) -> None:
    root = folder(
        {
            1: [element("good"), element("bad", scenario=...), element("worse", image_path="images/none.png", kind="?"), 7],
            2: "[{]",
            4: '{"id": 1}',
            6: [element("good", 2)],
        }
    )
    assert problems_of(root) == [
        '1_turn.json[1] (bad): key "scenario" is missing',
        '1_turn.json[2] (worse): "kind" is "?"; it must be "harmful" or "benign"',
        "1_turn.json[2] (worse): image images/none.png is missing",
        "1_turn.json[3]: is not an object but a number",
        "2_turn.json: is not JSON: Expecting property name enclosed in double quotes: line 1 column 3 (char 2)",
        "4_turn.json: is not an array but an object; it must be a JSON array of dialogues",
        "6_turn.json[0] (good): holds 2 user messages, but a file of this name is for 6",
    ]


def test_a_duplicate_id_within_a_file_is_a_problem_and_across_files_is_the_pairing(folder: Make, element: Make) -> None:
    root = folder({1: [element("x"), element("y"), element("x")], 2: [element("x", 2)]})
    assert problems_of(root) == ["1_turn.json[2] (x): duplicate id: it stands at index 0 already"]


def test_skip_invalid_leaves_out_exactly_the_invalid_and_counts_them(folder: Make, element: Make) -> None:
    root = folder({1: [element("x"), element("y", kind="?", scenario=...), element("x")], 2: "nonsense", 4: [element("x", 4)]})
    dataset = load_dataset(root, skip_invalid=True)
    assert [(entry.id, entry.length, entry.index) for entry in dataset.entries] == [("x", 1, 0), ("x", 4, 0)]
    assert dataset.lengths == (1, 4)
    assert dataset.left_out == 3
    assert len(dataset.problems) == 4


def test_a_file_broken_halfway_is_left_out_whole(folder: Make, element: Make) -> None:
    broken = json.dumps([element("x"), element("y")])[:-30]
    dataset = load_dataset(folder({1: broken, 2: [element("x", 2)]}), skip_invalid=True)
    assert dataset.lengths == (2,)


def test_nothing_valid_is_refused_even_with_skip_invalid(folder: Make, element: Make) -> None:
    with pytest.raises(DatasetError):
        load_dataset(folder({1: [element(id=...)]}), skip_invalid=True)
    with pytest.raises(DatasetError, match="holds no dialogue"):
        load_dataset(folder({1: []}), skip_invalid=True)


def test_a_byte_order_mark_is_accepted_and_other_encodings_are_named(folder: Make, element: Make) -> None:
    text = json.dumps([element("é", question="naïve ☂")], ensure_ascii=False)
    dataset = load_dataset(folder({1: text.encode("utf-8-sig")}))
    assert dataset.read(dataset.entries[0]).goal == "naïve ☂"
    assert problems_of(folder({1: text.replace("☂", "").encode("latin-1")}))[0].startswith("1_turn.json: is not JSON in UTF-8: byte ")


def test_hostile_json_is_a_problem_and_no_crash(folder: Make, element: Make) -> None:
    assert "nested too deep" in problems_of(folder({1: "[" * 100_000}))[0]
    assert "is not JSON" in problems_of(folder({1: f"[{'1' * 5000}]"}))[0]
    lone = json.dumps([element(question="\ud800")])
    assert "half a character" in problems_of(folder({1: lone}))[0]


def test_a_folder_or_pipe_in_place_of_a_file_is_a_problem(folder: Make, element: Make) -> None:
    root = folder({1: [element()]})
    (root / "2_turn.json").mkdir()
    os.mkfifo(root / "4_turn.json")
    assert problems_of(root) == ["2_turn.json: is not a file", "4_turn.json: is not a file"]


def test_a_leading_slash_before_the_picture_is_the_same_picture(folder: Make, element: Make) -> None:
    with_slash = load_dataset(folder({1: [element(image_path="/images/a.png")]}, name="one"))
    without = load_dataset(folder({1: [element()]}, name="two"))
    assert with_slash.entries[0].image_paths == ("images/a.png",)
    assert with_slash.read(with_slash.entries[0]).image_paths == ("images/a.png",)
    assert with_slash.fingerprint == without.fingerprint


def test_each_picture_is_looked_at_once(folder: Make, element: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def look(root: Path, image_path: str) -> Inspection:
        looks.append(image_path)
        return inspect_image(root, image_path)

    monkeypatch.setattr("safemt_api.dataset.entries.inspect_image", look)
    load_dataset(folder({1: [element("x"), element("y")], 2: [element("x", 2)]}))
    assert looks == ["images/a.png"]


def test_the_fingerprint_follows_content_and_not_layout(folder: Make, element: Make) -> None:
    elements = [element("x"), element("y")]
    base = load_dataset(folder({1: elements}, name="base")).fingerprint
    assert base.startswith("sha256:")
    assert load_dataset(folder({1: json.dumps(elements[::-1], indent=3)}, name="moved")).fingerprint == base
    for name, changed in {
        "words": [element("x"), element("y", question="another")],
        "kind": [element("x"), element("y", kind="benign")],
        "fewer": [element("x")],
        "id": [element("x"), element("z", dialogue=elements[1]["dialogue"], question=elements[1]["question"])],
    }.items():
        assert load_dataset(folder({1: changed}, name=name)).fingerprint != base, name


def test_a_file_that_changes_while_in_use_is_noticed(folder: Make, element: Make) -> None:
    root = folder({1: [element("x"), element("y")]})
    dataset = load_dataset(root)
    file = root / "1_turn.json"
    file.write_text(file.read_text().replace("x says 0", "x said 0"))
    with pytest.raises(DatasetError, match=r"1_turn\.json\[0\] \(x\): changed while in use"):
        dataset.read(dataset.entries[0])
    assert dataset.read(dataset.entries[1]).id == "y"
    file.unlink()
    with pytest.raises(DatasetError, match="changed while in use"):
        dataset.read(dataset.entries[1])


def hub_form(element: dict[str, Any]) -> dict[str, Any]:
    """The element as the hub's ``dataset_info.json`` declares it."""
    return {
        "id": element["id"],
        "scenario": element["scenario"],
        "image_rel_path": element["image_path"],
        "dialogue": json.dumps(element["dialogue"]),
    }


def test_the_hubs_form_loads_and_takes_the_question_from_length_one(folder: Make, element: Make) -> None:
    bare = element("x", dialogue=[{"role": "user", "content": "the question"}], question="the question")
    both = {1: [bare], 4: [element("x", 4, question="the question")]}
    as_on_github = load_dataset(folder(both, name="github"))
    root = folder({length: [hub_form(one) for one in elements] for length, elements in both.items()}, name="hub")
    as_on_hub = load_dataset(root)
    assert [as_on_hub.read(entry) for entry in as_on_hub.entries] == [as_on_github.read(entry) for entry in as_on_github.entries]
    assert as_on_hub.fingerprint == as_on_github.fingerprint
    longer = load_dataset(root, lengths=[4])
    assert longer.read(longer.entries[0]).goal == "the question"


def test_without_length_one_the_last_message_stands_for_the_question(folder: Make, element: Make) -> None:
    dataset = load_dataset(folder({2: [hub_form(element("x", 2))], 1: "broken"}), skip_invalid=True)
    assert dataset.read(dataset.entries[0]).goal == "x says 2"


def test_the_hubs_picture_is_looked_at_too(folder: Make, element: Make) -> None:
    assert problems_of(folder({1: [hub_form(element("x", image_path="images/none.png"))]})) == [
        "1_turn.json[0] (x): image images/none.png is missing"
    ]


def test_the_official_sample_loads(official_sample: Path) -> None:
    dataset = load_dataset(official_sample)
    assert dataset.lengths == (1, 2, 4)
    assert len(dataset.entries) == 11
    assert sum(entry.id == "mllm_legal_opinion_3" for entry in dataset.entries) == 2
    starts = [line.text[0] for entry in dataset.entries for line in dataset.read(entry).lines]
    assert " " in starts
    assert "\n" in starts


def test_the_demonstration_set_loads_like_any_folder() -> None:
    dataset = load_dataset(demonstration_folder())
    assert dataset.name == "demonstration"
    assert dataset.lengths == (1, 2, 4, 6, 8)
    assert {entry.kind for entry in dataset.entries} == {"harmful", "benign"}
