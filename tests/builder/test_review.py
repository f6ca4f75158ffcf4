"""The review page holds every dialogue, escaped and collapsed; decisions keep, drop and edit, and never make unsound data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safemt_api.builder.review import apply_decisions, review_page
from safemt_api.dataset.entries import Dataset, load_dataset
from safemt_api.dataset.own_form import PROVENANCE_FILE
from safemt_api.errors import DatasetError, UsageError


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    hostile = "</textarea><script>window.hacked = 1</script> {mark}"
    lines = [{"role": "user", "content": "one"}, {"role": "assistant", "content": hostile}, {"role": "user", "content": "three"}]
    folder = tmp_path / "data"
    folder.mkdir()
    elements = [
        {"id": name, "scenario": "Fraud", "image_path": None, "dialogue": lines, "goal": hostile, "pair": pair, "kind": kind}
        for name, pair, kind in (("a", "b", "harmful"), ("b", "a", "benign"), ("c", None, "harmful"))
    ]
    (folder / "2_turn.json").write_text(json.dumps(elements), encoding="utf-8")
    return load_dataset(folder)


@pytest.fixture
def decided(dataset: Dataset, tmp_path: Path) -> Callable[..., Path]:
    def write(*decisions: dict[str, Any], fingerprint: str | None = None) -> Path:
        file = tmp_path / "decisions.json"
        whole = {"schema": 1, "fingerprint": fingerprint or dataset.fingerprint, "decisions": decisions}
        file.write_text(json.dumps(whole), encoding="utf-8")
        return file

    return write


def test_the_page_escapes_whatever_the_data_hold_and_asks_nothing_of_the_network(dataset: Dataset) -> None:
    page = review_page(dataset)
    assert page.count("<article ") == 3
    assert page.count("<script>") == 1
    assert "&lt;/textarea&gt;&lt;script&gt;window.hacked" in page
    assert "<details open" not in page
    assert "default-src 'none'" in page.replace("&#39;", "'")
    assert f'data-fingerprint="{dataset.fingerprint}"' in page


def test_decisions_drop_and_edit_and_the_rest_is_kept(dataset: Dataset, decided: Callable[..., Path], tmp_path: Path) -> None:
    file = decided(
        {"id": "b", "length": 2, "decision": "drop"},
        {"id": "c", "length": 2, "decision": "keep", "texts": ["changed", "props", "three"]},
    )
    assert apply_decisions(dataset, file, tmp_path / "out") == (2, 1, 1)
    again = load_dataset(tmp_path / "out")
    assert [(entry.id, entry.pair) for entry in again.entries] == [("a", None), ("c", None)]
    assert again.read(again.entries[1]).lines[0].text == "changed"
    record = json.loads((tmp_path / "out" / PROVENANCE_FILE).read_text(encoding="utf-8"))
    assert record["reviewed"] == {"of": dataset.fingerprint, "dropped": 1, "edited": 1}


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        ({"texts": ["x", "y"]}, "as edited, it has another number of messages"),
        ({"texts": ["x", " ", "z"]}, "as edited, a message has no words"),
        ({"texts": ["x", "half \ud800", "z"]}, 'as edited, dialogue.1.: "content" holds half a character'),
    ],
)
def test_edits_that_are_not_sound_are_refused(
    dataset: Dataset, decided: Callable[..., Path], tmp_path: Path, decision: dict[str, Any], said: str
) -> None:
    with pytest.raises(DatasetError, match=said):
        apply_decisions(dataset, decided({"id": "c", "length": 2, "decision": "keep", **decision}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_decisions_about_other_data_and_other_files_are_refused(dataset: Dataset, decided: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="made about other data"):
        apply_decisions(dataset, decided(fingerprint="sha256:other"), tmp_path / "out")
    for content in ("", "[]", '{"schema": 1}', "[" * 100_000):
        (tmp_path / "x.json").write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match="no decisions of `data review`"):
            apply_decisions(dataset, tmp_path / "x.json", tmp_path / "out")
