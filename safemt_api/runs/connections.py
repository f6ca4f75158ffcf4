"""What a run calls through: one HTTP client, an account for each vendor, the gateway; its judges; and which model a local server serves."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any

import anyio
import httpx2
from anyio.abc import TaskGroup

from safemt_api.adapters.base import Adapter, Timeouts, open_adapter
from safemt_api.adapters.batch import open_batch_adapter
from safemt_api.adapters.bodies import Body, label, mapping, read_body, sequence
from safemt_api.adapters.http_client import OversizeError, open_http_client
from safemt_api.batches import DEFAULT_BATCH_PACE, BatchPace, BatchQueue
from safemt_api.errors import AccountError, EndpointError, UsageError
from safemt_api.foreign_text import unfit_in_name
from safemt_api.gateway import FLEX_SECONDS, Account, Accounts, Gateway, account_name
from safemt_api.judges.base import Judge
from safemt_api.limits.budget import CALLS_ASSUMED, Ledger, Purse
from safemt_api.limits.fleet import Endpoint, Fleet
from safemt_api.limits.limiter import Limiter
from safemt_api.limits.together import TogetherLimiter, exchanged_in
from safemt_api.messages import PURPOSES, Asker, Route
from safemt_api.prices import find_price
from safemt_api.profiles import Profile
from safemt_api.routes import Router
from safemt_api.runs.claim import Claim
from safemt_api.runs.plan import DEFAULT_PROVIDER, Plan
from safemt_api.runs.settings import EvalSettings, calls_assumed, tiers_of
from safemt_api.store.connection import ServerAddress
from safemt_api.store.turns import TurnStore
from safemt_api.telemetry import SILENT, Telemetry, open_telemetry


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What runs share that are played at the same time: one store, one client, the accounts, and the purse that all of them spend from."""

    store: TurnStore
    client: httpx2.AsyncClient
    accounts: Accounts
    purse: Purse
    batch_pace: BatchPace
    telemetry: Telemetry = SILENT
    together: bool = False


@asynccontextmanager
async def open_shared(settings: EvalSettings, *, store: TurnStore, purse_id: str, runs: int) -> AsyncIterator[Shared]:
    """What so many runs share; closes the connections on leaving.

    Other processes may call the same accounts and spend from the same purse now where a shard is played, or the store is a server's: then
    what they must know of each other is in the store. A run that is played alone on a file writes nothing of that kind.

    Args:
        settings: Pace, deadlines and ceiling, which hold over all of them.
        store: Their store.
        purse_id: The id that the ceiling is held under in the store's books.
        runs: Each may have accounts of its own, with ``concurrency`` calls in flight.
    """
    together = settings.shard is not None or isinstance(store.place, ServerAddress)
    assumed = calls_assumed(settings) if "batch" in tiers_of(settings) else CALLS_ASSUMED
    purse = Purse(store, purse_id=purse_id, ceiling_usd=settings.max_usd, calls_assumed=assumed, together=together)
    make_room(settings.concurrency * runs)
    async with (
        open_telemetry(settings.otel) as telemetry,
        open_http_client(connections=settings.concurrency * len(PURPOSES) * runs, timeouts=timeouts_of(settings)) as client,
        _beside(together or "batch" in tiers_of(settings)) as beside,
    ):
        if together and beside is not None and settings.max_usd is not None:
            beside.start_soon(purse.take_part)
        yield Shared(store, client, Accounts(beside=beside), purse, DEFAULT_BATCH_PACE, telemetry, together)


