"""What the terminal shows: complete at 80 columns without colour, honest about the judge, harmless whatever a name holds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from safemt_api.errors import UsageError
from safemt_api.report.reading import read_run
from safemt_api.report.tables import compare_runs, comparison_report, leaderboard, run_report

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
