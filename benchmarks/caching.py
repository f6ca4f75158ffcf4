"""What prompt caching is worth in live dialogues: ``python -m benchmarks.caching [--sample 34] [--minimum-tokens 1024]``.

In a live dialogue the history with its picture is sent again at every turn, so all of one turn's input is the beginning of the next one's.
The demonstration set is played live against the simulator in each wire format, without and with its prompt cache. The table shows which
share of the input tokens could be read from a cache at best, which share could where shorter beginnings than ``--minimum-tokens`` are not
cached (as vendors have it), which share was, and what the target cost. Prices are the simulator's pretended ones: reading a tenth of plain
input; writing a quarter more where marks are needed (Anthropic), else nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import polars as pl

from safemt_api.evaluation import evaluate
from safemt_api.runs.settings import EvalSettings
from safemt_api.simulator.settings import SimulatorSettings

PROVIDERS = ("simulator", "simulator-anthropic", "simulator-google")


class Played(NamedTuple):
    """One live run: tokens in, read from and written to the cache, the turns, and what the target cost."""

    input_tokens: int
    cached_tokens: int
    written_tokens: int
    turns: pl.DataFrame
    cost_usd: float
    safety_index: float | None


async def play(provider: str, *, cache: bool, sample: int, minimum_tokens: int, lengths: tuple[int, ...] | None) -> Played:
    """One run of the demonstration set."""
    playing = SimulatorSettings(prompt_cache=cache, prompt_cache_minimum_tokens=minimum_tokens)
    with tempfile.TemporaryDirectory() as folder:
        settings = EvalSettings(provider=provider, protocol="live", lengths=lengths, sample=sample, results=Path(folder), run="caching")
        result = await evaluate(settings, simulator=playing)
        turns = pl.read_parquet(result.folder / "transcripts.parquet")
    cost_usd = result.summary.cost_usd.target
    assert result.summary.status == "complete"
    assert cost_usd is not None
    totals: dict[str, Any] = turns.select(pl.col("input_tokens", "cached_input_tokens", "cache_write_tokens").sum()).row(0, named=True)
    return Played(
        totals["input_tokens"],
        totals["cached_input_tokens"],
        totals["cache_write_tokens"],
        turns,
        cost_usd,
        result.summary.safety_index.value,
    )


def cacheable(turns: pl.DataFrame, *, minimum_tokens: int = 0) -> float:
    """The share of input tokens that were sent before: at each turn, the whole input of the turn before, where that is long enough."""
    before = pl.col("input_tokens").shift(1).over("dialogue_id", "length", order_by="turn").fill_null(0)
    repeated = turns.select(pl.when(before >= minimum_tokens).then(before).otherwise(0).sum()).item()
    return float(repeated / turns["input_tokens"].sum())


async def main(given: argparse.Namespace) -> None:
    """Print the table."""
    lengths = tuple(map(int, given.lengths.split(","))) if given.lengths else None
    print("| wire format | input tokens | sent before | of those, long enough | cached | written | cost | with the cache | saved |")
    print("|---|---|---|---|---|---|---|---|---|")
    for provider in PROVIDERS:
        playing = partial(play, provider, sample=given.sample, minimum_tokens=given.minimum_tokens, lengths=lengths)
        plain, cached = await playing(cache=False), await playing(cache=True)
        assert plain.safety_index == cached.safety_index
        assert plain.input_tokens == cached.input_tokens
        whole = plain.input_tokens
        print(
            f"| {provider} | {whole:,} | {cacheable(plain.turns):.1%} | {cacheable(plain.turns, minimum_tokens=given.minimum_tokens):.1%} "
            f"| {cached.cached_tokens / whole:.1%} | {cached.written_tokens / whole:.1%} "
            f"| ${plain.cost_usd:.4f} | ${cached.cost_usd:.4f} | {1 - cached.cost_usd / plain.cost_usd:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What prompt caching is worth in live dialogues.")
    parser.add_argument("--sample", type=int, default=34)
    parser.add_argument("--minimum-tokens", type=int, default=1024)
    parser.add_argument("--lengths", default="", help="such as 4,8; all by default")
    options = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
    anyio.run(partial(main, parser.parse_args()), backend_options=options)
