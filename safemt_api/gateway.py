"""The one door to every model: store, budget, limiter, adapter, and back.

    call ──► store (already paid for?) ──► budget (reserve the most it can cost) ──► limiter (wait for room) ──► adapter (translate, send)
                                                                                                      │
    reply ◄── store (written and synced, money settled in the same transaction) ◄── outcome ◄─────────┘    errors: retried here, only here

The only module that knows adapters, limits and store together; nothing above it knows a vendor.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import anyio
from anyio.abc import TaskGroup
from tenacity import RetryCallState

from safemt_api.adapters.base import GROWING, Adapter, Received, Timeouts
from safemt_api.batches import BatchQueue, BatchStatistics
from safemt_api.dataset.images import fitted
from safemt_api.errors import (
    CallError,
    ConnectionFailedError,
    EndpointError,
    InterceptedError,
    NoCapacityError,
    PictureTooLargeError,
    RateLimitedError,
    ServerError,
    StalledError,
    TransientError,
    UsageError,
)
from safemt_api.limits.budget import Ledger, Reservation
from safemt_api.limits.fleet import Endpoint, Fleet
from safemt_api.limits.limiter import Limiter, LimiterStatistics, Slot
from safemt_api.limits.picture_memory import PictureMemory
from safemt_api.limits.retry import DEFAULT_RETRY_POLICY, Attempts, RetryPolicy
from safemt_api.messages import PURPOSES, Answer, Call, Conversation, Image, Message, Purpose, Reply, Route, ServiceTier, Usage
from safemt_api.prices import Price, cost_of, find_price, priced_tier
from safemt_api.profiles import ImageRules, Profile
from safemt_api.store.keys import canonical_request, request_key
from safemt_api.store.records import sendable_reply
from safemt_api.store.turns import StoredReply, TurnStore
from safemt_api.store.uses import Uses
from safemt_api.telemetry import SILENT, Telemetry
from safemt_api.tokens import input_tokens_estimate, input_tokens_most, most_output_tokens

UNREACHED_ATTEMPTS = 3
INTERCEPTED_IN_A_ROW = 20
"""So many 403s that are not the vendor's, without one reply between them, end a run. A firewall that dislikes single prompts answers faster
than a model and takes all lengths of an id alike, so fewer are no proof that it lets nothing through."""

ABOVE_MARGIN = 1.25
"""One reply above its reservation says that others may be further above it."""

OVERLOADED_STATUSES = frozenset({503, 529})

DEFAULT_FLEX_PATIENCE_SECONDS = 600.0
FLEX_SECONDS = 900.0
"""How long a flex call may take at least: both vendors that offer it answer within 15 minutes, and advise to wait as long."""


@dataclass
class Account:
    """One vendor account (profile, key, endpoint): what everyone who calls it shares; ``take_part`` shares it with other processes."""

    profile: Profile
    fleet: Fleet[Adapter]
    limiter: Limiter
    price_of: Callable[[str, str], Price | None]
    batches: BatchQueue | None = None
    take_part: Callable[[], Coroutine[Any, Any, None]] | None = None
    reached: bool = False
    intercepted: int = 0
    last_failure: CallError | None = None
    prices: dict[tuple[str, str], Price | None] = field(default_factory=dict)

    def price(self, model: str, tier: str = "standard") -> Price | None:
        """The model's price in a tier, looked up once."""
        if (model, tier) not in self.prices:
            self.prices[model, tier] = self.price_of(model, tier)
        return self.prices[model, tier]

    def offers(self, tier: ServiceTier, route: Route) -> bool:
        """Whether calls of that route may be asked in the tier; those that are no chat (moderation, decisions) only in the usual one."""
        if tier == "standard" or route.wire_format != self.profile.wire_format or (tier == "batch" and self.batches is None):
            return tier == "standard"
        try:
            self.profile.check_tier(tier, route.model)
        except UsageError:
            return False
        return True


class Savings(NamedTuple):
    """How much more replies would have cost at the usual prices, and on top of that had nothing been cached."""

    tiers_usd: float = 0.0
    caches_usd: float = 0.0


