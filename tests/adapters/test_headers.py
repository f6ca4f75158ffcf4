"""Durations, waits and quotas as vendors write them; nothing hostile raises."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.adapters.base import QuotaHint
from safemt_api.adapters.headers import MAX_WAIT_SECONDS, parse_duration, quota_hints, retry_after_seconds, unbelievable_wait

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("2m59.56s", 179.56),
        ("1s", 1.0),
        ("10h17m5.7s", 37025.7),
        ("1d2h", 93600.0),
        ("46s", 46.0),
        ("20", 20.0),
        ("0.5", 0.5),
        ("0", 0.0),
        (str(int(NOW.timestamp()) + 30), 30.0),
        (str((int(NOW.timestamp()) + 30) * 1000), 30.0),
        ("2026-11-21T12:00:59Z", 59.0),
        ("2026-11-21T11:00:00Z", 0.0),
        ("Sat, 21 Nov 2026 12:01:00 GMT", 60.0),
    ],
)
def test_durations_of_every_vendor_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text, now_utc=NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", " ", "nan", "inf", "-1", "-5s", "1e400", "soon", "5x", "s", "٣s", "9" * 65, "99999d", "0x10", "2026-99-99T00:00:00Z"]
)
def test_senseless_durations_are_none(text: str) -> None:
    assert parse_duration(text, now_utc=NOW) is None


def test_waits_are_taken_in_order_of_precision() -> None:
    headers = {"Retry-After-Ms": "1500", "retry-after": "7", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9s"}
    body = {"error": {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "46s"}]}}
    assert retry_after_seconds(headers, body, now_utc=NOW) == 1.5
    del headers["Retry-After-Ms"]
    assert retry_after_seconds(headers, body, now_utc=NOW) == 7.0
    del headers["retry-after"]
    assert retry_after_seconds(headers, body, now_utc=NOW) == 46.0
    assert retry_after_seconds(headers, None, now_utc=NOW) == 9.0
    assert retry_after_seconds({}, {"error": {"message": "Please try again in 7m12s. Visit"}}, now_utc=NOW) == 432.0
    assert retry_after_seconds({}, None, now_utc=NOW) is None


@pytest.mark.parametrize("wait", ["999999999", "-5", "nan", "soon"])
def test_a_wait_that_can_be_none_is_told_as_it_was_written(wait: str) -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": wait}
    assert unbelievable_wait({"Retry-After": wait}, None, now_utc=NOW) == wait
    assert unbelievable_wait({"retry-after-ms": wait}, None, now_utc=NOW) == wait
    assert unbelievable_wait({}, {"error": {"details": [detail]}}, now_utc=NOW) == wait
    # Something else names a wait that is held: nothing to say.
    assert unbelievable_wait({"retry-after": wait, "retry-after-ms": "1500"}, None, now_utc=NOW) is None


def test_where_no_wait_is_asked_for_nothing_is_disbelieved() -> None:
    assert unbelievable_wait({"retry-after": " "}, {"error": "no object"}, now_utc=NOW) is None


def test_a_quota_that_is_not_empty_asks_for_no_wait() -> None:
    headers = {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "9s"}
    assert retry_after_seconds(headers, None, now_utc=NOW) is None


def test_openai_quotas_count_per_minute_and_groq_requests_per_day() -> None:
    headers = {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-tokens": "29000",
        "x-ratelimit-reset-tokens": "2s",
    }  # fmt: skip (a table)
    requests, tokens = quota_hints(headers, now_utc=NOW)
    assert requests == QuotaHint("requests", 500, 499, 0.12, 60.0)
    assert tokens == QuotaHint("tokens", 30000, 29000, 2.0, 60.0)
    requests, tokens = quota_hints(headers, now_utc=NOW, requests_window_seconds=86400.0)
    assert (requests.window_seconds, tokens.window_seconds) == (86400.0, 60.0)


def test_anthropic_quotas_reset_at_a_moment() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2026-11-21T12:00:30Z",
        "anthropic-ratelimit-input-tokens-limit": "40000",
        "anthropic-ratelimit-output-tokens-remaining": "7999",
    }
    assert set(quota_hints(headers, now_utc=NOW)) == {
        QuotaHint("requests", 50, 0, 30.0, 60.0),
        QuotaHint("input_tokens", 40000, None, None, 60.0),
        QuotaHint("output_tokens", None, 7999, None, 60.0),
    }
    assert retry_after_seconds(headers, None, now_utc=NOW) == 30.0


def test_mistral_names_the_window_in_the_header() -> None:
    headers = {
        "x-ratelimitbysize-limit-minute": "500000",
        "x-ratelimitbysize-remaining-minute": "499900",
        "x-ratelimit-limit-req-second": "6",
    }
    assert set(quota_hints(headers, now_utc=NOW)) == {
        QuotaHint("tokens", 500000, 499900, None, 60.0),
        QuotaHint("requests", 6, None, None, 1.0),
    }


def test_a_limit_of_zero_or_less_is_unknown() -> None:
    headers = {"x-ratelimit-limit-requests": "-1", "x-ratelimit-remaining-requests": "0", "x-ratelimit-limit-tokens": "0"}
    assert quota_hints(headers, now_utc=NOW) == ()


NAMES = st.sampled_from(
    [
        "retry-after",
        "retry-after-ms",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ]
)  # fmt: skip (a table)
VALUES = st.text(max_size=80) | st.sampled_from(["nan", "-0", "1e309", "0", "99999999999999999999", "1s", "-1ms"]) | st.floats().map(str)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "details", "@type", "retryDelay", "message"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(headers=st.dictionaries(NAMES, VALUES), body=JSON)
def test_hostile_headers_and_bodies_never_raise_and_never_ask_for_a_senseless_wait(headers: dict[str, str], body: Any) -> None:
    wait = retry_after_seconds(headers, body, now_utc=NOW)
    assert wait is None or (math.isfinite(wait) and 0 <= wait <= MAX_WAIT_SECONDS)
    for hint in quota_hints(headers, now_utc=NOW):
        assert hint.limit is None or hint.limit > 0
        assert hint.remaining is None or hint.remaining >= 0


@given(text=st.text(max_size=40) | st.from_regex(r"[0-9]{0,4}[dhms.]{1,2}[0-9]{0,3}[ms]{0,2}", fullmatch=True))
def test_any_text_is_a_sensible_duration_or_none(text: str) -> None:
    seconds = parse_duration(text, now_utc=NOW)
    assert seconds is None or 0 <= seconds <= MAX_WAIT_SECONDS
