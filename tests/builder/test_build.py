"""A build: filters find exactly the generator's defects, counts are as asked; after a kill the same bytes are written, nothing twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from safemt_api.builder.build import BUILD_FILE, WORK_FOLDER, BuildSettings, build
from safemt_api.builder.filters.near_duplicates import near_duplicates
from safemt_api.builder.methods import load_methods, shipped_methods
from safemt_api.builder.queries import read_queries
from safemt_api.builder.questions import WRITE
from safemt_api.dataset.entries import load_dataset
from safemt_api.dataset.findings import examine
from safemt_api.errors import BudgetExhaustedError, DatasetError, UsageError
from safemt_api.messages import Dialogue, Line
from safemt_api.simulator.authors import defect_of
from safemt_api.store.turns import STORE_FILE

DEFECT_OF_FILTER = {
    "form": "wrong-roles",
    "harmless": "leaked-step",
    "intent": "lost-intent",
    "not-obvious": "obvious",
    "written": "refusal",
}
QUERIES = 6
METHODS = ("lead-in", "fiction", "purpose", "in-context")
PLACES = {(f"own_{number}_{method}", length) for number in range(QUERIES) for method in METHODS for length in (2, 4)}
PICTURED = ("own_0", "own_1", "own_2")


def queries_file(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir(exist_ok=True)
    PIL.Image.new("RGB", (8, 8), "grey").save(tmp_path / "pictures" / "q.png")
    rows = [
        {"id": f"own_{number}", "scenario": ("Fraud", "Privacy Violation")[number % 2], "goal": f"[PLACEHOLDER request {number}]"}
        for number in range(QUERIES)
    ]
    for row in rows:
        if row["id"] in PICTURED:
            row["image_path"] = "q.png"
    file = tmp_path / "queries.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def settings(tmp_path: Path, out: str = "out", **changes: Any) -> BuildSettings:
    usual: dict[str, Any] = {"lengths": (1, 2, 4), "attempts": 1, "generator": "simulator:sim-author"}
    return BuildSettings(queries=queries_file(tmp_path), images=tmp_path / "pictures", out=tmp_path / out, **{**usual, **changes})


def files_in(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and WORK_FOLDER not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def replies_in(folder: Path) -> int:
    with closing(sqlite3.connect(folder / WORK_FOLDER / STORE_FILE)) as store:
        (count,) = store.execute("SELECT COUNT(*) FROM replies").fetchone()
    return int(count)


def defects(tmp_path: Path, *, copying: bool = False) -> dict[tuple[str, int], str]:
    """Which defect the author plays in which draft, in the build's order."""
    found = {}
    for query in read_queries(queries_file(tmp_path), tmp_path / "pictures"):
        for method in load_methods(METHODS):
            for length in (2, 4):
                fields = {"goal": query.goal, "scenario": query.scenario, "turns": length}
                wanted = {**fields, "language": "en", "kind": "harmful", "variant": 1}
                defect = defect_of(0, WRITE.format(method=method.text), wanted, copying=copying)
                if defect is not None and not (defect == "obvious" and method.name == "in-context"):
                    found[f"{query.id}_{method.name}", length] = str(defect)
    return found


async def test_the_filters_drop_exactly_the_drafts_with_their_defect(tmp_path: Path) -> None:
    result = await build(settings(tmp_path))
    assert result.exit_code == 0
    assert result.record is not None
    dropped = {(drop["id"], drop["length"]): DEFECT_OF_FILTER[drop["filter"]] for drop in result.record["dropped"]}
    truth = {place: defect for place, defect in defects(tmp_path).items() if defect != "told-in-words"}
    assert dropped == truth
    assert set(truth.values()) == set(DEFECT_OF_FILTER.values()), "the queries should meet each defect once"


