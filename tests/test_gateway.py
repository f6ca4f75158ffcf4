"""The one door, with a scripted vendor behind it and a real store, on a virtual clock."""

from __future__ import annotations

import io
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import PIL.Image
import pytest
import trio.testing

from safemt_api.adapters.base import Adapter, QuotaHint, Received, Timeouts
from safemt_api.dataset import images
from safemt_api.dataset.images import SourceImage, open_source
from safemt_api.errors import (
    AccountError,
    BudgetExhaustedError,
    ConnectionFailedError,
    DialogueError,
    EndpointError,
    InterceptedError,
    NoCapacityError,
    PictureTooLargeError,
    RateLimitedError,
    RetriesExhaustedError,
    ServerError,
    StalledError,
    UsageError,
)
from safemt_api.gateway import INTERCEPTED_IN_A_ROW, Account, Gateway
from safemt_api.limits.budget import Ledger
from safemt_api.limits.fleet import Endpoint, Fleet
from safemt_api.limits.limiter import Limiter
from safemt_api.limits.retry import RetryPolicy
from safemt_api.messages import Call, Image, Outcome, Parameters, Purpose, Reply, Route, ServiceTier, Usage, user
from safemt_api.prices import FREE, Price, find_price
from safemt_api.profiles import ImageRules, Limits, ModelFacts, ModelPrice, Profile, TierFacts
from safemt_api.store.records import sendable_reply
from safemt_api.store.turns import STORE_FILE, StoredReply, TurnStore, open_store

SOURCE: dict[str, Any] = {"source": "test", "checked": date(2026, 11, 21)}
USAGE = Usage(input_tokens=1000, output_tokens=500)
COST = 1000 * 1.0 / 1e6 + 500 * 4.0 / 1e6
GOOD = Reply(Outcome.ANSWERED, "words", usage=USAGE)
REFUSED = ConnectionFailedError("connection refused", connected=False, maybe_billed=False)
RESET = ConnectionFailedError("reset half-way", connected=True, maybe_billed=True)

Played = Reply | BaseException | float


@dataclass
class FakeVendor:
    """Plays a list, the last one over and over: a reply, a failure, or seconds to work before ``GOOD``."""

    played: Sequence[Played]
    seconds: float = 0.0
    hints: tuple[QuotaHint, ...] = ()
    calls: list[Call] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    async def send(self, call: Call) -> Received:
        self.calls.append(call)
        self.times.append(anyio.current_time())
        one = self.played[min(len(self.calls), len(self.played)) - 1]
        await anyio.sleep(one if isinstance(one, float) else self.seconds)
        if isinstance(one, BaseException):
            raise one
        return Received(GOOD if isinstance(one, float) else one, self.hints)


def profile(price: ModelPrice | None = None, *, local: bool = False) -> Profile:
    own = ImageRules(token_rule="fixed", tokens_per_image=5000, **SOURCE)
    priced = price or (None if local else ModelPrice(input_usd_per_mtok=1.0, output_usd_per_mtok=4.0, **SOURCE))
    models = (
        ModelFacts(match="unpriced", **SOURCE),
        ModelFacts(match="looks-closely", images=own, price=priced, **SOURCE),
        ModelFacts(match="sees-small-png", images=ImageRules(media_types=("image/png",), max_side_pixels=30, **SOURCE), **SOURCE),
        ModelFacts(match="*", max_output_tokens=1000, price=priced, **SOURCE),
    )
    usual = ImageRules(token_rule="fixed", tokens_per_image=10, **SOURCE)
    flex = TierFacts(price_factor=0.5, models=("m",), **SOURCE)
    named: dict[str, Any] = {"name": "vendor", "title": "Vendor", "wire_format": "openai_chat"}
    return Profile(**named, images=usual, limits=Limits(**SOURCE), models=models, flex=flex, **SOURCE)


def call(text: str = "hello", *, model: str = "m", purpose: Purpose = "target", **changes: Any) -> Call:
    route = Route("vendor", "openai_chat", ("http://127.0.0.1:1",), model)
    return replace(Call(route, (user(text),), purpose=purpose, parameters=Parameters(max_output_tokens=1000)), **changes)


@dataclass
class House:
    """A gateway with all that stands behind it."""

    gateway: Gateway
    store: TurnStore
    ledger: Ledger
    accounts: list[Account]

    def states(self) -> list[str]:
        query = "SELECT state FROM charges ORDER BY id"
        return [state for (state,) in self.store.read(lambda connection: connection.execute(query).fetchall())]


Opener = Callable[..., Any]


