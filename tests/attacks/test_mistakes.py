"""Attacks with data, options and files that no one should write: one sentence each, never "a defect of ours", never a dead process."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safemt_api.dataset.layouts import demonstration_folder
from tests.attacks.conftest import ended, python, safemt

pytestmark = pytest.mark.timeout(180)  # some start several processes, on a machine that may be busy

EVAL = ("eval", "--lengths", "1", "--sample", "2", "--results", "results", "--run", "r")

NUMBERS = ("nan", "inf", "-inf", "1e400", "9" * 400, "-1", "x", "")
OPTIONS = (
    "--max-usd", "--concurrency", "--sample", "--seed", "--temperature", "--top-p", "--max-output-tokens", "--rpm", "--tpm",
    "--max-failures", "--stall-seconds", "--connect-seconds", "--idle-seconds", "--total-seconds", "--until-ci",
)  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_a_number_that_makes_no_sense_is_one_sentence(option: str) -> None:
    for number in NUMBERS:
        said = safemt(*EVAL, f"{option}={number}")
        if option == "--seed" and number == "-1":
            continue
        assert said.code == 2, (number, said)
        assert {"--rpm": "--requests-per-minute", "--tpm": "--tokens-per-minute"}.get(option, option) in said.sentence, number
        assert len(said.sentence) < 400, number


@pytest.mark.parametrize(
    "address",
    ["http://[::1/v1", "http://", "127.0.0.1:80", "http://a b/v1", "ftp://127.0.0.1/v1", "http://127.0.0.1:99999/v1", "http://user:pass@h/v1",
     "http://127.0.0.1:x/v1", "http://\x00/v1", "//h", "http://[zz]/v1"],
)  # fmt: skip
def test_a_broken_address_is_one_sentence(address: str) -> None:
    said = safemt(*EVAL, "--provider", "vllm", "--model", "m", "--judge", "rules", "--base-url", address)
    assert said.code == 2, said
    assert "address" in said.sentence or "url" in said.sentence.lower()
    assert "pass@" not in said.err


def dataset(folder: Path, scenario: str) -> Path:
    """A copy of the demonstration set in which one scenario is called so."""
    shutil.copytree(demonstration_folder(), folder)
    file = folder / "1_turn.json"
    elements: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    for element in elements[:3]:
        element["scenario"] = scenario
    file.write_text(json.dumps(elements), encoding="utf-8")
    return folder


@pytest.mark.parametrize("scenario", ["\x00", "a\x00b", "\x1b[31mred", "x\ufffe", "a\u2028b", "\x7f"], ids=ascii)
def test_a_scenario_that_would_abort_the_charts_is_named_by_the_check(tmp_path: Path, scenario: str) -> None:
    data = dataset(tmp_path / "data", scenario)
    said = safemt("data", "check", data)
    assert said.code != 0
    assert "scenario" in said.out + said.err
    assert not set("\x1b\x00\x7f") & set(said.out + said.err)


SCENARIOS = {
    "a null": "\x00",
    "an escape": "\x1b[31m",
    "no character": "\ufffe",
    "500 emoji": "😀" * 500,
    "markup": "<script>&",
    "wide ligatures": "ﷺ" * 200,
    "backwards": "\u202egnp",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_scenario_aborts_the_process_at_the_end_of_a_run(tmp_path: Path, name: str) -> None:
    """SIGABRT came from the charts' native code after all calls were paid, and again in every report."""
    data = dataset(tmp_path / "data", SCENARIOS[name])
    played = ended(python("-m", "safemt_api", "eval", "--lengths", "1", "--run", "r", "--data", data, "--skip-invalid"))
    assert played.code == 0, played.sentence
    report = ended(python("-m", "safemt_api", "report", "r", "--figures", "figures"))
    assert report.code == 0, report.sentence


def test_a_key_that_stands_twice_is_an_error_of_the_data(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", "Fraud")
    file = data / "1_turn.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"scenario":', '"scenario": "Other", "scenario":', 1), encoding="utf-8")
    said = safemt("data", "check", data)
    assert said.code != 0
    assert "twice" in said.out + said.err


Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "empty": lambda _: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "no JSON": lambda _: b"\x00\xff\xfe not anything",
    "a list": lambda _: b"[]",
    "null": lambda _: b"null",
    "deep": lambda _: b"[" * 100_000,
    "a giant number": lambda _: b'{"schema": ' + b"9" * 10_000 + b"}",
}
FILES = ("summary.json", "run.json", "verdicts.parquet", "transcripts.parquet")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one finished run."""
    results = tmp_path_factory.mktemp("results")
    assert safemt(*EVAL[:-4], "--results", results, "--run", "r").code == 0
    return results


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", DAMAGES)
def test_a_malformed_file_of_a_run_is_named_with_its_cure(finished: Path, tmp_path: Path, name: str, how: str) -> None:
    results = tmp_path / "results"
    shutil.copytree(finished, results)
    file = results / "r" / name
    file.write_bytes(DAMAGES[how](file.read_bytes()))
    for command in (("report", "r"), ("export", "r", "--to", "csv"), ("judge", "label", "r", "-n", "2"), ("tables", "r")):
        said = safemt(*command, "--results", results)
        assert said.code == 2, (command, said)
        assert name in said.sentence, command
    assert safemt("runs", "--results", results).code == 0, "the others of a folder are listed all the same"


SHEETS = (
    "",
    "\x00",
    "a,b\n1,2\n",
    "id\n" * 5,
    "\ufeff\n",
    '"',
    "dialogue_id,length,turn,label\nx,y,z,w\n",
    "dialogue_id;length;turn;label\n",
)


@pytest.mark.parametrize("sheet", SHEETS, ids=ascii)
def test_a_sheet_that_is_none_is_one_sentence(finished: Path, tmp_path: Path, sheet: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(sheet, encoding="utf-8")
    for words in (("judge", "calibrate", "r", file), ("report", "r", "--calibration", file)):
        said = safemt(*words, "--results", finished)
        assert said.code == 2, said
        assert "labels.csv" in said.sentence


FEW_FILES = """
import resource, sys
soft, hard = (int(sys.argv.pop(1)), int(sys.argv.pop(1)))
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from safemt_api.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_too_few_open_files_are_more_or_named() -> None:
    """256 at once need about as many connections: the limit is raised where it may be, and else named with its cure."""
    many = ("eval", "--lengths", "1,2,4,6,8", "--concurrency", 256, "--sim-latency-seconds", "0.3", "--results", "results")
    raised = ended(python("-c", FEW_FILES, 128, 4096, *many, "--run", "raised"))
    assert raised.code == 0, raised.sentence
    named = ended(python("-c", FEW_FILES, 128, 128, *many, "--run", "named"))
    assert named.code in (0, 1, 2)
    assert named.code == 0 or "open files" in named.sentence or "file descriptors" in named.sentence
