"""Prompt caching through the gateway: cached tokens have their own price, and a cache changes no answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from safemt_api.evaluation import evaluate
from safemt_api.profiles import load_profiles
from safemt_api.report.tables import below_list_price
from safemt_api.runs.play import RunResult
from safemt_api.runs.settings import EvalSettings
from safemt_api.simulator.settings import SimulatorSettings
from safemt_api.words import dollars

CACHE = SimulatorSettings(prompt_cache=True)


def read_turns(result: RunResult) -> pl.DataFrame:
    return pl.read_parquet(result.folder / "transcripts.parquet").sort("dialogue_id", "turn")


@pytest.mark.parametrize("provider", ["simulator", "simulator-anthropic", "simulator-google"])
async def test_cached_tokens_cost_their_own_price(tmp_path: Path, provider: str) -> None:
    settings = EvalSettings(provider=provider, protocol="live", lengths=(4,), sample=4, results=tmp_path)
    result = await evaluate(replace(settings, run="cached"), simulator=CACHE)
    plain = await evaluate(replace(settings, run="plain"), simulator=SimulatorSettings())
    price = load_profiles()[provider].facts("sim-average").price
    assert price is not None
    rows = read_turns(result)
    tokens, cached, written, spoken = (int(rows[f"{name}_tokens"].sum()) for name in ("input", "cached_input", "cache_write", "output"))
    assert cached > 0
    assert (written > 0) is (provider == "simulator-anthropic")
    assert price.cached_input_usd_per_mtok is not None
    due = (tokens - cached - written) * price.input_usd_per_mtok + cached * price.cached_input_usd_per_mtok
    due += written * (price.cache_write_usd_per_mtok or price.input_usd_per_mtok) + spoken * price.output_usd_per_mtok
    assert result.summary.json_value()["cost_usd"]["target"] == pytest.approx(due / 1e6, abs=1e-6)
    assert result.summary.json_value()["cost_usd"]["target"] < plain.summary.json_value()["cost_usd"]["target"]
    assert result.summary.usage.cached_input_tokens == cached
    costs, uncached = result.summary.cost_usd, plain.summary.cost_usd
    assert (costs.saved_usd, uncached.saved_by_caches_usd) == (0.0, 0.0)
    assert costs.list_usd == pytest.approx(uncached.total, abs=1e-5)
    assert below_list_price(uncached) == []
    assert f"{dollars(costs.saved_by_caches_usd)} less for caches" in below_list_price(costs)[0]
    assert read_turns(plain)["reply_text"].to_list() == rows["reply_text"].to_list()
    # Nothing is read that was not sent before, and all of it is: from the first beginning that is long enough for the cache on.
    before = rows.with_columns(before=pl.col("input_tokens").shift(1).over("dialogue_id", order_by="turn").fill_null(0))
    readable = pl.when(pl.col("before") >= CACHE.prompt_cache_minimum_tokens).then(pl.col("before")).otherwise(0)
    assert before.select((readable == pl.col("cached_input_tokens")).all()).item()
