"""Attacks on the ceiling: usage that lies or is unreadable, replies above what was asked for, calls that are cut off."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from safemt_api.evaluation import evaluate
from safemt_api.profiles import WireFormat
from safemt_api.simulator.settings import SimulatorSettings
from tests.attacks.conftest import Attacked, begun, ended, safemt
from tests.attacks.hostile import Answer, Asked, answer, reply, usage

pytestmark = pytest.mark.timeout(180)  # some start several processes, on a machine that may be busy

FIELDS: dict[str, tuple[str, str]] = {
    "openai_chat": ("prompt_tokens", "completion_tokens"),
    "anthropic_messages": ("input_tokens", "output_tokens"),
    "google_genai": ("promptTokenCount", "candidatesTokenCount"),
}
UNREADABLE: dict[str, Any] = {"a string": "500", "null": None, "negative": -5, "beyond sense": 1e18, "a total alone": ...}


def senseless(wire_format: WireFormat, name: str) -> dict[str, Any]:
    """What stands where usage stands."""
    if name == "a total alone":
        return {"totalTokenCount" if wire_format == "google_genai" else "total_tokens": 560}
    return dict.fromkeys(FIELDS[wire_format], UNREADABLE[name])


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_usage_holds_a_ceiling_of_half_a_cent(attacked: Attacked, wire_format: WireFormat, name: str) -> None:
    """Booked at $0.00 it let 120 calls through and ended as "complete, $0.00"."""
    lie = answer(reply(wire_format, used=senseless(wire_format, name)))
    with attacked(lambda _: lie) as ground:
        result = ground.run(max_usd=0.005)
        assert 0 < ground.server.answered == result.summary.usage.unreadable < 40
        assert ground.server.billed_usd <= 0.005
    assert (result.exit_code, result.summary.status) == (3, "budget_exhausted")
    assert result.summary.json_value()["cost_usd"]["total"] is None, "nobody knows, and nobody says $0.00"


def test_replies_of_50_000_reasoning_tokens_stop_a_run_under_five_cents(attacked: Attacked, wire_format: WireFormat) -> None:
    """Each is billed at $0.20, four times the ceiling; only what went out before the first such reply can be above it."""
    thought = answer(reply(wire_format, used=usage(wire_format, 20, reasoning_tokens=50_000)), billed_output_tokens=50_020)
    with attacked(lambda _: thought) as ground:
        result = ground.run(max_usd=0.05, concurrency=3)
        assert ground.server.answered <= 3
        assert result.summary.json_value()["cost_usd"]["total"] == pytest.approx(ground.server.billed_usd)
    assert (result.exit_code, result.summary.status) == (3, "budget_exhausted")


def test_one_model_that_thinks_too_long_now_and_then_is_reckoned_with(attacked: Attacked, wire_format: WireFormat) -> None:
    """What one reply taught holds for the next ones: the ceiling is passed by no more than that first one."""
    short = answer(reply(wire_format))
    long = answer(reply(wire_format, used=usage(wire_format, 20, reasoning_tokens=4_000)), billed_output_tokens=4_020)
    with attacked(lambda asked: long if asked.number % 3 == 0 else short) as ground:
        result = ground.run(max_usd=0.06, concurrency=1)
        assert 3 <= ground.server.answered < 40
        assert ground.server.billed_usd <= 0.06
        assert result.summary.json_value()["cost_usd"]["total"] == pytest.approx(ground.server.billed_usd)
    assert result.exit_code == 3


PROVIDERS = ("simulator", "simulator-anthropic", "simulator-google")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_small_ceiling_finishes_dialogues_instead_of_starting_many(tmp_path: Path, provider: str) -> None:
    """Under $0.05 with 32 at once, 39 calls went out and not one dialogue was finished."""
    result = anyio.run(
        partial(
            evaluate,
            provider=provider,
            judges=(f"{provider}:sim-judge",),
            protocol="live",
            lengths=(8,),
            max_usd=0.05,
            concurrency=32,
            results=tmp_path,
            run="r",
            simulator=SimulatorSettings(latency_seconds=0.02),
        )
    )
    assert result.exit_code == 3
    assert result.summary.dialogues.finished >= 1
    assert result.summary.json_value()["cost_usd"]["total"] <= 0.05


@pytest.mark.slow
def test_what_an_interrupt_cuts_off_may_have_been_billed_and_is_said(attacked: Attacked, wire_format: WireFormat) -> None:
    """Reported $0.0092 where the server had billed $0.0240."""

    def slow(asked: Asked) -> Answer:
        return answer(reply(wire_format), seconds=0.0 if asked.number <= 8 else 30.0)

    with attacked(slow) as ground:
        with begun(*ground.words("--lengths", "1", "--concurrency", 8)) as process:
            deadline = time.monotonic() + 60
            while ground.server.answered < 16 and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert ended(process).code == 130
        billed = ground.server.billed_usd
        report = safemt("report", "r", "--results", ground.results)
        again = ground.run(lengths=(1,), sample=None, max_usd=1e-6)
    assert "more may have been billed" in report.out
    known = again.summary.json_value()["cost_usd"]
    assert again.exit_code == 3
    assert again.summary.calls.sent == 0, "under a ceiling what may have been billed counts as spent"
    assert known["total"] + known["maybe_usd"] >= billed


BROKEN: tuple[bytes, ...] = (b'{"choices": [', b"", b"<html>bad gateway</html>", b"null", b"[]", b"\xff\xfe{}")


def test_answers_that_are_billed_but_cannot_be_read_stay_below_the_ceiling(attacked: Attacked, wire_format: WireFormat) -> None:
    good = answer(reply(wire_format))
    with attacked(lambda asked: good if asked.number % 2 else answer(BROKEN[asked.number // 2 % len(BROKEN)])) as ground:
        result = ground.run(max_usd=0.02, lengths=(1,), sample=12)
        assert 0 < ground.server.billed_usd <= 0.02
    assert ground.server.billed_usd <= result.summary.json_value()["cost_usd"]["total"] <= 0.02