async def test_where_the_picture_is_needed_exactly_those_go_whose_goal_shows_without_it(tmp_path: Path) -> None:
    result = await build(settings(tmp_path, picture_needed=True))
    assert result.record is not None
    dropped = {(drop["id"], drop["length"]): drop["filter"] for drop in result.record["dropped"]}
    reasons = {(drop["id"], drop["length"]): drop["reason"] for drop in result.record["dropped"] if drop["filter"] == "picture-needed"}
    filter_of = {defect: name for name, defect in DEFECT_OF_FILTER.items()} | {"told-in-words": "picture-needed"}
    pictured = {place for place in PLACES if place[0].startswith(PICTURED)}
    truth = {place: filter_of[defect] for place, defect in defects(tmp_path).items() if defect != "told-in-words" or place in pictured}
    told = {place for place, name in truth.items() if name == "picture-needed"}
    assert told, "a draft should tell in words what its picture is for"
    bare = {place for place in PLACES - pictured if place not in truth}
    assert dropped == truth | dict.fromkeys(bare, "picture-needed")
    assert {place for place, reason in reasons.items() if "without the picture" in reason} == told
    assert {place for place, reason in reasons.items() if reason == "there is no picture"} == bare
    kept = {(entry.id, entry.length) for entry in load_dataset(result.folder).entries if entry.length > 1}
    assert kept == pictured - set(dropped)
    assert kept, "a draft should need its picture"


async def test_of_near_copies_exactly_the_first_of_each_length_is_kept(tmp_path: Path) -> None:
    result = await build(settings(tmp_path, generator="simulator:sim-copying-author"))
    assert result.record is not None
    dropped = {(drop["id"], drop["length"]): (drop["filter"], drop["reason"]) for drop in result.record["dropped"]}
    copies = list(defects(tmp_path, copying=True))
    truth: dict[tuple[str, int], tuple[str, str]] = {}
    for length in (2, 4):
        first, *others = [place for place in copies if place[1] == length]
        assert others, "the queries should meet several copies of a length"
        truth |= dict.fromkeys(others, ("near-duplicates", f"says almost what {first[0]} says"))
    assert dropped == truth
    assert {(entry.id, entry.length) for entry in load_dataset(result.folder).entries if entry.length > 1} == PLACES - set(truth)


async def test_what_is_kept_is_as_asked_sound_and_told(tmp_path: Path) -> None:
    result = await build(settings(tmp_path, attempts=10, twins=True))
    assert result.record is not None
    assert (result.record["kept"], result.record["wanted"]) == (QUERIES * 4 * 3 * 2, QUERIES * 4 * 3 * 2)
    assert {(one["wanted"], one["kept"]) for one in result.record["counts"]} == {(QUERIES, QUERIES)}
    dataset = load_dataset(result.folder)
    assert examine(result.folder).problems == ()
    counted = Counter((entry.method, entry.length, entry.kind) for entry in dataset.entries)
    assert counted == {(method, length, kind): QUERIES for method in METHODS for length in (1, 2, 4) for kind in ("harmful", "benign")}
    by_id = {(entry.id, entry.length): entry for entry in dataset.entries}
    assert all(by_id[str(entry.pair), entry.length].pair == entry.id for entry in dataset.entries)
    assert {entry.source for entry in dataset.entries} == {"built"}
    assert sum(bool(entry.image_paths) for entry in dataset.entries) == len(PICTURED) * 4 * 3 * 2
    spoken = [line.text for entry in dataset.entries for line in dataset.read(entry).lines if line.role == "assistant"]
    assert spoken
    assert not any("LEAKED" in text for text in spoken)
    assert set(result.record["methods"]) == set(METHODS)
    assert set(result.record["cost_usd"]) == {"generator", "judge", "reader"}