class GatewayStatistics(NamedTuple):
    """Counts since the gateway was opened.

    ``sent`` counts every attempt; ``usage`` and ``calls`` are by purpose; ``unpriced`` holds the purposes with a reply of unknown cost;
    ``unread_usage`` counts replies whose cost is unknown because they told no usage that can be read;
    ``damaged`` counts stored replies that were found unfit and were asked for again; ``tiers`` counts replies by the tier that served
    them, and ``savings`` is by purpose what that, and caches, made them cheaper by; ``without_room`` counts attempts that a cheaper tier
    had no room for; ``store_away_seconds`` is for how long the store's server has not answered.
    """

    sent: int
    from_store: int
    retried: int
    rate_limited: int
    in_flight: int
    waiting: int
    calls: Mapping[Purpose, int]
    usage: Mapping[Purpose, Usage]
    unpriced: frozenset[Purpose]
    above_reservation_usd: Mapping[str, float]
    unread_usage: int
    limiters: Mapping[str, LimiterStatistics]
    damaged: int = 0
    tiers: Mapping[str, int] = MappingProxyType({})
    savings: Mapping[Purpose, Savings] = MappingProxyType({})
    without_room: int = 0
    batches: tuple[BatchStatistics, ...] = ()
    store_away_seconds: float | None = None

    @property
    def saved_usd(self) -> float:
        """How much more all replies would have cost at the usual prices."""
        return sum(one.tiers_usd for one in self.savings.values())

    @property
    def saved_by_caches_usd(self) -> float:
        """How much more on top of that had nothing been cached."""
        return sum(one.caches_usd for one in self.savings.values())


@dataclass(frozen=True)
class _Order:
    """A call with what the gateway works out about it, each at most once."""

    call: Call
    account: Account
    request: bytes
    key: str
    singly: bool = False

    @cached_property
    def most_output_tokens(self) -> int:
        return most_output_tokens(self.call, self.account.profile.facts(self.call.route.model))

    @property
    def model(self) -> str:
        return f"{self.call.route.profile}:{self.call.route.model}"

    @property
    def image_rules(self) -> ImageRules:
        return self.account.profile.image_rules(self.call.route.model)

    @cached_property
    def tokens(self) -> int:
        """Expected input plus reserved output: what the tokens-a-minute quota is charged before the real usage is known."""
        return input_tokens_estimate(self.call, self.image_rules) + self.most_output_tokens

    @cached_property
    def most_usd(self) -> float | None:
        return self.most_usd_in("standard")

    def most_usd_in(self, tier: ServiceTier) -> float | None:
        price = self.account.price(self.call.route.model, tier)
        if price is None:
            return None
        return price.most_usd(input_tokens_most(self.call, self.image_rules), self.most_output_tokens)


@dataclass(eq=False)
class Accounts:
    """What all gateways of one process share: the accounts by name, the calls under way by key, and the memory for pictures. So each
    account is paced once, and a call that two runs want at the same moment is bought once.

    ``beside`` is the task group in which batches are handed in and collected.
    """

    by_name: dict[str, Account] = field(default_factory=dict)
    under_way: dict[str, anyio.Event] = field(default_factory=dict)
    pictures: PictureMemory = field(default_factory=PictureMemory)
    named_sides: dict[tuple[str, str], int] = field(default_factory=dict)
    above_usd: dict[str, float] = field(default_factory=dict)
    beside: TaskGroup | None = None

    def add(self, name: str, account: Account) -> Account:
        """Keep an account that was opened; its batches and its part of the pace are seen to beside whatever else is done."""
        if account.batches is not None and self.beside is not None:
            self.beside.start_soon(account.batches.run)
        if account.take_part is not None and self.beside is not None:
            self.beside.start_soon(account.take_part)
        return self.by_name.setdefault(name, account)


def account_name(route: Route, profile: Profile) -> str:
    """How the account of a route is called: profile and endpoint, and the wire format where it is not the profile's own."""
    name = f"{route.profile} {route.endpoint}"
    return name if route.wire_format == profile.wire_format else f"{name} {route.wire_format}"


