"""Scores corrected for a judge of known errors come back to the truth, in numbers, tables and page."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

import safemt_api
from safemt_api.calibration.correction import calibrate, correct, read_calibration, sheet_of, write_calibration
from safemt_api.calibration.sheet import SHEET_COLUMNS, SheetRow, write_sheet
from safemt_api.errors import UsageError
from safemt_api.markers import SIMULATED_UNSAFE
from safemt_api.metrics.asr import asr_by_turn
from safemt_api.metrics.frames import score_frame
from safemt_api.metrics.safety_index import safety_index
from safemt_api.report.page import render_page
from safemt_api.report.remarks import judges_alpha
from safemt_api.report.views import correction_report
from safemt_api.runs.record import RunData, read_run
from safemt_api.simulator.settings import SimulatorSettings

MakeRun = Callable[..., Path]


def truth_of(run: RunData) -> pl.DataFrame:
    """Dialogues with what the simulator's marks say of the last reply."""
    unsafe = pl.col("reply_text").str.contains(SIMULATED_UNSAFE, literal=True)
    return run.transcripts.select("dialogue_id", "length", verdict=pl.when(unsafe).then(pl.lit("unsafe")).otherwise(pl.lit("safe")))


def labelled(run: RunData, file: Path, *, n: int) -> Path:
    """A sheet filled in by somebody who never errs."""
    rows = sheet_of(run, n=n, seed=1)
    write_sheet(file, rows)
    lines = file.read_text(encoding="utf-8-sig")
    assert lines.startswith(",".join(SHEET_COLUMNS))
    with file.open("w", encoding="utf-8", newline="") as stream:
        stream.write("id,length,turn,label\r\n")
        stream.writelines(f"{row.id},{row.length},{row.turn},{true_label(row)}\r\n" for row in rows)
    return file


def true_label(row: SheetRow) -> str:
    return "unsafe" if SIMULATED_UNSAFE in row.reply else "safe"


async def noisy_run(results: Path, name: str = "noisy", **options: Any) -> RunData:
    """A brittle target under a judge that misses a fifth of what is unsafe and raises a false alarm over a tenth of what is safe."""
    playing = SimulatorSettings(judge_sensitivity=0.8, judge_specificity=0.9)
    await safemt_api.evaluate(
        model="sim-brittle", judges=("simulator:sim-judge-noisy",), results=results, run=name, simulator=playing, **options
    )
    return read_run(results / name)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def noisy(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return await noisy_run(tmp_path_factory.mktemp("results"))


async def test_corrected_scores_cover_the_truth_that_the_raw_ones_miss(noisy: RunData, tmp_path: Path) -> None:
    found = correct(noisy, calibrate(noisy, labelled(noisy, tmp_path / "l.csv", n=160)))
    truth = truth_of(noisy)
    assert found.judge.sensitivity.ci_low < 0.8 < found.judge.sensitivity.ci_high
    assert found.judge.specificity.ci_low < 0.9 < found.judge.specificity.ci_high
    rates = asr_by_turn(truth)["asr"].to_list()
    assert found.powered is not None
    for row, own, rate in zip(found.scores.asr_by_turn.to_dicts(), found.powered.to_dicts(), rates, strict=True):
        assert row["ci_low"] <= rate <= row["ci_high"]
        assert row["run_low"] <= rate <= row["run_high"]
        assert row["run_high"] - row["run_low"] < row["ci_high"] - row["ci_low"]
        assert own["ci_low"] <= rate <= own["ci_high"]
    assert found.scores.safety_index.ci_low <= safety_index(truth) <= found.scores.safety_index.ci_high
    raw, corrected = (found.scores.asr_by_turn[name].mean() for name in ("raw_asr", "asr"))
    assert isinstance(raw, float)
    assert isinstance(corrected, float)
    mean = sum(rates) / len(rates)
    assert abs(corrected - mean) < abs(raw - mean)


async def test_a_calibration_file_says_the_same_as_its_sheet_and_serves_other_runs_of_the_judge(noisy: RunData, tmp_path: Path) -> None:
    sheet = labelled(noisy, tmp_path / "l.csv", n=120)
    file = write_calibration(tmp_path, calibrate(noisy, sheet))
    record = json.loads(file.read_text())
    assert record["labelled"] == 120
    assert set(record["sensitivity"]) == {"value", "ci_low", "ci_high"}
    assert sum(record["confusion"].values()) == 120
    one, other = (correct(noisy, read_calibration(noisy, each)) for each in (sheet, file))
    assert one.scores.safety_index == other.scores.safety_index
    elsewhere = replace(noisy, name="another")
    found = correct(elsewhere, read_calibration(elsewhere, file))
    assert found.powered is None
    assert found.scores.asr_by_turn.equals(one.scores.asr_by_turn)


async def test_tables_and_page_show_raw_and_corrected_side_by_side(noisy: RunData, tmp_path: Path) -> None:
    found = correct(noisy, calibrate(noisy, labelled(noisy, tmp_path / "l.csv", n=160)))
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(correction_report(found))
    page = render_page([noisy], images=False, charts=False, corrections=[found])
    raw = f"{100 * found.scores.asr_by_turn['raw_asr'][0]:.1f}%"
    for text in (console.file.getvalue(), page):  # type: ignore[attr-defined] # the file given above
        assert raw in text
        assert f"sensitivity {found.judge.sensitivity.value:.3f}" in text
        assert "Rogan–Gladen" in text
        assert f"{found.scores.safety_index.value:.3f}" in text
    assert '<section id="calibration"' in page
    assert '<a href="#calibration">' in page
    assert '<section id="calibration"' not in render_page([noisy], images=False, charts=False)


async def test_labels_of_another_judge_are_refused(noisy: RunData, tmp_path: Path) -> None:
    calibration = calibrate(noisy, labelled(noisy, tmp_path / "l.csv", n=120))
    with pytest.raises(UsageError, match="label replies of that judge"):
        correct(noisy, replace(calibration, judge="rules"))
    with pytest.raises(UsageError, match="another rubric or version"):
        correct(noisy, replace(calibration, judge_digest="0" * 64))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "is no calibration file"),
        ("{", "cannot be read"),
        ('{"schema": 2, "labels": []}', "newer safemt-api"),
        ('{"schema": 1, "labels": [{"length": "x"}]}', "cannot be read"),
        ('{"schema": 1, "labels": [1]}', "cannot be read"),
    ],
)
def test_a_damaged_calibration_file_is_named(make_run: MakeRun, tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=sentence):
        read_calibration(read_run(make_run()), file)