@pytest.fixture
def house(tmp_path: Path) -> Opener:
    """``async with house(vendor, …) as built:`` a gateway over a real store."""

    @asynccontextmanager
    async def build(
        *vendors: FakeVendor,
        max_usd: float | None = None,
        concurrency: int = 32,
        timeouts: Timeouts | None = None,
        policy: RetryPolicy | None = None,
        price_of: Callable[[str, str], Price | None] | None = None,
        run: str = "run",
        tiers: tuple[ServiceTier, ...] = ("standard",),
    ) -> AsyncIterator[House]:
        accounts: list[Account] = []

        def open_account(route: Route) -> Account:
            endpoints: list[Endpoint[Adapter]] = [Endpoint(f"http://127.0.0.1:{n}", vendor) for n, vendor in enumerate(vendors)]
            facts = profile()
            prices = price_of or partial(find_price, facts)
            accounts.append(Account(facts, Fleet(endpoints), Limiter(concurrency=concurrency), prices))
            return accounts[-1]

        async with open_store(tmp_path / STORE_FILE) as store:
            money = Ledger(store, run=run, ceiling_usd=max_usd)
            gateway = Gateway(
                store=store,
                ledger=money,
                open_account=open_account,
                profile_of=lambda _route: profile(),
                timeouts=timeouts or Timeouts(),
                retry_policy=policy or RetryPolicy(),
                tiers=tiers,
            )
            yield House(gateway, store, money, accounts)

    return build


@pytest.fixture
def anyio_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, Any]]]:
    """A virtual clock. The store's commits run on the loop, because the clock takes a loop that waits for a thread for an idle one."""

    async def inline(work: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return work(*args)

    monkeypatch.setattr(anyio.to_thread, "run_sync", inline)
    return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})  # type: ignore[return-value] # a plain value serves as well


async def together(*asked: Awaitable[Any]) -> list[Any]:
    """Awaits all at once; failures come back as values."""
    results: list[Any] = [None] * len(asked)

    async def one(index: int, waiting: Awaitable[Any]) -> None:
        try:
            results[index] = await waiting
        except Exception as error:  # noqa: BLE001 (handed to the test as a value)
            results[index] = error

    async with anyio.create_task_group() as group:
        for index, waiting in enumerate(asked):
            group.start_soon(one, index, waiting)
    return results


async def test_a_reply_is_on_disk_before_it_is_handed_out_and_is_never_bought_twice(house: Opener) -> None:
    vendor = FakeVendor([GOOD])
    async with house(vendor) as built:
        first = await built.gateway.ask(call())
        second = await built.gateway.ask(call())
        other = await built.gateway.ask(call("other words"))
    assert (first.from_store, second.from_store, other.from_store) == (False, True, False)
    assert first.reply == second.reply == GOOD
    assert first.cost_usd == second.cost_usd == pytest.approx(COST)
    assert len(vendor.calls) == 2


async def test_a_later_gateway_finds_the_replies_of_an_earlier_one_whoever_asks(house: Opener) -> None:
    async with house(FakeVendor([GOOD])) as built:
        await built.gateway.ask(call())
    silent = FakeVendor([RuntimeError("must not be called")])
    async with house(silent, run="another") as built:
        assert (await built.gateway.ask(call(purpose="judge"))).from_store
        statistics = built.gateway.statistics()
        assert built.ledger.committed_usd() == 0.0
    assert (statistics.sent, statistics.from_store, silent.calls) == (0, 1, [])
    assert statistics.usage["judge"] == USAGE


async def test_a_damaged_reply_is_asked_for_again_within_the_ceiling(house: Opener) -> None:
    async with house(FakeVendor([GOOD]), max_usd=0.1) as built:
        await built.gateway.ask(call())
        await built.store.write(lambda connection: connection.execute("UPDATE replies SET reply = replace(reply, 'a', 'b')"))
        again = await built.gateway.ask(call())
        assert (again.reply, again.from_store) == (GOOD, False)
        assert built.gateway.statistics().damaged == 1
        assert (await built.gateway.ask(call())).from_store
        assert built.ledger.committed_usd() == pytest.approx(2 * COST)


async def test_of_two_runs_that_want_the_same_call_the_slower_one_goes_on_with_the_reply_of_the_quicker(house: Opener) -> None:
    other = replace(GOOD, text="the slower reply")
    async with house(FakeVendor([GOOD], seconds=1.0), run="quick") as quick, house(FakeVendor([other], seconds=2.0), run="slow") as slow:
        first, second = await together(quick.gateway.ask(call()), slow.gateway.ask(call()))
        assert (first.reply, first.from_store) == (replace(GOOD, waited_seconds=1.0), False)
        assert (second.reply, second.from_store) == (first.reply, True)
        assert quick.ledger.spent_usd()["target"] == slow.ledger.spent_usd()["target"] == pytest.approx(COST)
        assert quick.states() == ["settled", "settled"]


