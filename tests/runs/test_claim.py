"""Books and store belong to the run: under any name, and only those that it was bought into."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import SettingsChangedError, StoreError
from safemt_api.evaluation import evaluate, open_plan
from safemt_api.runs.claim import claim_run
from safemt_api.runs.rejudge import rejudge
from safemt_api.runs.settings import EvalSettings
from safemt_api.store.turns import STORE_FILE

Settings = dict[str, Any]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Options of a run of six calls that cost something."""
    return {"model": "sim-average", "lengths": (1, 2), "sample": 3, "results": tmp_path / "results", "run": "r"}


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
    return found


def execute(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


async def test_a_run_and_its_store_have_ids_that_stay(settings: Settings) -> None:
    folder = (await evaluate(**settings)).folder
    first = manifest(folder)
    assert len(first["id"]) == 32
    assert first["store"]["path"] == f"../{STORE_FILE}"
    await evaluate(**settings)
    assert {name: manifest(folder)[name] for name in ("id", "store")} == {name: first[name] for name in ("id", "store")}
    other = await evaluate(**{**settings, "run": "group/other"})
    assert manifest(other.folder)["id"] != first["id"]
    assert manifest(other.folder)["store"] == {"id": first["store"]["id"], "path": f"../../{STORE_FILE}"}


async def test_a_renamed_run_keeps_its_books_and_so_its_ceiling(settings: Settings) -> None:
    small = {**settings, "sample": 20, "lengths": (8,), "concurrency": 2, "max_usd": 0.02}
    first = await evaluate(**small)
    assert first.exit_code == 3
    assert first.summary.calls.sent > 3
    first.folder.rename(first.folder.with_name("renamed"))
    again = await evaluate(**{**small, "run": "renamed"})
    assert again.exit_code == 3
    assert again.summary.json_value()["cost_usd"] == first.summary.json_value()["cost_usd"]
    assert again.summary.calls.sent == 0


async def test_the_books_of_a_run_of_an_older_version_are_taken_over_by_its_name(settings: Settings) -> None:
    result = await evaluate(**settings)
    file, folder, spent = settings["results"] / STORE_FILE, result.folder, result.summary.json_value()["cost_usd"]
    old = {name: value for name, value in manifest(folder).items() if name not in ("id", "store")}
    (folder / "run.json").write_text(json.dumps(old))
    execute(file, "UPDATE charges SET run = 'r'", "UPDATE spending SET run = 'r'", "DELETE FROM runs")
    folder.rename(folder.with_name("renamed"))  # its run file still says what it was called
    again = await evaluate(**{**settings, "run": "renamed"})
    assert again.summary.json_value()["cost_usd"] == spent
    assert again.summary.calls.sent == 0
    assert json.loads((again.folder / "run.json").read_text())["id"]


Damage = Callable[[Path], None]
LOSSES: dict[str, tuple[Damage, str]] = {
    "deleted": (lambda file: file.unlink(), r"turns\.sqlite: is gone, and run 'r' was bought into it; restore it .* another --run"),
    "emptied": (lambda file: os.truncate(file, 0), r"turns\.sqlite: is empty, and run 'r'"),
    "another": (
        lambda file: execute(file, "UPDATE store SET id = 'other'"),
        r"turns\.sqlite: is not the store that run 'r' was bought into; restore it",
    ),
    "rows deleted": (
        lambda file: execute(file, "DELETE FROM replies WHERE rowid IN (SELECT rowid FROM replies LIMIT 4)"),
        r"turns\.sqlite: has lost 4 of the 6 replies that run 'r' paid for; restore it",
    ),
    "all deleted": (
        lambda file: execute(file, "DELETE FROM replies", "DELETE FROM charges", "DELETE FROM spending", "DELETE FROM runs"),
        r"turns\.sqlite: knows nothing of run 'r'",
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
async def test_a_store_that_was_lost_is_said_before_anything_is_bought_anew(settings: Settings, loss: str) -> None:
    await evaluate(**settings)
    damage, sentence = LOSSES[loss]
    file = settings["results"] / STORE_FILE
    for rest in (Path(f"{file}-wal"), Path(f"{file}-shm")):
        rest.unlink(missing_ok=True)
    damage(file)
    with pytest.raises(StoreError, match=sentence):
        await evaluate(**settings)
    if loss == "deleted":
        assert not file.exists()


async def test_new_verdicts_need_no_store_of_old(settings: Settings) -> None:
    folder = (await evaluate(**settings)).folder
    (settings["results"] / STORE_FILE).unlink()
    before = manifest(folder)
    async with open_plan(EvalSettings(**{**settings, "judges": ("simulator:sim-judge",)}), judging_only=True) as plan:
        assert any("is gone" in remark for remark in plan.remarks)
        result = await rejudge(plan)
    assert result.summary.json_value()["judged_again"]["sent"] == 6 + 2  # the judge is tried on two known replies first
    # The run stays tied to the store that its replies were bought into.
    assert manifest(folder)["store"] == before["store"]
    with pytest.raises(StoreError, match="is not the store"):
        await evaluate(**{**settings, "judges": ("simulator:sim-judge",)})


async def test_a_run_that_another_process_began_since_the_plan_was_made_is_looked_at_again(settings: Settings) -> None:
    async with open_plan(EvalSettings(**settings)) as plan:
        assert not plan.resumed
        await evaluate(**{**settings, "lengths": (1,)})
        with pytest.raises(SettingsChangedError, match="lengths"):
            async with claim_run(plan):
                pass