@asynccontextmanager
async def _beside(wanted: bool) -> AsyncIterator[TaskGroup | None]:
    """A task group that is cancelled at the end, where one is wanted; errors of the block come out of it as they are."""
    if not wanted:
        yield None
        return
    failure: BaseException | None = None
    async with anyio.create_task_group() as group:
        try:
            yield group
        except BaseException as error:  # noqa: BLE001 (raised again below, bare: a task group would wrap it in a group)
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def open_gateway(plan: Plan, claim: Claim, shared: Shared | None = None) -> AsyncIterator[tuple[Gateway, Ledger]]:
    """The gateway of a run and its ledger; closes the connections on leaving, unless they are shared with other runs."""
    settings, router, timeouts = plan.settings, plan.router, timeouts_of(plan.settings)
    async with AsyncExitStack() as stack:
        if shared is None:
            # Target, judge and moderator may be three accounts, each with that many calls in flight; what is not used is not opened.
            own = open_shared(settings, store=claim.store, purse_id=claim.purse_id, runs=1)
            shared = await stack.enter_async_context(own)
        ledger = Ledger(shared.store, run=claim.run_id, purse=shared.purse)
        gateway = Gateway(
            store=shared.store,
            ledger=ledger,
            open_account=account_opener(settings, router=router, client=shared.client, timeouts=timeouts, shared=shared),
            profile_of=lambda route: router.profile(route.profile),
            timeouts=timeouts,
            accounts=shared.accounts,
            tiers=tiers_of(settings),
            flex_patience_seconds=settings.flex_patience_seconds,
            telemetry=shared.telemetry,
            uses=claim.uses,
        )
        yield gateway, ledger


def timeouts_of(settings: EvalSettings) -> Timeouts:
    """The deadlines of one attempt."""
    idle_seconds = max(settings.idle_seconds, FLEX_SECONDS) if "flex" in tiers_of(settings) else settings.idle_seconds
    return Timeouts(settings.connect_seconds, idle_seconds, settings.total_seconds)


def account_opener(
    settings: EvalSettings,
    *,
    router: Router,
    client: httpx2.AsyncClient,
    timeouts: Timeouts,
    environ: Mapping[str, str] | None = None,
    shared: Shared | None = None,
) -> Callable[[Route], Account]:
    """Makes the account of a route on its first call, with a queue for batches where they are asked for and there is a store (``shared``).

    ``--rpm`` and ``--tpm`` are the target's account's.
    """
    environ = os.environ if environ is None else environ
    target = router.destination(settings.provider or DEFAULT_PROVIDER, "").route

    def open_account(route: Route) -> Account:
        profile = router.profile(route.profile)
        connection: dict[str, Any] = {"profile": profile, "wire_format": route.wire_format, "api_key": profile.api_key(environ)}
        connection |= {"client": client, "timeouts": timeouts}
        endpoints: list[Endpoint[Adapter]] = [Endpoint(url, open_adapter(base_url=url, **connection)) for url in route.base_urls]
        own = (route.profile, route.endpoint) == (target.profile, target.endpoint)
        published = profile.limits
        pace: dict[str, Any] = {
            "concurrency": min(settings.concurrency, published.concurrency or settings.concurrency),
            "requests_per_minute": settings.requests_per_minute if own else None,
            "tokens_per_minute": settings.tokens_per_minute if own else None,
            "cautious": not profile.local,
        }
        limiter, take_part = Limiter(**pace), None
        if shared is not None and shared.together:
            limiter = sharing = TogetherLimiter(**pace, published_at_once=published.concurrency)
            # Two keys at one address are two accounts. The digest is cut short and the store's own, so that it tells nothing of the key.
            digest = sha256(f"{shared.store.id} {connection['api_key']}".encode()).hexdigest()[:8]
            take_part = partial(sharing.take_part, exchanged_in(shared.store, f"{account_name(route, profile)} {digest}"))
        limiter.expect(requests_per_minute=published.requests_per_minute, tokens_per_minute=published.tokens_per_minute)
        price_of = partial(find_price, profile)
        batches = None
        takes_batches = profile.batch is not None and profile.batch.offered and route.wire_format == profile.wire_format
        if shared is not None and takes_batches and "batch" in tiers_of(settings):
            batches = BatchQueue(
                account=account_name(route, profile),
                vendor=profile.name,
                adapter=open_batch_adapter(base_url=route.base_urls[0], **connection),
                store=shared.store,
                folder=settings.results,
                purse=shared.purse,
                pictures=shared.accounts.pictures,
                price_of=price_of,
                pace=replace(shared.batch_pace, patience_seconds=settings.batch_patience_seconds),
            )
        return Account(profile, Fleet(endpoints), limiter, price_of, batches, take_part)

    return open_account