async def test_calls_alike_are_bought_once_even_where_looking_into_the_store_takes_a_while(
    house: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor, look = FakeVendor([GOOD], seconds=5.0), TurnStore.get

    async def slow_look(store: TurnStore, key: str) -> StoredReply | None:
        await anyio.sleep(1.0)
        return await look(store, key)

    monkeypatch.setattr(TurnStore, "get", slow_look)
    async with house(vendor) as built:
        answers = await together(*(built.gateway.ask(call()) for _ in range(3)))
    assert [answer.reply.text for answer in answers] == ["words"] * 3
    assert len(vendor.calls) == 1


async def test_identical_calls_at_the_same_time_are_bought_once(house: Opener) -> None:
    vendor = FakeVendor([GOOD], seconds=5.0)
    async with house(vendor) as built:
        answers = await together(*(built.gateway.ask(call()) for _ in range(10)))
    assert len(vendor.calls) == 1
    assert sorted(answer.from_store for answer in answers) == [False] + [True] * 9


async def test_when_the_first_of_identical_calls_fails_the_next_one_tries(house: Opener) -> None:
    vendor = FakeVendor([DialogueError("bad luck"), GOOD], seconds=1.0)
    async with house(vendor) as built:
        answers = await together(*(built.gateway.ask(call()) for _ in range(3)))
    assert len(vendor.calls) == 2
    assert sum(isinstance(answer, DialogueError) for answer in answers) == 1


async def test_transient_failures_are_tried_again_and_counted(house: Opener) -> None:
    vendor = FakeVendor([ServerError("503", status=503), RateLimitedError("slow", status=429), RESET, GOOD])
    async with house(vendor) as built:
        answer = await built.gateway.ask(call())
        statistics = built.gateway.statistics()
    assert (answer.reply.text, answer.reply.attempts) == (GOOD.text, 4)
    assert answer.reply.waited_seconds > 0
    assert (statistics.sent, statistics.retried, statistics.rate_limited, statistics.in_flight) == (4, 3, 1, 0)
    assert statistics.calls == {"target": 1}


async def test_a_sleeping_retry_holds_no_place(house: Opener) -> None:
    vendor = FakeVendor([ServerError("busy", status=503), 1.0])
    async with house(vendor, concurrency=1, policy=RetryPolicy(first_wait_seconds=300.0, longest_wait_seconds=300.0)) as built:
        start = anyio.current_time()
        done: dict[str, float] = {}

        async def ask(text: str) -> None:
            await built.gateway.ask(call(text))
            done[text] = anyio.current_time() - start

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "first")
            await anyio.sleep(0.5)
            group.start_soon(ask, "second")
    assert done["second"] < 60 < done["first"]


@pytest.mark.parametrize("error", [AccountError("no credit"), EndpointError("no such path"), DialogueError("too long")])
async def test_permanent_errors_are_not_tried_again(house: Opener, error: Exception) -> None:
    vendor = FakeVendor([error])
    async with house(vendor) as built:
        with pytest.raises(type(error)) as caught:
            await built.gateway.ask(call())
    assert caught.value is error
    assert len(vendor.calls) == 1


async def test_failures_for_good_become_the_dialogues_error(house: Opener) -> None:
    vendor = FakeVendor([ServerError("boom", status=500)])
    async with house(vendor) as built:
        with pytest.raises(RetriesExhaustedError, match="after 3 attempts"):
            await built.gateway.ask(call())
        assert built.gateway.statistics().in_flight == 0


async def test_a_dead_server_is_told_within_seconds(house: Opener) -> None:
    vendor = FakeVendor([REFUSED])
    async with house(vendor) as built:
        start = anyio.current_time()
        with pytest.raises(EndpointError, match=r"nothing answers at http://127.0.0.1:0 \(connection refused\); check the address"):
            await built.gateway.ask(call())
        assert anyio.current_time() - start < 10
        with anyio.fail_after(15):
            answers = await together(*(built.gateway.ask(call(str(number))) for number in range(20)))
    assert all(isinstance(answer, EndpointError) for answer in answers)


