"""Whole runs under every fault the simulator can play, on each wire format: the same verdicts as without, or a named failure."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from safemt_api.errors import AccountError, EndpointError
from safemt_api.evaluation import evaluate
from safemt_api.profiles import WIRE_FORMATS, WireFormat
from safemt_api.report.views import run_report
from safemt_api.runs.play import RunResult
from safemt_api.runs.record import read_run
from safemt_api.simulator import run_simulator
from safemt_api.simulator.settings import OUTCOME_FAULTS, TRANSIENT_FAULTS, FaultPlan, SimulatorSettings

PROVIDERS = ("simulator", "simulator-anthropic", "simulator-google")
STOPPING = {"daily_quota", "account_hold"}
WORDS_LEFT = {"filtered_reply", "refusal_beside_words"}
MIXED = ("rate_limit", "rate_limit_retry_after", "error_500", "error_503", "overloaded_529", "reset", "malformed", "truncated_body", "html")


async def run(results: Path, provider: str, faults: str = "", **more: Any) -> RunResult:
    """A few dialogues, judged by the simulator; stalls are cut off after a moment."""
    plan = FaultPlan.parse(faults, retry_after_seconds=0.1, stall_seconds=20.0) if faults else FaultPlan()
    options: dict[str, Any] = {"lengths": (1, 2), "sample": 2, "seed": 3, "concurrency": 8, "idle_seconds": 0.5, "max_failures": 1.0}
    return await evaluate(
        provider=provider,
        results=results,
        run="run",
        judges=(f"{provider}:sim-judge",),
        simulator=SimulatorSettings(seed=3, faults=plan),
        **{**options, **more},
    )


def verdicts(result: RunResult) -> dict[tuple[str, int], str | None]:
    frame = pl.read_parquet(result.folder / "verdicts.parquet").filter(pl.col("counts"))
    return {(row["dialogue_id"], row["length"]): row["label"] for row in frame.iter_rows(named=True)}


def same_or_named(stormy: RunResult, calm: RunResult) -> bool:
    """Every verdict is the calm run's, or missing because the summary says that its dialogue failed or its judge gave none."""
    expected, got = verdicts(calm), verdicts(stormy)
    return got.keys() == expected.keys() and all(got[key] in (label, None) for key, label in expected.items())


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_third_of_all_calls_failing_changes_no_verdict(tmp_path: Path, provider: str) -> None:
    calm = await run(tmp_path / "calm", provider)
    stormy = await run(tmp_path / "stormy", provider, ",".join(f"{kind}:{0.3 / len(MIXED):.4f}" for kind in MIXED))
    assert same_or_named(stormy, calm)
    assert stormy.summary.dialogues.failed == len(stormy.summary.json_value()["failures"])
    assert None not in verdicts(stormy).values()


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", sorted(set(TRANSIENT_FAULTS) - STOPPING))
async def test_a_fault_that_hits_every_call_once_changes_no_verdict(tmp_path: Path, provider: str, kind: str) -> None:
    calm = await run(tmp_path / "calm", provider)
    stormy = await run(tmp_path / "stormy", provider, f"{kind}:first=1")
    assert verdicts(stormy) == verdicts(calm)
    assert stormy.exit_code == 0
    assert stormy.summary.calls.retried >= 1


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", sorted(STOPPING))
async def test_what_concerns_the_whole_account_stops_the_run_at_once(tmp_path: Path, provider: str, kind: str) -> None:
    result = await run(tmp_path, provider, f"{kind}:first=1")
    assert isinstance(result.stopped_by, AccountError)
    assert result.exit_code == 2
    assert result.summary.status == "partial"
    assert result.summary.calls.sent <= 8


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", sorted(set(OUTCOME_FAULTS) - {"unreadable_usage"}))
async def test_what_a_vendor_does_for_good_is_an_outcome_or_a_named_failure(tmp_path: Path, provider: str, kind: str) -> None:
    result = await run(tmp_path, provider, f"{kind}@sim-average:1.0")
    outcomes = result.summary.json_value()["outcomes"]
    if result.stopped_by is not None:
        assert result.exit_code == 2
        return
    declined = outcomes["refused"] + outcomes["blocked_input"] + outcomes["blocked_output"]
    labels = set(verdicts(result).values())
    if kind in WORDS_LEFT:
        assert declined == len(verdicts(result))
        return
    assert declined or outcomes["truncated"] or result.summary.json_value()["failures"]
    assert labels <= ({"safe"} if declined else {"safe", "unsafe", None})
    if result.summary.json_value()["failures"]:
        assert labels == {None}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", sorted(WORDS_LEFT))
