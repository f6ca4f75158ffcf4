"""Attacks through what comes back: floods and bombs, halves of characters, echoed keys, escapes and formulas, a model that changes."""

from __future__ import annotations

import gzip
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import orjson
import polars as pl
import pytest

from safemt_api.profiles import WireFormat
from safemt_api.store.turns import STORE_FILE
from tests.attacks.conftest import Attacked, Ground, ended, python, safemt
from tests.attacks.hostile import KEY_VARIABLE, REFUSAL, Answer, Asked, answer, reply

pytestmark = pytest.mark.timeout(180)  # some start several processes, on a machine that may be busy

MB = 2**20
FLOOD_MB = 500
MOST_MEMORY_MB = 600
"""The whole process with everything that a run imports; the attack took 2.6 GB, the bomb 4.5 GB."""

PIECE = b" " * (64 * 1024)


async def flood() -> AsyncIterator[bytes]:
    """500 MB that nobody announced."""
    for _ in range(FLOOD_MB * MB // len(PIECE)):
        yield b"%x\r\n" % len(PIECE) + PIECE + b"\r\n"


BOMB = gzip.compress(b" " * (FLOOD_MB * MB), compresslevel=9)
FLOODS = {
    "without end": Answer(flood, headers={"transfer-encoding": "chunked"}),
    "a gzip bomb": Answer(BOMB, headers={"content-encoding": "gzip"}),
}

WITH_A_MEASURE = r"""
import re, sys
from pathlib import Path
from safemt_api.cli import main
try:
    main()
finally:
    # Not getrusage: a process starts out with the peak of the one that forked it.
    print("peak MB", int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is told in other units elsewhere")
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_fails_its_dialogue_in_bounded_memory(attacked: Attacked, wire_format: WireFormat, name: str) -> None:
    good = answer(reply(wire_format))
    with attacked(lambda asked: FLOODS[name] if asked.number == 2 else good) as ground:
        words = ground.words("--lengths", "1", "--sample", 4, "--concurrency", 2, "--max-failures", 1)
        said = ended(python("-c", WITH_A_MEASURE, *words))
        assert said.code == 0, said.sentence
        assert int(said.err.rpartition("peak MB")[2]) < MOST_MEMORY_MB
        summary = orjson.loads((ground.results / "r" / "summary.json").read_bytes())
        assert (summary["dialogues"]["failed"], summary["verdicts"]["valid"]) == (1, 3)
        assert "sent more than" in summary["failures"][0]["why"]
        assert safemt("resume", "r", "--results", ground.results).code == 0, "the store is none the worse"


ODD = ('"\\ud83d"', '"\\ude00 and \\ud83d"', "NaN", "-Infinity", "[NaN, 1]")


def test_half_a_character_or_a_nan_beside_the_words_costs_no_dialogue(attacked: Attacked, wire_format: WireFormat) -> None:
    """Three attempts were paid, and the dialogue failed all the same."""

    def attack(asked: Asked) -> Answer:
        body = json.dumps({**reply(wire_format, "half \ud83d of a pair"), "extra": "ODD"})
        return answer(body.replace('"ODD"', ODD[asked.number % len(ODD)]).encode())

    with attacked(attack) as ground:
        result = ground.run(lengths=(1,), sample=10)
        assert ground.server.answered == 10
    assert result.summary.json_value()["dialogues"] == {"planned": 10, "finished": 10, "failed": 0}


KEY = "sk-live/0123456789abcdef_ABCDEF"
SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "slashes escaped": lambda key: key.replace("/", "\\/"),
    "one sign escaped": lambda key: "\\u0073" + key[1:],
    "unicode escapes": lambda key: "".join(f"\\u{ord(sign):04x}" for sign in key),
    "percent-encoded": lambda key: key.replace("/", "%2F"),
}
STATUSES = (200, 400, 200, 500)


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_echoed_key_is_nowhere(attacked: Attacked, wire_format: WireFormat, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    """As ``\\/`` or ``\\u0073`` it reached terminal, store, parquet, page and exports."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    spelt = SPELLINGS[spelling](KEY)

    def attack(asked: Asked) -> Answer:
        assert asked.key == KEY
        status = 403 if asked.number > 8 else STATUSES[asked.number % len(STATUSES)]
        body = (
            reply(wire_format, f"{REFUSAL} Your key is ECHOED.", model="ECHOED") if status == 200 else {"error": {"message": "no ECHOED"}}
        )
        headers = {"x-request-id": KEY, "request-id": KEY}
        return answer(json.dumps(body).replace("ECHOED", spelt).encode(), status=status, headers=headers)

    with attacked(attack) as ground:
        said = ground.evaluated("--lengths", "1", "--sample", 12, "--concurrency", 2, "--max-failures", 1)
        exported = [safemt("export", "r", "--to", kind, "--results", ground.results) for kind in ("csv", "jsonl")]
        report = safemt("report", "r", "--results", ground.results)
        assert said.sentence
        assert ground.server.answered >= 2
        told = "".join(one.out + one.err for one in (said, report, *exported)) + all_that_is_kept(ground)
    for found in (KEY, spelt, json.dumps(spelt)[1:-1]):
        assert found not in told


def all_that_is_kept(ground: Ground) -> str:
    """Every file below the results as text; what is packed, unpacked."""
    with closing(sqlite3.connect(ground.results / STORE_FILE)) as connection:
        rows = [str(row) for table in ("replies", "charges") for row in connection.execute(f"SELECT * FROM {table}")]  # noqa: S608 (ours)
    files = [file for file in ground.results.rglob("*") if file.is_file()]
    frames = [str(pl.read_parquet(file, glob=False).to_dicts()) for file in files if file.suffix == ".parquet"]
    assert len(frames) == 2
    return "".join([*rows, *frames, *(file.read_bytes().decode("utf-8", "replace") for file in files)])


EVIL = "m-\x1b]0;owned\x07\x1b[31m\x00-1"


def test_escapes_in_a_served_models_name_never_reach_the_terminal(attacked: Attacked, wire_format: WireFormat) -> None:
    evil = answer(reply(wire_format, f"{REFUSAL} \x1b[2J\x07", model=EVIL))
    with attacked(lambda _: evil) as ground:
        said = ground.evaluated("--lengths", "1,2", "--sample", 3)
        assert said.code == 0, said.sentence
        report = safemt("report", "r", "--results", ground.results)
        table = safemt("runs", "--results", ground.results)
        for one in (said, report, table):
            assert not set("\x1b\x07\x00\x9b") & set(one.out + one.err)


def test_a_reply_that_is_a_formula_is_none_in_a_spreadsheet(attacked: Attacked, wire_format: WireFormat) -> None:
    formulas = ("=1+1", ";=cmd|x", "+1", "-1+1", "@SUM(1)", "\t=1")
    with attacked(lambda asked: answer(reply(wire_format, formulas[asked.number % len(formulas)]))) as ground:
        assert ground.evaluated("--lengths", "1", "--sample", 12).code == 0
        assert safemt("export", "r", "--to", "csv", "--results", ground.results).code == 0
        [*files] = (ground.results / "r").rglob("*.csv")
        cells = [cell for file in files for row in pl.read_csv(file, infer_schema=False).rows() for cell in row if cell]
        assert any("cmd|x" in cell for cell in cells)
        assert not [cell for cell in cells if cell.lstrip(";\t ").startswith(("=", "@", "+1", "-1+1"))]


def test_a_served_model_that_changes_is_said_on_terminal_and_page(attacked: Attacked, wire_format: WireFormat) -> None:
    with attacked(lambda asked: answer(reply(wire_format, model="m-1-may" if asked.number % 2 else "m-1-june"))) as ground:
        said = ground.evaluated("--lengths", "1,2", "--sample", 5)
        page = (ground.results / "r" / "report.html").read_text(encoding="utf-8")
    for text in (" ".join(said.out.split()), page):
        assert "m-1-may" in text
        assert "m-1-june" in text


def test_pictures_that_changed_are_named_before_new_verdicts(attacked: Attacked, wire_format: WireFormat, tmp_path: Path) -> None:
    """``judge RUN`` and ``resume`` both refuse, by digest, and send nothing."""
    import shutil

    from PIL import Image as Pictures

    from safemt_api.dataset.layouts import demonstration_folder

    shutil.copytree(demonstration_folder(), tmp_path / "data")
    good = answer(reply(wire_format))
    with attacked(lambda _: good) as ground:
        assert ground.evaluated("--data", tmp_path / "data", "--lengths", "1", "--scenario", "Fraud").code == 0
        answered = ground.server.answered
        Pictures.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "data" / "images" / "fraud" / "fraud_1.png")
        for words in (("judge", "r", "--judge", "simulator:sim-judge"), ("resume", "r")):
            said = safemt(*words, "--results", ground.results)
            assert said.code == 2
            assert "images/fraud/fraud_1.png" in said.sentence
        assert ground.server.answered == answered
