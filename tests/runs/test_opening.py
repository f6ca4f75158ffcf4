"""Accounts: a quota given on the command line is the target's, not that of a judge at another address."""

from __future__ import annotations

from safemt_api.adapters.base import Timeouts
from safemt_api.adapters.opening import open_http_client
from safemt_api.profiles import load_profiles
from safemt_api.routes import Router
from safemt_api.runs.opening import account_opener
from safemt_api.runs.settings import EvalSettings

TARGET, JUDGE = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"


async def test_a_given_quota_is_the_targets_account_s_alone() -> None:
    settings = EvalSettings(provider="vllm", model="m", requests_per_minute=60, tokens_per_minute=9000)
    router = Router(load_profiles(), base_urls={"vllm": (TARGET,)}, role_urls={"judge": {"vllm": (JUDGE,)}})
    timeouts = Timeouts()
    async with open_http_client(connections=4, timeouts=timeouts) as client:
        opener = account_opener(settings, router=router, client=client, timeouts=timeouts, environ={})
        target, judge, same = (opener(router.resolve("vllm:m", purpose)[0]) for purpose in ("target", "judge", "moderator"))
    assert target.limiter.statistics().requests_per_minute is not None
    assert target.limiter.statistics().tokens_per_minute == 9000
    assert judge.limiter.statistics().requests_per_minute is None
    assert same.limiter.statistics().requests_per_minute is not None
