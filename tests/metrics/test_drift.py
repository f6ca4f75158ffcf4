"""When fingerprints have been replaced, and when they only take turns: by hand, and by the chance of a false alarm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.metrics.drift import MOST_KEPT, MOST_VALUES, ROW, Change, Succession, Watch, parts


def fingerprints(said: str) -> list[tuple[str, ...]]:
    return [tuple(sorted(part)) for part in parts(said, "system_fingerprint")]


@pytest.mark.parametrize(
    ("said", "eras"),
    [
        ("", [()]),
        ("a" * 100, [("a",)]),
        ("ab" * 50, [("a", "b")]),
        ("a" * 20 + "b" * 19, [("a", "b")]),
        ("a" * 20 + "b" * 20, [("a",), ("b",)]),
        ("a" * 19 + "b" * 40, [("a", "b")]),
        ("ab" * 10 + "cd" * 10, [("a", "b"), ("c", "d")]),
        # Under way together: the last replies of the old back end come between the first of the new.
        ("a" * 30 + "ba" * 8 + "b" * 20, [("a",), ("b",)]),
        # A seldom one of the old, and one of the new that came early.
        ("a" * 25 + "xa" * 3 + "ca" + "b" * 20 + "c" + "b" * 5, [("a", "x"), ("b", "c")]),
        # A straggler, and one that comes back: not for good.
        ("a" * 30 + "b" * 30 + "a", [("a",), ("b",)]),
        ("a" * 30 + "b" * 30 + "ab" * 19, [("a",), ("b",)]),
        ("a" * 30 + "b" * 30 + "ab" * 20, [("a", "b")]),
        ("a" * 30 + "b" * 30 + "a" * 30, [("a", "b")]),
        ("a" * 20 + "b" * 20 + "c" * 20, [("a",), ("b",), ("c",)]),
        ("a" * 20 + "b" * 20 + "c" * 20 + "b" * 20, [("a",), ("b", "c")]),
    ],
)
def test_a_new_set_of_fingerprints_that_replaces_the_former_for_good_is_a_change(said: str, eras: list[tuple[str, ...]]) -> None:
    assert fingerprints(said) == eras


def test_fingerprints_that_are_made_up_for_each_reply_tell_nothing_and_are_not_kept_without_end() -> None:
    succession = Succession()
    assert not any(succession.add(str(number)) for number in range(3 * MOST_KEPT))
    assert len(succession.eras[0].values) == MOST_KEPT


@given(st.lists(st.sampled_from("abcdef"), max_size=150))
def test_every_value_belongs_to_one_part(said: list[str]) -> None:
    found = parts(said, "system_fingerprint")
    values = [value for part in found for value in part]
    assert sorted(values) == sorted(set(said))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.5, 0.3, 0.15, 0.05), (0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05)])
def test_a_load_balancer_is_not_called_a_change(shares: tuple[float, ...]) -> None:
    # The bound for 400,000 replies of eight back ends is one in 10,000.
    generator = np.random.default_rng(5)
    succession = Succession()
    dealt = generator.choice([f"fp_{place}" for place in range(len(shares))], p=shares, size=400_000)
    assert not any(map(succession.add, dealt.tolist()))


def test_the_bound_on_false_alarms_is_that_of_a_row_of_two() -> None:
    """With rows of two the bound is large enough to be met: p (1 - p) squared for each place, from two back ends alike."""
    generator = np.random.default_rng(5)
    said = generator.random((4000, 60)) < 0.5
    first, second = said[:, :1] & said[:, 1:2], ~said[:, :1] & ~said[:, 1:2]
    rows = said[:, 2:-1] & said[:, 3:]
    others = ~said[:, 2:-1] & ~said[:, 3:]
    alarmed = ((first & others) | (second & rows)).sum(axis=1).mean()
    assert alarmed == pytest.approx(57 * 2 * 0.25**2, rel=0.05)  # N * (two sets) / 4 ** 2, of the 2 ** k = 4 in the bound


def test_names_are_told_at_once_and_each_is_a_part() -> None:
    watch = Watch()
    assert watch.add("m-1", None) == []
    assert watch.add("m-2", None) == [Change("served_model", ("m-1",), ("m-2",))]
    assert watch.add("m-1", None) == []
    assert parts(["m-1", "m-2", "m-1"], "served_model") == [("m-1",), ("m-2",)]


def test_a_server_that_names_itself_anew_each_time_is_not_announced_without_end() -> None:
    watch = Watch()
    assert sum(len(watch.add(f"m-{number}", None)) for number in range(500)) == MOST_VALUES - 1
    assert parts([f"m-{number}" for number in range(500)], "served_model") == []


def test_replies_of_another_day_are_known_before_and_do_not_break_a_row() -> None:
    watch = Watch()
    for _ in range(ROW):
        assert watch.add(None, "fp_a", fresh=False) == []
    for number in range(ROW - 1):
        assert watch.add(None, "fp_b") == []
        assert watch.add(None, "fp_a", fresh=number > ROW) == []
    assert watch.add(None, "fp_b") == [Change("system_fingerprint", ("fp_a",), ("fp_b",))]