async def test_a_server_that_was_reached_before_may_be_away_for_minutes(house: Opener) -> None:
    vendor = FakeVendor([GOOD, *[REFUSED] * 8, GOOD])
    async with house(vendor) as built:
        await built.gateway.ask(call("first"))
        start = anyio.current_time()
        reply = (await built.gateway.ask(call("second"))).reply
        assert (reply.text, reply.attempts) == (GOOD.text, 9)
        assert 60 < reply.waited_seconds <= anyio.current_time() - start + 0.001


async def test_one_dead_address_among_several_ends_nothing_while_the_other_still_works(house: Opener) -> None:
    dead, slow = FakeVendor([REFUSED]), FakeVendor([20.0])
    async with house(dead, slow) as built:
        answers = await together(*(built.gateway.ask(call(str(number))) for number in range(16)))
    assert [answer.reply.text for answer in answers] == [GOOD.text] * 16
    assert len(dead.calls) < 16


async def ask_under_watch(built: House, *texts: str) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(built.gateway.watch_stall, 600.0)
        for text in texts:
            await built.gateway.ask(call(text))


async def test_a_stall_ends_the_run_with_the_last_failure(house: Opener) -> None:
    vendor = FakeVendor([GOOD, RateLimitedError("slow down, says the vendor", status=429)])
    async with house(vendor, policy=RetryPolicy(elapsed_seconds=1e5, patient_attempts=10**5)) as built:
        start = anyio.current_time()
        with pytest.raises(BaseExceptionGroup) as caught:
            await ask_under_watch(built, "first", "second")
        assert 600 <= anyio.current_time() - start < 620
    assert caught.group_contains(StalledError, match="no call has succeeded for 60. s.*slow down, says the vendor.*resumed")


async def test_waiting_for_a_slot_is_a_stall_too(house: Opener) -> None:
    async with house(FakeVendor([GOOD])) as built, anyio.create_task_group() as group:
        await built.gateway.ask(call())
        built.accounts[0].limiter._blocked_until = anyio.current_time() + 86_400.0
        group.start_soon(built.gateway.ask, call("again"))
        with pytest.raises(StalledError, match="wait for the pace"):
            await built.gateway.watch_stall(600.0)
        group.cancel_scope.cancel()


async def test_slow_calls_that_succeed_are_no_stall(house: Opener) -> None:
    vendor = FakeVendor([500.0])
    async with house(vendor) as built, anyio.create_task_group() as group:
        group.start_soon(built.gateway.watch_stall, 600.0)
        for number in range(3):
            await built.gateway.ask(call(str(number)))
        await anyio.sleep(5000)
        group.cancel_scope.cancel()


async def test_a_call_beyond_the_total_deadline_is_cut_and_counts_as_maybe_billed(house: Opener) -> None:
    vendor = FakeVendor([1e6, GOOD])
    async with house(vendor, max_usd=1.0, timeouts=Timeouts(total_seconds=60.0)) as built:
        assert (await built.gateway.ask(call())).reply.text == GOOD.text
        assert built.states() == ["kept", "settled"]
    assert 60 <= vendor.times[1] - vendor.times[0] < 70


async def test_the_deadline_is_named_when_the_tries_are_used_up(house: Opener) -> None:
    vendor = FakeVendor([1e6])
    async with house(vendor, timeouts=Timeouts(total_seconds=60.0), policy=RetryPolicy(attempts=2)) as built:
        with pytest.raises(RetriesExhaustedError, match="gave no whole answer within 60 s") as caught:
            await built.gateway.ask(call())
    assert isinstance(caught.value.last, ConnectionFailedError)


async def test_what_is_booked_equals_the_price_of_the_usage(house: Opener) -> None:
    async with house(FakeVendor([GOOD]), max_usd=1.0) as built:
        answer = await built.gateway.ask(call())
        await built.gateway.ask(call(purpose="judge", text="other"))
        assert answer.cost_usd == pytest.approx(COST)
        assert built.ledger.spent_usd() == pytest.approx({"target": COST, "judge": COST, "moderator": 0.0})
        assert built.ledger.committed_usd() == pytest.approx(2 * COST)
        assert built.states() == ["settled", "settled"]


async def test_the_vendors_own_figure_goes_before_ours_also_where_no_price_is_known(house: Opener) -> None:
    vendor = FakeVendor([replace(GOOD, cost_usd=0.125)])
    async with house(vendor) as built:
        assert (await built.gateway.ask(call())).cost_usd == 0.125
        assert (await built.gateway.ask(call(model="unpriced"))).cost_usd == 0.125
        assert built.ledger.spent_usd()["target"] == pytest.approx(0.25)
        assert built.gateway.statistics().unpriced == frozenset()


