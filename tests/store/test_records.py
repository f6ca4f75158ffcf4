"""Replies survive the way to text and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.messages import Outcome, Reply, Usage
from safemt_api.store.records import reply_from_json, reply_to_json

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
COUNTS = st.integers(0, 10**9)
REPLIES = st.builds(
    Reply,
    outcome=st.sampled_from(Outcome),
    text=TEXTS,
    detail=st.none() | TEXTS,
    finish_reason=st.none() | TEXTS,
    served_model=st.none() | TEXTS,
    usage=st.none() | st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS),
    cost_usd=st.none() | st.floats(0, 100),
    request_id=st.none() | TEXTS,
    latency_seconds=st.floats(0, 1e6),
    raw=st.none() | TEXTS,
)


@given(REPLIES)
def test_any_reply_comes_back_as_it_was(reply: Reply) -> None:
    assert reply_from_json(reply_to_json(reply), reply.raw) == reply


def test_the_raw_body_is_kept_apart(reply: Callable[..., Reply]) -> None:
    assert "the-body" not in reply_to_json(reply(raw="the-body"))


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '"words"', '{"outcome": "nonsense", "usage": null}', '{"outcome": "answered", "usage": {"x": 1}}']
)
def test_text_that_is_no_stored_reply_is_told_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        reply_from_json(text, None)
