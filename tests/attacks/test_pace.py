"""Attacks on the pace: a vendor that answers again is used again within a minute, whatever it said before."""

from __future__ import annotations

import random
import time

import pytest

from safemt_api.profiles import WireFormat
from tests.attacks.conftest import Attacked
from tests.attacks.hostile import Answer, Asked, answer, reply, too_many

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RECOVERY_SECONDS = 90.0
"""A minute, and half of one for a machine that is busy."""

LIMITS: dict[WireFormat, str] = {
    "openai_chat": "x-ratelimit-limit-tokens",
    "anthropic_messages": "anthropic-ratelimit-tokens-limit",
    "google_genai": "x-ratelimit-limit-tokens",
}


def test_a_429_as_the_very_first_answer_is_soon_forgotten(attacked: Attacked, wire_format: WireFormat) -> None:
    """It left 1.2 calls a minute for good."""
    good = answer(reply(wire_format))
    with attacked(lambda asked: too_many(wire_format, retry_after="2") if asked.number == 1 else good) as ground:
        started = time.monotonic()
        result = ground.run(lengths=(1, 2), sample=30, concurrency=16)
        assert time.monotonic() - started < RECOVERY_SECONDS
    assert result.summary.json_value()["dialogues"] == {"planned": 60, "finished": 60, "failed": 0}


def test_random_429s_cost_retries_and_not_the_pace(attacked: Attacked, wire_format: WireFormat) -> None:
    """Three in ten at random: two calls a minute, and no recovery."""
    draws = random.Random(5)

    def attack(_: Asked) -> Answer:
        return too_many(wire_format) if draws.random() < 0.3 else answer(reply(wire_format))

    with attacked(attack) as ground:
        started = time.monotonic()
        result = ground.run(lengths=(1, 2), sample=30, concurrency=16)
        assert time.monotonic() - started < RECOVERY_SECONDS
    assert result.summary.json_value()["dialogues"] == {"planned": 60, "finished": 60, "failed": 0}


def test_a_quota_of_one_token_is_no_quota(attacked: Attacked, wire_format: WireFormat) -> None:
    """``x-ratelimit-limit-tokens: 1`` made the run wait for a day, and no stall was seen."""
    headers = {LIMITS[wire_format]: "1", LIMITS[wire_format].replace("limit-tokens", "remaining-tokens"): "0"}
    one = answer(reply(wire_format), headers=headers)
    with attacked(lambda _: one) as ground:
        started = time.monotonic()
        result = ground.run(lengths=(1,), sample=20, concurrency=4, stall_seconds=60.0)
        assert time.monotonic() - started < RECOVERY_SECONDS
    assert result.summary.dialogues.finished == 20
