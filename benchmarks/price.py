"""What an evaluation costs in each way to ask, against a naive client's: ``python -m benchmarks.price [--sample 12]``.

The demonstration set, scripted and live, with a model as judge, in three wire formats, against the simulator with its prompt cache on. Each
plays the caching rules of a real model: how long a beginning must be, what is marked, what writing costs; and for Anthropic's batches the
two ends of what the vendor says of how often rows of a batch find what others wrote. Every reply that was bought is priced by its own
tokens, cached and written ones too, at that model's list prices in the tier that served it. The naive client asks each call of each
dialogue by itself, at the usual price, and finds nothing in any cache (nor pays for writing to one).
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from benchmarks.batch_chaos import QUICK
from benchmarks.chaos import FORMATS
from safemt_api.evaluation import evaluate
from safemt_api.files import shipped_folder
from safemt_api.messages import Outcome, Reply, Usage
from safemt_api.prices import cost_of, find_price
from safemt_api.profiles import load_profiles
from safemt_api.runs import connections
from safemt_api.simulator import Simulator, SimulatorSettings, run_simulator
from safemt_api.store.records import reply_from_json
from safemt_api.store.turns import STORE_FILE

MODELS: Mapping[str, tuple[str, str]] = {
    "simulator": ("openai", "gpt-6-luna"),
    "simulator-anthropic": ("anthropic", "claude-haiku-5-5"),
    "simulator-google": ("google", "gemini-3.5-flash"),
}
"""Whose list prices each wire format is measured at: a small model of each vendor with a price in every tier that the vendor has."""

GOOGLE_MINIMUM_TOKENS = 4096
"""Gemini 3.5 Flash caches nothing shorter (https://ai.google.dev/gemini-api/docs/caching, as of 2026-07-07)."""

BATCH_SHARES = {"anthropic": (0.30, 0.98)}
"""How many rows of a batch typically find what others wrote (https://platform.claude.com/docs/en/build-with-claude/batch-processing). Of
the others nothing is known, and nothing is marked."""

LATENCY_SECONDS = 0.05
"""So that calls that are under way together find nothing of each other, as with a real vendor."""

GOALS = {"scripted": 0.50, "live": 0.35}


class Cost(NamedTuple):
    """What one run cost, and the naive client's."""

    usd: float
    naive_usd: float
    calls: int
    batches: int

    @property
    def share(self) -> float:
        """Of the naive client's."""
        return self.usd / self.naive_usd


def listed_usd(provider: str, reply: Reply) -> float:
    """What a reply costs at list prices."""
    vendor, model = MODELS[provider]
    cost = cost_of(reply, lambda tier: find_price(load_profiles()[vendor], model, tier))
    if cost is None:
        raise LookupError(f"{vendor}:{model} has no price, or the reply tells no usage")
    return cost


def bought(store: Path) -> list[Reply]:
    """The replies in a store."""
    with closing(sqlite3.connect(store)) as connection:
        return [reply_from_json(text, None) for (text,) in connection.execute("SELECT reply FROM replies")]


async def measured(provider: str, simulator: Simulator, *, tier: str, protocol: str, sample: int) -> Cost:
    """One run."""
    simulator.reset()
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"provider": provider, "base_urls": (simulator.base_url(FORMATS[provider]),), "results": Path(folder)}
        options |= {"judges": (f"{provider}:sim-judge",), "protocol": protocol, "sample": sample, "tier": tier, "run": "price"}
        options["providers"] = as_its_model_caches(provider, Path(folder) / "providers")
        result = await evaluate(**options)
        replies = bought(Path(folder) / STORE_FILE)
    if result.exit_code != 0:
        raise RuntimeError(f"the run ended with {result.exit_code}: {result.stopped_by}")
    told = result.summary.usage
    # By the thousand: no call comes near the size from which on a call costs more.
    naive = [
        tokens / 1000 * listed_usd(provider, Reply(Outcome.ANSWERED, usage=thousand))
        for tokens, thousand in ((told.input_tokens, Usage(input_tokens=1000)), (told.output_tokens, Usage(output_tokens=1000)))
    ]
    return Cost(sum(listed_usd(provider, reply) for reply in replies), sum(naive), len(replies), len(simulator.batches))


def minimum_tokens(provider: str) -> int:
    """The shortest beginning that the model caches whose prices are taken."""
    vendor, model = MODELS[provider]
    return load_profiles()[vendor].facts(model).cache_minimum_tokens or GOOGLE_MINIMUM_TOKENS


def as_its_model_caches(provider: str, folder: Path) -> Path:
    """A folder with the simulator's profile, in which its models are marked as the one is whose prices are taken."""
    vendor, model = MODELS[provider]
    facts, shipped = load_profiles()[vendor].facts(model), (shipped_folder("providers") / f"{provider}.toml").read_text()
    rules = f'match = "sim-*"\ncache_marks = "{facts.cache_marks}"\n'
    rules += f"cache_minimum_tokens = {facts.cache_minimum_tokens}\n" if facts.cache_minimum_tokens else ""
    own = "\n".join(line for line in shipped.splitlines() if not line.startswith("cache_minimum_tokens"))
    folder.mkdir()
    (folder / f"{provider}.toml").write_text(own.replace('match = "sim-*"\n', rules, 1) + "\n")
    return folder


async def report(sample: int, providers: Collection[str]) -> None:
    """A row for each wire format, protocol and tier."""
    setattr(connections, "DEFAULT_BATCH_PACE", QUICK)  # noqa: B010 (it is not the module's own)
    for provider in providers:
        vendor, model = MODELS[provider]
        for tier, share in (("standard", 1.0), ("flex", 1.0), *(("batch", share) for share in BATCH_SHARES.get(vendor, (0.0,)))):
            if tier == "flex" and vendor == "anthropic":
                continue  # it sells none
            playing = SimulatorSettings(
                batch_seconds=0.2,
                latency_seconds=LATENCY_SECONDS,
                prompt_cache=True,
                prompt_cache_minimum_tokens=minimum_tokens(provider),
                batch_cache_share=share,
            )
            async with run_simulator(playing) as simulator:
                for protocol, goal in GOALS.items():
                    cost = await measured(provider, simulator, tier=tier, protocol=protocol, sample=sample)
                    held = "" if tier == "standard" else f" (goal {goal:.2f}: {'held' if round(cost.share, 3) <= goal else 'not held'})"
                    batches = f", {cost.batches} batches" if cost.batches else ""
                    found = f", {share:.0%} of rows find what others wrote" if tier == "batch" and share else ""
                    what = f"{vendor}:{model:24} {protocol:8} {tier:8} {cost.share:.3f} of ${cost.naive_usd:.4f}"
                    print(f"{what}, {cost.calls} calls{batches}{found}{held}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What an evaluation costs in each way to ask.")
    parser.add_argument("--sample", type=int, default=12, help="ids of the demonstration set")
    parser.add_argument("--provider", choices=list(MODELS), action="append", help="only this wire format")
    arguments = parser.parse_args()
    anyio.run(report, arguments.sample, arguments.provider or list(MODELS))


if __name__ == "__main__":
    main()
