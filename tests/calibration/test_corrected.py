"""Scores corrected for the judge's errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from safemt_api.calibration.corrected import corrected_rate, corrected_scores, prediction_powered_asr
from safemt_api.errors import UsageError
from safemt_api.metrics.safety_index import safety_index, safety_index_with_interval

Build = Callable[..., pl.DataFrame]
WORDS = np.array(["safe", "unsafe"])


def sheet(*, uu: int, us: int, su: int, ss: int) -> pl.DataFrame:
    """A label sheet; ``us`` counts replies that are unsafe in truth and safe to the judge."""
    rows = [("unsafe", "unsafe")] * uu + [("unsafe", "safe")] * us + [("safe", "unsafe")] * su + [("safe", "safe")] * ss
    columns = {"dialogue_id": [f"d{i}" for i in range(len(rows))], "length": [1] * len(rows)}
    return pl.DataFrame(columns | {"truth": [truth for truth, _ in rows], "judge": [judge for _, judge in rows]})


def run_of(codes: NDArray[np.int64]) -> pl.DataFrame:
    """Outcomes of shape (ids, 5) as a verdict frame."""
    ids = len(codes)
    names = [f"{i:05d}" for i in range(ids) for _ in range(5)]
    return pl.DataFrame({"dialogue_id": names, "length": [1, 2, 4, 6, 8] * ids, "verdict": WORDS[codes.ravel()].tolist()})


def flawed(generator: np.random.Generator, truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """What a judge of sensitivity 0.8 and specificity 0.9 makes of the truth."""
    return (generator.random(truth.shape) < np.where(truth == 1, 0.8, 0.1)).astype(np.int64)


def test_rogan_gladens_formula() -> None:
    assert corrected_rate(0.3, sensitivity=0.9, specificity=0.95) == pytest.approx(0.25 / 0.85)
    assert corrected_rate(0.3, sensitivity=1, specificity=1) == pytest.approx(0.3)


@pytest.mark.parametrize(("observed", "corrected"), [(0.01, 0.0), (0.99, 1.0)])
def test_a_corrected_rate_stays_a_rate(observed: float, corrected: float) -> None:
    assert corrected_rate(observed, sensitivity=0.9, specificity=0.9) == corrected


def test_the_interval_of_asr_holds_the_judges_own_uncertainty() -> None:
    generator = np.random.default_rng(1)
    truth = (generator.random((1500, 5)) < 0.3).astype(np.int64)
    run = run_of(flawed(generator, truth))
    widths = []
    for times in (1, 50):
        labels = sheet(uu=32 * times, us=8 * times, su=4 * times, ss=36 * times)
        rows = corrected_scores(run, labels, resamples=400).asr_by_turn
        widths.append((rows["ci_high"] - rows["ci_low"]).to_numpy())
    few, many = widths
    # The same judge on the same run, known from 80 labels or from 4,000: what it is known from must show in every row.
    assert (few > 1.8 * many).all()


def test_a_judge_that_guesses_is_refused_with_the_reason(verdicts: Build) -> None:
    with pytest.raises(UsageError, match="hardly tells safe from unsafe"):
        corrected_rate(0.3, sensitivity=0.5, specificity=0.5)
    with pytest.raises(UsageError, match=r"sensitivity 0\.50, specificity 0\.52"):
        corrected_scores(verdicts("SU", lengths=[1, 2]), sheet(uu=25, us=25, su=24, ss=26), resamples=50)


def test_a_sheet_too_small_to_tell_the_judge_from_a_guesser_is_refused(verdicts: Build) -> None:
    with pytest.raises(UsageError, match="label more replies"):
        corrected_scores(verdicts("SU", lengths=[1, 2]), sheet(uu=3, us=2, su=2, ss=3), resamples=500)


def test_a_sheet_of_one_kind_is_refused(verdicts: Build) -> None:
    with pytest.raises(UsageError, match="no labelled reply is unsafe"):
        corrected_scores(verdicts("SU", lengths=[1, 2]), sheet(uu=0, us=0, su=1, ss=9), resamples=50)


def test_a_faultless_judge_changes_nothing_but_the_width(verdicts: Build) -> None:
    frame = verdicts(*["SSUUU", "SUSUU", "SSSSS", "UUSUU", "S?UUU"] * 8)
    found = corrected_scores(frame, sheet(uu=100, us=0, su=0, ss=100), resamples=500)
    assert found.safety_index.value == pytest.approx(safety_index(frame))
    assert found.raw_safety_index == pytest.approx(safety_index(frame))
    assert found.asr_by_turn["asr"].to_list() == pytest.approx(found.asr_by_turn["raw_asr"].to_list())
    plain = safety_index_with_interval(frame, resamples=500)
    assert found.safety_index.ci_high - found.safety_index.ci_low == pytest.approx(plain.ci_high - plain.ci_low, rel=0.2)


def test_the_correction_recovers_both_scores_from_a_flawed_judge() -> None:
    generator = np.random.default_rng(11)
    weakness = generator.random((6_000, 1))
    truth = (generator.random((6_000, 5)) < weakness * np.array([0.1, 0.2, 0.4, 0.6, 0.8])).astype(np.int64)
    seen = flawed(generator, truth)
    found = corrected_scores(run_of(seen), sheet(uu=1600, us=400, su=200, ss=1800), resamples=400)
    assert found.safety_index.value == pytest.approx(safety_index(run_of(truth)), abs=0.02)
    assert abs(found.raw_safety_index - safety_index(run_of(truth))) > 0.1
    assert found.asr_by_turn["asr"].to_list() == pytest.approx(truth.mean(axis=0).tolist(), abs=0.03)
    assert found.safety_index.ci_low < found.safety_index.value < found.safety_index.ci_high


def test_the_interval_of_these_very_replies_covers_their_own_truth_and_is_not_needlessly_wide() -> None:
    """50 labels of each verdict, weighted: the sheet's strata, and ids that are what they are."""
    generator, held, held_by_both, runs = np.random.default_rng(4), 0, 0, 100
    for seed in range(runs):
        truth = (generator.random((200, 5)) < 0.25).astype(np.int64)
        frame = run_of(flawed(generator, truth))
        marked = frame.with_columns(truth=pl.Series(WORDS[truth.ravel()].tolist()), judge="verdict")
        parts = [marked.filter(pl.col("judge") == verdict) for verdict in ("safe", "unsafe")]
        labels = pl.concat([part.sample(50, seed=seed).with_columns(weight=pl.lit(part.height / 50)) for part in parts])
        row = corrected_scores(frame, labels.drop("verdict"), resamples=300, seed=seed).asr_by_turn.row(0, named=True)
        held += row["run_low"] <= truth[:, 0].mean() <= row["run_high"]
        held_by_both += row["ci_low"] <= truth[:, 0].mean() <= row["ci_high"]
    assert 0.9 <= held / runs < held_by_both / runs


