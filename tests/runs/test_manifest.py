"""The run file: whole or not at all, and the guard over what a run of that name was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safemt_api.errors import SettingsChangedError, StoreError
from safemt_api.files import write_json
from safemt_api.runs.manifest import MANIFEST_FILE, SCHEMA, check_same_run, read_manifest, versions


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    data = {"schema": SCHEMA, "identity": {"seed": 1, "name": "ü…"}}
    write_json(tmp_path / "run" / MANIFEST_FILE, data)
    assert read_manifest(tmp_path / "run") == data


def test_a_new_run_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"identity": []}', "[" * 100_000, '{"identity": {}}', '{"identity": {}, "schema": 99}']
)
def test_a_damaged_or_newer_file_is_named_with_a_cure(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(StoreError, match=r"run\.json.*(restore it, or choose another --run|upgrade safemt-api)"):
        read_manifest(tmp_path)


def test_the_same_settings_pass_whether_lists_or_tuples() -> None:
    check_same_run("r", {"lengths": [1, 2], "a": None}, {"lengths": (1, 2), "a": None})


def test_every_difference_is_listed() -> None:
    with pytest.raises(SettingsChangedError) as caught:
        check_same_run("r", {"a": 1, "b": [1], "gone": "x"}, {"a": 2, "b": [1], "new": True})
    assert caught.value.differences == ("a: 1 → 2", 'gone: "x" → null', "new: null → true")
    assert "choose another --run" in str(caught.value)


def test_versions_name_python_and_the_sdks() -> None:
    assert {"python", "safemt-api", "openai", "anthropic", "google-genai"} <= set(json.loads(json.dumps(versions())))
