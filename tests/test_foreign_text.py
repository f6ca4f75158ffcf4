"""Text from outside, for terminals, names, charts and spreadsheets. What is printed is tried in ``report/test_words.py`` too."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.foreign_text import drawable, printable, unfit_in_name


@pytest.mark.parametrize("name", ["Legal Opinion", "Économie", "政治", "حريّة", "می\u200cخواهم", "Fraud 💰", "a/b-c_d", "x" * 200])
def test_names_of_any_script_are_fine(name: str) -> None:
    assert unfit_in_name(name) is None


@pytest.mark.parametrize(
    "sign", ["\x00", "\x1b", "\x7f", "\x9b", "\n", "\t", "\u2028", "\u202e", "\ud800", "\ufdd0", "\ufffe", "\U0010ffff"]
)
def test_a_sign_that_is_none_is_named(sign: str) -> None:
    assert unfit_in_name(f"a{sign}b") == f"holds U+{ord(sign):04X}, which has no place in a name"


@given(st.text())
def test_what_is_drawn_is_fit_for_xml_and_for_cutting(text: str) -> None:
    shown = drawable(text)
    assert len(shown) <= 200
    assert all(
        sign >= " " and sign <= "\uffef" and unicodedata.category(sign) != "Cs"
        for sign in shown
        if sign not in "\ufff9\ufffa\ufffb\ufffc\ufffd"
    )
    assert not set(shown) & set("\x1b\x7f\ufffe\uffff\\")


def test_signs_beyond_the_first_plane_become_boxes() -> None:
    assert drawable("Fraud 💰") == "Fraud □"


@given(st.text())
def test_printing_twice_changes_nothing_more(text: str) -> None:
    assert printable(printable(text)) == printable(text)