def judge_of(plan: Plan, asker: Asker) -> Judge:
    """The judge of a run, or of new verdicts over it.

    Raises:
        UsageError: It cannot be opened.
    """
    return plan.bench.joined(asker, plan.router.resolver("judge"), simulated=plan.target_is_simulator)


def judges_of(plan: Plan, asker: Asker) -> tuple[Judge, ...]:
    """Each judge by itself, the fall-back last.

    Raises:
        UsageError: One cannot be opened.
    """
    return plan.bench.each(asker, plan.router.resolver("judge"), simulated=plan.target_is_simulator)


if sys.platform != "win32":
    import resource

OWN_FILES = 100
"""Store, run files, pictures, the built-in simulator's listening socket, libraries: far below this, with room to spare."""

ENDS_AND_PURPOSES = 6
"""A call of a target, its judge and its moderator may be open at once, and with the built-in simulator both ends are in this process."""


def make_room(concurrency: int) -> None:
    """Raise the soft limit of open files to all that so many calls in flight can need.

    Raises:
        UsageError: Not even the calls themselves fit; the sentence says how many there may be.
    """
    if sys.platform == "win32":
        return  # there is no such limit on sockets
    soft, hard = (sys.maxsize if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE))
    most, least = concurrency * ENDS_AND_PURPOSES + OWN_FILES, concurrency + OWN_FILES
    wanted = min(most, hard)
    if wanted > soft:
        with suppress(OSError, ValueError):  # some systems refuse what they announce
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft < least:
        raise UsageError(
            f"--concurrency {concurrency:,} needs {least:,} open files and the system allows {soft:,}: "
            "lower it, or raise the limit (ulimit -n)"
        )


ASK_TIMEOUTS = Timeouts(connect_seconds=10.0, idle_seconds=10.0)


async def served_model(profile: Profile, base_url: str) -> str:
    """The id of the one model served at the address (``GET /models`` of the OpenAI-compatible servers).

    Raises:
        EndpointError: Nothing answers there.
        AccountError: It does not accept the key, or wants one.
        UsageError: It serves none or several, or does not say.
    """
    key = profile.api_key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with open_http_client(connections=1, timeouts=ASK_TIMEOUTS) as client:
            answer = await client.get(f"{base_url}/models", headers=headers)
    except OversizeError as error:
        raise EndpointError(f"{base_url}/models sent {error.size}, which is no list of models: check --base-url") from error
    except httpx2.HTTPError as error:
        raise EndpointError(f"nothing answers at {base_url} ({type(error).__name__}); is {profile.title} running?") from error
    if answer.status_code in (401, 403):
        named = " or ".join(profile.key_variables)
        cure = f"check {named}" if named else "its profile names no variable for one (key_variables)"
        raise AccountError(f"{profile.name} does not accept the API key (HTTP {answer.status_code}): {cure}")
    models = _ids(read_body(answer.content, key))
    if len(models) != 1:
        found = f"serves {', '.join(models)}" if models else f"did not name its models (HTTP {answer.status_code})"
        raise UsageError(f"{base_url} {found}: choose one with --model")
    why = unfit_in_name(models[0])
    if why is not None:
        raise UsageError(f"{base_url} serves a model whose id {why}: choose one with --model")
    return models[0]


def _ids(body: Body) -> list[str]:
    named = (label(mapping(card).get("id")) for card in sequence(body.fields.get("data")))
    return [name for name in named if name]
