"""The page's section on a defence shows what ``defence.json`` holds, and names the file when it is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import StoreError
from safemt_api.report import words
from safemt_api.report.arms import measure_defence
from safemt_api.report.defence_section import defence_section
from safemt_api.report.page import render_page
from safemt_api.report.reading import RunData, read_run

MakeRun = Callable[..., Path]


def defended(make_run: MakeRun, **settings: Any) -> RunData:
    """A run with a ``defence.json`` beside it; its one moderator halves the risk."""
    run = read_run(make_run("d-none", base=0.6, ids_each=8, **settings))
    arm = read_run(make_run("d-guarded", base=0.05, step=0.02, ids_each=8, **settings))
    lenient = [replace(one, manifest={**one.manifest, "settings": {"max_failures": 1.0}}) for one in (run, arm)]
    record = measure_defence(lenient[0], lenient[1:], resamples=100)
    record["moderators"][0]["moderator"] = "policy:<b>simulator</b>:one"
    (run.folder / "defence.json").write_text(json.dumps(record))
    return run


@pytest.mark.parametrize("protocol", ["scripted", "live"])
def test_the_section_shows_every_arm_with_effect_side_effects_and_price(make_run: MakeRun, protocol: str) -> None:
    run = defended(make_run, protocol=protocol)
    record = json.loads((run.folder / "defence.json").read_text())
    page = render_page([run], images=False, charts=False)
    section = page.partition('<section id="defence"')[2].partition("</section>")[0]
    arm = record["moderators"][0]
    assert '<a href="#defence">' in page
    for row in arm["asr_by_turn"]:
        assert f"{100 * row['asr_after']:.1f}%" in section
    index = arm["safety_index"]["after"]
    assert words.index(index["value"]) in section
    assert words.index_basis(*(index[name] for name in ("complete_ids", "ids", "if_missing_low", "if_missing_high"))) in section
    assert '<span class="star">*</span>' in section
    assert "baseline judge (rules)" in section
    assert "&lt;b&gt;simulator&lt;/b&gt;" in section
    assert "<b>simulator" not in section


def test_the_chart_has_a_line_for_each_arm(make_run: MakeRun) -> None:
    charts = pytest.importorskip("safemt_api.report.charts")
    section = defence_section(defended(make_run).folder, charts)
    assert section.count('<svg xmlns="http://www.w3.org/2000/svg" class="chart') == 1
    assert "none" in section


def test_arms_without_benign_dialogues_or_prices_leave_gaps_not_zeros(make_run: MakeRun) -> None:
    run = defended(make_run)
    file = run.folder / "defence.json"
    record = json.loads(file.read_text())
    arm = record["moderators"][0]
    arm["asr_by_turn"] = arm["safety_index"] = arm["prevented"] = arm["introduced"] = None
    arm["benign"] = dict.fromkeys(arm["benign"])
    arm["per_dialogue"]["harmful"] |= {"cost_usd": None, "latency_seconds": None}
    record["undefended"]["over_refusal"] = None
    arm["cost_per_prevented_usd"] = None
    file.write_text(json.dumps(record))
    assert defence_section(run.folder, None).count("–</td>") > 10


def test_without_the_file_there_is_no_section(make_run: MakeRun) -> None:
    assert '<section id="defence"' not in render_page([read_run(make_run())], images=False, charts=False)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": 99}', '{"schema": 1}', '{"schema": 1, "undefended": {"asr_by_turn": [{}]}}'])
def test_a_damaged_file_is_named_with_the_cure(make_run: MakeRun, text: str) -> None:
    run = read_run(make_run())
    (run.folder / "defence.json").write_text(text)
    with pytest.raises(StoreError, match=r"defence\.json"):
        render_page([run], images=False, charts=False)
