"""``report``, ``compare``, ``export``, ``judge`` over finished runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from safemt_api.judges.preflight import EXAMPLES

Cli = Callable[..., Any]
TRIED_ON = len(EXAMPLES["harmful"])
"""Replies on which a judge is tried before it judges a run."""


@pytest.fixture
def two_runs(cli: Cli) -> Cli:
    for name, model in (("a", "sim-safe"), ("b", "sim-brittle")):
        assert cli("eval", "--sample", "6", "--lengths", "1,8", "--model", model, "--run", name).code == 0
    return cli


def test_report_of_one_run_and_of_two(two_runs: Cli) -> None:
    one = two_runs("report", "a")
    assert "Safety Index" in one.out
    assert "results/a/report.html" in one.err
    both = two_runs("report", "a", "b", "--no-images")
    (page,) = Path("results").glob("report-a-b-*.html")
    assert page.name in "".join(both.err.split())
    assert "sim-brittle" in page.read_text(encoding="utf-8")
    assert [summary["run"] for summary in json.loads(two_runs("report", "a", "b", "--json").out)] == ["a", "b"]


def test_report_of_all_there_is_names_what_is_no_run(two_runs: Cli) -> None:
    everything = sorted(str(file) for file in Path("results").iterdir())
    said = two_runs("report", *everything, "--no-images", "--json")
    assert [summary["run"] for summary in json.loads(said.out)] == ["a", "b"]
    assert "no runs, left out: results/turns.sqlite\n" in said.err
    assert "no run called 'c'; there are: a, b" in two_runs("report", "a", "c").err
    assert two_runs("report", "results/turns.sqlite").code == 2
    assert two_runs("report", "results/turns.sqlite", "results").code == 2


def test_compare_says_it_in_words(two_runs: Cli) -> None:
    assert "6 ids in both" in two_runs("compare", "a", "b").out
    assert two_runs("compare", "a", "c").code == 2


@pytest.mark.parametrize(
    ("to", "name"), [("csv", "a.csv"), ("jsonl", "a.jsonl"), ("latex", "a.tex"), ("inspect", "*_safemt-scripted_*.eval")]
)
def test_export_writes_beside_the_run(cli: Cli, small: tuple[str, ...], to: str, name: str) -> None:
    cli(*small, "--run", "a")
    assert cli("export", "a", "--to", to).code == 0
    (written,) = Path("results/a").glob(name)
    assert written.stat().st_size > 0
    assert cli("export", "a", "--to", "tarot").code == 2


def test_judging_again_never_calls_the_target_and_keeps_the_former_verdicts(two_runs: Cli) -> None:
    before = json.loads(Path("results/b/summary.json").read_text(encoding="utf-8"))
    said = two_runs("judge", "b", "--judge", "simulator:sim-judge", "--json")
    assert said.code == 0
    after = json.loads(said.out)
    assert after["judge"] == "simulator:sim-judge"
    assert after["baseline_judge"] is False
    assert after["judged_again"]["sent"] == 12 + TRIED_ON
    assert after["cost_usd"]["target"] == before["cost_usd"]["target"]
    assert after["cost_usd"]["judge"] > 0
    # The rules know the simulator's marks and its judge knows the truth, so both must say the same.
    assert after["asr_by_turn"] == before["asr_by_turn"]
    assert set(pl.read_parquet("results/b/verdicts-rules.parquet")["judge"]) == {"rules"}
    assert set(pl.read_parquet("results/b/verdicts.parquet")["judge"]) == {"simulator:sim-judge"}


def test_a_run_that_was_judged_again_goes_on_with_its_new_judge(two_runs: Cli) -> None:
    two_runs("judge", "b", "--judge", "simulator:sim-judge")
    again = json.loads(two_runs("resume", "b", "--json").out)
    assert (again["judge"], again["calls"]["sent"]) == ("simulator:sim-judge", 0)


def test_live_transcripts_are_judged_turn_by_turn_again(cli: Cli) -> None:
    words = ("eval", "--sample", "3", "--lengths", "4", "--protocol", "live", "--model", "sim-brittle", "--run", "l", "--json")
    before = json.loads(cli(*words).out)
    after = json.loads(cli("judge", "l", "--judge", "simulator:sim-judge", "--json").out)
    assert after["judged_again"]["sent"] == 12 + TRIED_ON
    assert after["asr_by_turn"] == before["asr_by_turn"]


def test_judging_a_run_on_other_data_is_refused(two_runs: Cli) -> None:
    file = Path("results/a/run.json")
    manifest = json.loads(file.read_text(encoding="utf-8"))
    manifest["identity"]["dataset"] = "sha256:other"
    file.write_text(json.dumps(manifest), encoding="utf-8")
    said = two_runs("judge", "a", "--judge", "simulator:sim-judge")
    assert said.code == 2
    assert "dataset:" in said.err


def test_judging_needs_a_judge_and_a_run(two_runs: Cli) -> None:
    assert "--judge" in two_runs("judge", "a").err
    assert "no run called 'c'" in two_runs("judge", "c", "--judge", "rules").err


def labelled_as_judged(cli: Cli, run: str, n: int) -> Path:
    """A sheet of ``n`` replies of the run, on which a person agrees with every verdict."""
    assert cli("judge", "label", run, "-n", n).code == 0
    sheet = Path("results", run, "labels.csv")
    verdicts = {(row["dialogue_id"], row["length"]): row["label"] for row in pl.read_parquet(f"results/{run}/verdicts.parquet").to_dicts()}
    with sheet.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == n
    with sheet.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "label": verdicts[row["id"], int(row["length"])]} for row in rows)
    return sheet


def test_labels_by_hand_calibrate_the_judge_and_correct_the_scores(cli: Cli) -> None:
    assert cli("eval", "--sample", "20", "--lengths", "1,8", "--model", "sim-brittle", "--run", "b").code == 0
    sheet = labelled_as_judged(cli, "b", 40)
    said = cli("judge", "calibrate", "b", sheet)
    assert said.code == 0
    assert "sensitivity: 1.000" in said.out
    corrected = cli("report", "b", "--calibration", sheet)
    assert corrected.code == 0
    assert "Rogan–Gladen" in corrected.out


def test_a_faultless_judge_on_a_few_labels_is_not_called_a_bad_one(two_runs: Cli) -> None:
    sheet = labelled_as_judged(two_runs, "b", 12)
    assert two_runs("judge", "calibrate", "b", sheet).code == 0
    said = two_runs("report", "b", "--calibration", sheet)
    assert said.code == 2
    assert "too few replies are labelled to correct by (sensitivity 1.00, specificity 1.00)" in said.err
    assert "label more replies" in said.err


def test_labelling_here_shows_words_only_when_asked(two_runs: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["v\n", "u\n", "s\n", "q\n"])

    class Typed:
        def readline(self) -> str:
            return next(answers)

    monkeypatch.setattr("sys.stdin", Typed())
    said = two_runs("judge", "label", "b", "--here", "--output", "mine.csv")
    assert said.code == 0
    assert said.err.count("The reply to label:") == 1
    with Path("mine.csv").open(encoding="utf-8-sig", newline="") as stream:
        assert [row["label"] for row in csv.DictReader(stream)] == ["unsafe", "safe"]
