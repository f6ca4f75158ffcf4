"""Runs that ask every dialogue several times, over real sockets: what is bought, what it equals, and what every reader makes of it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from safemt_api.errors import SettingsChangedError, UsageError
from safemt_api.evaluation import evaluate, open_plan
from safemt_api.report.exports import export_run
from safemt_api.report.page import render_page
from safemt_api.report.remarks import remarks
from safemt_api.report.views import run_report
from safemt_api.runs.estimate import estimate
from safemt_api.runs.folder import TRANSCRIPTS_FILE, VERDICTS_FILE, scratch
from safemt_api.runs.record import read_run, read_unfinished
from safemt_api.runs.rejudge import rejudge
from safemt_api.runs.rows import open_collector
from safemt_api.runs.settings import EvalSettings
from safemt_api.simulator.personas import plays_unsafe, sampled_seed
from safemt_api.studies.comparability import compare_runs, differences

JUDGE = "simulator:sim-judge"
SEED, SAMPLING_SEED, N = 3, 40, 3
Small = dict[str, Any]


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """Options of a small run whose model answers each repeat otherwise: it draws by the seed that a request brings."""
    given = {"lengths": (1, 4), "sample": 6, "seed": SEED, "seed_sampling": SAMPLING_SEED, "judges": (JUDGE,)}
    return {"model": "sim-brittle", "results": tmp_path / "results", "run": "r", **given}


async def test_every_repeat_is_a_reply_of_its_own_and_equals_the_truth(small: Small) -> None:
    result = await evaluate(**small, repeats=N)
    run, summary = read_run(result.folder), result.summary.json_value()
    assert summary["calls"]["sent"] == 2 * (12 * N) + 2
    assert summary["dialogues"] == {"planned": 36, "finished": 36, "failed": 0}
    assert run.transcripts.group_by("repeat").len().sort("repeat").rows() == [(1, 12), (2, 12), (3, 12)]
    truths = {}
    for row in run.transcripts.iter_rows(named=True):
        words = [message["content"] for message in json.loads(row["messages"]) if message["role"] == "user"]
        seed = sampled_seed(SEED, SAMPLING_SEED + row["repeat"] - 1)
        truths[row["dialogue_id"], row["length"], row["repeat"]] = plays_unsafe("sim-brittle", seed=seed, user_texts=words)
    said = {(row["dialogue_id"], row["length"], row["repeat"]): row["label"] == "unsafe" for row in run.verdicts.iter_rows(named=True)}
    assert said == truths
    for row in summary["asr_by_turn"]:
        assert row["unsafe"] == sum(unsafe for (_, length, _), unsafe in truths.items() if length == row["turn"])
    for row in summary["repeats"]["any_unsafe_by_turn"]:
        ids = {name for (name, length, _), unsafe in truths.items() if unsafe and length == row["turn"]}
        assert (row["any_unsafe"], row["any_unsafe"] + row["all_safe"], row["share"]) == (len(ids), 6, len(ids) / 6)
    assert 0 < summary["repeats"]["mixed"]["value"] < 1
    again = await evaluate(**small, repeats=N)
    assert (again.summary.calls.sent, again.summary.json_value()["repeats"]) == (0, summary["repeats"])


async def test_repeats_are_bought_though_every_reply_is_the_same(small: Small) -> None:
    """A model that always says the same is asked N times, and so is the judge about it, and the moderator before it."""
    small.pop("seed_sampling")
    cases: tuple[tuple[Small, int], ...] = (({}, 12), ({"moderator": "policy:simulator:sim-moderator"}, 24))
    for options, calls_each in cases:
        small["results"] = small["results"] / str(calls_each)
        once = await evaluate(**{**small, "run": "once"}, **options)
        thrice = await evaluate(**{**small, "run": "thrice"}, **options, repeats=N)
        # The first repeat is the same question as a run without any, and in the store.
        assert thrice.summary.calls.from_store == once.summary.calls.sent
        assert thrice.summary.calls.sent == (N - 1) * (12 + calls_each)
        assert (thrice.summary.json_value()["repeats"]["mixed"]["value"], thrice.summary.json_value()["repeats"]["within_sd"]) == (0, 0)
        assert thrice.summary.json_value()["safety_index"]["value"] == pytest.approx(once.summary.json_value()["safety_index"]["value"])


async def test_every_turn_of_a_live_repeat_is_asked_anew(small: Small) -> None:
    small.pop("seed_sampling")
    result = await evaluate(**small, protocol="live", repeats=2)
    turns = 6 * (1 + 4)
    assert result.summary.calls.sent == 2 * 2 * turns + 2
    assert [row["turn"] for row in result.summary.json_value()["repeats"]["any_unsafe_by_turn"]] == [1, 2, 3, 4]
    assert [row["unsafe"] + row["safe"] for row in result.summary.json_value()["asr_by_turn"]] == [24, 12, 12, 12]


async def test_repeats_can_be_asked_beside_those_there_are(small: Small) -> None:
    first = await evaluate(**small, repeats=2)
    later = await evaluate(**{**small, "run": "later"}, repeats=2, repeats_from=2)
    assert later.summary.calls.sent == first.summary.calls.sent - 2  # the judge's trial is in the store
    assert read_run(later.folder).transcripts["repeat"].unique().sort().to_list() == [3, 4]
    both = await evaluate(**{**small, "run": "both"}, repeats=4)
    assert both.summary.calls.sent == 0


async def test_another_number_of_repeats_is_another_run_and_not_comparable(small: Small) -> None:
    result = await evaluate(**small, repeats=2)
    with pytest.raises(SettingsChangedError, match="repeats"):
        await evaluate(**small)
    once = await evaluate(**{**small, "run": "once"})
    runs = [read_run(folder) for folder in (result.folder, once.folder)]
    assert [(found.what, found.first, found.other) for found in differences(*runs)] == [("repeats", "2", "1")]
    with pytest.raises(UsageError, match="play it again with the same --repeats"):
        compare_runs(*runs)
    same = compare_runs(*runs, anyway=True)
    assert (same.by_length["pairs"].to_list(), same.asr_difference.value) == ([6, 6], 0)
    assert once.summary.json_value()["repeats"] is None


async def test_readers_keep_repeats_apart(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = await evaluate(**small, repeats=2)
    run = read_run(result.folder)
    page = render_page([run], charts=False, images=False)
    assert "with any unsafe reply in 2" in page
    assert any("asked 2 times" in sentence for sentence in remarks(run))
    from rich.console import Console

    Console(width=100).print(run_report(run))
    assert "Dialogues with any unsafe reply in 2" in capsys.readouterr().out
    export_run(run, "jsonl", tmp_path / "r.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert len({(row["dialogue_id"], row["length"], row["repeat"]) for row in rows}) == 24 == len(rows)
    assert all(len(row["verdicts"]) == 1 and row["verdicts"][0]["label"] == row["verdict"] for row in rows)
    export_run(run, "inspect", tmp_path / "r.eval")
    with zipfile.ZipFile(tmp_path / "r.eval") as log:
        epochs = [json.loads(log.read(name))["epoch"] for name in log.namelist() if name.startswith("samples/")]
        assert (sorted(epochs), json.loads(log.read("header.json"))["eval"]["config"]) == ([1] * 12 + [2] * 12, {"epochs": 2})


async def test_new_verdicts_are_given_on_every_repeat(small: Small) -> None:
    before = await evaluate(**small, repeats=2)
    settings = EvalSettings(**{**small, "judges": ("rules",)}, repeats=2)
    async with open_plan(settings, judging_only=True) as plan:
        after = await rejudge(plan)
    judged = read_run(after.folder).verdicts.filter("counts")
    assert judged.select("dialogue_id", "length", "repeat").n_unique() == 24 == before.summary.verdicts.due
    assert after.summary.json_value()["repeats"]["n"] == 2


async def test_a_dry_run_counts_what_the_run_will_buy(small: Small) -> None:
    async with open_plan(EvalSettings(**small, repeats=N)) as plan:
        found = await estimate(plan)
    assert (found.dialogues, [share.calls for share in found.shares]) == (36, [36, 36 + 2])
    result = await evaluate(**small, repeats=N)
    assert result.summary.json_value()["cost_usd"]["total"] <= found.most_usd


async def test_a_killed_run_shows_the_repeats_that_it_has(small: Small) -> None:
    result = await evaluate(**small, repeats=2)
    frames = {name: pl.read_parquet(result.folder / name).to_dicts() for name in (TRANSCRIPTS_FILE, VERDICTS_FILE)}
    with open_collector(result.folder, "r"):
        pass
    kept = {name: rows[:15] if name == TRANSCRIPTS_FILE else rows[:14] for name, rows in frames.items()}
    for name, rows in kept.items():
        scratch(result.folder, name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = read_unfinished(result.folder, json.loads((result.folder / "run.json").read_text()))
    assert found is not None
    assert (found.summary.played, found.summary.dialogues.planned, found.summary.json_value()["repeats"]["n"]) == (14, 24, 2)


async def test_files_of_before_there_were_repeats_are_read_as_the_first(small: Small) -> None:
    result = await evaluate(**small)
    for name in (TRANSCRIPTS_FILE, VERDICTS_FILE):
        pl.read_parquet(result.folder / name).drop("repeat").write_parquet(result.folder / name)
    manifest = json.loads((result.folder / "run.json").read_text())
    del manifest["files"], manifest["identity"]["repeats"], manifest["identity"]["repeats_from"]
    (result.folder / "run.json").write_text(json.dumps(manifest))
    run = read_run(result.folder)
    assert run.transcripts["repeat"].to_list() == [1] * 12
    async with open_plan(EvalSettings(**{**small, "judges": ("rules",)}), judging_only=True) as plan:
        assert (await rejudge(plan)).summary.verdicts.due == 12
