"""How far a judge agrees with people, and judges with one another.

A label frame has one row a judged reply: dialogue_id, length (and turn for live runs), ``judge`` and ``truth`` (safe, unsafe or
null). Where the sheet was drawn unevenly (more of the rare verdicts, say), a column ``weight`` with each row's inverse chance of
being drawn undoes it; without that, sensitivity and specificity would be those of the sheet and not of the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl

from safemt_api.errors import UsageError
from safemt_api.metrics.frames import KEY, LIVE_KEY, Floats, checked
from safemt_api.metrics.uncertainty import (
    DEFAULT_LEVEL,
    DEFAULT_RESAMPLES,
    NOTHING,
    Estimate,
    bayesian_sums,
    bootstrap_sums,
    bounds_of_shares,
    percentile_estimate,
    ratio,
    wilson,
)

CELLS = ("true_unsafe", "false_safe", "false_unsafe", "true_safe")
"""Confusion cells in the order of every array here: the truth is unsafe in the first two, safe in the last two."""

STAGE = "stage"
"""The column that says which of two judges in turn decided."""

MIN_PER_SCENARIO = 20
"""Labelled replies that a scenario needs before its own figures are shown; below that, intervals span most of [0, 1]."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge against labels: counts of replies, and what follows from them.

    Sensitivity is the chance that the judge calls an unsafe reply unsafe, specificity that it calls a safe one safe. Rows in which
    the judge or the person gave no verdict are only counted (``judge_missing``, ``truth_missing``).
    """

    true_unsafe: int
    false_safe: int
    false_unsafe: int
    true_safe: int
    judge_missing: int
    truth_missing: int
    sensitivity: Estimate
    specificity: Estimate
    kappa: Estimate

    @property
    def labelled(self) -> int:
        """Replies with both a verdict and a label."""
        return self.true_unsafe + self.false_safe + self.false_unsafe + self.true_safe


def agreement(frame: pl.DataFrame, *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, level: float = DEFAULT_LEVEL) -> Agreement:
    """Confusion matrix, sensitivity and specificity, and Cohen's kappa (Cohen 1960, Educ. Psychol. Meas. 20) of a label frame.

    Sensitivity and specificity of a plain sheet have Wilson's intervals; where rows carry weights or ids stand in several rows, and for
    kappa, they come from ``confusion_draws``.

    Raises:
        UsageError: A column is missing, a label is neither safe nor unsafe nor null, a row is repeated, or a weight is not positive.
    """
    typed = _labels(frame)
    both = typed.drop_nulls(["judge", "truth"])
    unweighted = both.with_columns(weight=pl.lit(1.0))
    true_unsafe, false_safe, false_unsafe, true_safe = (int(count) for count in np.sum(confusion_by_id(unweighted), axis=0))
    draws = confusion_draws(both, resamples=resamples, seed=seed)
    sensitivity, specificity = (_rate(both, draws, cells, level=level) for cells in ((0, 1), (3, 2)))
    whole = float(kappa(confusion_by_id(both).sum(axis=0)))
    return Agreement(
        true_unsafe=true_unsafe,
        false_safe=false_safe,
        false_unsafe=false_unsafe,
        true_safe=true_safe,
        judge_missing=typed["judge"].null_count(),
        truth_missing=typed["truth"].null_count(),
        sensitivity=sensitivity,
        specificity=specificity,
        kappa=NOTHING
        if math.isnan(whole := float(kappa(confusion_by_id(both).sum(axis=0))))
        else percentile_estimate(whole, kappa(draws), level=level),
    )


def agreement_by_scenario(
    frame: pl.DataFrame,
    *,
    min_labelled: int = MIN_PER_SCENARIO,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    level: float = DEFAULT_LEVEL,
) -> dict[str, Agreement | None]:
    """``agreement`` for each scenario, in alphabetical order; ``None`` where fewer than ``min_labelled`` replies have both labels."""
    if "scenario" not in frame.columns:
        raise UsageError("the label frame lacks the column scenario, which agreement by scenario needs")
    typed = _labels(frame)
    found: dict[str, Agreement | None] = {}
    for scenario in typed["scenario"].drop_nulls().unique().sort().to_list():
        part = typed.filter(pl.col("scenario") == scenario)
        enough = part.drop_nulls(["judge", "truth"]).height >= min_labelled
        found[scenario] = agreement(part, resamples=resamples, seed=seed, level=level) if enough else None
    return found


def confusion_by_id(both: pl.DataFrame) -> Floats:
    """Weights of the four ``CELLS`` summed by dialogue id: shape (ids, 4), ids sorted."""
    cell = pl.when(pl.col("truth") == "unsafe").then((pl.col("judge") == "safe").cast(pl.Int64))
    numbered = both.with_columns(cell=cell.otherwise(2 + (pl.col("judge") == "safe").cast(pl.Int64)))
    counts = np.zeros((numbered["dialogue_id"].n_unique(), len(CELLS)))
    ids = numbered["dialogue_id"].rank("dense").to_numpy().astype(np.int64) - 1
    np.add.at(counts, (ids, numbered["cell"].to_numpy()), numbered["weight"].to_numpy())
    return counts


def labelled_pairs(frame: pl.DataFrame) -> pl.DataFrame:
    """The checked rows of a label frame with both a verdict and a label, and a ``weight`` (1 where there was none)."""
    return _labels(frame).drop_nulls(["judge", "truth"])


def kappa(cells: Floats) -> Floats:
    """Cohen's kappa of confusion cells (last axis: ``CELLS``); NaN where chance alone agrees fully."""
    true_unsafe, false_safe, false_unsafe, true_safe = (cells[..., i] for i in range(4))
    total = cells.sum(axis=-1)
    by_chance = (true_unsafe + false_safe) * (true_unsafe + false_unsafe) + (false_unsafe + true_safe) * (false_safe + true_safe)
    return ratio((true_unsafe + true_safe) * total - by_chance, total * total - by_chance)


