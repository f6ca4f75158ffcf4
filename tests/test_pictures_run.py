"""Pictures in whole runs: each receiver gets its own and the transcripts tell, and the largest legal ones take bounded memory and time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import polars as pl
import pytest

from safemt_api.evaluation import evaluate
from safemt_api.files import shipped_folder

TYPES = 'media_types = ["image/png", "image/jpeg", "image/webp", "image/gif"]'


def element(number: int, name: str) -> dict[str, object]:
    return {
        "id": f"mm_fraud_{number}",
        "scenario": "Fraud",
        "image_path": f"images/{name}",
        "dialogue": [{"role": "user", "content": f"What is in picture {number}?"}],
        "question": "What is in the picture?",
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of one dialogue with a GIF."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    PIL.Image.linear_gradient("L").resize((64, 48)).save(folder / "images" / "a.gif")
    (folder / "1_turn.json").write_text(json.dumps([element(1, "a.gif")]))
    return folder


async def test_a_gif_reaches_the_target_as_it_is_and_a_judge_that_takes_none_as_png(tmp_path: Path, data: Path) -> None:
    profile = (shipped_folder("providers") / "simulator-google.toml").read_text(encoding="utf-8")
    assert TYPES in profile
    (tmp_path / "own").mkdir()
    picky = profile.replace(TYPES, 'media_types = ["image/png"]\nmax_side_pixels = 32')
    (tmp_path / "own" / "simulator-google.toml").write_text(picky, encoding="utf-8")
    result = await evaluate(
        provider="simulator",
        judges=("simulator-google:sim-judge",),
        data=data,
        lengths=(1,),
        results=tmp_path / "results",
        run="two-receivers",
        providers=tmp_path / "own",
    )
    assert result.summary.json_value()["dialogues"] == {"planned": 1, "finished": 1, "failed": 0}
    row = pl.read_parquet(result.folder / "transcripts.parquet").row(0, named=True)
    assert ";fit:" not in row["image_digest"]
    assert row["note"].startswith("for the judge: picture shrunk from 64x48 to 32x24, image/gif → image/png: image/gif is not taken")
    verdict = pl.read_parquet(result.folder / "verdicts.parquet").row(0, named=True)
    assert verdict["label"] in ("safe", "unsafe")


SIDE = 9400
"""Its square is just below what is let in at all."""

INTERRUPTED_WITHIN_SECONDS = 10.0
"""The whole end of the process, the run's files included, on a busy machine; decoding one of the pictures to its end takes longer."""


@pytest.fixture(scope="module")
def giants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six dialogues, each with another picture of the largest legal size."""
    folder = tmp_path_factory.mktemp("giants")
    (folder / "images").mkdir()
    picture = PIL.Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB")
    for number in range(6):
        picture.putpixel((number, 0), (1, 2, 3))
        picture.save(folder / "images" / f"{number}.png", compress_level=1)
    (folder / "1_turn.json").write_text(json.dumps([element(number, f"{number}.png") for number in range(6)]))
    return folder


@pytest.fixture
def command(tmp_path: Path, giants: Path) -> list[str]:
    """A run over them against the simulator, with the picture rules of a vendor that takes far smaller ones."""
    rules, own = (
        (shipped_folder("providers") / f"{name}.toml").read_text(encoding="utf-8") for name in ("anthropic", "simulator-anthropic")
    )
    images = rules[rules.index("[images]") : rules.index("[limits]")]
    profile = own[: own.index("[images]")] + images + own[own.index("[limits]") :]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "simulator-anthropic.toml").write_text(profile, encoding="utf-8")
    program = [sys.executable, "-m", "safemt_api", "eval", "--provider", "simulator-anthropic", "--providers", str(tmp_path / "own")]
    return [
        *program,
        "--data",
        str(giants),
        "--concurrency",
        "32",
        "--judge",
        "rules",
        "--results",
        str(tmp_path / "results"),
        "--run",
        "r",
    ]


def resident_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)


def watched(running: subprocess.Popen[bytes]) -> Iterator[int]:
    while running.poll() is None:
        yield resident_bytes(running.pid)
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_largest_pictures_at_32_at_once_stay_below_a_gigabyte(command: list[str], tmp_path: Path) -> None:
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak_bytes = max(watched(running))
    assert running.returncode == 0
    assert 300e6 < peak_bytes < 1e9
    notes = pl.read_parquet(tmp_path / "results" / "r" / "transcripts.parquet")["note"]
    assert all(note.startswith(f"picture shrunk from {SIDE}x{SIDE} to 19") for note in notes)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_interrupt_does_not_wait_for_a_picture_that_is_being_decoded(command: list[str]) -> None:
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for held in watched(running):
        if held > 300e6:
            running.send_signal(signal.SIGINT)
            break
    assert running.wait(INTERRUPTED_WITHIN_SECONDS) == 130