async def test_without_a_usage_report_the_whole_reservation_is_booked(house: Opener) -> None:
    async with house(FakeVendor([replace(GOOD, usage=None)]), max_usd=1.0) as built:
        answer = await built.gateway.ask(call())
        assert answer.cost_usd is None
        assert built.ledger.committed_usd() > COST
        assert built.gateway.statistics().unpriced == {"target"}


async def test_a_blocked_question_without_usage_costs_nothing(house: Opener) -> None:
    async with house(FakeVendor([Reply(Outcome.BLOCKED_INPUT)]), max_usd=1.0) as built:
        assert (await built.gateway.ask(call())).cost_usd == 0.0
        assert built.ledger.committed_usd() == pytest.approx(0.0)


async def test_replies_of_unreadable_usage_are_counted_and_hold_the_ceiling(house: Opener) -> None:
    async with house(FakeVendor([replace(GOOD, usage=None)]), max_usd=0.05) as built:
        answers = await together(*(built.gateway.ask(call(str(number))) for number in range(30)))
        bought = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert 0 < len(bought) < 30
        assert all(isinstance(answer, BudgetExhaustedError) for answer in answers if answer not in bought)
        assert built.gateway.statistics().unread_usage == len(bought)
        assert 0.04 < built.ledger.committed_usd() <= 0.05 + 1e-9
        assert (await built.gateway.ask(call(str(answers.index(bought[0]))))).from_store
        assert built.gateway.statistics().unread_usage == len(bought) + 1
    async with house(FakeVendor([GOOD]), run="other") as built:
        await built.gateway.ask(call("read"))
        assert built.gateway.statistics().unread_usage == 0


STRANGER = InterceptedError("something before vendor refuses the request (HTTP 403, and no error of a model API)", status=403)


async def test_a_firewall_that_lets_nothing_through_ends_the_run_in_one_sentence(house: Opener) -> None:
    vendor = FakeVendor([GOOD, *[STRANGER] * 200])
    async with house(vendor, concurrency=1) as built:
        answers = [*await together(built.gateway.ask(call("first")))]
        for number in range(INTERCEPTED_IN_A_ROW):
            answers += await together(built.gateway.ask(call(str(number))))
    assert [type(answer) for answer in answers[1:]] == [InterceptedError] * (INTERCEPTED_IN_A_ROW - 1) + [EndpointError]
    assert f"so were {INTERCEPTED_IN_A_ROW} requests in a row: check --base-url, the network's proxy or firewall" in str(answers[-1])
    assert len(vendor.calls) == INTERCEPTED_IN_A_ROW + 1


async def test_a_firewall_that_stops_single_prompts_ends_only_their_dialogues(house: Opener) -> None:
    vendor = FakeVendor([*[STRANGER] * (INTERCEPTED_IN_A_ROW - 1), GOOD] * 5)
    async with house(vendor, max_usd=1.0, concurrency=1) as built:
        answers = [(await together(built.gateway.ask(call(str(number)))))[0] for number in range(5 * INTERCEPTED_IN_A_ROW)]
        assert set(built.states()) == {"released", "settled"}
    assert sum(isinstance(answer, InterceptedError) for answer in answers) == 5 * (INTERCEPTED_IN_A_ROW - 1)
    assert not any(isinstance(answer, EndpointError) for answer in answers)


async def test_an_unknown_price_is_unknown_and_never_free(house: Opener) -> None:
    async with house(FakeVendor([GOOD])) as built:
        assert (await built.gateway.ask(call(model="unpriced"))).cost_usd is None
        assert built.gateway.statistics().unpriced == {"target"}
    async with house(FakeVendor([GOOD]), max_usd=1.0) as built:
        with pytest.raises(UsageError, match="no price is known for unpriced"):
            await built.gateway.ask(call("other", model="unpriced"))


async def test_a_free_server_may_be_used_under_a_ceiling_of_zero(house: Opener) -> None:
    async with house(FakeVendor([GOOD]), max_usd=0.0, price_of=lambda *_: FREE) as built:
        assert (await built.gateway.ask(call())).cost_usd == 0.0


@pytest.mark.parametrize(
    ("error", "states"),
    [
        (RESET, ["kept", "settled"]),
        (ServerError("503", status=503), ["released", "settled"]),
        (RateLimitedError("slow", status=429), ["released", "settled"]),
        (ServerError("half", status=200, maybe_billed=True), ["kept", "settled"]),
    ],
)
async def test_a_failure_keeps_its_reservation_only_if_it_may_have_been_billed(house: Opener, error: Exception, states: list[str]) -> None:
    async with house(FakeVendor([error, GOOD]), max_usd=1.0) as built:
        await built.gateway.ask(call())
        assert built.states() == states


