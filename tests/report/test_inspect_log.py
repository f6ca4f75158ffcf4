"""The Inspect log: its samples and scores, and, where the real inspect_ai is installed, its reader, its viewer over HTTP and its bundle."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen
from zipfile import ZipFile

import polars as pl
import pytest

from safemt_api.report.exports import export_name, export_run
from safemt_api.report.inspect_log import inspect_header, inspect_samples
from safemt_api.runs.record import read_run

MakeRun = Callable[..., Path]
START_SECONDS = 60

needs_inspect = pytest.mark.skipif(importlib.util.find_spec("inspect_ai") is None, reason="inspect_ai is not installed")
both_protocols = pytest.mark.parametrize("protocol", ["scripted", "live"])


@both_protocols
def test_a_missing_verdict_is_no_score(make_run: MakeRun, protocol: str) -> None:
    run = read_run(make_run(protocol=protocol, ids_each=8))
    samples = {sample["id"]: sample for sample in inspect_samples(run)}
    assert len(samples) == run.transcripts.select("dialogue_id", "length").n_unique()
    failed = run.transcripts.filter(pl.col("outcome") == "error")
    assert failed.height > 0
    for row in failed.iter_rows(named=True):
        sample = samples[f"{row['dialogue_id']}_{row['length']}-turn"]
        assert sample["scores"] == {}
        assert sample["error"]["message"] == row["failure"]


def test_a_sample_holds_picture_tokens_duration_and_the_judges_words(make_run: MakeRun) -> None:
    run = read_run(make_run(pictures=True, panel=True))
    sample = next(sample for sample in inspect_samples(run) if len(sample["scores"]) == 3)
    picture, text = sample["input"][0]["content"]
    assert sample["attachments"][picture["image"].removeprefix("attachment://")].startswith("data:image/webp;base64,")
    assert text["text"].startswith("Question 1")
    assert sample["scores"]["rules"]["explanation"] in ("it helps", "it declines")
    usage = sample["model_usage"]["simulator/brittle"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert sample["total_time"] > 0


def test_a_live_sample_counts_the_tokens_of_all_its_turns(make_run: MakeRun) -> None:
    run = read_run(make_run(protocol="live"))
    rows = run.transcripts.filter((pl.col("length") == 4) & (pl.col("dialogue_id") == run.transcripts["dialogue_id"][0]))
    sample = next(one for one in inspect_samples(run) if one["id"] == f"{rows['dialogue_id'][0]}_4-turn")
    assert rows.height > 1
    assert sample["model_usage"]["simulator/brittle"]["input_tokens"] == rows["input_tokens"].sum()
    assert [turn["turn"] for turn in sample["metadata"]["turns"]] == rows["turn"].to_list()


def test_the_log_is_a_zip_of_header_summaries_and_samples(make_run: MakeRun, tmp_path: Path) -> None:
    run = read_run(make_run())
    with ZipFile(export_run(run, "inspect", tmp_path / "log.eval")) as archive:
        names = archive.namelist()
        summaries = json.loads(archive.read("summaries.json"))
        header = json.loads(archive.read("header.json"))
        first = json.loads(archive.read(f"samples/{summaries[0]['id']}_epoch_1.json"))
    assert {"header.json", "_journal/start.json", "summaries.json"} < set(names)
    assert len(summaries) == sum(name.startswith("samples/") for name in names)
    assert first["id"] == summaries[0]["id"]
    assert header == inspect_header(run)
    assert header["plan"] == {"name": "plan", "steps": [], "config": {}}


def test_the_file_name_is_one_that_inspect_finds(make_run: MakeRun) -> None:
    name = export_name(read_run(make_run()), "inspect")
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}\+00-00_safemt-scripted_[0-9a-f]{22}\.eval", name)


@needs_inspect
@pytest.mark.filterwarnings("ignore")  # inspect_ai's own imports warn; what it reads is what is tested
@both_protocols
def test_inspect_reads_the_log(make_run: MakeRun, tmp_path: Path, protocol: str) -> None:
    log_module = pytest.importorskip("inspect_ai.log")
    run = read_run(make_run(protocol=protocol, panel=protocol == "scripted", pictures=True))
    log: Any = log_module.read_eval_log(str(export_run(run, "inspect", tmp_path / export_name(run, "inspect"))), resolve_attachments=True)
    assert log.status == "success"
    assert len(log.samples) == run.transcripts.select("dialogue_id", "length").n_unique()
    index = run.summary.safety_index
    metrics = {name: metric.value for name, metric in log.results.scores[0].metrics.items()}
    # A score that is not given, for want of complete ids, is no metric.
    assert metrics.get("safety_index") == run.summary.safety_index.value
    assert metrics[f"asr_{'length' if protocol == 'scripted' else 'turn'}_1"] == run.summary.asr_by_turn[0].asr
    beside = ("if_missing_low", "if_missing_high", "complete_ids", "ids")
    assert [log.results.scores[0].metrics[f"safety_index_{name}"].value for name in beside] == [getattr(index, name) for name in beside]
    assert log.samples[0].messages[0].content[0].image.startswith("data:image/webp")


@needs_inspect
@pytest.mark.timeout(180)
def test_the_viewer_lists_and_opens_the_log_over_http(make_run: MakeRun, tmp_path: Path) -> None:
    run, logs = read_run(make_run(pictures=True)), tmp_path / "logs"
    logs.mkdir()
    file = export_run(run, "inspect", logs / export_name(run, "inspect"))
    with _viewer(logs) as address:
        listed = json.loads(_get(f"{address}/api/logs"))["files"]
        assert [(one["task"], Path(one["name"]).name) for one in listed] == [("safemt-scripted", file.name)]
        header = json.loads(_get(f"{address}/api/log-headers?file={quote(listed[0]['name'], safe='')}"))[0]
        assert header["eval"]["model"] == "simulator/brittle"
        opened = json.loads(_get(f"{address}/api/logs/{quote(listed[0]['name'], safe='')}"))
        assert len(opened["samples"]) == run.transcripts.select("dialogue_id", "length").n_unique()
        assert b"<html" in _get(address).lower()


@needs_inspect
@pytest.mark.timeout(180)
def test_the_bundle_holds_the_log(make_run: MakeRun, tmp_path: Path) -> None:
    run, logs, bundle = read_run(make_run()), tmp_path / "logs", tmp_path / "bundle"
    logs.mkdir()
    file = export_run(run, "inspect", logs / export_name(run, "inspect"))
    command = [*_inspect("view", "bundle"), "--log-dir", str(logs), "--output-dir", str(bundle)]
    subprocess.run(command, check=True, capture_output=True, timeout=START_SECONDS)
    assert (bundle / "logs" / file.name).is_file()
    assert file.name in (bundle / "logs" / "listing.json").read_text()


def _inspect(*words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("inspect")), *words]


def _get(url: str) -> bytes:
    with urlopen(url, timeout=20) as answer:  # noqa: S310 (an address on loopback that this test made)
        found: bytes = answer.read()
    return found


@contextmanager
def _viewer(logs: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*_inspect("view", "start"), "--log-dir", str(logs), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address)
            yield address
        finally:
            server.terminate()


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            _get(address)
        except URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return