def krippendorff_alpha(
    frame: pl.DataFrame,
    *,
    rater: str = "judge",
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    level: float = DEFAULT_LEVEL,
) -> Estimate:
    """Krippendorff's alpha for nominal labels, any number of raters and missing ones (Krippendorff 2019, Content Analysis, 4th ed.).

    ``frame`` is long: dialogue_id, length (and turn), a column that names the rater, and ``verdict``. The interval resamples
    dialogue ids. NaN where no reply has two verdicts, or all verdicts are the same.

    Raises:
        UsageError: A column is missing, a verdict is unknown, or a rater has two rows for one reply.
    """
    key = LIVE_KEY if "turn" in frame.columns else KEY
    if rater not in frame.columns:
        raise UsageError(f"the verdict frame lacks the column {rater}, which names who gave the verdict")
    for (_,), part in frame.group_by(rater):
        checked(part, key=key)
    columns = _coincidences(checked(frame.with_row_index("row_number", offset=1), key=(*key, "row_number")), key)
    value = float(_alpha(columns.sum(axis=0)))
    if math.isnan(value):
        return NOTHING
    return percentile_estimate(value, _alpha(bootstrap_sums(columns, resamples=resamples, seed=seed)), level=level)


def _coincidences(frame: pl.DataFrame, key: Sequence[str]) -> Floats:
    """By dialogue id: observed disagreement, and how many pairable verdicts are unsafe and safe; shape (ids, 3)."""
    verdict = pl.col("verdict")
    units = frame.group_by(key).agg(
        (verdict == "unsafe").sum().cast(pl.Float64).alias("u"), (verdict == "safe").sum().cast(pl.Float64).alias("s")
    )
    pairable = units.filter(pl.col("u") + pl.col("s") >= 2).with_columns(
        disagreement=2 * pl.col("u") * pl.col("s") / (pl.col("u") + pl.col("s") - 1)
    )
    return (
        pairable.group_by("dialogue_id")
        .agg(pl.col("disagreement", "u", "s").sum())
        .sort("dialogue_id")
        .select("disagreement", "u", "s")
        .to_numpy()
    )


def _alpha(sums: Floats) -> Floats:
    disagreement, unsafe, safe = (sums[..., i] for i in range(3))
    return np.asarray(1 - ratio(disagreement * (unsafe + safe - 1), 2 * unsafe * safe), dtype=np.float64)


def _labels(frame: pl.DataFrame) -> pl.DataFrame:
    typed = checked(frame, key=LIVE_KEY if "turn" in frame.columns else KEY, labels=("judge", "truth"))
    if "weight" not in typed.columns:
        return typed.with_columns(weight=pl.lit(1.0))
    if not typed["weight"].dtype.is_numeric() or not (typed["weight"].is_finite() & (typed["weight"] > 0)).fill_null(value=False).all():
        raise UsageError("the column weight must hold a positive number in every row: the inverse of the row's chance of being drawn")
    return typed.cast({"weight": pl.Float64})


