"""Accounts: a quota given on the command line is the target's, and what a profile says of its vendor holds where nothing was given."""

from __future__ import annotations

from pathlib import Path

from safemt_api.adapters.base import QuotaHint, Timeouts
from safemt_api.adapters.http_client import open_http_client
from safemt_api.limits.limiter import Limiter
from safemt_api.profiles import load_profiles, shipped_folder
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
        target, judge, same = (opener(router.destination("vllm", "m", purpose).route) for purpose in ("target", "judge", "moderator"))
    assert target.limiter.statistics().requests_per_minute is not None
    assert target.limiter.statistics().tokens_per_minute == 9000
    assert judge.limiter.statistics().requests_per_minute is None
    assert same.limiter.statistics().requests_per_minute is not None


PUBLISHED = """
[limits]
requests_per_minute = 30
tokens_per_minute = 6000
concurrency = 5
"""


async def test_what_a_vendor_publishes_holds_until_the_user_or_its_headers_say_otherwise(tmp_path: Path) -> None:
    shipped = (shipped_folder() / "together.toml").read_text(encoding="utf-8")
    (tmp_path / "together.toml").write_text(shipped.replace("[limits]\n", PUBLISHED.lstrip()), encoding="utf-8")
    router, timeouts = Router(load_profiles(tmp_path)), Timeouts()
    paces: list[tuple[float, float | None, int]] = []
    async with open_http_client(connections=4, timeouts=timeouts) as client:
        for given in (None, 120):
            settings = EvalSettings(provider="together", model="m", requests_per_minute=given)
            opener = account_opener(settings, router=router, client=client, timeouts=timeouts, environ={"TOGETHER_API_KEY": "k"})
            limiter = opener(router.destination("together", "m").route).limiter
            paces.append(pace_of(limiter))
            async with limiter.slot(10) as slot:
                slot.succeeded(tokens=10, hints=(QuotaHint("requests", limit=90), QuotaHint("tokens", limit=50_000)))
            paces.append(pace_of(limiter))
    assert [one[:2] for one in paces] == [(30, 6000), (90, 50_000), (120, 6000), (120, 50_000)]
    assert all(concurrency <= 5 for *_, concurrency in paces)


def pace_of(limiter: Limiter) -> tuple[float, float | None, int]:
    now = limiter.statistics()
    return round(now.requests_per_minute or 0, -1), now.tokens_per_minute, now.concurrency
