"""A run whose data changed does not go on, nor is it judged again: what changed is named, words and pictures, before anything is bought."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pictures

from safemt_api.dataset.layouts import demonstration_folder
from safemt_api.errors import DataChangedError, SettingsChangedError
from safemt_api.evaluation import evaluate, open_plan
from safemt_api.messages import Protocol
from safemt_api.runs.rejudge import rejudge
from safemt_api.runs.settings import EvalSettings
from safemt_api.simulator.settings import SimulatorSettings

Settings = dict[str, Any]
PICTURE = Path("images/fraud/fraud_1.png")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Options of a run over a copy of the demonstration set that a test may change."""
    data = tmp_path / "data"
    shutil.copytree(demonstration_folder(), data)
    scenarios = ("Fraud", "Privacy Violation")
    return {"data": data, "lengths": (1, 2), "scenarios": scenarios, "model": "sim-average", "results": tmp_path / "results", "run": "r"}


def other_picture(file: Path) -> None:
    Pictures.new("RGB", (40, 30), (200, 10, 10)).save(file)


async def judged_again(settings: Settings) -> None:
    async with open_plan(EvalSettings(**{**settings, "judges": ("simulator:sim-judge",)}), judging_only=True) as plan:
        await rejudge(plan)


async def test_changed_pictures_are_named_before_anything_is_asked(settings: Settings) -> None:
    folder = (await evaluate(**settings)).folder
    files = {name: (folder / name).read_bytes() for name in ("summary.json", "run.json", "verdicts.parquet")}
    other_picture(settings["data"] / PICTURE)
    sentence = (
        r"data of run 'r' changed since it was played; restore them(.|\n)*pictures that are others now: 1 \(images/fraud/fraud_1\.png\)"
    )
    with pytest.raises(DataChangedError, match=sentence):
        await judged_again(settings)
    with pytest.raises(DataChangedError, match=sentence):
        await evaluate(**settings)
    assert {name: (folder / name).read_bytes() for name in files} == files


async def test_a_picture_that_vanishes_while_the_run_starts_is_named_too(settings: Settings) -> None:
    await evaluate(**settings)
    async with open_plan(EvalSettings(**settings), judging_only=True) as plan:
        (settings["data"] / PICTURE).unlink()
        with pytest.raises(DataChangedError, match=r"pictures that cannot be read any more: 1 \(images/fraud/fraud_1\.png\)"):
            await rejudge(plan)


async def test_a_picture_that_was_never_sent_may_change(settings: Settings) -> None:
    await evaluate(**settings)
    other_picture(settings["data"] / "images" / "bias" / "bias_1.png")
    again = await evaluate(**settings)
    assert again.summary.calls.sent == 0
    await judged_again(settings)


async def test_a_picture_that_was_fitted_to_the_vendors_rules_is_known_by_its_source(settings: Settings) -> None:
    Pictures.effect_noise((3000, 2500), 60.0).save(settings["data"] / PICTURE)
    first = await evaluate(**settings)
    again = await evaluate(**settings)
    assert (first.exit_code, again.summary.calls.sent) == (0, 0)


@pytest.mark.parametrize("protocol", ["scripted", "live"])
async def test_changed_words_are_named_by_id(settings: Settings, protocol: Protocol) -> None:
    settings |= {"protocol": protocol, "simulator": SimulatorSettings()}
    await evaluate(**settings)
    file = settings["data"] / "2_turn.json"
    entries = json.loads(file.read_text(encoding="utf-8"))
    changed, gone = (entry for entry in entries if entry["scenario"] == "Fraud" and entry["kind"] == "harmful")
    changed["dialogue"][0]["content"] += " Please."
    file.write_text(json.dumps([entry for entry in entries if entry is not gone]), encoding="utf-8")
    with pytest.raises(SettingsChangedError) as caught:
        await evaluate(**settings)
    assert f"dialogues with other words: 1 ({changed['id']}, length 2)" in caught.value.differences
    assert f"dialogues gone: 1 ({gone['id']}, length 2)" in caught.value.differences


async def test_another_choice_of_the_same_data_is_no_change_of_them(settings: Settings) -> None:
    await evaluate(**settings)
    with pytest.raises(SettingsChangedError) as caught:
        await evaluate(**{**settings, "scenarios": ("Fraud",)})
    assert not any("dialogues" in line for line in caught.value.differences)
