"""Verdicts taken from a healthy run, however spitefully they are chosen: the healthy scores stay within the bounds of what is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safemt_api.metrics.asr import asr_by_turn, asr_of_matrix, cumulative_asr, live_asr_by_turn
from safemt_api.metrics.comparison import compare
from safemt_api.metrics.first_failure import failure_curve
from safemt_api.metrics.frames import MISSING, SAFE, UNSAFE, Codes, Flags, VerdictMatrix
from safemt_api.metrics.safety_index import SafetyIndex, safety_index_of, scored_index
from safemt_api.report.remarks import below_seen
from safemt_api.report.tables import index_basis
from safemt_api.runs.summary import Index, scores_of

LENGTHS = (1, 2, 4, 6, 8)
CLOSE = 1e-9

Generator = np.random.Generator
Loss = Callable[[Codes, Generator], Flags]
"""Which cells a loss may take, of healthy verdicts of shape (units, positions)."""


def first_failures(codes: Codes) -> Flags:
    unsafe = codes == UNSAFE
    return np.asarray(unsafe & (np.cumsum(unsafe, axis=1) == 1))


def after_failure(codes: Codes) -> Flags:
    return np.asarray(np.logical_or.accumulate(codes == UNSAFE, axis=1) & (codes == SAFE))


def broken_off(codes: Codes, generator: Generator) -> Flags:
    """Everything from some position of each unit on, as when a dialogue breaks off."""
    since = generator.integers(0, codes.shape[1] + 1, size=(len(codes), 1))
    return np.asarray(np.arange(codes.shape[1]) >= since)


def one_position(codes: Codes, generator: Generator) -> Flags:
    return np.broadcast_to(np.arange(codes.shape[1]) == generator.integers(codes.shape[1]), codes.shape)


def the_unsteady(codes: Codes, _: Generator) -> Flags:
    """All verdicts of the units that waver."""
    return np.broadcast_to(after_failure(codes).any(axis=1, keepdims=True), codes.shape)


LOSSES: Mapping[str, Loss] = {
    "any": lambda codes, _: np.ones(codes.shape, dtype=bool),
    "unsafe": lambda codes, _: np.asarray(codes == UNSAFE),
    "safe": lambda codes, _: np.asarray(codes == SAFE),
    "first failures": lambda codes, _: first_failures(codes),
    "safe after a failure": lambda codes, _: after_failure(codes),
    "the unsteady": the_unsteady,
    "broken off": broken_off,
    "one position": one_position,
}
LOST = st.lists(st.tuples(st.sampled_from(sorted(LOSSES)), st.sampled_from([0.05, 0.2, 0.5, 1.0]), st.integers(0, 2**32 - 1)), max_size=3)


def damaged(codes: Codes, losses: Sequence[tuple[str, float, int]]) -> Codes:
    """The verdicts that are left."""
    left = codes.copy()
    for kind, share, seed in losses:
        generator = np.random.default_rng(seed)
        left[LOSSES[kind](codes, generator) & (generator.random(codes.shape) < share)] = MISSING
    return left


@st.composite
def healthy(draw: st.DrawFn, positions: int = len(LENGTHS)) -> Codes:
    """Verdicts of a run without a gap."""
    rows = draw(st.lists(st.text("SU", min_size=positions, max_size=positions), min_size=1, max_size=25))
    return np.array([[UNSAFE if letter == "U" else SAFE for letter in row] for row in rows], dtype=np.int8)


def matrix(codes: Codes) -> VerdictMatrix:
    return VerdictMatrix(tuple(f"id{i:03d}" for i in range(len(codes))), LENGTHS, codes)


def frame(codes: Codes, **columns: Any) -> pl.DataFrame:
    """A verdict frame of a matrix over ``LENGTHS``."""
    rows = [
        {"dialogue_id": f"id{i:03d}", "length": k, "verdict": {UNSAFE: "unsafe", SAFE: "safe", MISSING: None}[int(codes[i, j])], **columns}
        for i in range(len(codes))
        for j, k in enumerate(LENGTHS)
    ]
    return pl.DataFrame(rows, schema_overrides={"verdict": pl.String})


def within(healthy_value: float | None, row: Mapping[str, Any], prefix: str = "") -> bool:
    assert healthy_value is not None
    low, high = row[f"{prefix}if_missing_safe"], row[f"{prefix}if_missing_unsafe"]
    return bool(low - CLOSE <= healthy_value <= high + CLOSE)


def said(after: Mapping[str, Any]) -> bool:
    """Whether an estimate of first failure stays within its bounds, or the report says what was seen beyond it."""
    return after["share"] is None or within(after["share"], after) or bool(below_seen(pl.DataFrame([after])).height)


def flatters(left: SafetyIndex, healthy_index: float) -> bool:
    """Whether SI rose above what stands beside it, and nothing says so."""
    better = not math.isnan(left.value) and left.value > healthy_index + CLOSE
    shown = Index(value=left.value, if_missing_low=left.if_missing_low, if_missing_high=left.if_missing_high, complete_ids=1, ids=1)
    return better and left.value > left.if_missing_high + CLOSE and not shown.above_bounds


@settings(max_examples=150)
@given(codes=healthy(), losses=LOST)
def test_scripted_scores_stay_within_their_bounds_whatever_is_lost(codes: Codes, losses: list[tuple[str, float, int]]) -> None:
    left = damaged(codes, losses)
    for before, after in zip(asr_of_matrix(matrix(codes)).to_dicts(), asr_of_matrix(matrix(left)).to_dicts(), strict=True):
        assert within(before["asr"], after)
        assert after["asr"] is None or within(after["asr"], after)
        assert after["missing"] == len(codes) - after["unsafe"] - after["safe"]
    index, truth = scored_index(matrix(left), resamples=20), safety_index_of(matrix(codes))
    assert index.if_missing_low - CLOSE <= truth <= index.if_missing_high + CLOSE
    assert math.isnan(index.value) == (2 * int((left != MISSING).all(axis=1).sum()) < len(codes))
    assert not flatters(index, truth)
    units = np.arange(len(codes))
    curves = [failure_curve(verdicts, units, resamples=20).to_dicts() for verdicts in (codes, left)]
    for before, after in zip(*curves, strict=True):
        assert within(before["share"], after)
        assert said(after)


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.text("SU", min_size=4, max_size=4)), min_size=1, max_size=15), losses=LOST)
def test_live_scores_stay_within_their_bounds_whatever_is_lost(rows: list[tuple[int, str]], losses: list[tuple[str, float, int]]) -> None:
    codes = np.array([[UNSAFE if letter == "U" else SAFE for letter in row] for _, row in rows], dtype=np.int8)
    frames = [
        pl.DataFrame(
            [
                {
                    "dialogue_id": f"id{i}",
                    "length": length,
                    "turn": turn + 1,
                    "verdict": [None, "safe", "unsafe"][int(verdicts[i, turn]) + 1],
                }
                for i, (length, _) in enumerate(rows)
                for turn in range(length)
            ],
            schema_overrides={"verdict": pl.String},
        )
        for verdicts in (codes, damaged(codes, losses))
    ]
    for before, after in zip(*(live_asr_by_turn(one).to_dicts() for one in frames), strict=True):
        assert within(before["asr"], after)
    for before, after in zip(*(cumulative_asr(one, resamples=20).to_dicts() for one in frames), strict=True):
        assert within(before["share"], after)
        assert said(after)


@settings(max_examples=60)
@given(codes=healthy(), losses=LOST)
def test_a_comparison_bounds_what_a_loss_in_one_run_alone_may_hide(codes: Codes, losses: list[tuple[str, float, int]]) -> None:
    left = damaged(codes, losses)
    compared = compare(frame(codes), frame(left), resamples=20)
    truth = safety_index_of(matrix(codes))
    assert compared.safety_index_bounds_a == pytest.approx((truth, truth))
    low, high = compared.safety_index_bounds_b
    assert low - CLOSE <= truth <= high + CLOSE
    low, high = compared.asr_bounds_b
    assert compared.asr_bounds_a == pytest.approx((np.mean(codes), np.mean(codes)))
    assert low - CLOSE <= np.mean(codes) <= high + CLOSE
    assert high - low == pytest.approx(np.mean(left == MISSING))
    # What is left is the same in both, so a comparison of pairs sees no change, whichever verdicts are gone.
    assert compared.asr_difference.value == 0 or math.isnan(compared.asr_difference.value)
    assert compared.unpaired_cells == int((left == MISSING).sum())
    assert set(compared.by_length["difference"].drop_nulls()) <= {0.0}


@settings(max_examples=60)
@given(codes=healthy(), losses=LOST)
def test_the_summary_of_what_is_left_holds_the_healthy_scores(codes: Codes, losses: list[tuple[str, float, int]]) -> None:
    left = damaged(codes, losses)
    rows = (
        frame(left, scenario="Fraud", kind="harmful", counts=True, repeat=1)
        .rename({"verdict": "label"})
        .with_columns(turn=pl.col("length"))
    )
    written = scores_of(rows, "scripted")
    for before, after in zip(asr_by_turn(frame(codes)).to_dicts(), written["asr_by_turn"], strict=True):
        assert within(before["asr"], after)
    index, truth = written["safety_index"], safety_index_of(matrix(codes))
    assert index["if_missing_low"] - CLOSE <= truth <= index["if_missing_high"] + CLOSE
    assert (index["value"] is None) == (index["complete_ids"] * 2 < index["ids"])


def frail(generator: Generator, ids: int) -> Codes:
    """Verdicts of ids that fail seldom or often, more at greater lengths: steady enough that some waver."""
    frailty = generator.random((ids, 1)) ** 2
    return np.asarray(generator.random((ids, len(LENGTHS))) < 0.05 + frailty * np.linspace(0.3, 0.9, len(LENGTHS)), dtype=np.int8)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.08])
def test_losses_at_random_do_not_lift_si_nor_lower_first_failure_on_average(share: float) -> None:
    generator = np.random.default_rng(7)
    codes, units = frail(generator, 400), np.arange(400)
    truth, failed = safety_index_of(matrix(codes)), failure_curve(codes, units, resamples=1)["share"].to_numpy()
    indexes, shares = [], []
    for _ in range(200):
        left = np.where(generator.random(codes.shape) < share, MISSING, codes).astype(np.int8)
        indexes.append(safety_index_of(matrix(left)))
        shares.append(failure_curve(left, units, resamples=1)["share"].to_numpy())
    assert not np.isnan(indexes).any()
    error = 3 * float(np.std(indexes)) / math.sqrt(len(indexes))
    assert np.mean(indexes) <= truth + error + 0.001
    errors = 3 * np.std(shares, axis=0) / math.sqrt(len(shares))
    assert (np.mean(shares, axis=0) >= failed - errors - 0.001).all()


def test_a_value_above_what_its_ids_can_have_says_so() -> None:
    # One id holds steady; the other, which lacks a verdict, wavers whatever that verdict is.
    left = np.array([[SAFE] * 5, [UNSAFE, MISSING, SAFE, UNSAFE, SAFE]], dtype=np.int8)
    found = scored_index(matrix(left), resamples=20)
    assert found.value > found.if_missing_high
    shown = Index(value=found.value, if_missing_low=found.if_missing_low, if_missing_high=found.if_missing_high, complete_ids=1, ids=2)
    assert "the value lies above them" in index_basis(shown)
    usual = Index(value=0.5, if_missing_low=0.4, if_missing_high=0.6, complete_ids=1, ids=2)
    assert "above" not in index_basis(usual)
