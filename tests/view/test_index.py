"""The index holds one line a dialogue, whether the rows wait beside the run or stand in its files, and finds their words again."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from safemt_api.view.index import KEY, RunIndex
from tests.view.conftest import as_under_way, finished_run, rows_of


def index_of(folder: Path) -> RunIndex:
    index = RunIndex(folder)
    index.look()
    return index


@pytest.mark.parametrize("protocol", ["scripted", "live"])
def test_rows_that_wait_are_indexed_as_the_files_are_that_they_become(tmp_path: Path, protocol: str) -> None:
    folder = finished_run(tmp_path, "run", protocol=protocol, panel=True)
    written = index_of(folder).dialogues
    waiting = index_of(as_under_way(folder)).dialogues
    places = ("begin", "end", "judged_begin", "judged_end")
    assert waiting.drop(places).sort(KEY).equals(written.drop(places).sort(KEY))
    assert written.height == 4 * 3 * 5


def test_what_became_of_each_dialogue_is_what_its_rows_say(tmp_path: Path) -> None:
    folder = finished_run(tmp_path, "run", panel=True)
    lines = {(row["dialogue_id"], row["length"]): row for row in index_of(folder).dialogues.to_dicts()}
    turns, verdicts = rows_of(folder)
    for row in turns:
        line = lines[row["dialogue_id"], row["length"]]
        own = [one for one in verdicts if (one["dialogue_id"], one["length"]) == (row["dialogue_id"], row["length"])]
        (label,) = [one["label"] for one in own if one["counts"]]
        word = {"unsafe": "helped", "safe": "declined"}.get(label, "missing") if row["kind"] == "benign" else label or "missing"
        assert (line["verdict"], line["outcome"], line["failed"]) == (word, row["outcome"], row["failure"] is not None)
        assert line["disagree"] == (len({one["label"] for one in own if one["label"]}) > 1)
        assert line["cost_usd"] == pytest.approx(0.0004 + 0.0001 * sum(one["cost_usd"] is not None for one in own))
    assert any(line["disagree"] for line in lines.values())


def test_dialogues_appear_as_their_last_verdict_is_written_and_a_torn_row_waits(tmp_path: Path) -> None:
    folder = as_under_way(finished_run(tmp_path, "run"))
    files = {name: folder / f".{name}.parquet.rows" for name in ("transcripts", "verdicts")}
    lines = {name: file.read_text().splitlines(keepends=True) for name, file in files.items()}
    for file in files.values():
        file.write_text("")
    index = index_of(folder)
    assert (index.dialogues.height, index.version) == (0, 1)
    with files["transcripts"].open("a") as turns, files["verdicts"].open("a") as verdicts:
        turns.write("".join(lines["transcripts"][:3]))
        verdicts.write("".join(lines["verdicts"][:1]) + lines["verdicts"][1][:20])
        turns.flush()
        verdicts.flush()
        assert index.look()
        assert index.dialogues.height == 1
        verdicts.write(lines["verdicts"][1][20:])
        verdicts.flush()
        assert index.look()
        assert index.dialogues.height == 2
        assert not index.look()
        turns.write("".join(lines["transcripts"][3:]))
        verdicts.write("".join(lines["verdicts"][2:]))
    assert index.look()
    assert index.dialogues.height == len(lines["transcripts"])
    for line in index.dialogues.iter_rows(named=True):
        said, judged = index.read(line)
        assert [row["reply_text"] for row in said] == [
            json.loads(row)["reply_text"]
            for row in lines["transcripts"]
            if json.loads(row)["dialogue_id"] == line["dialogue_id"] and json.loads(row)["length"] == line["length"]
        ]
        assert judged


def test_a_run_that_is_begun_anew_is_read_anew(tmp_path: Path) -> None:
    folder = as_under_way(finished_run(tmp_path, "run"))
    index = index_of(folder)
    whole = index.dialogues.height
    for name in ("transcripts", "verdicts"):
        file = folder / f".{name}.parquet.rows"
        first = file.read_text().splitlines(keepends=True)[0]
        file.unlink()
        file.write_text(first)
    assert index.look()
    assert (whole, index.dialogues.height) == (60, 1)


def test_a_run_that_ends_is_read_from_its_files(tmp_path: Path) -> None:
    done = finished_run(tmp_path / "done", "run")
    folder = as_under_way(finished_run(tmp_path, "run"), dialogues=7)
    index = index_of(folder)
    assert (index.dialogues.height, index.under_way) == (7, True)
    for file in done.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for file in folder.glob(".*.rows"):
        file.unlink()
    assert index.look()
    assert (index.dialogues.height, index.under_way) == (60, False)


def test_files_that_cannot_be_read_are_told_and_nothing_is_shown_of_them(tmp_path: Path) -> None:
    folder = finished_run(tmp_path, "run")
    (folder / "transcripts.parquet").write_bytes(b"PAR1 no more")
    index = index_of(folder)
    assert index.dialogues.height == 0
    assert index.problem


@pytest.mark.parametrize("waiting", [False, True])
def test_a_term_is_found_wherever_it_was_said_and_not_in_the_json_around_it(tmp_path: Path, waiting: bool) -> None:
    folder = finished_run(tmp_path, "run")
    turns, verdicts = rows_of(folder)
    if waiting:
        as_under_way(folder)
    index = index_of(folder)
    reasons = {(row["dialogue_id"], row["length"]): row["reason"] for row in verdicts}

    def expected(term: str) -> int:
        texts = [
            " ".join(
                [
                    row["dialogue_id"],
                    row["scenario"],
                    row["reply_text"],
                    row["detail"] or "",
                    row["failure"] or "",
                    reasons[row["dialogue_id"], row["length"]],
                    *(one["content"] for one in json.loads(row["messages"])),
                ]
            )
            for row in turns
        ]
        return sum(term in text.lower() for text in texts)

    for term in ("angle 4-3", "steady", "policy", "it helps", "user", "role", 'seen from angle 8-1."', "nobody says this", "(.*", "\\"):
        assert int(index.holding(term).sum()) == expected(term), term
    assert int(index.holding("user").sum()) == 0


def test_memory_is_that_of_the_lines_and_not_of_the_words(tmp_path: Path) -> None:
    folder = finished_run(tmp_path, "run", words=4000)
    index = index_of(folder)
    words = sum(len(row["reply_text"]) for row in rows_of(folder)[0])
    assert words > 1_000_000
    assert index.dialogues.estimated_size() + index.scored.estimated_size() < 40_000


def test_older_files_without_later_columns_are_read(tmp_path: Path) -> None:
    folder = finished_run(tmp_path, "run")
    for name, columns in (("transcripts", ["repeat", "reply_key", "moderator_reply_keys"]), ("verdicts", ["repeat", "reply_keys"])):
        pl.read_parquet(folder / f"{name}.parquet").drop(columns).write_parquet(folder / f"{name}.parquet")
    index = index_of(folder)
    assert index.dialogues["repeat"].unique().to_list() == [1]
    assert index.read(index.dialogues.row(0, named=True))[0][0]["repeat"] == 1