def test_asr_under_judges_in_turn_that_err_on_the_same_replies_is_corrected_without_bias_and_covered() -> None:
    """A third of the replies is hard for both judges, the second sees what the first calls unsafe, and the sheet is drawn by stage.

    The usual product of two tests in series, whose figures on all replies are multiplied, would be far off.
    """
    generator, share, replies, runs = np.random.default_rng(8), 0.3, 1_200, 150
    errors, held, held_by_run, product = np.zeros(runs), 0, 0, np.zeros(runs)
    for trial in range(runs):
        truth, hard = generator.random(replies) < share, generator.random(replies) < 1 / 3
        wrong = [generator.random(replies) < np.where(hard, *chances) for chances in ((0.4, 0.05), (0.35, 0.02))]
        first, second = (truth ^ one for one in wrong)
        said, stage = first & second, np.where(first, 2, 1)
        words = {name: WORDS[flags.astype(np.int64)] for name, flags in (("truth", truth), ("judge", said))}
        run = pl.DataFrame({"dialogue_id": [f"id{number:04d}" for number in range(replies)], "length": 1, "stage": stage, **words})
        parts = run.partition_by("stage", "judge", maintain_order=True)
        labels = pl.concat([part.sample(60, seed=trial).with_columns(weight=pl.lit(part.height / 60)) for part in parts])
        frame = run.select("dialogue_id", "length", verdict="judge")
        row = corrected_scores(frame, labels, resamples=300, seed=trial).asr_by_turn.row(0, named=True)
        errors[trial] = row["asr"] - truth.mean()
        held += row["ci_low"] <= share <= row["ci_high"]
        held_by_run += row["run_low"] <= truth.mean() <= row["run_high"]
        rates = [(one[truth].mean(), one[~truth].mean()) for one in (first, second)]
        (se, false), observed = np.prod(rates, axis=0), said.mean()
        product[trial] = (observed - false) / (se - false) - truth.mean()
    standard_error = errors.std(ddof=1) / np.sqrt(runs)
    assert abs(errors.mean()) < 3 * standard_error + 0.002
    assert abs(product.mean()) > 10 * standard_error
    assert min(held, held_by_run) / runs >= 0.92, (held, held_by_run)


def test_fewer_labels_make_a_wider_interval(verdicts: Build) -> None:
    frame = verdicts(*["SSUUU", "SUSUU", "SSSSS", "SSSSU"] * 50)
    many, few = (corrected_scores(frame, sheet(uu=9 * n, us=n, su=n, ss=9 * n), resamples=1_000).safety_index for n in (100, 5))
    assert few.ci_high - few.ci_low > 1.3 * (many.ci_high - many.ci_low)


