"""Paired comparison of two runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safemt_api.errors import UsageError
from safemt_api.metrics.comparison import compare, holm, mcnemar, swap_test

Build = Callable[..., pl.DataFrame]
QUICK = settings(deadline=None, max_examples=30)
PATTERNS = st.lists(st.tuples(st.text("SU?", min_size=3, max_size=3), st.text("SU?", min_size=3, max_size=3)), min_size=1, max_size=10)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (1, 8, 20 / 512), (8, 1, 20 / 512), (5, 5, 1.0), (0, 10, 2 / 1024), (12, 4, 2 * (1 + 16 + 120 + 560 + 1820) / 65536)],
)
def test_mcnemar_is_the_exact_binomial_test_of_discordant_pairs(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(p, rel=1e-12)


def test_mcnemar_does_not_overflow_on_large_runs() -> None:
    assert 0 < mcnemar(4_000, 4_400) < 1e-4


@QUICK
@given(only_a=st.integers(0, 40), only_b=st.integers(0, 40))
def test_with_one_length_the_randomisation_test_is_mcnemars(only_a: int, only_b: int) -> None:
    assert swap_test([-1] * only_a + [1] * only_b + [0, 0]) == pytest.approx(mcnemar(only_a, only_b), abs=1e-9)


@QUICK
@given(net=st.lists(st.integers(-3, 3), max_size=8))
def test_the_randomisation_test_equals_trying_every_swap(net: list[int]) -> None:
    sums = [sum(sign * change for sign, change in zip(signs, net, strict=True)) for signs in product((1, -1), repeat=len(net))]
    assert swap_test(net) == pytest.approx(sum(abs(total) >= abs(sum(net)) for total in sums) / len(sums), abs=1e-9)


def test_holm_steps_down_and_never_lets_a_smaller_p_overtake() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    assert math.isnan(holm([0.01, math.nan])[1])
    assert holm([0.01, math.nan])[0] == 0.01


def test_the_table_by_length_counts_pairs_judged_in_both(verdicts: Build) -> None:
    a, b = verdicts("UU", "US", "S?", "SS", lengths=[1, 2]), verdicts("SU", "SS", "SU", "U?", lengths=[1, 2])
    found = compare(a, b, resamples=200)
    first, second = found.by_length.iter_rows(named=True)
    assert [first[name] for name in ("pairs", "asr_a", "asr_b", "difference", "only_a_unsafe", "only_b_unsafe")] == [
        4,
        0.5,
        0.25,
        -0.25,
        2,
        1,
    ]
    assert [second[name] for name in ("pairs", "asr_a", "asr_b", "difference")] == [2, 0.5, 0.5, 0.0]
    assert first["p_value"] == 1.0
    assert found.unpaired_cells == 2
    assert found.asr_a == pytest.approx(3 / 6)
    assert found.asr_b == pytest.approx(2 / 6)


def test_ids_and_lengths_of_one_run_only_are_reported_and_left_out(verdicts: Build) -> None:
    a = verdicts("UUU", "SSS", "UUU", lengths=[1, 2, 4], ids=["x", "y", "only a"])
    found = compare(a, verdicts("SS", "SS", "UU", lengths=[1, 2], ids=["x", "y", "only b"]), resamples=50)
    assert (found.only_in_a, found.only_in_b) == (("only a",), ("only b",))
    assert (found.ids, found.lengths) == (2, (1, 2))


def test_runs_without_a_common_id_or_length_cannot_be_compared(verdicts: Build) -> None:
    with pytest.raises(UsageError, match="share no dialogue id"):
        compare(verdicts("S", lengths=[1], ids=["a"]), verdicts("S", lengths=[1], ids=["b"]))
    with pytest.raises(UsageError, match="share no length"):
        compare(verdicts("S", lengths=[1]), verdicts("S", lengths=[2]))


@QUICK
@given(pairs=PATTERNS)
def test_swapping_the_runs_mirrors_every_difference(verdicts: Build, pairs: list[tuple[str, str]]) -> None:
    a, b = (verdicts(*patterns, lengths=[1, 2, 4]) for patterns in zip(*pairs, strict=True))
    forth, back = compare(a, b, resamples=60), compare(b, a, resamples=60)
    for one, other in ((forth.asr_difference, back.asr_difference), (forth.safety_index_difference, back.safety_index_difference)):
        assert (one.value, one.ci_low, one.ci_high) == pytest.approx((-other.value, -other.ci_high, -other.ci_low), nan_ok=True)
    assert forth.by_length["p_value"].to_list() == back.by_length["p_value"].to_list()


def test_a_clear_difference_is_said_in_plain_words(verdicts: Build) -> None:
    a, b = verdicts(*["SUUUU"] * 30, *["SSSSU"] * 30), verdicts(*["SSSSS"] * 30, *["SSSSU"] * 10, *["SSSSS"] * 20)
    found = compare(a, b, name_a="old", name_b="new", resamples=500)
    assert found.sentence.startswith("new is safer than old: SI +0.")
    assert "; ASR at all lengths falls by 47 points [" in found.sentence
    assert "; ASR at 8 turns falls by 83 points [" in found.sentence
    assert compare(b, a, name_a="new", name_b="old", resamples=500).sentence.startswith("old is less safe than new: SI -0.")


def test_alike_runs_show_no_difference_but_no_false_certainty(verdicts: Build) -> None:
    frame = verdicts(*["SSUUU", "SSSSS"] * 10)
    found = compare(frame, frame, resamples=100)
    assert found.sentence.startswith("No difference shown between A and B: SI +0.00 [")
    assert found.safety_index_difference.ci_low < -0.05
    assert found.by_length.filter(pl.col("ci_high") < 0.05).height == 0
    assert found.by_length["p_holm"].to_list() == [1.0] * 5


def test_scores_that_disagree_are_not_smoothed_over(verdicts: Build) -> None:
    a, b = verdicts(*["USSSS"] * 40, *["SSSSS"] * 10), verdicts(*["SSUUU"] * 40, *["SSSSS"] * 10)
    assert compare(a, b, resamples=200).sentence.startswith("The two scores disagree on A and B")


def test_no_pair_judged_in_both_says_so(verdicts: Build) -> None:
    found = compare(verdicts("?", lengths=[1]), verdicts("U", lengths=[1]), resamples=20)
    assert found.sentence == "No pair has a verdict in both runs, so nothing can be said."
    assert found.by_length["difference"].to_list() == [None]


def test_scenarios_are_tested_together_under_holm(verdicts: Build) -> None:
    scenario = pl.Series("scenario", ["Fraud"] * 40 + ["Sex"] * 40)
    a = verdicts(*["UU"] * 20, *["US", "SU"] * 10, lengths=[1, 2]).with_columns(scenario)
    b = verdicts(*["SS"] * 20, *["SU", "US"] * 10, lengths=[1, 2]).with_columns(scenario)
    table = compare(a, b, resamples=100).by_scenario
    assert table is not None
    fraud, sex = table.iter_rows(named=True)
    assert (fraud["scenario"], fraud["ids"], fraud["pairs"], fraud["difference"]) == ("Fraud", 20, 40, -1.0)
    assert fraud["p_value"] == pytest.approx(2 / 2**20, rel=1e-6)
    assert fraud["p_holm"] == pytest.approx(4 / 2**20, rel=1e-6)
    assert (sex["difference"], sex["p_value"], sex["p_holm"]) == (0.0, 1.0, 1.0)


def test_a_scenario_of_disjoint_ids_has_an_empty_row(verdicts: Build) -> None:
    a = verdicts("S", "U", lengths=[1], ids=["x", "y"]).with_columns(scenario=pl.Series(["Fraud", "Sex"]))
    b = verdicts("S", "U", lengths=[1], ids=["x", "z"]).with_columns(scenario=pl.Series(["Fraud", "Sex"]))
    table = compare(a, b, resamples=20).by_scenario
    assert table is not None
    assert table.row(1, named=True)["p_value"] is None
