"""Spot checks, calibration and figures, as a user types them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from safemt_api.markers import SIMULATED_UNSAFE

Cli = Callable[..., Any]


def plain(text: str) -> str:
    """The text without the line breaks that tables put in."""
    return " ".join(text.split())


def label(sheet: Path, target: Path) -> Path:
    """Fill the sheet in as somebody would who never errs."""
    with sheet.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with target.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": "unsafe" if SIMULATED_UNSAFE in row["reply"] else "safe"} for row in rows)
    return target


def test_a_spot_check_stops_early_says_what_it_saved_and_resumes_to_the_same_place(cli: Cli) -> None:
    said = cli("eval", "--model", "sim-average", "--until-ci", "0.2", "--run", "spot")
    assert said.code == 0
    stopping = json.loads(Path("results/spot/summary.json").read_text(encoding="utf-8"))["stopping"]
    assert f"Spot check: {stopping['ids']} of 34 ids" in plain(said.out)
    assert f"saved {stopping['dialogues_saved']} dialogues and about $" in plain(said.out)
    assert "Spot check" in Path("results/spot/report.html").read_text(encoding="utf-8")
    again = json.loads(cli("resume", "spot", "--json").out)
    assert again["stopping"] == stopping
    assert again["calls"]["sent"] == 0


@pytest.mark.parametrize("goal", ["0", "0.5", "5"])
def test_a_goal_in_points_instead_of_a_share_is_refused(cli: Cli, goal: str) -> None:
    said = cli("eval", "--until-ci", goal)
    assert said.code == 2
    assert "--until-ci" in said.err


def test_a_calibration_made_on_one_run_corrects_others_of_the_same_judge(cli: Cli) -> None:
    for name, model, judge in (("a", "sim-brittle", "sim-judge"), ("b", "sim-average", "sim-judge"), ("c", "sim-safe", "sim-judge-noisy")):
        words = ("--model", model, "--judge", f"simulator:{judge}", "--lengths", "1,8")
        assert cli("eval", *words, "--run", name).code == 0
    assert cli("judge", "label", "a", "--n", "60", "--out", "sheet.csv").code == 0
    said = cli("judge", "calibrate", "a", label(Path("sheet.csv"), Path("labels.csv")))
    assert said.code == 0
    assert "sensitivity: 1.000 (" in said.out
    assert "results/a/calibration.json" in said.err
    both = cli("report", "a", "b", "--calibration", "results/a/calibration.json")
    assert both.code == 0
    assert "a, corrected for the judge's errors" in both.out
    assert "b, corrected for the judge's errors" in both.out
    assert "60 replies of run a labelled by hand" in plain(both.out)
    section = (
        next(Path("results").glob("report-a-b-*.html"))
        .read_text(encoding="utf-8")
        .partition('<section id="calibration"')[2]
        .partition("</section>")[0]
    )
    assert section.count("<h3>b</h3>") == 1
    mixed = cli("report", "a", "c", "--anyway", "--calibration", "results/a/calibration.json")
    assert mixed.code == 0
    assert "not corrected: calibration.json measures simulator:sim-judge" in plain(mixed.err)
    alone = cli("report", "c", "--calibration", "results/a/calibration.json")
    assert alone.code == 2
    assert "label replies of that judge" in alone.err


def test_agreement_of_a_panel_shows_in_terminal_and_page(cli: Cli) -> None:
    panel = ("--judge", "rules", "--judge", "simulator:sim-judge", "--judge", "simulator:sim-judge-noisy")
    said = cli("eval", "--sample", "10", "--lengths", "1,8", "--model", "sim-brittle", *panel, "--run", "p")
    assert said.code == 0
    assert "Krippendorff's alpha" in plain(said.out)
    assert "Krippendorff's alpha" in unescape(Path("results/p/report.html").read_text(encoding="utf-8"))


def test_figures_for_papers_are_written_as_svg_and_pdf(cli: Cli, small: tuple[str, ...]) -> None:
    pytest.importorskip("vl_convert")
    for name in ("a", "b"):
        cli(*small, "--run", name)
    said = cli("report", "a", "b", "--figures", "figures")
    assert said.code == 0
    written = {file.name for file in Path("figures").iterdir()}
    assert {"asr-by-turn-scripted.svg", "asr-by-turn-scripted.pdf", "first-failure-scripted.svg"} <= written
    assert {"heat-map-1-a.svg", "heat-map-2-b.pdf"} <= written
    assert Path("figures/asr-by-turn-scripted.pdf").read_bytes().startswith(b"%PDF")
