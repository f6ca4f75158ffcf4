"""What the terminal shows: complete at 80 columns without colour, honest about the judge, harmless whatever a name holds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console, RenderableType

from safemt_api.errors import UsageError
from safemt_api.report.page import render_page
from safemt_api.report.views import comparison_report, leaderboard, run_report
from safemt_api.runs.record import RunData, read_run
from safemt_api.runs.summary import scores
from safemt_api.studies.comparability import compare_runs

MakeRun = Callable[..., Path]


def _shown(renderable: RenderableType) -> str:
    console = Console(width=80, file=io.StringIO(), no_color=True)
    console.print(renderable)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize("protocol", ["scripted", "live"])
def test_the_report_fits_80_columns_and_names_the_baseline_judge_at_each_score(make_run: MakeRun, protocol: str) -> None:
    shown = _shown(run_report(read_run(make_run(protocol=protocol))))
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert " ".join(shown.split()).count("baseline judge (rules)") >= 4
    assert "…" not in shown


def test_safety_index_stands_with_interval_and_lengths(make_run: MakeRun) -> None:
    run = read_run(make_run())
    shown = " ".join(_shown(run_report(run)).split())
    assert f"Safety Index {run.summary.safety_index.value:.3f} (95% interval" in shown
    assert "over lengths 1, 2, 4, 6, 8" in shown


@pytest.fixture
def broken(make_run: MakeRun) -> RunData:
    """A run that lacks two thirds of its verdicts, as ``summarise`` would tell of it."""
    folder = make_run("broken", protocol="scripted")
    verdicts = pl.read_parquet(folder / "verdicts.parquet")
    gone = pl.when(pl.int_range(verdicts.height) % 3 > 0).then(None).otherwise("label")
    verdicts.with_columns(label=gone).write_parquet(folder / "verdicts.parquet")
    data = json.loads((folder / "summary.json").read_text()) | scores(folder, "scripted")
    (folder / "summary.json").write_text(json.dumps(data))
    return read_run(folder)


def test_too_few_complete_ids_give_bounds_and_no_index(broken: RunData) -> None:
    index = broken.summary.safety_index
    assert (index.value, index.ci_low) == (None, None)
    assert index.complete_ids is not None
    assert index.ids is not None
    assert 2 * index.complete_ids < index.ids
    shown = " ".join(_shown(run_report(broken)).split())
    assert "Safety Index not given (fewer than half of the ids have a verdict at every length)" in shown
    assert f"{index.complete_ids} of {index.ids} ids complete, bounds {index.if_missing_low:.3f}–{index.if_missing_high:.3f}" in shown


def test_bounds_and_complete_ids_stand_beside_every_index(make_run: MakeRun, broken: RunData) -> None:
    whole = read_run(make_run("whole"))
    for run in (whole, broken):
        index = run.summary.safety_index
        bounds = f"{index.if_missing_low:.3f}–{index.if_missing_high:.3f}"
        assert bounds in _shown(leaderboard([whole, broken]))
        assert f"{index.complete_ids}/{index.ids}" in _shown(leaderboard([whole, broken]))
        assert f"{index.complete_ids} of {index.ids} ids complete, bounds {bounds}" in render_page(
            [whole, broken], images=False, charts=False
        )
        assert f"{index.complete_ids} of {index.ids} ids complete, bounds {bounds}" in render_page([run], images=False, charts=False)
        assert bounds in _shown(comparison_report(whole, broken, compare_runs(whole, broken)))
    counts = [sum(getattr(row, name) for row in broken.summary.asr_by_turn) for name in ("unsafe", "missing", "safe")]
    low, high = counts[0] / sum(counts), (counts[0] + counts[1]) / sum(counts)
    assert f"{100 * low:.1f}–{100 * high:.1f}%" in _shown(comparison_report(whole, broken, compare_runs(whole, broken)))


def test_a_comparison_without_enough_complete_ids_says_so(make_run: MakeRun, broken: RunData) -> None:
    whole = read_run(make_run("whole"))
    compared = compare_runs(whole, broken)
    assert f"SI not given (only {compared.complete_ids} of {compared.ids} ids have a verdict at every length in both)" in compared.sentence
    assert "nan" not in _shown(comparison_report(whole, broken, compared))


def test_a_value_above_its_bounds_warns_beside_them(make_run: MakeRun) -> None:
    folder = make_run()
    summary = json.loads((folder / "summary.json").read_text())
    summary["safety_index"] |= {"value": 0.9, "if_missing_low": 0.5, "if_missing_high": 0.8}
    (folder / "summary.json").write_text(json.dumps(summary))
    run, warning = read_run(folder), "the value lies above them: ids that lack a verdict waver more than the complete ones"
    assert f"bounds 0.500–0.800 whatever the missing verdicts are; {warning}" in " ".join(_shown(run_report(run)).split())
    assert f"bounds 0.500–0.800; {warning}" in render_page([run], images=False, charts=False)
    summary["safety_index"]["if_missing_high"] = 0.9
    (folder / "summary.json").write_text(json.dumps(summary))
    assert warning not in _shown(run_report(read_run(folder)))


def test_a_live_report_shows_who_has_failed_so_far_with_bounds(make_run: MakeRun) -> None:
    run = read_run(make_run(protocol="live"))
    lines = [line.split() for line in _shown(run_report(run)).partition("Failed at this turn or before")[2].splitlines()]
    for row in run.summary.asr_by_turn:
        bounds = f"{100 * (row.cumulative_if_missing_safe or 0):.1f}–{100 * (row.cumulative_if_missing_unsafe or 0):.1f}%"
        assert any(line and line[0] == str(row.turn) and line[-1] == bounds for line in lines)


def test_a_partial_run_says_so(make_run: MakeRun) -> None:
    assert "(budget exhausted)" in _shown(run_report(read_run(make_run(status="budget_exhausted"))))


def test_asr_rows_hold_the_counts_of_the_summary(make_run: MakeRun) -> None:
    run = read_run(make_run())
    lines = [line.split() for line in _shown(run_report(run)).splitlines()]
    for row in run.summary.asr_by_turn:
        wanted = [str(row.unsafe), str(row.safe), str(row.missing)]
        assert any(line and line[0] == str(row.turn) and line[3:6] == wanted for line in lines)


def test_escape_sequences_in_names_do_not_reach_the_terminal(make_run: MakeRun) -> None:
    folder = make_run()
    data = json.loads((folder / "summary.json").read_text()) | {"model": "\x1b]0;owned\x07\x1b[2Jgood[bold]model[/bold]"}
    (folder / "summary.json").write_text(json.dumps(data))
    shown = _shown(run_report(read_run(folder)))
    assert "\x1b" not in shown
    assert "good[bold]model[/bold]" in shown


def test_scripted_and_live_runs_stand_in_tables_of_their_own(make_run: MakeRun) -> None:
    shown = _shown(leaderboard([read_run(make_run("one")), read_run(make_run("two", protocol="live"))]))
    scripted, live = shown.index("Scripted protocol"), shown.index("Live protocol")
    assert shown.index("one") < live
    assert "two" not in shown[scripted:live]


def test_the_leaderboard_puts_the_safest_first(make_run: MakeRun) -> None:
    shown = _shown(leaderboard([read_run(make_run("weak", base=0.6)), read_run(make_run("strong", base=0.0, step=0.0))]))
    assert shown.index("strong") < shown.index("weak")
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_a_comparison_shows_both_scores_and_its_sentence(make_run: MakeRun) -> None:
    a, b = read_run(make_run("weak", base=0.6)), read_run(make_run("strong", base=0.0, step=0.0, judge="openai:judge"))
    comparison = compare_runs(a, b, anyway=True)
    shown = " ".join(_shown(comparison_report(a, b, comparison)).split())
    assert " ".join(comparison.sentence.split()) in shown
    assert "Not comparable: judge: rules, but strong has openai:judge" in shown
    assert "ASR by length" in shown
    assert "ASR by scenario" in shown


def test_runs_of_different_protocols_are_not_compared(make_run: MakeRun) -> None:
    with pytest.raises(UsageError, match="one protocol"):
        compare_runs(read_run(make_run("one")), read_run(make_run("two", protocol="live")))
