"""Opens what a run calls through: one HTTP client, an account for each vendor, the gateway; and who judges it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import httpx2

from safemt_api.adapters.base import Adapter, Timeouts
from safemt_api.adapters.opening import open_adapter, open_http_client
from safemt_api.gateway import Account, Gateway
from safemt_api.judges.base import Judge
from safemt_api.judges.manner import Manner
from safemt_api.judges.opening import joined, open_each
from safemt_api.limits.budget import Ledger
from safemt_api.limits.fleet import Endpoint, Fleet
from safemt_api.limits.limiter import Limiter
from safemt_api.messages import PURPOSES, Asker, Route
from safemt_api.prices import find_price
from safemt_api.routes import Router
from safemt_api.runs.descriptors import make_room
from safemt_api.runs.planning import DEFAULT_PROVIDER, Plan
from safemt_api.runs.settings import EvalSettings
from safemt_api.store.turns import TurnStore


@asynccontextmanager
async def open_gateway(
    settings: EvalSettings, *, run_id: str, router: Router, store: TurnStore, environ: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Gateway, Ledger]]:
    """The gateway of a run and its ledger; closes the connections on leaving."""
    timeouts = Timeouts(settings.connect_seconds, settings.idle_seconds, settings.total_seconds)
    ledger = Ledger(store, run=run_id, ceiling_usd=settings.max_usd)
    make_room(settings.concurrency)
    # Target, judge and moderator may be three accounts, each with that many calls in flight; what is not used is not opened.
    async with open_http_client(connections=settings.concurrency * len(PURPOSES), timeouts=timeouts) as client:
        opener = account_opener(settings, router=router, client=client, timeouts=timeouts, environ=environ)
        gateway = Gateway(
            store=store, ledger=ledger, open_account=opener, profile_of=lambda route: router.profile(route.profile), timeouts=timeouts
        )
        yield gateway, ledger


def account_opener(
    settings: EvalSettings, *, router: Router, client: httpx2.AsyncClient, timeouts: Timeouts, environ: Mapping[str, str] | None = None
) -> Callable[[Route], Account]:
    """Makes the account of a route on its first call. ``--rpm`` and ``--tpm`` are the target's account's."""
    environ = os.environ if environ is None else environ
    target = router.destination(settings.provider or DEFAULT_PROVIDER, "").route

    def open_account(route: Route) -> Account:
        profile = router.profile(route.profile)
        adapter = partial(
            open_adapter, profile=profile, wire_format=route.wire_format, api_key=profile.api_key(environ), client=client, timeouts=timeouts
        )
        endpoints: list[Endpoint[Adapter]] = [Endpoint(url, adapter(base_url=url)) for url in route.base_urls]
        own = (route.profile, route.endpoint) == (target.profile, target.endpoint)
        published = profile.limits
        limiter = Limiter(
            concurrency=min(settings.concurrency, published.concurrency or settings.concurrency),
            requests_per_minute=settings.requests_per_minute if own else None,
            tokens_per_minute=settings.tokens_per_minute if own else None,
            cautious=not profile.local,
        )
        limiter.expect(requests_per_minute=published.requests_per_minute, tokens_per_minute=published.tokens_per_minute)
        return Account(profile=profile, fleet=Fleet(endpoints), limiter=limiter, price_of=partial(find_price, profile))

    return open_account


def judge_of(plan: Plan, asker: Asker) -> Judge:
    """The judge of a run, or of new verdicts over it.

    Raises:
        UsageError: It cannot be opened.
    """
    return joined(judges_of(plan, asker), has_fallback=plan.settings.judge_fallback is not None)


def judges_of(plan: Plan, asker: Asker) -> tuple[Judge, ...]:
    """Each judge by itself, the fall-back last.

    Raises:
        UsageError: One cannot be opened.
    """
    settings = plan.settings
    return open_each(
        plan.judges,
        asker=asker,
        resolve=plan.router.resolver("judge"),
        rubric=settings.rubric,
        fallback=settings.judge_fallback,
        simulated=plan.target_is_simulator,
        manner=Manner(settings.judge_temperature, settings.judge_sees),
    )