async def test_a_refused_account_frees_its_reservations(house: Opener) -> None:
    async with house(FakeVendor([AccountError("bad key")]), max_usd=1.0) as built:
        with pytest.raises(AccountError):
            await built.gateway.ask(call())
        assert built.states() == ["released"]
        assert built.ledger.committed_usd() == pytest.approx(0.0)


async def test_a_call_cut_off_while_the_vendor_works_stays_booked(house: Opener) -> None:
    async with house(FakeVendor([1e6]), max_usd=1.0) as built:
        with anyio.move_on_after(5):
            await built.gateway.ask(call())
        assert built.states() == ["reserved"]
        assert built.ledger.committed_usd() > COST
        assert built.gateway.statistics().in_flight == 0


async def test_a_call_cut_off_while_it_waits_for_its_turn_costs_nothing(house: Opener) -> None:
    async with house(FakeVendor([1e6]), max_usd=1.0, concurrency=1) as built:
        with anyio.move_on_after(5):
            await together(built.gateway.ask(call("sent")), built.gateway.ask(call("waiting")))
        assert sorted(built.states()) == ["released", "reserved"]


async def test_a_call_cut_off_without_a_ceiling_may_have_been_billed_and_counts_once_there_is_one(house: Opener) -> None:
    async with house(FakeVendor([1e6])) as built:
        with anyio.move_on_after(5):
            await built.gateway.ask(call())
        maybe = built.ledger.maybe_usd()
        assert maybe > 1000 * 4.0 / 1e6
        assert sum(built.ledger.spent_usd().values()) == 0.0
    async with house(FakeVendor([GOOD]), max_usd=maybe) as again:
        assert again.ledger.committed_usd() == pytest.approx(maybe)
        with pytest.raises(BudgetExhaustedError):
            await again.gateway.ask(call())


async def test_a_call_cut_off_before_it_was_sent_may_not_have_been_billed(house: Opener) -> None:
    async with house(FakeVendor([1e6]), concurrency=1) as built:
        with anyio.move_on_after(5):
            await together(built.gateway.ask(call("sent")), built.gateway.ask(call("waiting")))
        assert built.states() == ["kept"]


async def test_usage_above_the_reservation_raises_the_next_ones(house: Opener) -> None:
    dear = replace(GOOD, usage=Usage(input_tokens=10, output_tokens=50_000, reasoning_tokens=49_000))
    async with house(FakeVendor([dear]), max_usd=1.0) as built:
        for number in range(4):
            await built.gateway.ask(call(str(number)))
        with pytest.raises(BudgetExhaustedError):
            await built.gateway.ask(call("4"))
        assert built.ledger.committed_usd() <= 1.0
        assert built.gateway.statistics().above_reservation_usd["vendor:m"] == pytest.approx(1.25 * (0.2 - 0.004), rel=0.01)


async def test_a_cancelled_call_can_be_asked_again(house: Opener) -> None:
    async with house(FakeVendor([1e6, GOOD])) as built:
        with anyio.move_on_after(5):
            await built.gateway.ask(call())
        assert (await built.gateway.ask(call())).reply == GOOD


async def test_the_ceiling_is_never_passed_whatever_comes_back(house: Opener) -> None:
    vendor = FakeVendor([GOOD, RESET, GOOD, ServerError("503", status=503), replace(GOOD, usage=None)] * 40, seconds=1.0)
    async with house(vendor, max_usd=0.05, policy=RetryPolicy(attempts=3)) as built:
        answers = await together(*(built.gateway.ask(call(str(number))) for number in range(60)))
        assert built.ledger.committed_usd() <= 0.05 + 1e-9
        assert built.ledger.committed_usd() > 0.05 - 2 * 0.0045
    assert any(isinstance(answer, BudgetExhaustedError) for answer in answers)


async def test_pictures_count_by_the_models_own_rule(house: Opener) -> None:
    image = Image(b"x", digest="sha256:1", media_type="image/png", width_pixels=8, height_pixels=8)
    committed = []
    for model in ("m", "looks-closely"):
        async with house(FakeVendor([1e6]), max_usd=1.0, run=model) as built:
            with anyio.move_on_after(1):
                await built.gateway.ask(call(model=model, messages=(user("hello", image),)))
            committed.append(built.ledger.committed_usd())
    assert committed[1] - committed[0] == pytest.approx((5000 - 10) * 1.0 / 1e6)


