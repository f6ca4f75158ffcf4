"""The shared account: never more than the limit in any window whoever asks and dies, shares follow demand, and nobody starves."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.limits.lease import AHEAD_SECONDS, FORGOTTEN_SECONDS, HELD_SECONDS, MEMBER_SECONDS, Account, Ask, Change, fair_parts
from safemt_api.limits.together import Tickets

CLOCKS = (0.0, -1000.0, 3600.0, 1e7)
"""What each process's own clock says when the account's says 0."""


class Sent(NamedTuple):
    """A call that went out: when (on the account's clock), and how many tokens it really took."""

    time: float
    tokens: float


class Process:
    """One that asks and sends when it is told to."""

    def __init__(self, account: Account, number: int) -> None:
        self.account, self.number, self.generation = account, number, 0
        self.sent: list[Sent] = []
        self.die()

    def die(self) -> None:
        """Begin anew; what it held or had not told yet is lost."""
        self.generation += 1
        self.tickets = Tickets()

    def own(self, now: float) -> float:
        return now + CLOCKS[self.number]

    def ask(self, now: float, sizes: list[float], **told: Any) -> None:
        ask = Ask(
            owner=f"{self.number} {self.generation}",
            sizes=self.tickets.uncovered(sizes),
            held=self.tickets.held,
            changes=self.tickets.report(self.own(now)),
            waiting=len(sizes),
            **told,
        )
        self.tickets.hear(self.own(now), self.account.exchange(now, ask))

    def send(self, now: float, tokens: float, real: float) -> bool:
        if not self.tickets.bound or self.tickets.wait_seconds(self.own(now), tokens) > 0.0:
            return False
        taken = self.tickets.take(self.own(now), tokens)
        assert taken is not None
        self.sent.append(Sent(now, real))
        if real < tokens:
            self.tickets.correct(taken, real)
        return True


STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 1.5),
        st.integers(0, len(CLOCKS) - 1),
        st.sampled_from(("ask", "ask", "send", "send", "send", "die")),
        st.integers(1, 8),
        st.sampled_from((10.0, 50.0, 300.0)),
        st.floats(0.1, 1.0),
    ),
    min_size=20,
    max_size=250,
)


@given(steps=STEPS, rpm=st.integers(1, 60), tpm=st.integers(300, 3000))
def test_whoever_asks_sends_or_dies_no_window_holds_more_than_the_limit(steps: list[Any], rpm: int, tpm: int) -> None:
    account, now = Account(), 5000.0
    processes = [Process(account, number) for number in range(len(CLOCKS))]
    limits = {"requests": (float(rpm), 60.0), "tokens": (float(tpm), 60.0)}
    for pause, number, action, calls, tokens, share in steps:
        now += pause
        process = processes[number]
        if action == "die":
            process.die()
        elif action == "ask":
            process.ask(now, [tokens] * calls, limits=limits)
        else:
            while process.send(now, tokens, tokens * share):
                pass
    sent = sorted(one for process in processes for one in process.sent)
    for first in sent:
        window = [one for one in sent if first.time <= one.time < first.time + 60.0]
        assert len(window) <= rpm
        assert sum(one.tokens for one in window) <= tpm + 1e-6


@given(wants=st.dictionaries(st.text(max_size=3), st.floats(0.0, 100.0), min_size=1, max_size=8), room=st.floats(0.0, 100.0))
def test_parts_are_fair_and_together_no_more_than_the_room(wants: dict[str, float], room: float) -> None:
    parts = fair_parts(wants, room)
    assert sum(parts.values()) <= room + 1e-6
    assert all(parts[name] <= wanted + 1e-9 for name, wanted in wants.items())
    assert sum(parts.values()) == pytest.approx(min(room, sum(wants.values())))
    lacking = [parts[name] for name, wanted in wants.items() if parts[name] < wanted - 1e-6]
    # Nobody who lacks something has less than another got, whatever that one wanted.
    assert all(part >= max(parts.values()) - 1e-6 for part in lacking)


