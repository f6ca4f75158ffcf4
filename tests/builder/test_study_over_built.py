"""From queries to a report: a study over a built set, and one over the demonstration set, whose ASR by method is the simulator's truth."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

import safemt_api
from safemt_api.builder.build import BuildSettings, build
from safemt_api.dataset.entries import load_dataset
from safemt_api.dataset.layouts import demonstration_folder
from safemt_api.report.page import write_study_page
from safemt_api.simulator.personas import plays_unsafe
from safemt_api.studies.record import read_study

MODELS = ("sim-average", "sim-brittle")


def truth(folder: Path, model: str) -> dict[tuple[str, int], float]:
    """The share of unsafe replies by method and length that the simulated model gives."""
    dataset = load_dataset(folder)
    played: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for entry in dataset.entries:
        if entry.kind == "harmful":
            texts = dataset.read(entry).user_texts
            played[str(entry.method), entry.length].append(plays_unsafe(model, seed=0, user_texts=texts))
    return {place: sum(replies) / len(replies) for place, replies in played.items()}


@pytest.mark.parametrize("built", [True, False])
async def test_asr_by_method_is_the_simulators_truth(tmp_path: Path, *, built: bool) -> None:
    folder = demonstration_folder()
    if built:
        rows = [{"id": f"own_{number}", "scenario": "Fraud", "goal": f"[PLACEHOLDER request {number}]"} for number in range(8)]
        queries = tmp_path / "queries.json"
        queries.write_text(json.dumps(rows), encoding="utf-8")
        folder = tmp_path / "ours"
        result = await build(
            BuildSettings(queries=queries, out=folder, generator="simulator:sim-author", lengths=(1, 2, 4), twins=True, attempts=10)
        )
        assert result.exit_code == 0
    played = await safemt_api.study(
        vary={"target": [f"simulator:{model}" for model in MODELS]},
        name="made",
        data=folder,
        lengths=(1, 2, 4),
        judges=("rules",),
        results=tmp_path / "results",
    )
    assert played.exit_code == 0
    for summary in (json.loads(file.read_bytes()) for file in (tmp_path / "results" / "made").rglob("summary.json")):
        found = {(row["name"], row["length"]): row["asr"] for row in summary["by_method"] if row["length"] is not None}
        wanted = {place: rate for place, rate in truth(folder, summary["model"]).items() if place[1] in (1, 2, 4)}
        assert found == pytest.approx(wanted)
        assert any(0 < rate < 1 for rate in found.values())
    assert len(list((tmp_path / "results" / "made").rglob("summary.json"))) == len(MODELS)
    # As the command does: the study's page, with each run's scores by method.
    page = write_study_page(tmp_path / "results" / "made", read_study(tmp_path / "results" / "made"), charts=False).read_text(
        encoding="utf-8"
    )
    told = page[page.index("by method and length") :]
    assert all(method in told for method, _ in found)
    assert all(f"{100 * rate:.1f}%" in told for rate in found.values())