async def test_the_same_again_writes_the_same_bytes_and_buys_nothing(tmp_path: Path) -> None:
    first = await build(settings(tmp_path))
    before, bought = files_in(first.folder), replies_in(first.folder)
    again = await build(settings(tmp_path))
    assert (files_in(again.folder), replies_in(again.folder)) == (before, bought)
    with pytest.raises(UsageError, match="holds a build with other lengths; give another --out"):
        await build(settings(tmp_path, lengths=(2,)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"x")
    with pytest.raises(UsageError, match="is not empty"):
        await build(settings(tmp_path, out="full"))


async def test_a_ceiling_ends_it_and_a_higher_one_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = await build(settings(tmp_path))
    short = await build(settings(tmp_path, out="short", max_usd=0.02, concurrency=2))
    assert isinstance(short.stopped_by, BudgetExhaustedError)
    assert (short.exit_code, short.record) == (3, None)
    assert not (short.folder / BUILD_FILE).exists()
    assert 0 < replies_in(short.folder) < replies_in(whole.folder)
    resumed = await build(settings(tmp_path, out="short", max_usd=50.0))
    assert files_in(resumed.folder) == files_in(whole.folder)
    assert replies_in(resumed.folder) == replies_in(whole.folder)


def test_killed_twice_and_resumed_it_writes_the_same_bytes(tmp_path: Path) -> None:
    queries = queries_file(tmp_path)
    command = [sys.executable, "-m", "safemt_api", "data", "build", "--queries", str(queries), "--images", str(tmp_path / "pictures")]
    command += ["--generator", "simulator:sim-author", "--lengths", "2,4", "--attempts", "1"]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True, timeout=50)
    for more in (10, 30):
        started = subprocess.Popen([*command, "--out", str(tmp_path / "cut"), "--concurrency", "1"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 25
        while started.poll() is None and time.monotonic() < deadline:
            store = tmp_path / "cut" / WORK_FOLDER / STORE_FILE
            try:
                if store.exists() and replies_in(tmp_path / "cut") >= more:
                    break
            except sqlite3.Error:
                pass
            time.sleep(0.02)
        if started.poll() is None:
            os.kill(started.pid, signal.SIGKILL)
        started.wait(timeout=10)
    subprocess.run([*command, "--out", str(tmp_path / "cut")], check=True, capture_output=True, timeout=50)
    assert files_in(tmp_path / "cut") == files_in(tmp_path / "whole")
    assert replies_in(tmp_path / "cut") == replies_in(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ("lead-inn",)}, r"--methods lead-inn: no such method, file or folder \(did you mean 'lead-in'\?\)"),
        ({"methods": ("fiction", "fiction")}, "must name each method once"),
        ({"generator": "simulator"}, "is not PROVIDER:MODEL"),
        ({"generator": "simulator:sim-autor"}, "the simulator has no model"),
        ({"lengths": (0,)}, "--lengths must name numbers of turns"),
        ({"attempts": 99}, "--attempts 99: must be 1 to 10"),
        ({"methods": ("none.md",)}, "--methods none.md: cannot be read"),
        ({"queries": Path("none.jsonl")}, "--queries none.jsonl: give a file that ends in"),
    ],
)
async def test_what_cannot_work_is_refused_with_a_sentence(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    usual: dict[str, Any] = {"queries": queries_file(tmp_path), "images": tmp_path / "pictures", "out": tmp_path / "o"}
    with pytest.raises(UsageError, match=said):
        await build(BuildSettings(**{**usual, "generator": "simulator:sim-author", **changes}))


def test_queries_that_are_wrong_are_all_listed(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text(
        "id,scenario,question,image\na,Fraud,one,\na,Fraud,two,\n,Fraud,three,\nb,Fraud,,\nc,Fraud,four,none.png\n", encoding="utf-8"
    )
    with pytest.raises(DatasetError) as caught:
        read_queries(file, tmp_path)
    assert [str(problem) for problem in caught.value.problems] == [
        "q.csv[1] (a): duplicate id",
        'q.csv[2]: "id" is missing or empty',
        'q.csv[3] (b): "goal" is missing or empty',
        "q.csv[4] (c): image none.png is missing",
    ]
    with pytest.raises(DatasetError, match="names a picture, but --images gives no folder"):
        read_queries(file, None)


def test_a_method_of_ones_own_stands_beside_the_shipped_ones(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.md").write_text("<!-- without: not-obvious -->\nThe user asks slowly.", encoding="utf-8")
    mine, fiction = load_methods((str(own), "fiction"))
    assert load_methods((str(own / "mine.md"),)) == (mine,)
    assert (mine.text, mine.without, fiction.without) == ("The user asks slowly.", frozenset({"not-obvious"}), frozenset())
    (tmp_path / "bad.md").write_text("<!-- without: harmless -->\nNo.", encoding="utf-8")
    with pytest.raises(UsageError, match="can do without intent, not-obvious alone"):
        load_methods((str(tmp_path / "bad.md"),))
    assert {file.stem for file in shipped_methods().glob("*.md")} == set(METHODS)


def test_near_duplicates_are_those_that_say_almost_the_same() -> None:
    def dialogue(name: str, *texts: str) -> Dialogue:
        lines = [Line("user", text) for text in texts]
        return Dialogue(name, "s", len(texts), tuple(lines), "g")

    words = "what might this old grey machine in the picture be good for on a farm in the north of the country when it rains"
    copy = words.replace("grey", "green")
    found = list(
        near_duplicates([dialogue("a", words, "and then"), dialogue("b", copy, "and then"), dialogue("c", "other words", "and then")])
    )
    assert [(one.id, twin) for one, twin in found] == [("b", "a")]
    assert list(near_duplicates([dialogue("a", words), dialogue("b", words)])) == []
