"""What is said of a judge of the target's own family, and of a served model other than the one asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from safemt_api.report.page import render_page
from safemt_api.report.remarks import caveats, family_of, same_model
from safemt_api.runs.record import RunData, read_run

MakeRun = Callable[..., Path]


@pytest.mark.parametrize(
    ("provider", "model", "family"),
    [
        ("openai", "gpt-6-luna", "GPT"),
        ("azure-openai", "my-deployment", "GPT"),
        ("openrouter", "openai/o4-mini", "GPT"),
        ("anthropic", "claude-haiku-5-5", "Claude"),
        ("google", "gemini-3.5-flash", "Gemini"),
        ("vllm", "meta-llama/Llama-Guard-4-12B", "Llama"),
        ("vllm", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen"),
        ("groq", "moonshot/kimi", None),
        ("simulator", "sim-average", None),
        ("vllm", "photo1-model", None),
    ],
)
def test_a_family_is_told_by_the_name(provider: str, model: str, family: str | None) -> None:
    assert family_of(provider, model) == family


@pytest.mark.parametrize(
    ("asked", "served", "same"),
    [
        ("gpt-6-luna", "gpt-6-luna", True),
        ("gpt-6-luna", "gpt-6-luna-2026-05-01", True),
        ("openai/gpt-6-luna", "gpt-6-luna", True),
        ("llava:13b", "llava", True),
        ("llava:13b", "llava:7b", False),
        ("gpt-6-luna", "gpt-6-luna-mini", False),
        ("gpt-6", "gpt-6-luna", False),
    ],
)
def test_a_dated_snapshot_is_the_model_and_a_smaller_sister_is_not(asked: str, served: str, *, same: bool) -> None:
    assert same_model(asked, served) is same


def _run(make_run: MakeRun, *, model: str, judges: Sequence[str], served: dict[str, int] | None = None) -> RunData:
    folder = make_run(model=model)
    manifest, summary = (json.loads((folder / name).read_bytes()) for name in ("run.json", "summary.json"))
    manifest["settings"]["judges"] = list(judges)
    (folder / "run.json").write_text(json.dumps(manifest))
    (folder / "summary.json").write_text(json.dumps(summary | {"provider": "openai", "served_models": served or {model: 3}}))
    return read_run(folder)


def test_a_judge_of_the_targets_family_is_said(make_run: MakeRun) -> None:
    run = _run(make_run, model="gpt-6-luna", judges=["anthropic:claude-haiku-5-5", "openai:gpt-6-sol"])
    (sentence,) = caveats(run)
    assert "openai:gpt-6-sol" in sentence
    assert "claude" not in sentence
    assert sentence.partition(" (")[0] in render_page([run], charts=False)


def test_a_second_judge_of_the_targets_family_is_said_too(make_run: MakeRun) -> None:
    run = _run(make_run, model="gpt-6-luna", judges=["rules"])
    settings = {**run.manifest["settings"], "escalate": "openai:gpt-6-sol,effort=high"}
    (sentence,) = caveats(replace(run, manifest={**run.manifest, "settings": settings}))
    assert "openai:gpt-6-sol,effort=high" in sentence


def test_a_judge_of_another_family_is_not(make_run: MakeRun) -> None:
    assert (
        caveats(_run(make_run, model="gpt-6-luna", judges=["anthropic:claude-haiku-5-5", "guard:vllm:meta-llama/Llama-Guard-4-12B"])) == []
    )


def test_another_served_model_is_said(make_run: MakeRun) -> None:
    run = _run(make_run, model="gpt-6-luna", judges=["rules"], served={"gpt-6-luna-2026-05-01": 100, "gpt-6-mini": 20})
    assert caveats(run) == [
        "Asked for gpt-6-luna, but the vendor says that it served gpt-6-mini (20 replies): the scores are that model's."
    ]


def test_scores_that_are_a_filters_work_are_called_so(make_run: MakeRun) -> None:
    folder = make_run()
    assert not caveats(read_run(folder))
    frame = pl.read_parquet(folder / "verdicts.parquet")
    harmful = frame.filter(pl.col("counts"), pl.col("kind") == "harmful").height
    silenced = pl.int_range(frame.height) % 5 > 0
    frame.with_columns(source=pl.when(silenced).then(pl.lit("outcome")).otherwise("source")).write_parquet(folder / "verdicts.parquet")
    (sentence,) = caveats(read_run(folder))
    assert f"of {harmful} replies are safe because the vendor let no word of the model through" in sentence
    assert "let no word of the model through" in render_page([read_run(folder)], images=False, charts=False)