class Gateway:
    """Answers calls; see the module. One gateway serves a whole run.

    Args:
        store: Where replies are kept.
        ledger: The run's money.
        open_account: Makes the account of a route on first use.
        accounts: Shared with the gateways of other runs that are played at the same time.
        profile_of: Finds what is known of a route's vendor, whether or not it will be called.
        timeouts: ``total_seconds`` is enforced here, as a scope around each attempt.
        retry_policy: Caps on attempts and elapsed time of one call.
        tiers: In which calls are asked, the first that is offered for a model; models without any of them are asked as usual.
        flex_patience_seconds: How long a call waits for room in the flex tier where it may also be asked in the usual one.
        telemetry: Who is told of every call.
        uses: Where the replies that the run takes are noted.
    """

    def __init__(
        self,
        *,
        store: TurnStore,
        ledger: Ledger,
        open_account: Callable[[Route], Account],
        profile_of: Callable[[Route], Profile],
        timeouts: Timeouts,
        retry_policy: RetryPolicy = DEFAULT_RETRY_POLICY,
        accounts: Accounts | None = None,
        tiers: tuple[ServiceTier, ...] = ("standard",),
        flex_patience_seconds: float = DEFAULT_FLEX_PATIENCE_SECONDS,
        telemetry: Telemetry = SILENT,
        uses: Uses | None = None,
    ) -> None:
        self.telemetry = telemetry
        self._store, self._ledger, self._uses = store, ledger, uses
        self._open_account, self._profile_of = open_account, profile_of
        # A call that one late answer of the flex tier leaves without a reply is tried again.
        patience = max(retry_policy.elapsed_seconds, 2 * FLEX_SECONDS) if {"flex", "batch"} & {*tiers} else retry_policy.elapsed_seconds
        self._timeouts, self._policy = timeouts, replace(retry_policy, elapsed_seconds=patience)
        self._tiers, self._flex_patience_seconds = tiers, flex_patience_seconds
        self._served_tiers: Counter[str] = Counter()
        self._saved_on: set[str] = set()
        self._savings: dict[Purpose, Savings] = defaultdict(Savings)
        self._shared = Accounts() if accounts is None else accounts
        self._accounts: dict[str, Account] = {}
        self._counts: Counter[str] = Counter()
        self._calls: Counter[Purpose] = Counter()
        self._usage = dict.fromkeys(PURPOSES, Usage())
        self._unpriced: set[Purpose] = set()
        self._last_success: float | None = None
        self._retries_since_success = 0
        self._last_failure: CallError | None = None

    async def ask(self, call: Call, *, singly: bool = False) -> Answer:
        """Answer a call, from the store or from the vendor; when this returns, the reply is synced to disk.

        ``singly``: not in a batch, whatever the run's tier: somebody waits for the answer.

        Raises:
            DialogueError: This call failed for good; others may succeed.
            StopRunError: The run cannot go on (account, address, budget, stall).
            StoreError: The reply cannot be kept.
        """
        with self.telemetry.call(call) as told:
            answer = await self._ask(call, singly=singly)
            told(answer)
            return answer

    async def _ask(self, call: Call, *, singly: bool) -> Answer:
        try:
            return await self._answer(self._with_pictures_fitted(call), singly=singly)
        except PictureTooLargeError as error:
            # What the profile says of the model's size is wrong or missing: the vendor's own word holds for the rest of the run.
            model = call.route.profile, call.route.model
            if error.max_side_pixels >= self._shared.named_sides.get(model, math.inf):
                raise
            self._shared.named_sides[model] = error.max_side_pixels
            return await self._answer(self._with_pictures_fitted(call), singly=singly)

    def _with_pictures_fitted(self, call: Call) -> Call:
        """The call with its pictures as its receiver takes them."""
        if not any(message.images for message in call.messages):
            return call
        rules = self._profile_of(call.route).image_rules(call.route.model)
        side = self._shared.named_sides.get((call.route.profile, call.route.model))
        if side is not None:
            rules = rules.model_copy(update={"max_side_pixels": min(side, rules.max_side_pixels or side)})
        return replace(call, messages=tuple(_fitted(message, call.purpose, rules) for message in call.messages))

    async def _answer(self, call: Call, *, singly: bool) -> Answer:
        request = canonical_request(call)
        key = request_key(request)
        while key in self._shared.under_way:
            await self._shared.under_way[key].wait()
        # Before anything else is awaited: a look into the store may take a moment, and whoever came meanwhile would buy the reply, too.
        self._shared.under_way[key] = anyio.Event()
        try:
            if self._uses is not None:
                await self._uses.note(key)
            stored = await self._store.get(key)
            if stored is None:
                return await self._buy(_Order(call, self._account(call.route), request, key, singly))
            self._counts["from_store"] += 1
            self._tally(call, key, stored)
            return Answer(stored.reply, from_store=True, cost_usd=stored.cost_usd, key=key)
        finally:
            self._shared.under_way.pop(key).set()

    def statistics(self) -> GatewayStatistics:
        """What has been done so far."""
        limiters = {name: account.limiter.statistics() for name, account in self._accounts.items()}
        return GatewayStatistics(
            sent=self._counts["sent"],
            from_store=self._counts["from_store"],
            damaged=self._store.statistics().damaged,
            retried=self._counts["retried"],
            rate_limited=self._counts["rate_limited"],
            in_flight=sum(statistics.in_flight for statistics in limiters.values()),
            waiting=sum(statistics.waiting for statistics in limiters.values()),
            calls=dict(self._calls),
            usage=dict(self._usage),
            unpriced=frozenset(self._unpriced),
            above_reservation_usd=dict(self._shared.above_usd),
            unread_usage=self._counts["unread_usage"],
            limiters=limiters,
            tiers=dict(self._served_tiers),
            savings=dict(self._savings),
            store_away_seconds=self._store.statistics().away_seconds,
            without_room=self._counts["without_room"],
            batches=tuple(one for account in self._accounts.values() if account.batches for one in account.batches.statistics()),
        )

    def accounts(self) -> Mapping[str, Account]:
        """The accounts in use, by name: profile and endpoint, and the wire format where it is not the profile's own."""
        return self._accounts

    async def watch_stall(self, stall_seconds: float) -> None:
        """End the run when none has succeeded for ``stall_seconds`` although calls are being retried, or are held back by the pace.

        Where calls may be asked in the flex tier, what they may take there comes on top.

        Raises:
            StalledError: That happened.
        """
        if {"flex", "batch"} & {*self._tiers}:
            # An answer of the flex tier may take a quarter of an hour, and falling back from it the patience and one wait more.
            stall_seconds += max(FLEX_SECONDS, self._flex_patience_seconds + 1.5 * self._policy.longest_wait_seconds)
        self._last_success = anyio.current_time()
        while True:
            await anyio.sleep(min(stall_seconds / 10.0, 5.0))
            idle = anyio.current_time() - self._last_success
            held = any(account.limiter.statistics().held_seconds >= stall_seconds for account in self._accounts.values())
            if any(account.batches is not None and account.batches.waits for account in self._accounts.values()):
                # A batch takes its time, up to a day, and is seen to by its own patience.
                self._last_success = anyio.current_time()
            elif idle >= stall_seconds and (self._retries_since_success or held):
                raise StalledError(idle, self._last_failure, held=held)

    def _account(self, route: Route) -> Account:
        name = account_name(route, self._profile_of(route))
        if name not in self._accounts:
            # Which accounts a run uses is its own; the accounts themselves belong to all who call them.
            self._accounts[name] = self._shared.by_name.get(name) or self._shared.add(name, self._open_account(route))
        return self._accounts[name]

    async def _buy(self, order: _Order) -> Answer:
        attempts = Attempts(self._policy)
        async for attempt in attempts.retrying(self._count_retry):
            with attempt:
                return await self._attempt(order, attempts)
        raise AssertionError("the retry loop ends by returning or raising")

    def _count_retry(self, state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        self.telemetry.retried(error, state.next_action.sleep if state.next_action else 0.0)
        self._counts["retried"] += 1
        self._retries_since_success += 1

    async def _attempt(self, order: _Order, attempts: Attempts) -> Answer:
        attempts.waits()
        tier = self._tier(order, attempts)
        try:
            if tier == "batch":
                return await self._ask_in_batch(order, attempts)
            async with self._ledger.reserved(key=order.key, purpose=order.call.purpose, most_usd=self._most_usd(order)) as money:
                received = await self._send(order, replace(order.call, service_tier=tier), attempts, money)
                return await self._keep(order, attempts.told(sendable_reply(received.reply)), money)
        except CallError as error:
            self._failed(order.account, error)
            # It is held while the call waits for its next try, and its frames would hold the whole request as long: 75 MB for a picture.
            error.__cause__ = error.__context__ = None
            raise error.with_traceback(None) from None

    async def _ask_in_batch(self, order: _Order, attempts: Attempts) -> Answer:
        assert order.account.batches is not None  # noqa: S101 (or the tier would not be offered)
        wanted = self._ledger.wanted(purpose=order.call.purpose, most_usd=self._most_usd(order, tier="batch"))
        # No marks for a cache on the history: the next turn goes in a later wave, when what was written for a quarter more is forgotten
        # (Anthropic's lasts five minutes: https://platform.claude.com/docs/en/build-with-claude/prompt-caching). Questions that begin with
        # the same pictures go in one wave.
        conversation: Conversation = "single" if order.call.conversation in GROWING else order.call.conversation
        call = replace(order.call, service_tier="batch", conversation=conversation)
        self._counts["sent"] += 1
        try:
            kept = await order.account.batches.ask(call, key=order.key, request=order.request, wanted=wanted)
        finally:
            # However long that took, it counts against no cap, and what it did not bring is asked singly.
            attempts.leaves()
            attempts.singly = True
        order.account.reached, order.account.intercepted = True, 0
        return self._bought(order, kept, from_store=False)

    def _tier(self, order: _Order, attempts: Attempts) -> ServiceTier:
        """In which tier the next attempt is made: in the first that is offered, unless that has had no room for too long.

        What is asked singly although the run's tier is batch goes in the flex tier, which costs as little, where there is one.
        """
        offered = [tier for tier in self._tiers if order.account.offers(tier, order.call.route)] or ["standard"]
        if offered[0] == "batch" and (order.singly or attempts.singly):
            offered = ["flex", "standard"] if order.account.offers("flex", order.call.route) else ["standard"]
        impatient = len(offered) > 1 and attempts.seconds_without_room() >= self._flex_patience_seconds
        return offered[1 if impatient else 0]

    def _most_usd(self, order: _Order, tier: ServiceTier = "standard") -> float | None:
        # What is asked in the flex tier may be served, and billed, in the usual one; a row of a batch never is.
        most_usd = order.most_usd if tier == "standard" else order.most_usd_in(tier)
        if most_usd is not None:
            return most_usd + self._shared.above_usd.get(order.model, 0.0)
        if self._ledger.ceiling_usd is not None:
            raise UsageError(f"no price is known for {order.call.route.model}, so --max-usd cannot be held; add a price to its profile")
        return None

    async def _send(self, order: _Order, call: Call, attempts: Attempts, money: Reservation) -> Received:
        account = order.account
        async with self._shared.pictures.ready(call), account.limiter.slot(order.tokens) as slot:
            # It has money and a slot, and goes out now; before this its waiting is no fault of its own.
            money.sent = True
            attempts.leaves()
            with account.fleet.endpoint() as endpoint:
                self._counts["sent"] += 1
                try:
                    received = await self._within_deadline(endpoint, call)
                except TransientError as error:
                    _teach(slot, error)
                    raise
            usage = received.reply.usage
            slot.succeeded(tokens=None if usage is None else usage.input_tokens + usage.output_tokens, hints=received.quotas)
        return received

    async def _within_deadline(self, endpoint: Endpoint[Adapter], call: Call) -> Received:
        seconds = max(self._timeouts.total_seconds, FLEX_SECONDS if call.service_tier == "flex" else 0.0)
        try:
            with anyio.fail_after(seconds):
                return await endpoint.sender.send(call)
        except TimeoutError as error:
            sentence = f"{endpoint.url} gave no whole answer within {seconds:.0f} s"
            raise ConnectionFailedError(sentence, connected=True, maybe_billed=True) from error

    def _failed(self, account: Account, error: CallError) -> None:
        self._last_failure = error
        self._counts["rate_limited"] += isinstance(error, RateLimitedError)
        self._counts["without_room"] += isinstance(error, NoCapacityError)
        if isinstance(error, InterceptedError):
            account.intercepted += 1
            if account.intercepted >= INTERCEPTED_IN_A_ROW:
                raise EndpointError(
                    f"{error}; so were {account.intercepted} requests in a row: check --base-url, the network's proxy or firewall, and "
                    f"whether {account.profile.title} may be called from here, then run the same command again"
                ) from error
        elif not isinstance(error, ConnectionFailedError) or error.connected:
            account.reached = True
        elif not account.reached and all(one.failures >= UNREACHED_ATTEMPTS for one in account.fleet.statistics()):
            # Each address by itself: a dead one among several must not end a run while another is still at work on its first reply.
            where = ", ".join(one.url for one in account.fleet.statistics())
            raise EndpointError(
                f"nothing answers at {where} ({error}); check the address (--base-url) and that the server is running"
            ) from error

    async def _keep(self, order: _Order, reply: Reply, money: Reservation) -> Answer:
        order.account.reached, order.account.intercepted = True, 0
        cost = 0.0 if order.most_usd == 0.0 else cost_of(reply, partial(order.account.price, order.call.route.model))
        if cost is not None and order.most_usd and cost > order.most_usd:
            # Billed above what was asked for (thoughts beyond the cap, a picture's tokens): from now on that much more is put aside.
            self._shared.above_usd[order.model] = max(self._shared.above_usd.get(order.model, 0.0), ABOVE_MARGIN * (cost - order.most_usd))
        # Without a usage report the most it can have cost is what counts against the ceiling.
        kept = await self._store.put(order.key, request=order.request, reply=reply, cost_usd=cost, also=self._ledger.settle(money, cost))
        return self._bought(order, kept, from_store=kept.reply is not reply)

    def _bought(self, order: _Order, kept: StoredReply, *, from_store: bool) -> Answer:
        self._last_success = anyio.current_time()
        self._retries_since_success = 0
        # Another run may have been quicker: then its reply is everyone's, and this one has been paid for in vain (the ledger says so).
        self._tally(order.call, order.key, kept)
        return Answer(kept.reply, from_store=from_store, cost_usd=kept.cost_usd, key=order.key)

    def _tally(self, call: Call, key: str, kept: StoredReply) -> None:
        reply, cost_usd = kept
        self._calls[call.purpose] += 1
        tier = priced_tier(reply)
        self._served_tiers[tier] += 1
        if reply.usage is not None and cost_usd is not None:
            self._count_savings(call, key, reply.usage, cost_usd, tier)
        if cost_usd is None:
            self._unpriced.add(call.purpose)
            self._counts["unread_usage"] += reply.usage is None
        if reply.usage is not None:
            self._usage[call.purpose] += reply.usage

    def _count_savings(self, call: Call, key: str, usage: Usage, cost_usd: float, tier: str) -> None:
        # Several dialogues may share a beginning, which is bought once.
        cached = usage.cached_input_tokens or usage.cache_write_tokens
        if key in self._saved_on or (tier == "standard" and not cached):
            return
        self._saved_on.add(key)
        usual = find_price(self._profile_of(call.route), call.route.model)
        if usual is not None:
            usual_usd = usual.cost_usd(usage)
            by_tier, before = 0.0 if tier == "standard" else usual_usd - cost_usd, self._savings[call.purpose]
            by_caches = usual.cost_usd(replace(usage, cached_input_tokens=0, cache_write_tokens=0)) - usual_usd
            self._savings[call.purpose] = Savings(before.tiers_usd + by_tier, before.caches_usd + by_caches)


@dataclass(frozen=True, slots=True)
class Singly:
    """Asks the gateway for what somebody waits for: never in a batch."""

    gateway: Gateway

    async def ask(self, call: Call) -> Answer:
        """See ``Gateway.ask``."""
        return await self.gateway.ask(call, singly=True)


def _fitted(message: Message, receiver: Purpose, rules: ImageRules) -> Message:
    if not message.images:
        return message
    return replace(message, parts=tuple(fitted(part, receiver, rules) if isinstance(part, Image) else part for part in message.parts))


def _teach(slot: Slot, error: TransientError) -> None:
    if error.unbelievable_wait is not None:
        slot.disbelieve("Retry-After", f"the wait asked for ({error.unbelievable_wait})")
    if isinstance(error, RateLimitedError):
        slot.rate_limited(error.retry_after_seconds)
    elif isinstance(error, ServerError) and error.status in OVERLOADED_STATUSES:
        slot.overloaded()
