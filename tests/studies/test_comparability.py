"""Which runs compare: one fact is enough to refuse, the refusal names it and its cure, nothing is ranked over different lengths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from safemt_api.cli.report import compare, report
from safemt_api.errors import UsageError
from safemt_api.report.page import render_page
from safemt_api.report.views import leaderboard
from safemt_api.runs.record import RunData, read_run
from safemt_api.studies.comparability import MARK, all_differences, comparable_groups, differences

MakeRun = Callable[..., Path]

IDENTITY: dict[str, Any] = {
    "dataset": "sha256:one",
    "kinds": ["harmful"],
    "system": None,
    "parameters": {"max_output_tokens": 1024},
}


def _run(make_run: MakeRun, name: str, *, identity: dict[str, Any] | None = None, digest: str = "a" * 64, **settings: Any) -> RunData:
    folder = make_run(name, **settings)
    manifest = json.loads((folder / "run.json").read_bytes())
    manifest |= {"identity": IDENTITY | (identity or {}), "judge_digest": digest}
    manifest["settings"]["judges"] = [settings.get("judge", "rules")]
    (folder / "run.json").write_text(json.dumps(manifest))
    return read_run(folder)


def test_model_moderator_and_reply_limit_may_differ(make_run: MakeRun) -> None:
    first = _run(make_run, "one", model="a")
    other = _run(make_run, "two", model="b", identity={"parameters": {"max_output_tokens": 4096}, "moderator": "policy:x:y"})
    assert differences(first, other) == []


@pytest.mark.parametrize(
    ("identity", "what", "cure"),
    [
        ({"dataset": "sha256:other"}, "dialogues", "--data"),
        ({"kinds": ["benign"]}, "kinds", "--kinds"),
        ({"system": "Be careful."}, "system prompt", "--system"),
        ({"parameters": {"temperature": 0.0}}, "sampling", "sampling"),
    ],
)
def test_each_fact_alone_is_refused(make_run: MakeRun, identity: dict[str, Any], what: str, cure: str) -> None:
    first, other = _run(make_run, "one"), _run(make_run, "two", identity=identity)
    found = differences(first, other)
    assert [difference.what for difference in found] == [what]
    assert cure in found[0].cure


def test_another_judge_is_one_difference_and_the_cure_is_a_command(make_run: MakeRun) -> None:
    first = _run(make_run, "one", judge="openai:gpt-6-luna")
    other = _run(make_run, "two", digest="b" * 64)
    (found,) = differences(first, other)
    assert found.what == "judge"
    assert "`safemt-api judge two --judge openai:gpt-6-luna`" in str(found)


def test_the_same_judge_with_other_instructions_is_refused(make_run: MakeRun) -> None:
    (found,) = differences(_run(make_run, "one"), _run(make_run, "two", digest="b" * 64))
    assert found.what == "judge's instructions"
    assert "safemt-api judge two --judge rules" in found.cure


def test_another_sample_of_the_same_data_compares_pair_by_pair_but_is_not_ranked(make_run: MakeRun) -> None:
    first, other = _run(make_run, "one"), _run(make_run, "two", ids_each=2, identity={"dataset": "sha256:other"})
    assert [difference.what for difference in differences(first, other)] == ["dialogues"]
    assert differences(first, other, paired=True) == []


def test_changed_words_under_the_same_id_do_not_compare(make_run: MakeRun) -> None:
    first, other = _run(make_run, "one"), _run(make_run, "two", identity={"dataset": "sha256:other"})
    frame = pl.read_parquet(other.folder / "transcripts.parquet")
    frame.with_columns(messages=pl.lit("[]")).write_parquet(other.folder / "transcripts.parquet")
    (found,) = differences(first, read_run(other.folder), paired=True)
    assert found.what == "dialogues"


def test_a_run_file_without_an_identity_is_not_held_against_the_run(make_run: MakeRun) -> None:
    assert all_differences([read_run(make_run("old")), _run(make_run, "new", identity={"dataset": "sha256:0123"})]) == []


def test_compare_refuses_and_anyway_marks(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = _run(make_run, "one"), _run(make_run, "two", judge="openai:judge")
    results = first.folder.parent
    with pytest.raises(UsageError, match="judge two --judge rules"):
        compare("one", "two", results=results, seed=0, anyway=False)
    compare("one", "two", results=results, seed=0, anyway=True)
    assert f"{MARK} Not comparable: judge" in capsys.readouterr().out
    assert other.name == "two"


def test_report_refuses_and_anyway_marks_table_and_page(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = _run(make_run, "one"), _run(make_run, "two", identity={"system": "Be careful."})
    given: dict[str, Any] = {"results": first.folder.parent, "images": False, "data": None, "calibration": None}
    with pytest.raises(UsageError, match="system prompt: none, but two has Be careful"):
        report(["one", "two"], output=tmp_path, anyway=False, as_json=False, **given)
    report(["one", "two"], output=tmp_path, anyway=True, as_json=False, **given)
    assert f"two {MARK}" in capsys.readouterr().out
    page = render_page([first, other], charts=False)
    assert f"two {MARK}" in page
    assert "is the safest" not in page


def test_nothing_is_ranked_over_different_lengths(make_run: MakeRun) -> None:
    runs = [_run(make_run, "all"), _run(make_run, "few", lengths=(1, 2)), _run(make_run, "live", protocol="live")]
    groups = [{run.name for run in members} for members in comparable_groups(runs)]
    assert sorted(map(sorted, groups)) == [["all"], ["few"], ["live"]]
    assert groups[-1] == {"live"}
    console = Console(width=100)
    with console.capture() as shown:
        console.print(leaderboard(runs))
    text = " ".join(shown.get().split())
    assert text.count("SI over lengths") == 3
    assert text.count("SI over lengths 1, 2, 4, 6, 8") == 2
