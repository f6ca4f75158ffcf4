"""What Python gets back of runs and studies is what their files hold, and a study is described as its file would describe it."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import safemt_api
from safemt_api.errors import NothingPlayedError, UsageError

pandas: Any = import_module("pandas")  # untyped; a frame of it is what the test is about
SMALL: dict[str, Any] = {"lengths": (1, 2), "sample": 4, "judges": "rules"}


async def test_a_run_is_what_its_files_hold(tmp_path: Path) -> None:
    result = await safemt_api.evaluate(model="sim-brittle", run="r", results=tmp_path, **SMALL)
    run = safemt_api.load_run("r", results=tmp_path)
    told = json.loads((tmp_path / "r" / "summary.json").read_text(encoding="utf-8"))
    assert run.summary == result.summary
    assert run.asr.to_dicts() == told["asr_by_turn"]
    assert run.safety_index.value == told["safety_index"]["value"]
    assert run.cost.total == told["cost_usd"]["total"]
    assert run.verdicts.select("dialogue_id", "label").equals(
        pl.read_parquet(tmp_path / "r" / "verdicts.parquet").select("dialogue_id", "label")
    )
    assert set(run.transcripts["dialogue_id"]) == set(run.verdicts["dialogue_id"])
    for same in (safemt_api.load_run(result), safemt_api.load_run(tmp_path / "r")):
        assert (same.name, same.summary) == ("r", run.summary)
    from_pandas = safemt_api.asr_by_turn(pandas.DataFrame(run.verdicts.to_dict(as_series=False)))
    assert pl.DataFrame(from_pandas)["asr"].to_list() == run.asr["asr"].to_list()


async def test_a_run_draws_and_shows_itself_and_no_name_can_be_markup(tmp_path: Path) -> None:
    await safemt_api.evaluate(model="sim-brittle", run="r", results=tmp_path, **SMALL)
    file = tmp_path / "r" / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": "<script>x</script>"}))
    manifest = json.loads((tmp_path / "r" / "run.json").read_text())
    (tmp_path / "r" / "run.json").write_text(json.dumps(manifest | {"files": {}}))
    run = safemt_api.load_run("r", results=tmp_path)
    drawn = run.plot().to_dict()
    assert len(drawn["layer"]) == 3
    points = [row for rows in drawn["datasets"].values() for row in rows]
    assert sorted({row["turn"] for row in points}) == [1, 2]
    shown = run._repr_html_()
    assert "<script>" not in shown
    assert f"Safety Index {run.safety_index.value:.3f}" in shown
    assert "baseline judge" in shown


async def test_a_study_is_what_its_record_holds(tmp_path: Path) -> None:
    arms = {"target": ["simulator:sim-brittle"], "moderator": ["none", "guard:simulator:sim-guard"]}
    result = await safemt_api.study(vary=arms, name="s", results=tmp_path, max_usd=1.0, **SMALL)
    study = safemt_api.load_study("s", results=tmp_path)
    assert study.record == safemt_api.load_study(result).record
    assert study.record.json_value() == result.record.json_value()
    assert (study.record.max_usd, study.record.shared["sample"]) == (1.0, 4)
    (board,) = study.record.leaderboard
    assert study.safety_index["arm"].to_list() == [row.arm for row in board.rows]
    assert study.safety_index["value"].to_list() == [row.safety_index.value for row in board.rows]
    (effect,) = study.record.effects
    assert effect.asr_by_turn is not None
    by_turn = study.effects.filter(pl.col("turn").is_not_null())
    assert by_turn["difference"].to_list() == [turn.difference for turn in effect.asr_by_turn]
    assert study.effects.filter(pl.col("turn").is_null())["measure"].to_list() == ["asr", "safety_index"]
    assert sorted(study.verdicts["arm"].unique()) == sorted(study.runs)
    assert study.transcripts.height == sum(run.transcripts.height for run in study.runs.values())
    assert study.cost["spent_usd"].sum() == pytest.approx(study.record.spent_usd)
    assert {row["run"] for rows in study.plot().to_dict()["datasets"].values() for row in rows} == set(study.runs)
    assert "a study of 2 arms, complete" in study._repr_html_()


async def test_a_studys_file_is_played_with_the_options_that_are_given_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "of-file.toml"
    file.write_text('[settings]\nlengths = "1,2"\nsample = 6\n[[arm]]\nname = "a"\ntarget = "simulator:sim-brittle"\n', encoding="utf-8")
    await safemt_api.study(file, sample=2, judges="rules", results=tmp_path)
    study = safemt_api.load_study("of-file", results=tmp_path)
    assert study.runs["a"].summary.dialogues.planned == 4
    assert study.asr["arm"].unique().to_list() == ["a"]
    assert study.effects.height == 0


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "give a study"),
        ({"given": "x.toml", "vary": {"target": ["simulator"]}}, "give a study"),
        ({"vary": {"target": ["simulator"]}, "smaple": 5}, r"no such option: smaple \(did you mean 'sample'\?\)"),
        ({"vary": {"target": ["simulator"]}, "run": "x"}, "run belongs to the whole study"),
        ({"vary": {"target": []}}, "target has no values"),
    ],
)
async def test_what_is_no_study_is_one_sentence(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        await safemt_api.study(**given, results=tmp_path)


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "run.json").write_text('{"schema": 1, "identity": {}, "outline": {"run": "there"}}')
    with pytest.raises(UsageError, match=r"no run called 'ther' \(did you mean 'there'\?\)|no run called 'ther'; did you mean"):
        safemt_api.load_run("ther", results=tmp_path)
    with pytest.raises(NothingPlayedError):
        safemt_api.load_run("there", results=tmp_path)
    with pytest.raises(UsageError, match="no study called 'there'"):
        safemt_api.load_study("there", results=tmp_path)
