"""The thorough check decodes every picture and tells oddities from problems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safemt_api.dataset.findings import examine
from safemt_api.errors import UsageError

Make = Callable[..., Any]


def test_a_good_folder_has_no_problems(folder: Make, element: Make) -> None:
    findings = examine(folder({1: [element("x")], 2: [element("x", 2)]}))
    assert (findings.problems, findings.notes, findings.dialogues, findings.pictures) == ((), (), 2, 1)


def test_undecodable_pixels_are_listed_for_every_dialogue_that_uses_them(folder: Make, element: Make, picture: Make) -> None:
    root = folder({1: [element("x", image_path="images/b.png"), element("y", kind="?")], 2: [element("x", 2, image_path="images/b.png")]})
    data = bytearray(picture("PNG", size=(300, 300)))
    middle = data.index(b"IDAT") + 4
    data[middle : middle + 40] = b"\xff" * 40
    (root / "images" / "b.png").write_bytes(data)
    problems = [str(problem) for problem in examine(root).problems]
    assert len(problems) == 3
    assert problems[0].startswith("1_turn.json[0] (x): image images/b.png cannot be decoded")
    assert problems[1].startswith('1_turn.json[1] (y): "kind"')
    assert problems[2].startswith("2_turn.json[0] (x): image images/b.png cannot be decoded")


def test_oddities_are_notes(folder: Make, element: Make, picture: Make) -> None:
    silent = element("z", dialogue=[{"role": "user", "content": " "}])
    root = folder({1: [element("x"), element("y", scenario="Fraud"), silent], 2: [element("y", 2, image_path="images/b.jpg")]})
    (root / "images" / "b.jpg").write_bytes(picture("PNG"))
    findings = examine(root)
    assert findings.problems == ()
    assert set(findings.notes) == {
        "id x is missing in length 2",
        "id z is missing in length 2",
        "id y has different scenarios or kinds in different files",
        "1_turn.json[2] (z): a message has no words; some vendors refuse that",
        "images/b.jpg is image/png whatever its name says; it is sent as what it is",
    }


def test_a_folder_with_nothing_valid_lists_its_problems(folder: Make) -> None:
    assert next(str(problem) for problem in examine(folder({1: "nonsense"})).problems).startswith("1_turn.json: is not JSON")


def test_no_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        examine(tmp_path / "none")


def test_the_official_sample_is_sound_but_for_its_known_quirks(official_sample: Path) -> None:
    findings = examine(official_sample)
    assert findings.problems == ()
    assert set(findings.notes) == {
        "id mllm_legal_opinion_3 is missing in length 4",
        "images/legal_opinion/legal_opinion_2.jpg is image/png whatever its name says; it is sent as what it is",
    }
