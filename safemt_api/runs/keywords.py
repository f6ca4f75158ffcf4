"""The keywords of ``evaluate`` for type checkers; ``make docs`` writes this file from the settings' fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict


class EvalKeywords(TypedDict, total=False):
    """Every option of a run by the name of its field in ``EvalSettings``, in the forms that it is taken in."""

    provider: str | None
    model: str | None
    base_urls: str | Sequence[str]
    system: str | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed_sampling: int | None
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None
    safety_threshold: Literal["off", "block_none", "block_only_high", "block_medium_and_above", "block_low_and_above"] | None
    data: str | Path | None
    layout: str | None
    lengths: str | Sequence[int] | None
    protocol: Literal["scripted", "live"]
    show: Literal["whole", "no-picture", "blank-picture", "no-history", "no-replies"]
    sample: int | None
    repeats: int
    repeats_from: int
    scenarios: str | Sequence[str]
    kinds: str | Sequence[Literal["harmful", "benign"]]
    skip_invalid: bool
    until_ci: float | None
    seed: int
    judges: str | Sequence[str]
    judge_fallback: str | None
    escalate: str | None
    escalate_when: Literal["unsafe", "unsure"]
    judge_turns: Literal["all", "last"]
    judge_base_url: str | None
    judge_temperature: float | None
    judge_sees: Literal["words", "picture"] | None
    rubric: str | Path | None
    moderator: str | None
    moderator_base_url: str | None
    moderator_failure: Literal["fail", "open", "closed"]
    policies: str | Path | None
    max_usd: float | None
    tier: Literal["standard", "flex", "flex,standard", "batch", "batch,standard"]
    flex_patience_seconds: float
    batch_patience_seconds: float
    concurrency: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    max_failures: float
    stall_seconds: float
    connect_seconds: float
    idle_seconds: float
    total_seconds: float
    shard: str | None
    ray: str | None
    workers: int | None
    otel: Literal["figures", "words"] | None
    run: str | None
    results: str | Path
    store: str | None
    providers: str | Path | None
    simulator_faults: str
    simulator_seed: int | None
    simulator_latency_seconds: float
