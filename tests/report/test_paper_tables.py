"""The paper's tables: what they hold is what the summaries say, in three forms that survive hostile names."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from safemt_api.errors import UsageError
from safemt_api.report.exports import MARKUPS, rendered
from safemt_api.report.table import Table, rows_of
from safemt_api.report.tables import paper_tables
from safemt_api.runs.record import RunData, read_run

MakeRun = Callable[..., Path]


def headings(table: Table) -> tuple[str, ...]:
    return tuple(column.heading("paper") for column in table.shown("paper"))


def rows(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in rows_of(table.shown("paper"))]


def _with_moderator(folder: Path, moderator: str) -> RunData:
    summary = json.loads((folder / "summary.json").read_bytes())
    (folder / "summary.json").write_text(json.dumps(summary | {"moderator": moderator}))
    return read_run(folder)


def test_the_scores_are_the_summaries(make_run: MakeRun) -> None:
    runs = [read_run(make_run("one", model="a")), read_run(make_run("two", model="b", base=0.5))]
    (table,) = (table for table in paper_tables(runs) if table.name == "scores")
    assert headings(table) == (
        "Model",
        "length 1",
        "length 2",
        "length 4",
        "length 6",
        "length 8",
        "SI",
        "SI bounds",
        "complete ids",
        "missing",
    )
    for run, row in zip(runs, rows(table), strict=True):
        assert row[0] == run.summary.model
        assert row[1:6] == [f"{100 * (one.asr or 0):.1f}%" for one in run.summary.asr_by_turn]
        assert row[6] == f"{run.summary.safety_index.value:.3f}"


def test_scenarios_stand_beside_each_other(make_run: MakeRun) -> None:
    run = read_run(make_run())
    (table,) = (table for table in paper_tables([run]) if table.name == "by-scenario")
    judged = run.verdicts.filter((pl.col("kind") == "harmful") & (pl.col("scenario") == "Fraud")).drop_nulls("label")
    assert rows(table)[0][headings(table).index("Fraud")] == f"{100 * (judged['label'] == 'unsafe').sum() / judged.height:.1f}%"


def test_methods_have_a_table_only_where_dialogues_name_them(make_run: MakeRun) -> None:
    folder = make_run()
    assert "by-method" not in {table.name for table in paper_tables([read_run(folder)])}
    frame = pl.read_parquet(folder / "transcripts.parquet")
    frame.with_columns(method=pl.when(pl.col("scenario") == "Fraud").then(pl.lit("fiction")).otherwise(None)).write_parquet(
        folder / "transcripts.parquet"
    )
    (table,) = (table for table in paper_tables([read_run(folder)]) if table.name == "by-method")
    assert headings(table) == ("Model", "fiction", "not named")


def test_a_defence_stands_beside_its_undefended_model(make_run: MakeRun) -> None:
    before = read_run(make_run("none", base=0.6))
    after = _with_moderator(make_run("policy", base=0.0, step=0.0), "policy:x:y")
    (table,) = (table for table in paper_tables([before, after]) if table.name == "defences")
    assert rows(table)[0][:2] == ["brittle", "policy:x:y"]
    assert rows(table)[0][2].endswith("→ 0.0")
    assert [table.name for table in paper_tables([before, after], references={})].count("defences") == 0


def test_protocols_and_lengths_do_not_share_a_table(make_run: MakeRun) -> None:
    runs = [read_run(make_run("a")), read_run(make_run("b", lengths=(1, 2))), read_run(make_run("c", protocol="live"))]
    assert [table.name for table in paper_tables(runs) if table.name.startswith("scores")] == ["scores-1", "scores-2", "scores-3"]
    assert all(len(rows(table)) == 1 for table in paper_tables(runs) if table.name.startswith("scores"))


@pytest.mark.parametrize("to", MARKUPS)
def test_hostile_names_stay_words(make_run: MakeRun, to: str) -> None:
    run = read_run(make_run(model="=cmd|a & b_% <i>\x1b[31m"))
    text = rendered(paper_tables([run]), to)  # type: ignore[arg-type] # parametrized over all there are
    assert "\x1b" not in text
    if to == "latex":
        assert r"=cmd|a \& b\_\% \textless{}i\textgreater{}" in text
    elif to == "csv":
        assert next(row for row in csv.reader(io.StringIO(text)) if "cmd" in row[0])[0].startswith("'=")
    else:
        assert r"=cmd\|a & b_% &lt;i>" in text


def test_a_form_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="latex, csv, md"):
        rendered([], "html")  # type: ignore[arg-type] # the error is the test
    with pytest.raises(UsageError, match="at least one run"):
        paper_tables([])


def test_arms_that_share_a_model_are_told_apart_and_groups_share_no_table(make_run: MakeRun) -> None:
    whole, less, other = (read_run(make_run(name, model=model)) for name, model in (("whole", "a"), ("no-picture", "a"), ("b", "b")))
    tables = [table for table in paper_tables([whole, less, other], {}, [[whole, less], [other]]) if table.name.startswith("scores")]
    assert [[row[0] for row in rows(table)] for table in tables] == [["a (whole)", "a (no-picture)"], ["b"]]
    assert [table.name for table in tables] == ["scores-1", "scores-2"]