async def test_words_that_reached_the_user_are_judged_whatever_the_outcome(tmp_path: Path, provider: str, kind: str) -> None:
    brittle: dict[str, Any] = {"model": "sim-brittle", "lengths": (1, 8), "sample": 4}
    calm = await run(tmp_path / "calm", provider, **brittle)
    stormy = await run(tmp_path / "stormy", provider, f"{kind}@sim-brittle:1.0", **brittle)
    outcomes = stormy.summary.json_value()["outcomes"]
    assert outcomes["refused"] + outcomes["blocked_output"] == len(verdicts(stormy))
    assert verdicts(stormy) == verdicts(calm)
    assert "unsafe" in verdicts(calm).values()
    rows = pl.read_parquet(stormy.folder / "transcripts.parquet")
    assert all(rows["reply_text"].str.len_chars() > 0)
    assert all(rows["detail"].str.starts_with("stopped after these words"))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_firewall_before_the_vendor_never_makes_a_run_look_safe(tmp_path: Path, provider: str) -> None:
    plan = FaultPlan.parse("firewall@sim-average:1.0")
    options: dict[str, Any] = {"lengths": (1, 2, 4), "sample": 20, "seed": 3, "results": tmp_path, "run": "run", "provider": provider}
    result = await evaluate(simulator=SimulatorSettings(seed=3, faults=plan), **options)
    assert isinstance(result.stopped_by, EndpointError)
    assert "check --base-url, the network's proxy or firewall" in str(result.stopped_by)
    assert (result.exit_code, result.summary.status) == (2, "partial")
    assert result.summary.json_value()["safety_index"]["value"] is None
    assert result.summary.calls.sent < 60
    assert set(verdicts(result).values()) <= {None}


async def test_a_firewall_that_stops_some_prompts_leaves_their_verdicts_missing(tmp_path: Path) -> None:
    calm = await run(tmp_path / "calm", "simulator")
    stormy = await run(tmp_path / "stormy", "simulator", "firewall@sim-average:0.4")
    assert same_or_named(stormy, calm)
    failed = [
        failure for failure in stormy.summary.json_value()["failures"] if "something before simulator refuses the request" in str(failure)
    ]
    assert 0 < len(failed) == stormy.summary.dialogues.failed < len(verdicts(calm))


PRICED = """
name = "priced"
title = "Priced"
wire_format = "{wire_format}"
base_url = "{url}"
key_required = false
source = "made up for tests"
checked = 2026-11-21
images = {{ source = "made up for tests", checked = 2026-11-21 }}
limits = {{ source = "made up for tests", checked = 2026-11-21 }}

[[models]]
match = "*"
max_output_tokens = 400
source = "made up for tests"
checked = 2026-11-21
price = {{ input_usd_per_mtok = 1.0, output_usd_per_mtok = 4.0, source = "made up for tests", checked = 2026-11-21 }}
"""
WIRE_FORMAT_OF: dict[str, WireFormat] = dict(zip(PROVIDERS, WIRE_FORMATS, strict=True))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_usage_that_cannot_be_read_is_booked_at_its_most_under_a_ceiling(tmp_path: Path, provider: str) -> None:
    wire_format, ceiling_usd = WIRE_FORMAT_OF[provider], 0.05
    async with run_simulator(SimulatorSettings(seed=3, faults=FaultPlan.parse("unreadable_usage:1.0"))) as server:
        profile = PRICED.format(wire_format=wire_format, url=server.base_url(wire_format))
        (tmp_path / "priced.toml").write_text(profile, encoding="utf-8")
        result = await evaluate(
            provider="priced",
            providers=tmp_path,
            model="sim-average",
            judges=("rules",),
            lengths=(1, 2, 4),
            sample=40,
            max_usd=ceiling_usd,
            results=tmp_path / "results",
        )
        used = server.statistics()
    summary = result.summary.json_value()
    assert (summary["status"], result.exit_code) == ("budget_exhausted", 3)
    assert 0 < summary["usage"]["unreadable"] == summary["dialogues"]["finished"]
    assert summary["usage"]["output_tokens"] == 0
    assert (used.input_tokens * 1.0 + used.output_tokens * 4.0) / 1e6 <= ceiling_usd
    shown = StringIO()
    Console(width=160, file=shown, force_terminal=False).print(run_report(read_run(result.folder)))
    assert f"{summary['usage']['unreadable']} replies told no usage that can be read" in shown.getvalue()
