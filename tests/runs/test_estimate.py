"""What a dry run promises: the right number of calls, and a most that no real run exceeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import MissingKeyError
from safemt_api.evaluation import evaluate, open_plan
from safemt_api.files import shipped_folder
from safemt_api.runs.estimate import Estimate, estimate
from safemt_api.runs.settings import EvalSettings
from safemt_api.simulator import SimulatorSettings


async def estimated(**options: Any) -> Estimate:
    async with open_plan(EvalSettings(sample=4, lengths=(1, 4), **options)) as plan:
        return await estimate(plan)


async def test_scripted_is_one_call_a_dialogue_and_live_one_a_turn() -> None:
    assert [share.calls for share in (await estimated()).shares] == [8]
    assert [share.calls for share in (await estimated(protocol="live")).shares] == [20]


async def test_a_judge_is_asked_about_every_reply_and_at_most_three_times() -> None:
    target, judge = (await estimated(judges=("simulator:sim-judge",), protocol="live")).shares
    assert (target.purpose, judge.purpose) == ("target", "judge")
    assert (judge.calls, judge.most_calls) == (20 + 2, 3 * 22)  # two of them try the judge before the run


async def test_live_histories_grow_so_live_costs_more_a_call() -> None:
    scripted, live = await estimated(), await estimated(protocol="live")
    assert live.shares[0].input_tokens > scripted.shares[0].input_tokens
    assert live.expected_usd > scripted.expected_usd


@pytest.mark.parametrize(
    "options", [{}, {"protocol": "live"}, {"judges": ("simulator:sim-judge",)}, {"moderator": "policy:simulator:sim-moderator"}]
)
async def test_a_real_run_costs_no_more_than_the_most(options: dict[str, Any]) -> None:
    found = await estimated(**options)
    result = await evaluate(EvalSettings(sample=4, lengths=(1, 4), run="real", **options))
    assert 0 < result.summary.json_value()["cost_usd"]["total"] <= found.most_usd
    assert found.expected_usd <= found.most_usd
    assert result.summary.calls.sent <= sum(share.most_calls for share in found.shares)
    assert result.summary.usage.input_tokens <= sum(share.most_input_tokens for share in found.shares)


async def test_a_model_without_a_known_price_is_named_and_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    found = await estimated(judges=("openai:a-model-nobody-knows",))
    assert found.unpriced == ("openai:a-model-nobody-knows",)
    assert found.shares[1].expected_usd is None
    assert json.dumps(found.record())


NEAR = 0.25
"""How far the expectation may be from the bill."""


@pytest.mark.parametrize("provider", ["simulator", "simulator-anthropic", "simulator-google"])
@pytest.mark.parametrize("protocol", ["scripted", "live"])
@pytest.mark.parametrize("judge", ["rules", "simulator:sim-judge"])
async def test_the_expectation_is_near_the_bill_of_the_demonstration(provider: str, protocol: Any, judge: str, tmp_path: Path) -> None:
    settings = EvalSettings(provider=provider, protocol=protocol, judges=(judge,), results=tmp_path, run="real")
    async with open_plan(settings) as plan:
        found = await estimate(plan)
    bill = (await evaluate(settings)).summary.json_value()
    assert found.list_usd == pytest.approx(bill["cost_usd"]["total"], rel=NEAR)
    assert found.most_usd >= bill["cost_usd"]["total"]
    assert sum(share.calls for share in found.shares) == bill["calls"]["sent"]


@pytest.mark.parametrize(("tier", "share"), [("standard", 1.0), ("flex", 0.5)])
async def test_marked_beginnings_and_a_cheaper_tier_are_expected_below_list_price(tier: Any, share: float, tmp_path: Path) -> None:
    marking = tmp_path / "providers"
    marking.mkdir()
    shipped = (shipped_folder("providers") / "simulator.toml").read_text()
    rules = 'match = "sim-*"\ncache_minimum_tokens = 1024\ncache_marks = "breakpoint"\n'
    (marking / "simulator.toml").write_text(shipped.replace('match = "sim-*"\n', rules))
    options: dict[str, Any] = {"protocol": "live", "judges": ("simulator:sim-judge",), "sample": 8, "providers": marking, "tier": tier}
    settings = EvalSettings(results=tmp_path, run="real", **options)
    async with open_plan(settings) as plan:
        found = await estimate(plan)
    costs = (await evaluate(settings, simulator=SimulatorSettings(prompt_cache=True, latency_seconds=0.02))).summary.cost_usd
    assert costs.list_usd is not None
    assert found.list_usd == pytest.approx(costs.list_usd, rel=NEAR)
    assert found.expected_usd == pytest.approx(costs.total, rel=NEAR)
    assert found.expected_usd < 0.85 * share * found.list_usd
    assert costs.saved_by_caches_usd > 0.1 * costs.list_usd
    # What a cheaper tier took off is what is left.
    assert costs.saved_usd == pytest.approx(costs.total if tier == "flex" else 0.0, abs=1e-5)


@pytest.mark.parametrize("protocol", ["scripted", "live"])
async def test_what_is_paid_for_already_is_not_expected_again(protocol: Any, tmp_path: Path) -> None:
    def settings(sample: int) -> EvalSettings:
        return EvalSettings(
            protocol=protocol, judges=("simulator:sim-judge",), results=tmp_path, run=f"r{sample}", sample=sample, lengths=(2, 4)
        )

    half = await evaluate(settings(3))
    async with open_plan(settings(3)) as plan:
        done = await estimate(plan)
    assert (done.expected_usd, done.most_usd) == (0.0, 0.0)
    assert sum(share.paid_calls for share in done.shares) == half.summary.calls.sent
    async with open_plan(settings(6)) as plan:
        rest = await estimate(plan)
    whole = await evaluate(settings(6))
    assert rest.expected_usd == pytest.approx(whole.summary.json_value()["cost_usd"]["total"], rel=NEAR)
    assert sum(share.calls for share in rest.shares) == whole.summary.calls.sent > 0


async def test_stored_replies_tell_how_long_replies_are(tmp_path: Path) -> None:
    small: dict[str, Any] = {"results": tmp_path, "lengths": (1,), "max_output_tokens": 20}
    await evaluate(EvalSettings(run="short", sample=30, **small))
    async with open_plan(EvalSettings(run="long", **small)) as plan:
        (target,) = (await estimate(plan)).shares
    assert target.calls > 0
    assert target.output_tokens == target.calls * 20


async def test_looking_creates_no_store(tmp_path: Path) -> None:
    async with open_plan(EvalSettings(sample=1, lengths=(1,), results=tmp_path / "results")) as plan:
        await estimate(plan)
    assert not (tmp_path / "results").exists()


async def test_an_estimate_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with open_plan(EvalSettings(provider="openai", sample=1, lengths=(1,)), dry_run=True) as plan:
        assert (await estimate(plan)).expected_usd > 0
    with pytest.raises(MissingKeyError):
        async with open_plan(EvalSettings(provider="openai", sample=1, lengths=(1,))):
            pass
