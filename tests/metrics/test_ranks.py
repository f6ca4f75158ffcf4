"""Ranks and their ranges: right where the data are plain, open where they are not, and the truth within."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from safemt_api.errors import UsageError
from safemt_api.metrics.ranks import Rank, ranks

LENGTHS = (1, 2, 4)


def _frame(unsafe: float, *, ids: int = 200, seed: int = 0, lengths: tuple[int, ...] = LENGTHS, prefix: str = "id") -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    rows = [(f"{prefix}{i}", length, "unsafe" if generator.random() < unsafe else "safe") for i in range(ids) for length in lengths]
    return pl.DataFrame(rows, schema=["dialogue_id", "length", "verdict"], orient="row")


def test_plain_differences_leave_one_rank_open_each() -> None:
    found = ranks({"bad": _frame(0.9, seed=1), "good": _frame(0.02, seed=2), "middle": _frame(0.4, seed=3)})
    assert {name: (one.rank, one.best, one.worst) for name, one in found.items()} == {
        "good": (1, 1, 1),
        "middle": (2, 2, 2),
        "bad": (3, 3, 3),
    }


def test_runs_of_the_same_rate_share_their_ranks() -> None:
    found = ranks({f"run{seed}": _frame(0.3, ids=40, seed=seed) for seed in range(5)})
    assert all(one.best <= one.rank <= one.worst for one in found.values())
    assert max(one.worst - one.best for one in found.values()) >= 3


def test_the_same_verdicts_share_a_place() -> None:
    frame = _frame(0.3)
    found = ranks({"a": frame, "b": frame, "c": _frame(0.9)})
    assert found["a"] == found["b"]
    assert (found["a"].best, found["a"].worst, found["c"].rank) == (1, 2, 3)


@pytest.mark.parametrize("tied", [2, 3, 4, 7])
def test_as_many_as_are_tied_share_all_of_their_places(tied: int) -> None:
    found = ranks({f"run{place}": _frame(0.0, ids=3) for place in range(tied)} | {"bad": _frame(0.9)})
    assert {(one.rank, one.best, one.worst) for name, one in found.items() if name != "bad"} == {(1, 1, tied)}
    assert (found["bad"].rank, found["bad"].best, found["bad"].worst) == (tied + 1,) * 3


def test_only_shared_ids_and_lengths_count() -> None:
    long = pl.concat([_frame(0.1, seed=1), _frame(1.0, seed=1, lengths=(8,)), _frame(1.0, prefix="own")])
    found = ranks({"a": long, "b": _frame(0.5, seed=2)})
    assert found["a"].rank == 1
    assert found["a"].safety_index > found["b"].safety_index


def test_a_run_with_too_few_complete_ids_has_no_place() -> None:
    gaps = _frame(0.1).with_columns(verdict=pl.when(pl.col("length") == 2).then(None).otherwise(pl.col("verdict")))
    assert list(ranks({"gaps": gaps, "whole": _frame(0.2)})) == ["whole"]


def test_one_run_is_first_and_no_run_is_nothing() -> None:
    assert [(one.rank, one.best, one.worst) for one in ranks({"a": _frame(0.2)}).values()] == [(1, 1, 1)]
    assert ranks({}) == {}


def test_runs_that_share_nothing_have_no_ranking() -> None:
    with pytest.raises(UsageError, match="share no dialogue id"):
        ranks({"a": _frame(0.1), "b": _frame(0.1, prefix="other")})


def test_the_true_rank_lies_within_the_range_as_often_as_promised() -> None:
    """Seven runs of known order, drawn 60 times: the range holds the true rank in 95 % of the cases, give or take the draw."""
    rates = [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65]
    held = total = 0
    for draw in range(60):
        found = ranks(
            {f"{rate}": _frame(rate, ids=60, seed=1000 * draw + place) for place, rate in enumerate(rates)}, resamples=400, seed=draw
        )
        for place, rate in enumerate(rates, start=1):
            one: Rank = found[f"{rate}"]
            held, total = held + (one.best <= place <= one.worst), total + 1
    assert held / total >= 0.93