def gif(folder: Path) -> SourceImage:
    target = io.BytesIO()
    PIL.Image.linear_gradient("L").resize((60, 40)).save(target, "GIF")
    (folder / "a.gif").write_bytes(target.getvalue())
    return open_source(folder, "a.gif")


async def test_each_receiver_gets_the_picture_by_its_own_rules_and_the_change_is_told(house: Opener, tmp_path: Path) -> None:
    source = gif(tmp_path)
    vendor = FakeVendor([GOOD])
    async with house(vendor) as built:
        await built.gateway.ask(call(messages=(user("hello", source),)))
        await built.gateway.ask(call(model="sees-small-png", purpose="judge", messages=(user("hello", source),)))
    sent, judged = (one.messages[0].images[0] for one in vendor.calls)
    assert (sent.digest, sent.media_type, sent.data) == (source.digest, "image/gif", source.data)
    assert (judged.media_type, PIL.Image.open(io.BytesIO(judged.data)).size) == ("image/png", (30, 20))
    assert source.digest_given == source.digest
    assert source.note is not None
    assert source.note.startswith("for the judge: picture shrunk from 60x40 to 30x20, image/gif → image/png")


async def test_a_stored_reply_costs_no_decoding(house: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = call(model="sees-small-png", messages=(user("hello", gif(tmp_path)),))
    async with house(FakeVendor([GOOD])) as built:
        await built.gateway.ask(asked)
        monkeypatch.setattr(images, "render", lambda *_: pytest.fail("decoded"))
        again = await built.gateway.ask(replace(asked, messages=(user("hello", gif(tmp_path)),)))
    assert again.from_store


async def test_a_size_that_the_vendor_names_is_taken_at_its_word_once_and_for_the_rest_of_the_run(house: Opener, tmp_path: Path) -> None:
    too_large = PictureTooLargeError("too large", max_side_pixels=30)
    vendor = FakeVendor([too_large, GOOD])
    async with house(vendor) as built:
        source = gif(tmp_path)
        await built.gateway.ask(call(messages=(user("hello", source),)))
        await built.gateway.ask(call("other", messages=(user("other", gif(tmp_path)),)))
    assert [one.messages[0].images[0].width_pixels for one in vendor.calls] == [60, 30, 30]
    assert source.note == "picture shrunk from 60x40 to 30x20, image/gif → image/png: a side over 30 pixels"
    stubborn = FakeVendor([too_large])
    async with house(stubborn, run="another") as built:
        with pytest.raises(PictureTooLargeError):
            await built.gateway.ask(call("third", messages=(user("third", gif(tmp_path)),)))
    assert len(stubborn.calls) == 2


@dataclass
class HeavyVendor(FakeVendor):
    """Fails with its request still at hand, as adapters do; tells which requests are still held by somebody."""

    held: list[weakref.ref[Body]] = field(default_factory=list)

    async def send(self, call: Call) -> Received:
        body = Body()
        self.held.append(weakref.ref(body))
        try:
            body.fail()
        except ValueError as error:
            raise ServerError("overloaded", status=503) from error
        return await super().send(call)


class Body:
    """Stands for the text of a request."""

    def fail(self) -> None:
        raise ValueError


async def test_a_call_that_waits_for_its_next_try_does_not_hold_the_request_of_the_last(house: Opener) -> None:
    vendor = HeavyVendor([GOOD])
    async with house(vendor, policy=RetryPolicy(attempts=3)) as built, anyio.create_task_group() as group:
        group.start_soon(together, built.gateway.ask(call()))
        await anyio.sleep(0.001)
        assert len(vendor.held) == 1
        assert vendor.held[0]() is None
        group.cancel_scope.cancel()


async def test_headers_teach_the_accounts_limiter_and_purposes_share_it(house: Opener) -> None:
    vendor = FakeVendor([GOOD], hints=(QuotaHint("requests", limit=60),))
    async with house(vendor) as built:
        await built.gateway.ask(call())
        await built.gateway.ask(call("other", purpose="judge"))
        assert len(built.accounts) == 1
        assert built.gateway.statistics().limiters["vendor http://127.0.0.1:1"].requests_per_minute == pytest.approx(60, rel=0.02)


ODD = "half \ud83d of a pair, and a whole one in two halves: \ud83d\ude00"


async def test_half_a_character_is_replaced_before_the_reply_is_stored_and_used(house: Opener) -> None:
    odd = Reply(Outcome.REFUSED, ODD, ODD, ODD, ODD, USAGE, request_id=ODD, raw=ODD)
    async with house(FakeVendor([odd])) as built:
        bought = await built.gateway.ask(call())
        stored = await built.gateway.ask(call())
    assert bought.reply == stored.reply
    assert bought.reply.text == "half \ufffd of a pair, and a whole one in two halves: \U0001f600"
    assert bought.reply.raw == bought.reply.detail == bought.reply.text
    assert bought.reply.outcome is Outcome.REFUSED


def test_a_reply_without_odd_text_is_left_as_it_is() -> None:
    assert sendable_reply(GOOD) is GOOD


NO_ROOM = NoCapacityError("no room in the flex tier", status=429)
FLEX = replace(GOOD, served_tier="flex")


async def test_a_flex_call_costs_what_the_tier_costs_that_served_it(house: Opener) -> None:
    async with house(FakeVendor([FLEX, replace(GOOD, served_tier="default"), GOOD]), max_usd=1.0, tiers=("flex",)) as built:
        costs = [(await built.gateway.ask(call(str(number)))).cost_usd for number in range(3)]
        statistics = built.gateway.statistics()
        assert built.ledger.committed_usd() == pytest.approx(2.5 * COST)
    # A vendor that does not tell may have served it in any tier: then the usual price holds.
    assert costs == pytest.approx([COST / 2, COST, COST])
    assert statistics.tiers == {"flex": 1, "standard": 2}
    assert statistics.saved_usd == pytest.approx(COST / 2)


async def test_a_tier_without_room_is_waited_for_and_says_nothing_of_the_pace_nor_of_the_call(house: Opener) -> None:
    vendor = FakeVendor([*[NO_ROOM] * 100, FLEX])
    async with house(vendor, max_usd=1.0, policy=RetryPolicy(attempts=2, patient_attempts=2), tiers=("flex",)) as built:
        answer = await built.gateway.ask(call())
        statistics = built.gateway.statistics()
        assert set(built.states()) == {"released", "settled"}
    assert answer.reply.served_tier == "flex"
    assert (statistics.without_room, statistics.rate_limited) == (100, 0)
    assert [one.service_tier for one in vendor.calls] == ["flex"] * 101
    assert vendor.times[-1] - vendor.times[0] > 3600
    (account,) = built.accounts
    assert account.limiter.history == []


async def test_a_call_that_has_lacked_room_for_too_long_is_asked_at_the_usual_price(house: Opener) -> None:
    class Full(FakeVendor):
        async def send(self, call: Call) -> Received:
            received = await super().send(call)
            if call.service_tier == "flex":
                raise NO_ROOM
            return received

    vendor = Full([GOOD])
    async with house(vendor, max_usd=1.0, tiers=("flex", "standard")) as built, anyio.create_task_group() as group:
        # Nothing succeeds for as long as that, and no stall is it.
        group.start_soon(built.gateway.watch_stall, 600.0)
        answer = await built.gateway.ask(call())
        group.cancel_scope.cancel()
    assert answer.cost_usd == pytest.approx(COST)
    *flex, last = (one.service_tier for one in vendor.calls)
    assert (set(flex), last) == ({"flex"}, "standard")
    assert 600 <= vendor.times[-1] - vendor.times[0] < 700


async def test_a_model_without_the_tier_is_asked_as_usual_and_the_tier_is_not_in_the_key(house: Opener) -> None:
    vendor = FakeVendor([FLEX])
    async with house(vendor, tiers=("flex", "standard")) as built:
        await built.gateway.ask(call(model="looks-closely"))
        await built.gateway.ask(call())
    assert [one.service_tier for one in vendor.calls] == ["standard", "flex"]
    async with house(FakeVendor([RuntimeError("must not be called")]), run="another") as built:
        again = await built.gateway.ask(call())
        assert (again.from_store, again.reply.served_tier, again.cost_usd) == (True, "flex", pytest.approx(COST / 2))
        assert built.gateway.statistics().saved_usd == pytest.approx(COST / 2)


async def test_a_flex_call_has_a_quarter_of_an_hour(house: Opener) -> None:
    async with house(FakeVendor([800.0]), tiers=("flex",)) as built:
        assert (await built.gateway.ask(call())).reply.waited_seconds == 800.0
    late = FakeVendor([1000.0, GOOD])
    async with house(late, run="late", tiers=("flex",)) as built:
        await built.gateway.ask(call("late"))
    assert late.times[1] - late.times[0] == pytest.approx(900.0, abs=2.0)
