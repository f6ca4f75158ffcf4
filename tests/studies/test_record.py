"""``study.json`` comes back as it was written, holds no NaN, and is refused with one sentence where it is damaged."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path

import pytest

from safemt_api.errors import StoreError
from safemt_api.studies.record import ArmRecord, Board, Effect, Ids, Interval, Place, PooledEffect, StudyRecord, read_study

RECORD = StudyRecord(
    study="paper",
    id="0123",
    status="partial",
    started_utc="2026-11-21T10:00:00+00:00",
    max_usd=3.0,
    spent_usd=1.25,
    shared={"judge": ["rules"]},
    arms=(
        ArmRecord(name="plain", run="paper/plain", state="complete", provider="simulator", model="sim-brittle"),
        ArmRecord(
            name="guarded", run="paper/guarded", reference="plain", given={"moderator": "x"}, state="left out", sentence="no account"
        ),
    ),
    ids=Ids(planned=16, common=12),
    leaderboard=(Board(protocol="scripted", judge="rules", lengths=(1, 2), ids=12, rows=(Place(arm="plain", rank=1, best=1, worst=1),)),),
    effects=(Effect(arm="guarded", reference="plain", asr=PooledEffect(before=math.nan, difference=Interval(value=-0.2))),),
)


def test_the_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = RECORD.write(tmp_path)
    assert read_study(tmp_path) == RECORD
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert written["schema"] == 1
    assert written["effects"][0]["asr"]["before"] is None
    assert RECORD.references == {"guarded": "plain"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "input should be a valid dictionary"),
        ('{"schema": 2}', "newer safemt-api (schema 2; this one knows 1)"),
        ('{"schema": 1, "study": "a", "status": "fine", "arms": []}', "status: input should be"),
        ('{"schema": 1, "study": "a", "status": "complete", "arms": [{"name": "b", "run": "a/b", "state": 3}]}', "arms.0.state"),
    ],
)
def test_a_damaged_record_is_refused_in_one_sentence(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "study.json").write_text(text, encoding="utf-8")
    with pytest.raises(StoreError) as caught:
        read_study(tmp_path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_later_version_adds_is_kept(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps({**RECORD.json_value(), "new": {"a": 1}}), encoding="utf-8")
    assert read_study(tmp_path).json_value()["new"] == {"a": 1}


def test_no_record_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is missing"):
        read_study(tmp_path)
