"""Rows of the run's files: complete, and never text where there was none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from safemt_api.frames import TRANSCRIPT_SCHEMA, VERDICT_SCHEMA, read_frame
from safemt_api.messages import BLOCKED_PLACEHOLDER, Dialogue, Guidance, Line, Outcome, Protocol, Reply, Transcript, Turn, Usage, Verdict
from safemt_api.runs.folder import TRANSCRIPTS_FILE, VERDICTS_FILE
from safemt_api.runs.rows import (
    Finished,
    fingerprint_of,
    history_before,
    open_collector,
    sweep,
    transcript_rows,
    verdict_rows,
    write_frames,
)

LINES = (Line("user", "u1", ("images/a.png",)), Line("assistant", "s1"), Line("user", "u2"))
DIALOGUE = Dialogue("mm_1", "Fraud", 2, LINES, "q")


def transcript(protocol: Protocol = "live", failure: str | None = None) -> Transcript:
    guidance = Guidance("mod", True, policy="p", text="t", latency_seconds=0.5, cost_usd=0.1)
    first = Turn(1, "u1", Reply(Outcome.BLOCKED_OUTPUT, detail="filter"), guidance=guidance)
    second = Turn(2, "u2", Reply(Outcome.ANSWERED, "r2", usage=Usage(5, 1, 2, 3, 1), request_id="id"), True, 0.25)
    turns = (first, second) if protocol == "live" else (second,)
    return Transcript(DIALOGUE, protocol, turns, failure)


def finished(protocol: Protocol = "live", failure: str | None = None) -> Finished:
    member = Verdict("rules", "unsafe", "judge")
    verdicts = ((1, Verdict("j", "safe", "outcome")), (2, Verdict("j", None, "judge", "no word", members=(member,))))
    return Finished(transcript(protocol, failure), verdicts, "p", "m")


def test_rows_have_exactly_the_columns_of_the_files() -> None:
    assert all(set(row) == set(TRANSCRIPT_SCHEMA) for row in transcript_rows(finished(), "run"))
    assert all(set(row) == set(VERDICT_SCHEMA) for row in verdict_rows(finished(), "run"))


def test_a_blocked_reply_is_empty_in_its_row_and_a_placeholder_in_the_history() -> None:
    first, second = transcript_rows(finished(), "run")
    assert (first["reply_text"], first["outcome"], first["moderator_policy"]) == ("", "blocked_output", "p")
    assert json.loads(second["messages"]) == [
        {"role": "user", "content": "u1"},
        {"role": "assistant", "content": BLOCKED_PLACEHOLDER},
        {"role": "user", "content": "u2"},
    ]
    assert (second["input_tokens"], second["reasoning_tokens"], second["from_store"], second["moderator"]) == (5, 1, True, None)


def test_a_scripted_row_shows_the_whole_scripted_dialogue() -> None:
    assert history_before(transcript("scripted"), 0) == LINES


def test_more_pictures_than_one_with_the_first_message_are_told_in_a_column_of_their_own() -> None:
    (row,) = transcript_rows(finished("scripted"), "run")
    assert (row["image_path"], row["images"]) == ("images/a.png", None)
    lines = (*LINES[:2], Line("user", "u2", ("images/b.png",)))
    two = transcript("scripted")
    (row,) = transcript_rows(Finished(replace(two, dialogue=replace(DIALOGUE, lines=lines)), (), "p", "m"), "run")
    assert json.loads(row["images"]) == [
        {"turn": 1, "path": "images/a.png", "digest": None},
        {"turn": 2, "path": "images/b.png", "digest": None},
    ]


def test_members_of_a_panel_stand_beside_its_verdict_and_do_not_count() -> None:
    rows = list(verdict_rows(finished(), "run"))
    assert [(row["turn"], row["judge"], row["label"], row["counts"]) for row in rows] == [
        (1, "j", "safe", True),
        (2, "j", None, True),
        (2, "rules", "unsafe", False),
    ]


def test_rows_name_the_replies_behind_them_in_the_store() -> None:
    guided = replace(transcript().turns[0], reply_key="k1", guidance=Guidance("mod", True, reply_keys=("m1", "m2")))
    told = Finished(replace(transcript(), turns=(guided,)), ((1, Verdict("j", "safe", "judge", reply_keys=("j1",))),), "p", "m")
    (row,) = transcript_rows(told, "run")
    assert (row["reply_key"], row["moderator_reply_keys"]) == ("k1", "m1 m2")
    assert [row["reply_keys"] for row in verdict_rows(told, "run")] == ["j1"]


def test_collected_rows_become_frames_and_counts(tmp_path: Path) -> None:
    with open_collector(tmp_path, "run") as collector:
        collector.add(finished())
        collector.add(finished(failure="too long"))
        collector.close()
        write_frames(tmp_path, tmp_path)
        sweep(tmp_path)
        assert (collector.finished, collector.failed) == (2, 1)
        assert collector.outcomes["blocked_output"] == collector.outcomes["answered"] == 2
        assert collector.asr_so_far == 0.0
    frame = pl.read_parquet(tmp_path / TRANSCRIPTS_FILE)
    assert dict(frame.schema) == TRANSCRIPT_SCHEMA
    assert frame["failure"].to_list() == [None, None, "too long", "too long"]
    assert dict(pl.read_parquet(tmp_path / VERDICTS_FILE).schema) == VERDICT_SCHEMA
    assert sorted(one.name for one in tmp_path.iterdir()) == [TRANSCRIPTS_FILE, VERDICTS_FILE]


def test_many_rows_are_written_in_their_order_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "[red]b[" / "{a,b}*?"
    with open_collector(folder, "run") as collector:
        for _ in range(2500):
            collector.add(finished())
        collector.close()
        write_frames(folder, folder)
        sweep(tmp_path)
    frame = read_frame(folder / TRANSCRIPTS_FILE)
    assert frame["turn"].to_list() == [1, 2] * 2500


def test_a_run_without_rows_has_empty_frames_of_the_right_form(tmp_path: Path) -> None:
    with open_collector(tmp_path, "run") as collector:
        collector.close()
        write_frames(tmp_path, tmp_path)
        sweep(tmp_path)
    assert dict(pl.read_parquet(tmp_path / TRANSCRIPTS_FILE).schema) == TRANSCRIPT_SCHEMA


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ('{"system_fingerprint": "fp_44709d6fcb", "choices": []}', "fp_44709d6fcb"),
        ('{"choices": [{"text": "\\"system_fingerprint\\""}]}', None),
        ('{"system_fingerprint": null}', None),
        ('{"system_fingerprint": 7}', None),
        ('["system_fingerprint"]', None),
        ('{"system_fingerprint": ', None),
        ("{}", None),
        (None, None),
    ],
)
def test_a_fingerprint_is_what_the_body_says_it_is(raw: str | None, told: str | None) -> None:
    assert fingerprint_of(raw) == told
