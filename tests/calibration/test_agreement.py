"""Agreement of a judge with labels, and of judges with one another."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from safemt_api.calibration.agreement import agreement, agreement_by_scenario, krippendorff_alpha, two_stages
from safemt_api.errors import UsageError
from safemt_api.metrics.uncertainty import wilson


def sheet(*, uu: int = 0, us: int = 0, su: int = 0, ss: int = 0) -> pl.DataFrame:
    """A label sheet; ``us`` counts replies that are unsafe in truth and safe to the judge."""
    rows = [("unsafe", "unsafe")] * uu + [("unsafe", "safe")] * us + [("safe", "unsafe")] * su + [("safe", "safe")] * ss
    columns = {"dialogue_id": [f"d{i}" for i in range(len(rows))], "length": [1] * len(rows)}
    return pl.DataFrame(columns | {"truth": [truth for truth, _ in rows], "judge": [judge for _, judge in rows]})


def ratings(*rows: str) -> pl.DataFrame:
    """One string a judge, one letter a reply."""
    words = {"S": "safe", "U": "unsafe", "?": None}
    cells = [(f"reply{i}", 1, f"judge{j}", words[x]) for j, row in enumerate(rows) for i, x in enumerate(row)]
    return pl.DataFrame(
        cells, schema={"dialogue_id": pl.String, "length": pl.Int64, "judge": pl.String, "verdict": pl.String}, orient="row"
    )


def test_the_textbook_kappa() -> None:
    found = agreement(sheet(uu=20, us=5, su=10, ss=15), resamples=300)
    assert (found.true_unsafe, found.false_safe, found.false_unsafe, found.true_safe, found.labelled) == (20, 5, 10, 15, 50)
    assert found.kappa.value == pytest.approx(0.4)
    assert found.kappa.ci_low < 0.4 < found.kappa.ci_high


def test_sensitivity_and_specificity_have_wilsons_interval() -> None:
    found = agreement(sheet(uu=45, us=5, su=3, ss=57), resamples=100)
    assert (found.sensitivity.value, found.specificity.value) == (0.9, 0.95)
    assert (found.sensitivity.ci_low, found.sensitivity.ci_high) == pytest.approx(wilson(45, 50))
    assert (found.specificity.ci_low, found.specificity.ci_high) == pytest.approx(wilson(57, 60))


def test_several_replies_of_an_id_count_as_one_cluster() -> None:
    frame = sheet(uu=45, us=15, su=3, ss=57)
    five = pl.concat([frame.with_columns(length=pl.lit(k)) for k in (1, 2, 4, 6, 8)])
    single, clustered = agreement(frame, resamples=2_000), agreement(five, resamples=2_000)
    widths = [found.sensitivity.ci_high - found.sensitivity.ci_low for found in (single, clustered)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_weights_undo_an_uneven_sheet() -> None:
    frame = sheet(uu=40, us=10, su=40, ss=10).with_columns(weight=pl.when(pl.col("judge") == "safe").then(9.0).otherwise(1.0))
    found = agreement(frame, resamples=300)
    assert found.sensitivity.value == pytest.approx(40 / (40 + 90))
    assert found.specificity.value == pytest.approx(90 / (90 + 40))
    assert found.sensitivity.ci_low < found.sensitivity.value < found.sensitivity.ci_high
    assert found.true_unsafe == 40


def test_missing_verdicts_and_labels_are_counted_and_left_out() -> None:
    frame = sheet(uu=2, ss=3).with_columns(
        judge=pl.Series([None, "unsafe", "safe", "safe", "safe"]), truth=pl.Series(["unsafe", "unsafe", None, "safe", "safe"])
    )
    found = agreement(frame, resamples=20)
    assert (found.labelled, found.judge_missing, found.truth_missing) == (3, 1, 1)


@pytest.mark.parametrize("frame", [sheet(), sheet(ss=5)])
def test_a_sheet_of_one_kind_leaves_the_other_rate_unknown(frame: pl.DataFrame) -> None:
    found = agreement(frame.cast({"truth": pl.String, "judge": pl.String, "dialogue_id": pl.String, "length": pl.Int64}), resamples=20)
    assert math.isnan(found.sensitivity.value)
    assert math.isnan(found.kappa.value)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, None])
def test_a_weight_that_is_no_weight_is_refused(weight: float | None) -> None:
    with pytest.raises(UsageError, match="weight must hold a positive number"):
        agreement(sheet(uu=1, ss=1).with_columns(weight=pl.lit(weight, dtype=pl.Float64)))


def test_scenarios_with_too_few_labels_have_no_figures() -> None:
    frame = sheet(uu=20, us=5, ss=3).with_columns(scenario=pl.Series(["Fraud"] * 25 + ["Sex"] * 3))
    found = agreement_by_scenario(frame, resamples=20)
    assert list(found) == ["Fraud", "Sex"]
    assert found["Sex"] is None
    assert found["Fraud"] is not None
    assert found["Fraud"].labelled == 25


def test_krippendorffs_own_binary_example() -> None:
    # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section A: alpha = 0.095.
    estimate = krippendorff_alpha(ratings("SUSSSSSSUS", "UUUSSUSSSS"), resamples=200)
    assert round(estimate.value, 3) == 0.095
    assert estimate.ci_low < estimate.value < estimate.ci_high


def test_alpha_with_missing_verdicts_by_hand() -> None:
    # Pairable: reply 0 (UUU), reply 1 (US), reply 2 (SSS); reply 3 has one verdict and drops out.
    # n_u = 4, n_s = 4; observed 2·1·1/(2-1) = 2; alpha = 1 - (8-1)·2 / (2·4·4).
    assert krippendorff_alpha(ratings("UUS?", "USSU", "U?S?"), resamples=20).value == pytest.approx(1 - 7 * 2 / 32)


def test_full_agreement_is_one_and_one_label_only_is_undefined() -> None:
    assert krippendorff_alpha(ratings("USU", "USU"), resamples=50).value == 1
    assert math.isnan(krippendorff_alpha(ratings("SSS", "SSS"), resamples=50).value)
    assert math.isnan(krippendorff_alpha(ratings("S?U", "?S?"), resamples=50).value)


def test_two_rows_of_one_judge_for_one_reply_are_refused() -> None:
    frame = ratings("SU", "SU")
    with pytest.raises(UsageError, match="more than one row"):
        krippendorff_alpha(pl.concat([frame, frame.head(1)]))
    with pytest.raises(UsageError, match="lacks the column judge"):
        krippendorff_alpha(frame.drop("judge"))


def weighted_sheet(rows: list[tuple[str, str, float]]) -> pl.DataFrame:
    """(judge, truth, weight), one row an id."""
    columns = {"dialogue_id": [f"d{i}" for i in range(len(rows))], "length": [1] * len(rows)}
    return pl.DataFrame(columns | {name: [row[place] for row in rows] for place, name in enumerate(("judge", "truth", "weight"))})


@pytest.mark.parametrize("weights", [(1 / 3, 7.1, 0.1), (18.345 / 7, 0.7, 2.3), (3.3, 3.3, 3.3)])
@pytest.mark.parametrize("misses", [0, 1])
def test_weights_that_do_not_add_up_exactly_do_not_crash(weights: tuple[float, ...], misses: int) -> None:
    """Sums of weights are rounded by their order, so that all hits together may exceed all rows: no count of successes exceeds n."""
    rows = [("unsafe", "unsafe", weight) for weight in weights * 7] + [("safe", "safe", weight) for weight in weights * 5]
    found = agreement(weighted_sheet(rows + [("safe", "unsafe", weights[1])] * misses), resamples=200)
    assert (found.sensitivity.value == 1) == (misses == 0)
    assert 0 < found.sensitivity.ci_low < found.sensitivity.ci_high <= 1


def test_sensitivity_on_a_sheet_drawn_by_verdict_covers_where_few_replies_are_unsafe() -> None:
    """ASR .1, sensitivity .9, specificity .95, 50 of each verdict labelled: a miss is rare on the sheet and weighs seventeen replies."""
    generator, held, runs = np.random.default_rng(6), 0, 200
    for seed in range(runs):
        truth = generator.random(1_000) < 0.1
        judge = generator.random(1_000) < np.where(truth, 0.9, 0.05)
        drawn = [(generator.choice(np.flatnonzero(judge == verdict), 50, replace=False), verdict) for verdict in (True, False)]
        names = ("safe", "unsafe")
        rows = [
            (names[int(verdict)], names[int(truth[i])], float((judge == verdict).sum() / 50)) for chosen, verdict in drawn for i in chosen
        ]
        found = agreement(weighted_sheet(rows), resamples=300, seed=seed).sensitivity
        held += found.ci_low <= 0.9 <= found.ci_high
    assert held / runs >= 0.93


UNSAFE_SHARE, FIRST_UNSAFE, SECOND_UNSAFE = 0.3, {"unsafe": 0.9, "safe": 0.2}, {"unsafe": 0.85, "safe": 0.3}
"""Judges in turn: chances that the first, and then the second, calls a reply of each truth unsafe. The second does worse on what reaches it
than on all replies, since both err on the same ones."""
NET_SENSITIVITY, NET_SPECIFICITY = 0.9 * 0.85, 1 - 0.2 * 0.3


def in_turn(random: np.random.Generator, replies: int) -> pl.DataFrame:
    """A run under judges in turn, with the truth of every reply."""
    truth = random.random(replies) < UNSAFE_SHARE
    first = random.random(replies) < np.where(truth, FIRST_UNSAFE["unsafe"], FIRST_UNSAFE["safe"])
    second = random.random(replies) < np.where(truth, SECOND_UNSAFE["unsafe"], SECOND_UNSAFE["safe"])
    words = {name: np.where(flags, "unsafe", "safe") for name, flags in (("truth", truth), ("first", first), ("judge", first & second))}
    return pl.DataFrame({"dialogue_id": [f"id{i:05d}" for i in range(replies)], "length": 1, **words, "stage": np.where(first, 2, 1)})


def drawn_from_each_stage(run: pl.DataFrame, n: int, random: np.random.Generator) -> pl.DataFrame:
    """A sheet of so many rows from each stage and verdict, weighted back."""
    parts = run.partition_by("stage", "judge", maintain_order=True)
    sheets = [part.sample(min(n, part.height), seed=int(random.integers(2**31))) for part in parts]
    return pl.concat([sheet.with_columns(weight=pl.lit(part.height / sheet.height)) for sheet, part in zip(sheets, parts, strict=True)])


def test_a_sheet_from_each_stage_tells_both_judges_and_both_together() -> None:
    random = np.random.default_rng(5)
    sheet = drawn_from_each_stage(in_turn(random, 60_000), 12_000, random)
    both, stages = agreement(sheet, resamples=200), two_stages(sheet, resamples=200)
    assert stages is not None
    assert (both.sensitivity.value, both.specificity.value) == pytest.approx((NET_SENSITIVITY, NET_SPECIFICITY), abs=0.01)
    assert (stages.first.sensitivity.value, stages.first.specificity.value) == pytest.approx((0.9, 0.8), abs=0.01)
    assert (stages.second.sensitivity.value, stages.second.specificity.value) == pytest.approx((0.85, 0.7), abs=0.015)
    assert stages.asked_again == pytest.approx(0.3 * 0.9 + 0.7 * 0.2, abs=0.01)
    # Net figures are those of tests in series, to the digit: all that the first calls unsafe is asked about again.
    assert both.sensitivity.value == pytest.approx(stages.first.sensitivity.value * stages.second.sensitivity.value)
    assert both.specificity.value == pytest.approx(1 - (1 - stages.first.specificity.value) * (1 - stages.second.specificity.value))


def test_the_intervals_of_judges_in_turn_hold_the_truth() -> None:
    covered = np.zeros(2)
    trials = 300
    for trial in range(trials):
        random = np.random.default_rng(trial)
        found = agreement(drawn_from_each_stage(in_turn(random, 1500), 40, random), resamples=400, seed=trial)
        estimates = ((found.sensitivity, NET_SENSITIVITY), (found.specificity, NET_SPECIFICITY))
        covered += [estimate.ci_low <= truth <= estimate.ci_high for estimate, truth in estimates]
    assert (covered / trials >= 0.93).all(), covered / trials


def test_one_judge_has_no_stages() -> None:
    sheet = in_turn(np.random.default_rng(1), 50)
    assert two_stages(sheet.drop("stage", "first")) is None
    assert two_stages(sheet.with_columns(stage=pl.lit(None, pl.Int64))) is None
