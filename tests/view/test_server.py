"""The door of the viewer, knocked at over its socket: who has no key, no business or other plans stays outside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from tests.view.conftest import Start, Viewer, as_under_way, finished_run

SECRET = "nobody outside may read this"


@pytest.fixture
def viewer(tmp_path: Path, start_viewer: Start) -> Viewer:
    finished_run(tmp_path / "results", "brittle", pictures=True, panel=True)
    (tmp_path / "secret.txt").write_text(SECRET)
    return start_viewer(tmp_path / "results")


def test_only_who_holds_the_token_is_told_anything(viewer: Viewer) -> None:
    assert viewer.ask("").status == 200
    token = viewer.address.rstrip("/").rpartition("/")[2]
    for wrong in ("", "wrong", token[:-1], token + "x", token.swapcase()):
        for path in ("", "api/overview", "assets/main.js"):
            answer = viewer.ask(path, token=wrong)
            assert answer.status == 403, (wrong, path)
            assert b"brittle" not in answer.body


def test_two_viewers_have_two_tokens_of_many_bits(viewer: Viewer, start_viewer: Start, tmp_path: Path) -> None:
    other = start_viewer(tmp_path / "results")
    tokens = {one.address.rstrip("/").rpartition("/")[2] for one in (viewer, other)}
    assert len(tokens) == 2
    assert all(len(token) >= 22 for token in tokens)
    assert other.ask("", token=(tokens - {other.address.rstrip("/").rpartition("/")[2]}).pop()).status == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", ""])
def test_a_name_that_is_not_this_machines_is_refused(viewer: Viewer, host: str) -> None:
    assert viewer.ask("api/overview", headers={"Host": host.format(port=viewer.port)}).status == 421


def test_this_machines_names_are_answered(viewer: Viewer) -> None:
    assert [viewer.ask("api/overview", headers={"Host": f"{name}:{viewer.port}"}).status for name in ("127.0.0.1", "localhost")] == [
        200,
        200,
    ]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"])
def test_another_pages_questions_are_refused(viewer: Viewer, origin: str) -> None:
    answer = viewer.ask("api/overview", headers={"Origin": origin.format(port=viewer.port)})
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers


def test_the_pages_own_origin_is_answered(viewer: Viewer) -> None:
    assert viewer.ask("api/overview", headers={"Origin": f"http://127.0.0.1:{viewer.port}"}).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_but_reading_is_answered(viewer: Viewer, method: str) -> None:
    assert viewer.ask("api/overview", method=method).status == 405
    assert viewer.ask("api/overview", method="HEAD").status == 200


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells who listens where in a file")
def test_it_listens_on_loopback_alone(viewer: Viewer) -> None:
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"]
    assert [one for one in listening if one.endswith(f":{viewer.port:04X}")] == [f"0100007F:{viewer.port:04X}"]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "assets/../../secret.txt",
            "assets/..%2f..%2fsecret.txt",
            "assets/%2e%2e/%2e%2e/secret.txt",
            "assets//etc/passwd",
            "../secret.txt",
        ),
        *("assets/__init__.py", "assets/main.js%00.html", "assets/..\\..\\secret.txt", "assets/.", "assets/"),
    ],
)
def test_no_path_leads_to_other_files(viewer: Viewer, path: str) -> None:
    answer = viewer.ask(path)
    assert answer.status in (403, 404)
    assert SECRET.encode() not in answer.body


@pytest.mark.parametrize("name", ["../secret.txt", "/etc", "..", ".", "brittle/../../..", "brittle\x00", "*"])
def test_no_name_of_a_run_leads_out_of_the_folder(viewer: Viewer, name: str) -> None:
    for question in ("scope", "dialogues", "dialogue", "export", "picture"):
        assert viewer.ask(f"api/{question}", run=name).status == 404
        assert viewer.ask(f"api/{question}", study=name).status == 404
    assert viewer.ask("api/call", run=name, key="safemt2:x").status == 404


def test_every_answer_forbids_what_the_page_does_not_need(viewer: Viewer) -> None:
    for answer in (
        viewer.ask(""),
        viewer.ask("api/overview"),
        viewer.ask("assets/main.js"),
        viewer.ask("", token="wrong"),
        viewer.ask("none"),
    ):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


def test_what_has_not_changed_is_not_sent_again(viewer: Viewer) -> None:
    first = viewer.ask("api/scope", run="brittle")
    # The interval is computed meanwhile, so the first answer may yet change once.
    for _ in range(50):
        again = viewer.ask("api/scope", headers={"If-None-Match": first.headers["etag"]}, run="brittle")
        if again.status == 304:
            break
        first = again
    assert (again.status, again.body) == (304, b"")


def first_dialogue(viewer: Viewer) -> dict[str, Any]:
    row = viewer.ask("api/dialogues", run="brittle").json["rows"][0]
    return {"run": "brittle", "id": row["dialogue_id"], "turns": row["length"]}


def test_a_picture_is_drawn_anew_and_only_from_the_data_folder(viewer: Viewer, tmp_path: Path) -> None:
    wanted = {**first_dialogue(viewer), "arm": "brittle"}
    answer = viewer.ask("api/picture", **wanted)
    assert (answer.status, answer.headers["content-type"], answer.body[:4]) == (200, "image/webp", b"RIFF")
    file = tmp_path / "results" / "brittle" / "transcripts.parquet"
    frame = pl.read_parquet(file)
    Image.new("RGB", (20, 20)).save(tmp_path / "results" / "outside.png")
    (tmp_path / "results" / "data" / "text.png").write_text(SECRET)
    for path in ("../outside.png", "/etc/passwd", "../../secret.txt", str(tmp_path / "secret.txt"), "text.png"):
        frame.with_columns(image_path=pl.lit(path)).write_parquet(file)
        answer = viewer.ask("api/picture", **wanted)
        assert answer.status == 404, path
        assert SECRET.encode() not in answer.body


def test_numbers_and_filters_that_are_none_are_no_error(viewer: Viewer) -> None:
    odd: dict[str, Any] = {
        "offset": "-1",
        "length": "²",
        "turns": "1e9",
        "repeat": "x" * 4000,
        "outcome": "none",
        "only": "nobody",
        "search": '"' * 900,
        "id": "\x00",
        "sort": "-constructor",
    }
    answer = viewer.ask("api/dialogues", run="brittle", **odd)
    assert (answer.status, answer.json["total"], answer.json["place"]) == (200, 0, None)


def test_a_folder_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safemt_api", "view", str(tmp_path / "none")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "there is no folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_list_tells_states_and_scores_and_a_killed_run_too(viewer: Viewer, tmp_path: Path) -> None:
    as_under_way(finished_run(tmp_path / "results", "cut"), dialogues=10)
    (tmp_path / "results" / "odd").mkdir()
    (tmp_path / "results" / "odd" / "run.json").write_text("{")
    for _ in range(100):
        found = {one["run"]: one for one in viewer.ask("api/overview").json["runs"]}
        if len(found) == 3 and found["brittle"]["asr_low"] is not None and found["cut"]["asr_low"] is not None:
            break
        time.sleep(0.1)
    assert {name: one["state"] for name, one in found.items()} == {"brittle": "finished", "cut": "killed", "odd": "damaged"}
    assert found["odd"]["problem"]
    assert (found["cut"]["finished"] + found["cut"]["failed"], found["cut"]["planned"]) == (10, 60)
    for one in (found["brittle"], found["cut"]):
        assert one["asr_low"] <= one["asr"] <= one["asr_high"]


def test_the_download_stands_in_the_order_of_the_list(viewer: Viewer) -> None:
    listed = viewer.ask("api/dialogues", run="brittle", sort="-seconds").json["rows"]
    lines = [json.loads(line) for line in viewer.ask("api/export", run="brittle", sort="-seconds").body.splitlines()]
    assert [(line["turns"][0]["dialogue_id"], line["turns"][0]["length"]) for line in lines] == [
        (row["dialogue_id"], row["length"]) for row in listed
    ]
    seconds = [sum(turn["latency_seconds"] for turn in line["turns"]) for line in lines]
    assert seconds == sorted(seconds, reverse=True)


def test_the_download_is_every_row_of_what_is_listed(viewer: Viewer, tmp_path: Path) -> None:
    answer = viewer.ask("api/export", run="brittle", verdict="unsafe", length="4")
    lines = [json.loads(line) for line in answer.body.splitlines()]
    verdicts = pl.read_parquet(tmp_path / "results" / "brittle" / "verdicts.parquet")
    unsafe = verdicts.filter("counts", pl.col("label") == "unsafe", pl.col("length") == 4, pl.col("kind") == "harmful")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert {one["turns"][0]["dialogue_id"] for one in lines} == set(unsafe["dialogue_id"])
    assert all(one["verdicts"] for one in lines)
