"""A run cut where somebody else answered: replies that name nobody, and two ways of telling the same change."""

from __future__ import annotations

import polars as pl

from safemt_api.frames import TRANSCRIPT_SCHEMA, VERDICT_SCHEMA
from safemt_api.runs.drift import Cut, cuts
from safemt_api.runs.summary import Summary, drift_of


def frames(*told: tuple[str | None, str | None, int | None]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A dialogue each: the served model, the fingerprint, the second at which the reply came."""
    keys = [{"dialogue_id": f"id{place}", "length": 1, "repeat": 1, "turn": 1} for place in range(len(told))]
    said = [
        key | {"model": "m", "served_model": name, "system_fingerprint": mark, "received_utc": moment and f"2026-12-01T00:00:{moment:02d}"}
        for key, (name, mark, moment) in zip(keys, told, strict=True)
    ]
    judged = [key | {"judge": "rules", "counts": True, "label": "safe", "kind": "harmful", "source": "judge"} for key in keys]
    return pl.DataFrame(said, schema=TRANSCRIPT_SCHEMA), pl.DataFrame(judged, schema=VERDICT_SCHEMA)


def ids(cut: Cut) -> list[list[str]]:
    return [piece.verdicts["dialogue_id"].to_list() for piece in cut.pieces]


def test_a_reply_that_names_nobody_goes_by_its_moment_and_one_without_a_moment_nowhere() -> None:
    (cut,) = cuts(*frames(("a", None, 1), (None, None, 2), ("b", None, 4), (None, None, 5), ("a", None, 6), (None, None, None)))
    assert ids(cut) == [["id0", "id1", "id4"], ["id2", "id3"]]
    assert (cut.unplaced, cut.across, cut.who) == (1, 0, "m")


def test_a_reply_of_an_earlier_version_came_before_all_others() -> None:
    (cut,) = cuts(*frames(("b", None, 3), ("a", None, None)))
    assert [list(piece.values) for piece in cut.pieces] == [["a"], ["b"]]
    assert [(piece.first_utc, piece.last_utc) for piece in cut.pieces] == [(None, None), ("2026-12-01T00:00:03",) * 2]


def test_a_model_that_brings_its_own_back_ends_is_one_change() -> None:
    told = [("a", "fp_1", second) for second in range(1, 25)] + [("b", "fp_2", second) for second in range(25, 50)]
    assert [cut.what for cut in cuts(*frames(*told))] == ["served_model"]
    apart = [("a", "fp_1", second) for second in range(1, 25)] + [("a", "fp_2", second) for second in range(25, 50)] + [("b", "fp_2", 51)]
    assert [cut.what for cut in cuts(*frames(*apart))] == ["served_model", "system_fingerprint"]


def test_what_a_summary_says_of_it_can_be_read_back() -> None:
    found = drift_of(*frames(("a", None, 1), ("b", None, 4)), "scripted")
    summary = Summary.model_validate({"schema": 1, "run": "r", "status": "complete", "protocol": "scripted", "drift": found})
    assert [part.asr_by_turn[0].safe for part in summary.drift[0].parts] == [1, 1]
    assert Summary.model_validate(summary.json_value()) == summary
    assert drift_of(*frames(), "scripted") == []
