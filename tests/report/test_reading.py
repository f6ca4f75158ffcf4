"""Reading a run back: scores as the files tell them, and a clear error for every file that is not as it should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from safemt_api.errors import StoreError
from safemt_api.frames import TRANSCRIPT_SCHEMA, VERDICT_SCHEMA, read_frame
from safemt_api.metrics.asr import asr_by_turn
from safemt_api.metrics.frames import score_frame, turn_frame
from safemt_api.report.remarks import below_seen, judges_alpha, remarks
from safemt_api.report.tables import failure_curve, outcome_counts, scores_by
from safemt_api.runs import record
from safemt_api.runs.folder import begin_generation, switch_generation
from safemt_api.runs.record import judge_title, read_run

MakeRun = Callable[..., Path]


def test_a_run_reads_back_with_the_columns_of_the_schema(make_run: MakeRun) -> None:
    run = read_run(make_run("brittle"))
    assert run.name == "brittle"
    assert dict(run.transcripts.schema) == TRANSCRIPT_SCHEMA
    assert dict(run.verdicts.schema) == VERDICT_SCHEMA
    assert run.complete
    assert run.judge_title == "baseline judge (rules)"


@pytest.mark.parametrize("name", ["run.json", "summary.json", "transcripts.parquet", "verdicts.parquet"])
def test_a_missing_file_is_named_with_its_cure(make_run: MakeRun, name: str) -> None:
    folder = make_run()
    (folder / name).unlink()
    with pytest.raises(StoreError, match=rf"{name}: is missing; run the same command again"):
        read_run(folder)


@pytest.mark.parametrize("name", ["run.json", "summary.json", "transcripts.parquet", "verdicts.parquet"])
def test_a_torn_file_is_named(make_run: MakeRun, name: str) -> None:
    folder = make_run()
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=name):
        read_run(folder)


def test_no_such_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no such run"):
        read_run(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_a_newer_schema_asks_for_an_upgrade(make_run: MakeRun, name: str) -> None:
    folder = make_run()
    data = json.loads((folder / name).read_text()) | {"schema": 99}
    (folder / name).write_text(json.dumps(data))
    with pytest.raises(StoreError, match=r"newer safemt-api.*upgrade"):
        read_run(folder)


def test_a_summary_of_another_shape_names_the_field(make_run: MakeRun) -> None:
    folder = make_run()
    data = json.loads((folder / "summary.json").read_text()) | {"protocol": "shouted"}
    (folder / "summary.json").write_text(json.dumps(data))
    with pytest.raises(StoreError, match="protocol"):
        read_run(folder)


def test_unknown_keys_in_the_summary_are_fine(make_run: MakeRun) -> None:
    folder = make_run()
    data = json.loads((folder / "summary.json").read_text()) | {"tomorrow": {"new": 1}}
    (folder / "summary.json").write_text(json.dumps(data))
    assert read_run(folder).summary.run == "brittle"


def test_not_a_number_reads_as_no_number(make_run: MakeRun) -> None:
    folder = make_run()
    data = json.loads((folder / "summary.json").read_text())
    data["safety_index"]["value"] = float("nan")
    (folder / "summary.json").write_text(json.dumps(data))
    assert read_run(folder).summary.safety_index.value is None


def test_a_missing_column_is_named(make_run: MakeRun) -> None:
    folder = make_run()
    pl.read_parquet(folder / "verdicts.parquet").drop("label").write_parquet(folder / "verdicts.parquet")
    with pytest.raises(StoreError, match="lacks the column label"):
        read_run(folder)


def _verdict(**given: Any) -> dict[str, Any]:
    row = {
        "dialogue_id": "a",
        "scenario": "Fraud",
        "kind": "harmful",
        "length": 1,
        "turn": 1,
        "repeat": 1,
        "judge": "rules",
        "counts": True,
        "label": "safe",
    }
    return row | given


def _verdicts(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=VERDICT_SCHEMA)


def test_only_counting_harmful_rows_make_scores() -> None:
    frame = score_frame(
        _verdicts(
            _verdict(), _verdict(counts=False, judge="member", label="unsafe"), _verdict(dialogue_id="b", kind="benign", label="unsafe")
        )
    )
    assert frame.rows() == [("a", "Fraud", 1, 1, "safe", None, None)]


def test_a_live_dialogue_scores_by_its_last_turn_and_is_missing_if_it_broke_off() -> None:
    frame = score_frame(
        _verdicts(
            *(_verdict(length=2, turn=turn, label=label) for turn, label in ((1, "safe"), (2, "unsafe"))),
            _verdict(dialogue_id="b", length=2, turn=1, label="safe"),
        )
    )
    assert frame.sort("dialogue_id")["verdict"].to_list() == ["unsafe", None]


def test_turn_frame_keeps_every_turn() -> None:
    frame = turn_frame(_verdicts(_verdict(length=2), _verdict(length=2, turn=2, label=None)))
    assert frame["verdict"].to_list() == ["safe", None]


def test_scores_from_the_frame_equal_the_summary(make_run: MakeRun) -> None:
    run = read_run(make_run())
    again = asr_by_turn(score_frame(run.verdicts))["asr"].to_list()
    assert again == pytest.approx([row.asr for row in run.summary.asr_by_turn])


@pytest.mark.parametrize("protocol", ["scripted", "live"])
def test_scenarios_add_up_to_the_turns(make_run: MakeRun, protocol: str) -> None:
    run = read_run(make_run(protocol=protocol))
    totals = scores_by(run).group_by("turn").agg(pl.col("unsafe", "safe", "missing").sum()).sort("turn")
    assert totals.rows() == [(row.turn, row.unsafe, row.safe, row.missing) for row in run.summary.asr_by_turn]


@pytest.mark.parametrize("protocol", ["scripted", "live"])
def test_the_failure_curve_has_a_row_a_turn(make_run: MakeRun, protocol: str) -> None:
    run = read_run(make_run(protocol=protocol))
    assert failure_curve(run).sort("turn")["turn"].to_list() == [row.turn for row in run.summary.asr_by_turn]


def test_one_judge_has_no_alpha_and_a_panel_has_one(make_run: MakeRun) -> None:
    assert judges_alpha(read_run(make_run("one"))) is None
    panel = read_run(make_run("panel", panel=True))
    alpha = judges_alpha(panel)
    assert alpha is not None
    assert alpha.ci_low <= alpha.value <= alpha.ci_high
    assert any("Krippendorff" in sentence for sentence in remarks(panel))


def test_a_first_failure_below_what_was_seen_is_said(make_run: MakeRun) -> None:
    folder = make_run(lengths=[1, 2])
    assert not any("comes out below what was seen" in sentence for sentence in remarks(read_run(folder)))
    frame = pl.read_parquet(folder / "verdicts.parquet")
    # Nobody who failed at length 2 has a verdict at length 1: none of them is at risk, and the estimate is 0.
    label = pl.when(pl.col("dialogue_id").str.ends_with("_0")).then(pl.lit("safe"))
    gone = label.when(pl.col("length") == 2).then(pl.lit("unsafe")).otherwise(None)
    frame.with_columns(label=gone).write_parquet(folder / "verdicts.parquet")
    run = read_run(folder)
    (row,) = below_seen(failure_curve(run)).to_dicts()
    assert (row["turn"], row["share"]) == (2, 0.0)
    assert any(f"at least so many did fail: {100 * row['if_missing_safe']:.1f}% by 2." in sentence for sentence in remarks(run))


def test_outcomes_keep_the_order_of_the_vocabulary(make_run: MakeRun) -> None:
    assert list(outcome_counts(read_run(make_run()))) == ["answered", "refused", "blocked_input", "blocked_output", "truncated", "error"]


def test_the_rule_judge_is_always_called_a_baseline() -> None:
    assert [judge_title(name) for name in ("rules", "openai:gpt", None)] == ["baseline judge (rules)", "openai:gpt", "no judge"]


def test_a_model_that_changed_and_damaged_replies_are_said_beside_the_scores(make_run: MakeRun) -> None:
    folder = make_run()
    summary = json.loads((folder / "summary.json").read_text())
    assert not any("changed during the run" in sentence or "damaged" in sentence for sentence in remarks(read_run(folder)))
    summary |= {"served_models": {"gpt-x-1": 20, "gpt-x-2": 40}, "calls": summary["calls"] | {"damaged": 2}}
    (folder / "summary.json").write_text(json.dumps(summary))
    said = remarks(read_run(folder))
    assert (
        "The model changed during the run: gpt-x-2 (40 replies), gpt-x-1 (20 replies) answered under one name. The scores mix them." in said
    )
    assert "2 replies in the store were damaged and were asked for again." in said


def completed(folder: Path) -> dict[str, Any]:
    """The run file, with what a real one has and those made by hand have not."""
    manifest: dict[str, Any] = {"identity": {}, **json.loads((folder / "run.json").read_text())}
    (folder / "run.json").write_text(json.dumps(manifest))
    return manifest


def test_files_of_two_generations_are_never_read_as_one(make_run: MakeRun) -> None:
    folder, other = make_run("old"), make_run("new", seed=1)
    staged = begin_generation(folder)
    for name in ("summary.json", "transcripts.parquet", "verdicts.parquet"):
        (staged / name).write_bytes((folder / name).read_bytes())
    switch_generation(folder, completed(folder))
    assert read_run(folder).complete
    (folder / "verdicts.parquet").write_bytes((other / "verdicts.parquet").read_bytes())
    with pytest.raises(StoreError, match=r"verdicts\.parquet: is not the file that the run wrote"):
        read_run(folder)


def test_a_generation_that_is_put_in_place_while_it_is_read_is_read_again(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run()
    staged = begin_generation(folder)
    for name in ("transcripts.parquet", "verdicts.parquet"):
        (staged / name).write_bytes((folder / name).read_bytes())
    summary = json.loads((folder / "summary.json").read_text())
    (staged / "summary.json").write_text(json.dumps(summary | {"status": "partial"}))
    switched: list[bool] = []

    def read_and_switch(file: Path) -> pl.DataFrame:
        found = read_frame(file)
        if not switched:
            switched.append(True)
            switch_generation(folder, completed(folder))
        return found

    monkeypatch.setattr(record, "read_frame", read_and_switch)
    assert read_run(folder).summary.status == "partial"
