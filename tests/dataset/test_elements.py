"""Elements are found at their exact bytes, and one element yields a dialogue or all that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safemt_api.dataset.elements import UnreadableError, parse_dialogue, scan_array, shown

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=80)
@given(values=st.lists(VALUES, max_size=6), ascii_only=st.booleans(), indent=st.sampled_from([None, 0, 2]), mark=st.booleans())
def test_every_element_stands_at_its_offset_whatever_the_characters(
    values: list[Any], ascii_only: bool, indent: int | None, mark: bool
) -> None:
    try:
        text = "\n " + json.dumps(values, ensure_ascii=ascii_only, indent=indent) + " \r\n"
        raw = (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    except UnicodeEncodeError:
        return
    elements = list(scan_array(text, base_bytes=3 if mark else 0))
    assert [element.value for element in elements] == values
    assert [json.loads(raw[one.offset_bytes : one.offset_bytes + one.size_bytes]) for one in elements] == values
    assert [element.index for element in elements] == list(range(len(values)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON: the file is empty"),
        ("  \n", "is not JSON: the file is empty"),
        ("{}", "is not an array but an object"),
        ('"x"', "is not an array but text"),
        ("nonsense", "is not JSON"),
        ("[1, 2", "expected ',' or ']' at line 1, character 6"),
        ("[1 2]", "expected ',' or ']' at line 1, character 4"),
        ("[1,]", "is not JSON"),
        ("[1] [2]", "there is more after the array at line 1, character 5"),
        ('["a]', "is not JSON"),
        ("[NaN]", "NaN is no JSON value"),
        ("[" * 200_000, "nested too deep"),
        (f"[{'9' * 10_000}]", "is not JSON"),
    ],
)
def test_what_is_no_json_array_is_said_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        list(scan_array(text))
    assert said in str(caught.value)


def test_texts_stay_verbatim(element: Callable[..., dict[str, Any]]) -> None:
    words = "\n  first\x00 \u2019 é 😀 "
    dialogue, problems = parse_dialogue(element(dialogue=[{"role": "user", "content": words}]), length=1)
    assert problems == ()
    assert dialogue is not None
    assert dialogue.lines[0].text == words


def test_optional_fields_have_defaults_and_unknown_ones_are_ignored(element: Callable[..., dict[str, Any]]) -> None:
    plain, _ = parse_dialogue(element(extra={"x": 1}, scenario="Never Heard Of"), length=1)
    full, _ = parse_dialogue(element(kind="benign", method="role play"), length=1)
    assert plain is not None
    assert full is not None
    assert (plain.kind, plain.method, plain.scenario) == ("harmful", None, "Never Heard Of")
    assert (full.kind, full.method) == ("benign", "role play")


def _said(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": "words"} for role in roles]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({key: ...}, f'key "{key}" is missing') for key in ("id", "scenario", "image_path", "dialogue")),
        *(({key: None}, f'key "{key}" is null') for key in ("id", "scenario", "dialogue")),
        *(({key: 7}, f'"{key}" must be text, not a number') for key in ("id", "scenario", "image_path", "question", "method")),
        ({"id": " "}, '"id" is empty'),
        ({"scenario": ""}, '"scenario" is empty'),
        ({"image_path": ""}, '"image_path" is empty'),
        ({"question": "half \ud800"}, '"question" holds half a character'),
        ({"id": "half \ud800"}, '"id" holds half a character'),
        ({"kind": "harmless"}, '"kind" is "harmless"; it must be "harmful" or "benign"'),
        ({"kind": ["benign"]}, '"kind" is an array'),
        ({"dialogue": "words"}, '"dialogue" is text that is not JSON: Expecting value'),
        ({"dialogue": '[{"role": "user", "content": "x"}] more'}, '"dialogue" is text that is not JSON: there is more after'),
        ({"dialogue": '{"role": "user"}'}, '"dialogue" must be an array of messages, not an object'),
        ({"dialogue": '[{"role": "user", "role": "user", "content": "x"}]'}, 'key "role" stands twice in one object'),
        ({"image_path": ..., "image_rel_path": ""}, '"image_rel_path" is empty'),
        ({"image_path": ..., "image_rel_path": 7}, '"image_rel_path" must be text, not a number'),
        ({"scenario": "a\x00b"}, '"scenario" holds U+0000, which has no place in a name'),
        ({"scenario": "a\x1b[31mb"}, '"scenario" holds U+001B'),
        ({"scenario": "a\ufffe"}, '"scenario" holds U+FFFE'),
        ({"scenario": "a\u202eb"}, '"scenario" holds U+202E'),
        ({"scenario": "x" * 201}, '"scenario" has 201 characters; a name has 200 at most'),
        ({"id": "a\nb"}, '"id" holds U+000A'),
        ({"method": "a\x07"}, '"method" holds U+0007'),
        ({"dialogue": []}, '"dialogue" must be an array of messages, not empty'),
        ({"dialogue": ["words"]}, "dialogue[0] is not an object but text"),
        ({"dialogue": [{"content": "x"}]}, 'dialogue[0]: key "role" is missing'),
        ({"dialogue": [{"role": "user"}]}, 'dialogue[0]: key "content" is missing'),
        ({"dialogue": [{"role": "user", "content": None}]}, 'dialogue[0]: "content" must be text, not null'),
        ({"dialogue": [{"role": "user", "content": "\udfff"}]}, 'dialogue[0]: "content" holds half a character'),
        ({"dialogue": _said("system", "user")}, 'dialogue[0]: role is "system", neither "user" nor "assistant"'),
        ({"dialogue": [{"role": 3, "content": "x"}]}, "dialogue[0]: role is a number"),
        ({"dialogue": _said("user", "user", "assistant", "user")}, "dialogue[0] and dialogue[1] are both the user's"),
        ({"dialogue": _said("user", "assistant", "assistant", "user")}, "dialogue[1] and dialogue[2] are both the assistant's"),
        ({"dialogue": _said("assistant", "user")}, "the first message is the assistant's"),
        ({"dialogue": _said("user", "assistant")}, "the last message is the assistant's"),
        ({"dialogue": _said("user", "user")}, "holds 2 user messages, but a file of this name is for 1"),
        ({"dialogue": [{"role": "user", "content": "x", "image_paths": "a.png"}]}, 'dialogue[0]: "image_paths" must be an array of paths'),
        ({"dialogue": [{"role": "user", "content": "x", "image_paths": [" "]}]}, 'dialogue[0]: "image_paths" is empty'),
        ({"pair": " "}, '"pair" is empty'),
        ({"language": 5}, '"language" must be text, not a number'),
        ({"dialogue": _said("user", "assistant", "user")}, "holds 2 user messages, but a file of this name is for 1"),
    ],
)
def test_each_bad_field_is_named(element: Callable[..., dict[str, Any]], changes: dict[str, Any], said: str) -> None:
    dialogue, problems = parse_dialogue(element(**changes), length=1)
    assert dialogue is None
    assert any(said in problem for problem in problems), problems


def test_all_that_is_wrong_with_an_element_is_said_at_once(element: Callable[..., dict[str, Any]]) -> None:
    _, problems = parse_dialogue(element(scenario=..., question=5, kind="x", dialogue=[{}]), length=1)
    assert len(problems) == 5


def test_pictures_belong_to_messages_and_there_may_be_none(element: Callable[..., dict[str, Any]]) -> None:
    lines = [{"role": "user", "content": "x", "image_paths": ["b.png"]}, {"role": "assistant", "content": "y"}]
    lines.append({"role": "user", "content": "z", "image_paths": ["c.png", "b.png"]})
    whole, _ = parse_dialogue(element(length=2, dialogue=lines), length=2)
    own, _ = parse_dialogue(element(length=2, dialogue=lines, image_path=...), length=2)
    none, problems = parse_dialogue(element(image_path=None), length=1)
    assert whole is not None
    assert [line.image_paths for line in whole.lines] == [("images/a.png", "b.png"), (), ("c.png", "b.png")]
    assert own is not None
    assert own.image_paths == ("b.png", "c.png", "b.png")
    assert problems == ()
    assert none is not None
    assert none.image_paths == ()


def test_only_the_users_messages_have_pictures(element: Callable[..., dict[str, Any]]) -> None:
    lines = element(length=2)["dialogue"]
    lines[1]["image_paths"] = ["b.png"]
    _, problems = parse_dialogue(element(length=2, dialogue=lines), length=2)
    assert problems == ("dialogue[1]: only the user's messages can have pictures",)


def test_where_only_the_user_speaks_the_assistants_side_is_left_to_the_model(element: Callable[..., dict[str, Any]]) -> None:
    found, problems = parse_dialogue(element(dialogue=_said("user", "user", "user")), length=3)
    assert problems == ()
    assert found is not None
    assert found.user_only
    assert not parse_dialogue(element(dialogue=_said("user")), length=1)[0].user_only  # type: ignore[union-attr] # it is valid


def test_goal_source_language_and_twin_are_kept(element: Callable[..., dict[str, Any]]) -> None:
    more = {"goal": "the goal", "source": "ours", "language": "de", "pair": "mm_b_1"}
    found, _ = parse_dialogue(element(question=..., **more), length=1)
    assert found is not None
    assert (found.goal, found.source, found.language, found.pair) == ("the goal", "ours", "de", "mm_b_1")


@settings(max_examples=80)
@given(value=VALUES)
def test_no_json_value_crashes_the_reader(value: Any) -> None:
    dialogue, problems = parse_dialogue(value, length=1)
    assert (dialogue is None) == bool(problems)


def test_shown_text_is_safe_for_a_terminal() -> None:
    assert shown("a\x1b[31m\ud800\n") == "a\\x1b[31m\\ud800\\n"
    assert len(shown("x" * 500)) == 80


def test_a_key_that_stands_twice_is_named_wherever_it_is() -> None:
    text = (
        '[{"id": "a", "scenario": "s", "image_path": "p", "question": "one", "question": "two", '
        '"dialogue": [{"role": "user", "content": "x"}]},'
        ' {"id": "b", "scenario": "s", "image_path": "p", "dialogue": [{"role": "user", "content": "x", "content": "y"}]}]'
    )
    first, second = (parse_dialogue(element.value, length=1) for element in scan_array(text))
    assert first == (None, ('key "question" stands twice in one object; keep the one that is meant',))
    assert second == (None, ('key "content" stands twice in one object; keep the one that is meant',))


def test_the_hubs_form_is_the_same_dialogue(element: Callable[..., dict[str, Any]]) -> None:
    plain = element(length=2)
    packed = {
        "id": plain["id"],
        "scenario": plain["scenario"],
        "image_rel_path": plain["image_path"],
        "dialogue": json.dumps(plain["dialogue"]),
    }
    assert parse_dialogue(packed | {"question": plain["question"]}, length=2) == parse_dialogue(plain, length=2)
    without, problems = parse_dialogue(packed, length=2)
    assert problems == ()
    assert without is not None
    assert without.goal == ""
