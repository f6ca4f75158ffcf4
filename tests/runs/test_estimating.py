"""What a dry run promises: the right number of calls, and a most that no real run exceeds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from safemt_api.evaluation import evaluate, open_plan
from safemt_api.runs.estimating import Estimate, estimate, remaining_share
from safemt_api.runs.settings import EvalSettings


async def estimated(**options: Any) -> Estimate:
    async with open_plan(EvalSettings(sample=4, lengths=(1, 4), **options)) as plan:
        return estimate(plan)


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
    assert 0 < result.summary["cost_usd"]["total"] <= found.most_usd
    assert found.expected_usd <= found.most_usd
    assert result.summary["calls"]["sent"] <= sum(share.most_calls for share in found.shares)
    assert result.summary["usage"]["input_tokens"] <= sum(share.most_input_tokens for share in found.shares)


async def test_a_model_without_a_known_price_is_named_and_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    found = await estimated(judges=("openai:a-model-nobody-knows",))
    assert found.unpriced == ("openai:a-model-nobody-knows",)
    assert found.shares[1].expected_usd is None
    assert json.dumps(found.record())


async def test_what_is_left_of_a_run() -> None:
    async with open_plan(EvalSettings(sample=4, lengths=(1, 4), run="half")) as plan:
        assert remaining_share(plan) == 1.0
        plan.folder.mkdir(parents=True)
        (plan.folder / "summary.json").write_text('{"dialogues": {"planned": 8, "finished": 6}}', encoding="utf-8")
        assert remaining_share(plan) == 0.25
        (plan.folder / "summary.json").write_text("{", encoding="utf-8")
        assert remaining_share(plan) == 1.0
