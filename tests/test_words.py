"""Numbers for readers, and text from outside that cannot touch a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api import words


@pytest.mark.parametrize(
    ("hostile", "harmless"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;new title\x07after", "after"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "31mred"),
        ("a\rb\x08c\x00", "abc"),
        ("one\ntwo\tthree", "one\ntwo\tthree"),
        ("abc\u202edcba", "abcdcba"),
        ("\x1bPpayload\x1b\\x", "x"),
    ],
)
def test_control_sequences_are_stripped(hostile: str, harmless: str) -> None:
    assert words.printable(hostile) == harmless


@given(st.text())
def test_nothing_printable_holds_a_control_character(text: str) -> None:
    shown = words.printable(text)
    assert not any(ord(sign) < 32 and sign not in "\n\t" for sign in shown)
    assert "\x1b" not in shown
    assert "\x7f" not in shown
    shown.encode("utf-8")


def test_a_limit_cuts_with_an_ellipsis() -> None:
    assert words.printable("abcdef", limit=4) == "abc…"


def test_no_number_is_never_shown_as_zero() -> None:
    assert words.percent(None) == words.index(None) == words.percent_interval(None, 0.5) == words.NOTHING
    assert words.dollars(None) == "unknown"


def test_numbers_are_spelt_one_way() -> None:
    assert words.percent(0.0704) == "7.0%"
    assert words.percent_interval(0.1, 0.25) == "10.0–25.0%"
    assert [words.dollars(value) for value in (0.0, 0.0000021, 0.00012, 1234.5)] == ["$0.00", "$0.0000021", "$0.0001", "$1,234.50"]
    assert [words.duration(value) for value in (3.21, 83.4, 3725.0)] == ["3.2 s", "1 min 23 s", "1 h 2 min"]


def test_of_many_names_the_first_few_are_said_and_how_many_more_there_are() -> None:
    assert words.first_few([], 2) == ""
    assert words.first_few(["a", "b"], 2) == "a, b"
    assert words.first_few(["a", "b", "c"], 2, between="; ") == "a; b and 1 more"