def test_replies_that_the_vendor_refused_are_taken_as_certain(make_run: MakeRun, tmp_path: Path) -> None:
    run = read_run(make_run(ids_each=12, base=0.4))
    rows = run.verdicts.filter(pl.col("source") == "judge", pl.col("kind") == "harmful").to_dicts()
    lines = [f"{row['dialogue_id']},{row['length']},{row['turn']},{row['label']}" for row in rows]
    (tmp_path / "l.csv").write_text("\n".join(["id,length,turn,label", *lines]))
    found = correct(run, calibrate(run, tmp_path / "l.csv"))
    assert found.scores.asr_by_turn["asr"].to_list() == pytest.approx(asr_by_turn(score_frame(run.verdicts))["asr"].to_list())
    refused = run.verdicts.filter(pl.col("source") == "outcome").to_dicts()[0]
    (tmp_path / "r.csv").write_text(f"id,length,turn,label\n{refused['dialogue_id']},{refused['length']},{refused['turn']},safe")
    with pytest.raises(UsageError, match="no labelled row is a judged reply"):
        calibrate(run, tmp_path / "r.csv")


def test_benign_dialogues_are_not_on_the_sheet(make_run: MakeRun) -> None:
    run = read_run(make_run(ids_each=4))
    benign = set(run.verdicts.filter(pl.col("kind") == "benign")["dialogue_id"])
    rows = sheet_of(run, n=500, seed=0)
    assert benign
    assert not benign & {row.id for row in rows}


async def test_two_judges_in_turn_are_told_apart_and_corrected_for_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    playing = SimulatorSettings(judge_sensitivity=0.8, judge_specificity=0.7)
    options: dict[str, Any] = {"model": "sim-average", "results": tmp_path, "run": "turn", "simulator": playing}
    await safemt_api.evaluate(judges=("simulator:sim-judge-noisy",), escalate="simulator:sim-judge", **options)
    run = read_run(tmp_path / "turn")
    found = calibrate(run, labelled(run, tmp_path / "l.csv", n=120))
    labels = found.labels
    assert judges_alpha(run) is None
    # The second never errs here, so that only what the first overlooks is lost, and no false alarm is left.
    assert set(labels["stage"].unique()) == {1, 2}
    assert labels.filter(pl.col("stage") == 1)["first"].unique().to_list() == ["safe"]
    assert labels.filter(pl.col("stage") == 2)["first"].unique().to_list() == ["unsafe"]
    file = write_calibration(run.folder, found)
    stages = json.loads(file.read_text(encoding="utf-8"))["two_stages"]
    assert (stages["second"]["sensitivity"]["value"], stages["second"]["specificity"]["value"]) == (1.0, 1.0)
    assert stages["first"]["sensitivity"]["value"] < 1
    assert stages["first"]["specificity"]["value"] < 1
    again = read_calibration(run, file)
    assert again.labels.equals(labels)
    scores = correct(run, again).scores.asr_by_turn
    truth = asr_by_turn(truth_of(run))
    inside = (scores["run_low"] - 1e-9 <= truth["asr"]) & (truth["asr"] <= scores["run_high"] + 1e-9)
    assert inside.sum() >= 4
