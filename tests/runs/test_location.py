"""A run is found by name and by path from anywhere, and with it the results folder that holds its store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safemt_api.errors import UsageError
from safemt_api.runs.location import Location, locate, store_record
from safemt_api.store.turns import STORE_FILE


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with the runs ``first`` and ``group/second``."""
    folder = tmp_path / "results"
    for run in ("first", "group/second"):
        (folder / run).mkdir(parents=True)
        (folder / run / "run.json").write_text(json.dumps({"schema": 1, "identity": {}}))
    (folder / STORE_FILE).touch()
    return folder


@pytest.mark.parametrize("run", ["first", "group/second"])
def test_a_name_is_looked_up_under_the_results_folder(results: Path, run: str) -> None:
    assert locate(run, results) == Location(run, results, results / run)


def test_a_point_is_the_folder_one_stands_in(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results / "first")
    assert locate(".", Path("results")) == Location("first", results, results / "first")
    monkeypatch.chdir(results / "group" / "second")
    for path in (".", "./run.json", "../../group/second", str(results / "group" / "second")):
        assert locate(path, Path("results")) == Location("group/second", results, results / "group" / "second")


def test_a_path_from_above_belongs_to_the_results_folder_as_it_was_given(results: Path) -> None:
    assert locate("results/group/second/", Path("results")).results == Path("results")
    assert locate(str(results / "first"), Path("results")).run == "first"


def test_a_link_to_a_run_is_that_run(results: Path) -> None:
    (results.parent / "latest").symlink_to(results / "first")
    assert locate("latest", Path("elsewhere")) == Location("first", results, results / "first")


def test_the_store_named_in_the_run_file_says_where_the_results_folder_is(results: Path) -> None:
    folder = results / "group" / "second"
    (results / "group" / STORE_FILE).touch()  # the nearest one, but not this run's
    record = store_record(folder, results / STORE_FILE, "id")
    assert record == {"id": "id", "path": f"../../{STORE_FILE}"}
    (folder / "run.json").write_text(json.dumps({"schema": 1, "identity": {}, "store": record}))
    assert locate(str(folder), Path("elsewhere")).results == results


@pytest.mark.parametrize("path", ["/etc/turns.sqlite", "../../../../turns.sqlite/../x", "turns.sqlite", 7, None])
def test_a_run_file_that_names_a_strange_store_leads_nowhere(results: Path, path: object) -> None:
    folder = results / "first"
    (folder / "run.json").write_text(json.dumps({"schema": 1, "identity": {}, "store": {"id": "id", "path": path}}))
    found = locate(str(folder), Path("elsewhere"))
    assert found.folder == folder
    assert found.results in folder.parents or found.results == results


@pytest.mark.parametrize("run", ["nothing", "../first", "m?", "results", ""])
def test_what_is_no_run_is_said_with_those_there_are(results: Path, run: str) -> None:
    with pytest.raises(UsageError, match=r"no run called .*there are: first"):
        locate(run, results)