def busy(account: Account, demand: dict[int, int], *, seconds: float, rpm: float, dead: dict[int, float] | None = None) -> list[Process]:
    """Processes that always have so many calls waiting, for so long; each asks about twice a second, and dies at its time."""
    processes = [Process(account, number) for number in demand]
    draws, now, due = random.Random(1), 5000.0, dict.fromkeys(demand, 0.0)
    while now < 5000.0 + seconds:
        now += 0.05
        for process in draws.sample(processes, len(processes)):
            if dead is not None and now - 5000.0 > dead.get(process.number, seconds):
                continue
            waiting = demand[process.number]
            if now >= due[process.number]:
                due[process.number] = now + draws.uniform(0.3, 0.9)
                process.ask(now, [10.0] * waiting, limits={"requests": (rpm, 60.0)})
            while process.send(now, 10.0, 10.0):
                pass
    return processes


@pytest.mark.parametrize("rpm", [60.0, 600.0, 6000.0])
def test_processes_that_always_want_more_get_the_same_each(rpm: float) -> None:
    processes = busy(Account(), dict.fromkeys(range(4), 200), seconds=60.0, rpm=rpm)
    sent = [len(process.sent) for process in processes]
    assert sum(sent) >= 0.95 * rpm
    assert min(sent) >= 0.75 * max(sent)


def test_a_share_that_others_do_not_want_goes_to_the_one_that_does() -> None:
    processes = busy(Account(), {0: 200, 1: 1, 2: 1}, seconds=60.0, rpm=600.0)
    sent = [len(process.sent) for process in processes]
    assert sum(sent) >= 0.95 * 600.0
    assert sent[0] > 0.5 * sum(sent)


def test_what_a_dead_process_held_is_lost_for_a_moment_only() -> None:
    processes = busy(Account(), dict.fromkeys(range(4), 200), seconds=60.0, rpm=600.0, dead={0: 20.0, 1: 20.0})
    late = [one.time for process in processes for one in process.sent if one.time > 5020.0 + AHEAD_SECONDS]
    assert len(late) >= 0.95 * (60.0 - 20.0 - AHEAD_SECONDS) * 10.0


def test_a_very_slow_quota_is_taken_in_turns() -> None:
    processes = busy(Account(), dict.fromkeys(range(4), 5), seconds=600.0, rpm=6.0)
    sent = [len(process.sent) for process in processes]
    assert sum(sent) >= 0.95 * 60
    assert min(sent) >= 10


def test_real_use_of_tokens_makes_room_for_others() -> None:
    account = Account()
    asking, other = Process(account, 0), Process(account, 1)
    limits = {"tokens": (6000.0, 60.0)}
    asking.ask(5000.0, [1000.0], limits=limits)
    assert asking.send(5000.0, 1000.0, 100.0)
    other.ask(5000.0, [100.0])
    assert other.tickets.wait_seconds(other.own(5000.0), 100.0) == float("inf")
    asking.ask(5000.5, [])
    other.ask(5000.5, [100.0])
    assert other.tickets.wait_seconds(other.own(5000.5), 100.0) < 0.6


def test_one_that_meets_a_wall_holds_all_until_it_says_otherwise_or_dies() -> None:
    account = Account()
    assert account.exchange(5000.0, Ask(owner="a", holds_seconds=1.0)).held_seconds == 0.0
    assert account.exchange(5000.1, Ask(owner="b", holds_seconds=1.0)).held_seconds == pytest.approx(HELD_SECONDS - 0.1)
    assert account.exchange(5001.0, Ask(owner="a", holds_seconds=8.0)).held_seconds == 0.0
    assert account.exchange(5001.0, Ask(owner="b")).held_seconds == pytest.approx(8.0)
    assert account.exchange(5002.0, Ask(owner="a")).held_seconds == 0.0
    assert account.exchange(5002.0, Ask(owner="b")).held_seconds == 0.0
    account.exchange(5003.0, Ask(owner="a", holds_seconds=1.0))
    assert account.exchange(5003.0 + HELD_SECONDS, Ask(owner="b")).held_seconds == 0.0


def test_a_pace_is_found_once_and_by_whoever_knows_of_the_last_one() -> None:
    account = Account()
    first = account.exchange(5000.0, Ask(owner="a")).version
    told = account.exchange(5000.0, Ask(owner="a", pace=6.5, moved=True, version=first))
    late = account.exchange(5000.2, Ask(owner="b", pace=3.0, moved=True, version=first))
    assert (told.pace, told.version) == (6.5, first + 1)
    assert (late.pace, late.version) == (6.5, first + 1)
    grown = [account.exchange(5001.0, Ask(owner=name, pace=pace, version=first + 1)).pace for name, pace in (("a", 6.6), ("b", 6.55))]
    assert grown == [6.6, 6.6]


