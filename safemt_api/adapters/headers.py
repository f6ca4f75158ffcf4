"""What response headers say about pace: how long to wait, and how full the account's quotas are.

Vendors write durations in many ways (``6m0s``, ``12ms``, plain seconds, epoch seconds or milliseconds, RFC 3339); a header may also
hold anything at all. Whatever makes no sense is ``None``, never an exception. Sources: https://platform.openai.com/docs/guides/rate-limits,
https://platform.claude.com/docs/en/api/rate-limits, https://console.groq.com/docs/rate-limits,
https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto (RetryInfo).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import get_args

from safemt_api.adapters.base import QuotaHint, QuotaKind
from safemt_api.adapters.bodies import mapping, sequence, words

MAX_WAIT_SECONDS = 31 * 86400.0
MAX_QUOTA = 10**15
_MAX_HEADER_CHARACTERS = 64
_EPOCH_FROM = 1e9
_EPOCH_MS_FROM = 1e12

_DURATION = re.compile(
    r"(?:(?P<d>[0-9]{1,6})d)?(?:(?P<h>[0-9]{1,6})h)?(?:(?P<m>[0-9]{1,6})m(?!s))?"
    r"(?:(?P<s>[0-9]{1,9}(?:\.[0-9]{1,9})?)s)?(?:(?P<ms>[0-9]{1,9}(?:\.[0-9]{1,9})?)ms)?"
)
_UNIT_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_RETRY_IN_MESSAGE = re.compile(r"(?:try again|retry) in ([0-9][0-9.dhms]{0,30}[dhms])\b", re.IGNORECASE)

_WINDOW_SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "month": 30 * 86400.0}
_KIND_NAMES: Mapping[str, QuotaKind] = {"req": "requests", "request": "requests", "token": "tokens"}
_QUOTA_HEADER = re.compile(
    r"(?:x-ratelimit|x-ratelimitbysize|anthropic-ratelimit)-"
    r"(?:(?P<field>limit|remaining|reset)-(?P<kind>requests?|req|tokens?|(?=minute))-?(?P<window>second|minute|hour|day|month)?"
    r"|(?P<kind2>requests|tokens|input-tokens|output-tokens)-(?P<field2>limit|remaining|reset))"
)


def parse_duration(text: str, *, now_utc: datetime) -> float | None:
    """Seconds from now, from any of the ways vendors write a wait or a moment; ``None`` for anything else.

    Returns:
        Between 0 and ``MAX_WAIT_SECONDS``; a moment that has passed is 0.
    """
    text = text.strip()
    if not text or len(text) > _MAX_HEADER_CHARACTERS or not text.isascii():
        return None
    for reading in (_from_number, _from_units, _from_moment):
        seconds = reading(text, now_utc)
        if seconds is not None:
            return seconds if math.isfinite(seconds) and 0 <= seconds <= MAX_WAIT_SECONDS else None
    return None


def _from_number(text: str, now_utc: datetime) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    if number < _EPOCH_FROM or not math.isfinite(number):
        return number
    moment = number / 1000 if number >= _EPOCH_MS_FROM else number
    return max(0.0, moment - now_utc.timestamp())


def _from_units(text: str, _now_utc: datetime) -> float | None:
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    return sum(float(value) * _UNIT_SECONDS[unit] for unit, value in match.groupdict().items() if value is not None)


def _from_moment(text: str, now_utc: datetime) -> float | None:
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(text)
            aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return max(0.0, (aware - now_utc).total_seconds())
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def retry_after_seconds(headers: Mapping[str, str], body: object = None, *, now_utc: datetime) -> float | None:
    """The wait the vendor asks for, in seconds.

    Order: ``retry-after-ms``, ``retry-after``, Google's RetryInfo in the body, the reset of a quota that stands at zero, the words of
    the message.
    """
    names = _lower(headers)
    milliseconds = parse_duration(names.get("retry-after-ms", ""), now_utc=now_utc)
    said = _RETRY_IN_MESSAGE.search(words(mapping(mapping(body).get("error")).get("message"))[:2000])
    resets = [hint.reset_seconds for hint in quota_hints(names, now_utc=now_utc) if hint.remaining == 0 and hint.reset_seconds is not None]
    if names.get("x-ratelimit-remaining", "").strip() == "0":
        plain = parse_duration(names.get("x-ratelimit-reset", ""), now_utc=now_utc)
        resets += [plain] if plain is not None else []
    waits = (
        None if milliseconds is None else milliseconds / 1000,
        parse_duration(names.get("retry-after", ""), now_utc=now_utc),
        parse_duration(_retry_delay(body), now_utc=now_utc),
        max(resets, default=None),
        parse_duration(said[1], now_utc=now_utc) if said else None,
    )
    return next((wait for wait in waits if wait is not None), None)


def unbelievable_wait(headers: Mapping[str, str], body: object = None, *, now_utc: datetime) -> str | None:
    """The wait asked for as the vendor wrote it, where that makes no sense (no number, below zero, years) and nothing else names one."""
    if retry_after_seconds(headers, body, now_utc=now_utc) is not None:
        return None
    names = _lower(headers)
    written = (names.get("retry-after", ""), names.get("retry-after-ms", ""), _retry_delay(body))
    return next((text.strip() for text in written if text.strip()), None)


def _retry_delay(body: object) -> str:
    for detail in sequence(mapping(mapping(body).get("error")).get("details")):
        if words(mapping(detail).get("@type")).endswith("RetryInfo"):
            return words(mapping(detail).get("retryDelay"))
    return ""


def quota_hints(headers: Mapping[str, str], *, now_utc: datetime, requests_window_seconds: float = 60.0) -> tuple[QuotaHint, ...]:
    """The quotas that the headers tell, one per kind and window.

    Args:
        requests_window_seconds: What an unnamed window of ``requests`` means; Groq counts requests per day and tokens per minute
            under the very names that OpenAI uses for a minute.

    A limit of 0 or less is unknown (Azure has sent -1: https://github.com/openai/openai-dotnet/issues/838).
    """
    found: dict[tuple[QuotaKind, float], dict[str, str]] = {}
    for name, value in _lower(headers).items():
        place = _quota_place(name, requests_window_seconds)
        if place is not None:
            kind, window_seconds, field = place
            found.setdefault((kind, window_seconds), {})[field] = value
    hints = []
    for (kind, window_seconds), fields in found.items():
        limit, remaining = _quota(fields.get("limit")), _quota(fields.get("remaining"))
        reset_seconds = parse_duration(fields.get("reset", ""), now_utc=now_utc)
        unknown = ("limit" in fields and not limit) or (limit is None and remaining is None and reset_seconds is None)
        if not unknown:
            hints.append(QuotaHint(kind, limit, remaining, reset_seconds, window_seconds))
    return tuple(hints)


def _quota_place(name: str, requests_window_seconds: float) -> tuple[QuotaKind, float, str] | None:
    if "ratelimit" not in name:
        return None
    match = _QUOTA_HEADER.fullmatch(name)
    if match is None:
        return None
    named = (match["kind"] or match["kind2"] or ("tokens" if "bysize" in name else "requests")).replace("-", "_")
    kinds: Iterable[QuotaKind] = get_args(QuotaKind)
    kind = next((kind for kind in kinds if kind == named), _KIND_NAMES.get(named.removesuffix("s"), "tokens"))
    unnamed = requests_window_seconds if kind == "requests" and name.startswith("x-") else 60.0
    return kind, _WINDOW_SECONDS.get(match["window"] or "", unnamed), match["field"] or match["field2"]


def _quota(text: str | None) -> int | None:
    if text is None or len(text) > _MAX_HEADER_CHARACTERS:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and 0 <= number <= MAX_QUOTA else None


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
