"""Who answered, by a vendor's own words: printable, on one line, of bounded length."""

from __future__ import annotations

import pytest

from safemt_api.adapters.bodies import MAX_IDENTITY_CHARACTERS, identity


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("fp_44709d6fcb", "fp_44709d6fcb"),
        ("m-1\x1b[31m\nred", "m-1 [31m red"),
        ("\ud800", None),
        ("", None),
        (None, None),
        (7, None),
        (["m-1"], None),
    ],
)
def test_a_vendors_word_on_who_answered_is_kept_printable(told: object, kept: str | None) -> None:
    assert identity(told) == kept


def test_a_vendors_word_on_who_answered_is_bounded() -> None:
    assert len(identity("x" * 10_000) or "") == MAX_IDENTITY_CHARACTERS