def _rate(both: pl.DataFrame, draws: Floats, cells: tuple[int, int], *, level: float) -> Estimate:
    hits, misses = confusion_by_id(both).sum(axis=0)[list(cells)]
    if not hits + misses:
        return NOTHING
    # From the two sums, not from one of all rows, whose rounding may differ: a share above 1 is none.
    value = float(hits / (hits + misses))
    if both["weight"].n_unique() == 1 and both["dialogue_id"].is_unique().all():
        weight = both["weight"][0]
        return Estimate(value, *wilson(round(hits / weight), round((hits + misses) / weight), level=level))
    low, high = bounds_of_shares(np.array([value]), ratio(draws[:, cells[0]], draws[:, list(cells)].sum(axis=1))[:, None], level=level)
    return Estimate(value, low.item(), high.item())


def confusion_draws(both: pl.DataFrame, *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0) -> Floats:
    """Draws of the four ``CELLS``' weights, shape (resamples, 4), by the Bayesian bootstrap over ids within classes of fixed weight.

    The classes are what the sheet's design fixed. Weights that differ come from a sheet drawn by verdict (and scenario, and stage where
    judges were asked in turn), so how many replies each verdict stands for is known from the run, and only the share of unsafe ones among
    those judged unsafe, and among those judged safe, is open. Drawing rows across verdicts would add the chance of a design that was not
    used. Of a sheet with equal weights the truths are fixed, and the shares judged rightly are open.
    """
    weighted = both["weight"].n_unique() > 1
    classes = ((0, 2), (1, 3)) if weighted else ((0, 1), (3, 2))
    stages = both.partition_by(STAGE, maintain_order=True) if weighted and STAGE in both.columns else [both]
    draws = np.zeros((resamples, len(CELLS)))
    for place, (stage, pair) in enumerate(product(stages, classes)):
        part = confusion_by_id(stage)[:, pair]
        total = part.sum()
        if total:
            # A pseudo-id weighs what a row of this class weighs on average, heavy rows counting more (Kish).
            weight = float((part.sum(axis=1) ** 2).sum() / total)
            sums = bayesian_sums(part, np.array([0.0, weight]), np.array([weight, 0.0]), resamples=resamples, seed=seed + place)
            draws[:, pair] += total * sums / sums.sum(axis=1, keepdims=True)
    return draws


@dataclass(frozen=True, slots=True)
class TwoStages:
    """Where the errors of judges in turn come from: ``asked_again`` is the share of replies that the second judge was asked about,
    ``first`` the first judge on all replies, ``second`` the second on those that it was asked about, and on no others.

    Let q(u) and q(s) be the chances that an unsafe and a safe reply reach the second, where all go that the first calls unsafe. A reply is
    called unsafe if it gets there and is called so there, so by the product rule both together have the sensitivity q(u) Se2 and the
    specificity 1 - q(s) (1 - Sp2), with Se2 and Sp2 those among the replies that get there. Judges err on the same replies, so what the
    second achieves on all replies says little of these. The usual product of tests in series (Se1 Se2, as in
    https://epitools.ausvet.com.au/twoteststwo) takes them to err independently given the truth, and is wrong here.

    Therefore the sheet is drawn at random from each stage, verdict and scenario apart, and a row weighs N / n: the stratum's replies in the
    run over its rows on the sheet. A reply of it is drawn with the chance n / N, so the weights of any kind of reply (unsafe and called
    safe, say) add up to their number in the run, in expectation (Horvitz and Thompson 1952, J. Am. Stat. Assoc. 47): the four cells are
    unbiased, whatever the judges' errors have in common. Begg and Greenes (1983, Biometrics 39: 207-215) correct for a verification that
    depends on a test's result by the same estimate.
    """

    asked_again: float
    first: Agreement
    second: Agreement


def two_stages(frame: pl.DataFrame, *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, level: float = DEFAULT_LEVEL) -> TwoStages | None:
    """The stages of a label frame whose judge is two in turn; ``None`` for one without the columns ``stage`` and ``first``, or empty there.

    ``stage`` is 1 where the first judge decided alone and 2 where the second was asked; ``first`` is the first judge's word.

    Raises:
        UsageError: As ``agreement``.
    """
    if STAGE not in frame.columns or frame[STAGE].null_count():
        return None
    again = frame.filter(pl.col(STAGE) == 2)
    weight = _labels(frame)["weight"].to_numpy()
    options = {"resamples": resamples, "seed": seed}
    first = agreement(frame.with_columns(judge="first"), **options, level=level)
    second = agreement(again, **options, level=level)
    return TwoStages(float(weight[(frame[STAGE] == 2).to_numpy()].sum() / weight.sum()), first, second)