def test_calls_at_once_are_never_more_than_the_vendor_lets_be() -> None:
    account = Account()
    draws, in_flight = random.Random(2), [0, 0, 0]
    for tick in range(400):
        one = draws.randrange(3)
        waiting = draws.randrange(0, 20)
        given = account.exchange(
            5000.0 + tick / 10.0, Ask(owner=str(one), in_flight=in_flight[one], waiting=waiting, published_at_once=10)
        ).at_once
        assert given is not None
        in_flight[one] = max(min(in_flight[one] + waiting, given), draws.randrange(0, in_flight[one] + 1))
        assert sum(in_flight) <= 10


def test_who_joins_gets_calls_at_once_from_those_who_had_them_all() -> None:
    account = Account()
    account.exchange(5000.0, Ask(owner="a", in_flight=10, waiting=20, published_at_once=10))
    assert account.exchange(5000.1, Ask(owner="b", waiting=20, published_at_once=10)).at_once == 0
    assert account.exchange(5001.0, Ask(owner="a", in_flight=5, waiting=20, published_at_once=10)).at_once == 5
    assert account.exchange(5001.1, Ask(owner="b", waiting=20, published_at_once=10)).at_once == 5


def test_the_users_word_holds_while_its_process_lives() -> None:
    account = Account()
    account.exchange(5000.0, Ask(owner="a", limits={"requests": (600.0, 60.0)}))
    account.exchange(5000.0, Ask(owner="b", own_limits={"requests": 30.0}))
    assert account.exchange(5001.0, Ask(owner="a")).limits == {"requests": (30.0, 60.0)}
    assert account.exchange(5001.0 + MEMBER_SECONDS, Ask(owner="a")).limits == {"requests": (600.0, 60.0)}


def test_a_quota_that_is_taken_back_binds_nobody() -> None:
    account = Account()
    account.exchange(5000.0, Ask(owner="a", limits={"tokens": (600.0, 60.0)}))
    assert not account.exchange(5000.0, Ask(owner="a", limits={"tokens": (0.0, 60.0)})).bound


def test_before_anyone_was_answered_all_together_go_as_slowly_as_one() -> None:
    account = Account()
    tickets = [
        ticket.at
        for name in "abcd"
        for ticket in account.exchange(5000.0, Ask(owner=name, sizes=(10.0, 10.0), waiting=2, unknown=True)).tickets
    ]
    assert sorted(tickets) == pytest.approx([5000.0 + 0.505 * number for number in range(len(tickets))], abs=0.01)
    assert not account.exchange(5000.1, Ask(owner="a")).bound


@pytest.mark.parametrize("later", [-3600.0, FORGOTTEN_SECONDS + 1.0])
def test_a_clock_that_began_anew_or_a_long_silence_begin_the_account_anew(later: float) -> None:
    account = Account()
    account.exchange(5000.0, Ask(owner="a", sizes=(10.0,) * 5, limits={"requests": (60.0, 60.0)}, pace=1.0, moved=True, version=1))
    grant = account.exchange(5000.0 + later, Ask(owner="b"))
    assert (grant.limits, grant.pace, grant.held_seconds) == ({}, None, 0.0)


def test_a_call_above_the_whole_quota_takes_a_window_and_no_more() -> None:
    process = Process(Account(), 0)
    process.ask(5000.0, [9000.0, 10.0], limits={"tokens": (3000.0, 60.0)})
    assert process.send(5000.0, 9000.0, 9000.0)
    process.ask(5058.0, [10.0])
    process.ask(5062.0, [10.0])
    assert process.tickets.wait_seconds(process.own(5062.0), 10.0) < 65.0


def test_calls_of_before_the_quota_was_known_count() -> None:
    account = Account()
    grant = account.exchange(
        5000.0, Ask(owner="a", sizes=(1.0,), limits={"requests": (3.0, 60.0)}, changes=tuple(Change(4999.0, 1.0, 1.0) for _ in range(3)))
    )
    assert [ticket.at for ticket in grant.tickets] == [] or grant.tickets[0].at > 5050.0