def test_missing_verdicts_stay_missing_in_the_correction(verdicts: Build) -> None:
    found = corrected_scores(
        verdicts(*["S?U", "SS?", "S?S"] * 10, lengths=[1, 2, 4]).filter(pl.col("length") > 0), sheet(uu=90, us=10, su=10, ss=90)
    )
    assert found.asr_by_turn["raw_asr"].to_list() == [0.0, 0.0, 0.5]
    nothing = corrected_scores(verdicts("??", lengths=[1, 2]), sheet(uu=90, us=10, su=10, ss=90), resamples=50)
    assert np.isnan(nothing.safety_index.value)
    assert nothing.asr_by_turn["asr"].to_list() == [None, None]


def test_labels_on_the_run_remove_the_judges_bias() -> None:
    generator = np.random.default_rng(3)
    truth = (generator.random((2_000, 5)) < 0.3).astype(np.int64)
    frame = run_of(flawed(generator, truth))
    labels = run_of(truth).rename({"verdict": "truth"}).sample(fraction=0.25, seed=1)
    for row, rate in zip(prediction_powered_asr(frame, labels).iter_rows(named=True), truth.mean(axis=0), strict=True):
        assert row["asr"] == pytest.approx(rate, abs=0.05)
        assert row["ci_low"] < rate < row["ci_high"]
        assert 0 < row["tuning"] < 1
        alone = 2 * 1.96 * np.sqrt(0.21 / row["labelled"])
        assert row["ci_high"] - row["ci_low"] < 0.9 * alone


def test_unevenly_drawn_labels_need_and_use_their_weights() -> None:
    generator = np.random.default_rng(5)
    truth = (generator.random((4_000, 5)) < 0.3).astype(np.int64)
    frame = run_of(flawed(generator, truth))
    chance = pl.when(pl.col("verdict") == "unsafe").then(0.5).otherwise(0.1)
    drawn = frame.with_columns(chance=chance, luck=pl.Series(generator.random(20_000)), truth=pl.Series(WORDS[truth.ravel()].tolist()))
    labels = drawn.filter(pl.col("luck") < pl.col("chance")).with_columns(weight=1 / pl.col("chance"))
    for row, rate in zip(prediction_powered_asr(frame, labels.drop("verdict")).iter_rows(named=True), truth.mean(axis=0), strict=True):
        assert row["ci_low"] - 0.01 < rate < row["ci_high"] + 0.01


def test_a_handful_of_labels_gives_no_estimate(verdicts: Build) -> None:
    frame = verdicts(*["SU"] * 30, lengths=[1, 2])
    labels = frame.rename({"verdict": "truth"}).head(10)
    assert prediction_powered_asr(frame, labels).select("judged", "labelled", "asr").rows() == [(30, 5, None), (30, 5, None)]
    assert prediction_powered_asr(frame.clear(), labels).height == 0


def half_refused(generator: np.random.Generator) -> tuple[NDArray[np.int64], pl.DataFrame, pl.DataFrame]:
    """Truth, what a flawed judge made of it, and labels on a quarter of what it was asked: the vendor refused half without the judge."""
    asked = generator.random((3_000, 5)) < 0.5
    truth = np.where(asked, generator.random((3_000, 5)) < 0.4, 0).astype(np.int64)
    seen = np.where(asked, flawed(generator, truth), 0)
    frame = run_of(seen).with_columns(asked=pl.Series(asked.ravel()))
    marked = (
        frame.with_columns(truth=pl.Series(WORDS[truth.ravel()].tolist()), judge="verdict").filter("asked").sample(fraction=0.25, seed=2)
    )
    return truth, frame, marked.select("dialogue_id", "length", "judge", "truth", weight=pl.lit(4.0))


def test_replies_the_judge_was_not_asked_about_are_not_corrected() -> None:
    truth, frame, labels = half_refused(np.random.default_rng(7))
    found = corrected_scores(frame, labels, resamples=300)
    assert found.asr_by_turn["asr"].to_list() == pytest.approx(truth.mean(axis=0).tolist(), abs=0.025)
    assert found.safety_index.value == pytest.approx(safety_index(run_of(truth)), abs=0.02)
    blind = corrected_scores(frame.drop("asked"), labels, resamples=300)
    assert blind.asr_by_turn["asr"].mean() == pytest.approx(truth.mean() - 0.5 * 0.1 / 0.7, abs=0.02)


def test_they_count_as_known_in_prediction_powered_inference() -> None:
    truth, frame, labels = half_refused(np.random.default_rng(8))
    for row, rate in zip(prediction_powered_asr(frame, labels.drop("judge")).iter_rows(named=True), truth.mean(axis=0), strict=True):
        assert row["ci_low"] < rate < row["ci_high"]
        assert row["labelled"] == labels.filter(pl.col("length") == row["length"]).height
