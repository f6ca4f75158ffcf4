"""Do the 95 % intervals cover, and are they no wider than need be? And how quick are they?

    python -m benchmarks.intervals                 all of it, some five minutes on an idle core; exits with 1 where a goal is missed
    python -m benchmarks.intervals --runs 200      a quick look, with wider error of its own

The gate simulates runs with a known truth: n ids of 30, 100 or 400; attacks succeed at each of five lengths with chance .01, .05, .3 or .9;
nothing, 5 % or 30 % of the verdicts are missing at random. Each id has a latent weakness (a probit with correlation .7 between weakness and
reply), so its outcomes at five lengths go together, and so do two runs on the same ids. Truths follow by quadrature. Each score must hold
its truth in 93 % of the runs; paired differences are tried where the second run is like the first, and where it is half as weak.

Width is held against *an interval that covers exactly*: the same intervals, all stretched or shrunk about their estimates by the one factor
with which exactly 95 % of them hold the truth. Their mean width may be 1.25 times that. Where fewer than five ids of a run are expected to
show the rarer outcome, most runs look alike and no factor is defined; there the yardstick is the exact interval of Clopper and Pearson for
as many ids with one observation each (for a difference: that of the ids unsafe in the one run alone plus that of the other).

A score that is not given in most runs, such as SI where fewer than half of the ids are complete, is said not to be given: coverage among
the few runs that have it would be that of a selection by outcome. The error of a coverage from R runs is about 2 * sqrt(0.05 * 0.95 / R)
(1.4 points for 1,000 runs); a goal is missed only beyond it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from math import comb
from statistics import NormalDist

import numpy as np
import polars as pl

from safemt_api.calibration.agreement import agreement
from safemt_api.calibration.corrected import corrected_scores, prediction_powered_asr
from safemt_api.metrics.asr import pooled_asr
from safemt_api.metrics.comparison import paired, paired_differences
from safemt_api.metrics.first_failure import failure_curve
from safemt_api.metrics.frames import MISSING, Codes, Floats, VerdictMatrix
from safemt_api.metrics.safety_index import combined, scored_index, scores_with_intervals, spreads
from safemt_api.metrics.sequential import ConfidenceSequence
from safemt_api.metrics.uncertainty import proportion_interval

LENGTHS = (1, 2, 4, 6, 8)
RISING = (0.05, 0.10, 0.20, 0.30, 0.40)
IDS, RATES, SHARES_MISSING = (30, 100, 400), (0.01, 0.05, 0.3, 0.9), (0.0, 0.05, 0.3)
WEAKNESS = 0.7
"""Correlation of an id's latent weakness with each reply: the ids of real runs agree about this much over lengths."""
LEAST_COVERAGE, MOST_WIDTH = 0.93, 1.25
FEW = 5
RESAMPLES = 400
"""Fewer than a report takes: the noise of a percentile is far below that of the simulation."""
GOAL = (0.93, 0.97)
SPEED_GOAL_SECONDS = 2.0
SENSITIVITY, SPECIFICITY = 0.90, 0.95
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Population:
    """An endless population of ids with known rates: ASR by length, and the chance of each id's failing given its weakness."""

    asr: tuple[float, ...]

    def draw(self, generator: np.random.Generator, weakness: Floats) -> Codes:
        """Outcomes of shape (ids, lengths) for ids of the given weakness."""
        noise = generator.standard_normal((len(weakness), len(self.asr)))
        latent = WEAKNESS * weakness[:, None] + np.sqrt(1 - WEAKNESS**2) * noise
        return np.asarray(latent < self._quantiles(), dtype=np.int8)

    def safety_index(self) -> float:
        """SI of the whole population."""
        patterns = np.array(list(product((0, 1), repeat=len(self.asr))), dtype=np.int8)
        weights, chance = self._given_weakness()
        shares = weights @ np.where(patterns[None] == 1, chance[:, None], 1 - chance[:, None]).prod(axis=2)
        mean_spread = float(shares @ spreads(VerdictMatrix((), LENGTHS, patterns)))
        return combined(np.array([self.asr]), np.array([mean_spread]), LENGTHS).item()

    def failed(self) -> Floats:
        """The share that has failed by each length."""
        weights, chance = self._given_weakness()
        return np.asarray(1 - weights @ np.cumprod(1 - chance, axis=1))

    def alone(self, other: Population) -> float:
        """The chance that a reply at the first length is unsafe here and safe in the other population, on the same id."""
        weights, chance = self._given_weakness()
        return float(weights @ (chance[:, 0] * (1 - other._given_weakness()[1][:, 0])))

    def _given_weakness(self) -> tuple[Floats, Floats]:
        """Weights of a Gauss-Hermite quadrature over the weakness, and the chance of failing at each length at its nodes."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        limits = (self._quantiles() - WEAKNESS * nodes[:, None]) / np.sqrt(1 - WEAKNESS**2)
        return weights / weights.sum(), np.vectorize(NormalDist().cdf)(limits)

    def _quantiles(self) -> Floats:
        return np.array([NormalDist().inv_cdf(rate) for rate in self.asr])


def matrix(codes: Codes) -> VerdictMatrix:
    """Outcomes as the verdicts of a run."""
    return VerdictMatrix(tuple(f"{i:05d}" for i in range(len(codes))), LENGTHS, codes)


def frame(codes: Codes) -> pl.DataFrame:
    """Outcomes as a verdict frame."""
    ids, lengths = len(codes), len(LENGTHS)
    names = pl.Series(np.repeat(np.arange(ids), lengths)).cast(pl.String).str.zfill(5)
    verdicts = pl.Series(np.array(["safe", "unsafe"])[codes.ravel()])
    return pl.DataFrame({"dialogue_id": names, "length": np.tile(LENGTHS, ids), "verdict": verdicts})


@dataclass(slots=True)
class Tally:
    """How many intervals were seen, and how many held the truth."""

    held: int = 0
    seen: int = 0

    def note(self, low: float, truth: float, high: float) -> None:
        """One more interval."""
        self.held += low <= truth <= high
        self.seen += 1

    @property
    def coverage(self) -> float:
        """Share of intervals that held the truth."""
        return self.held / self.seen


def show(what: str, tally: Tally, runs: int, *, goal: tuple[float, float] = GOAL) -> bool:
    """One line of the table, and whether its goal is met; a coverage from ``runs`` simulated runs carries the error that follows."""
    low, high = goal
    error = coverage_error(runs)
    beyond = max(low - tally.coverage, tally.coverage - high)
    verdict = "met" if beyond <= 0 else "within its error" if beyond <= error else "MISSED"
    wanted = f"{100 * low:.0f}-{100 * high:.0f} %"
    print(f"  {what:<72} {100 * tally.coverage:6.1f} ± {100 * error:.1f} %   {wanted}   {verdict}", flush=True)
    return verdict != "MISSED"


def coverage_error(runs: int) -> float:
    """Two standard errors of a coverage measured from so many runs."""
    return float(2 * (0.05 * 0.95 / runs) ** 0.5)


@dataclass(slots=True)
class Intervals:
    """The intervals of one score in one cell of the grid, and how often that score is not given."""

    truth: float
    widths: list[float] = field(default_factory=list)
    stretches: list[float] = field(default_factory=list)
    missed: int = 0
    withheld: int = 0

    def note(self, value: float | None, low: float | None, high: float | None) -> None:
        """One more run; a stretch is the factor about the estimate with which the interval would end at the truth."""
        if value is None or low is None or high is None or np.isnan(value):
            self.withheld += 1
            return
        arm, distance = (value - low, value - self.truth) if self.truth < value else (high - value, self.truth - value)
        self.missed += distance > arm + ROUNDING
        self.widths.append(high - low)
        self.stretches.append(distance / arm if arm > 0 else float(distance > ROUNDING) * 10)

    @property
    def given(self) -> bool:
        """Whether most runs have the score."""
        return len(self.widths) > self.withheld

    @property
    def coverage(self) -> float:
        """The share of intervals that held the truth."""
        return 1 - self.missed / len(self.widths)

    def excess(self, exact_width: float | None) -> float:
        """Mean width over that of an interval that covers exactly; ``exact_width`` where ids with the rarer outcome are few."""
        mean = float(np.mean(self.widths))
        return mean / exact_width if exact_width else 1 / max(float(np.quantile(self.stretches, 0.95)), ROUNDING)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the grid: how many ids, how weak, and how much is missing."""

    ids: int
    rate: float
    missing: float

    def damaged(self, codes: Codes, generator: np.random.Generator) -> Codes:
        """The outcomes with verdicts taken out at random."""
        return np.where(generator.random(codes.shape) < self.missing, MISSING, codes).astype(np.int8)

    def exact_width(self, rate: float, *, verdicts: int = 1) -> float | None:
        """The mean width of Clopper and Pearson's interval of a rate; ``None`` where five ids or more should show the rarer outcome.

        Args:
            rate: Of the outcome that the score counts.
            verdicts: How many verdicts an id must have to be seen: 2 for a pair, all up to k for the first failure by k.
        """
        seen = max(1, round(self.ids * (1 - self.missing) ** verdicts))
        rarer = min(rate, 1 - rate)
        if seen * rarer >= FEW:
            return None
        chances = [comb(seen, x) * rarer**x * (1 - rarer) ** (seen - x) for x in range(seen + 1)]
        widths = [_exact_width(x, seen) if chance > 1e-4 else 0.0 for x, chance in enumerate(chances)]
        return sum(chance * width for chance, width in zip(chances, widths, strict=True))


@cache
def _exact_width(successes: int, n: int) -> float:
    """Width of Clopper and Pearson's 95 % interval (1934, Biometrika 26)."""

    def below(p: float, most: int) -> float:
        return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(most + 1))

    def solved(most: int, tail: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle, most) > tail else (low, middle)
        return low

    upper = 1.0 if successes == n else solved(successes, 0.025)
    return upper - (0.0 if successes == 0 else solved(successes - 1, 0.975))


def single_runs(cell: Cell, runs: int, generator: np.random.Generator) -> Iterator[tuple[str, Intervals, float | None]]:
    """The scores of one run: name, intervals, and the width of the exact interval where the rarer outcome is rare."""
    population = Population((cell.rate,) * len(LENGTHS))
    failed, truth = population.failed(), population.safety_index()
    by_length, pooled, index = Intervals(cell.rate), Intervals(cell.rate), Intervals(truth)
    curve = [Intervals(share) for share in failed.tolist()]
    for run in range(runs):
        verdicts = matrix(cell.damaged(population.draw(generator, generator.standard_normal(cell.ids)), generator))
        for unsafe, judged in zip(verdicts.unsafe.sum(axis=0).tolist(), verdicts.judged.sum(axis=0).tolist(), strict=True):
            by_length.note(unsafe / judged if judged else None, *proportion_interval(unsafe, judged))
        overall = pooled_asr(verdicts, resamples=RESAMPLES, seed=run)
        pooled.note(overall.value, overall.ci_low, overall.ci_high)
        scored = scored_index(verdicts, resamples=RESAMPLES, seed=run)
        index.note(scored.value, scored.ci_low, scored.ci_high)
        table = failure_curve(verdicts.codes, np.arange(cell.ids), resamples=RESAMPLES, seed=run)
        for found, row in zip(curve, table.iter_rows(named=True), strict=True):
            found.note(row["share"], row["ci_low"], row["ci_high"])
    yield "ASR by length", by_length, cell.exact_width(cell.rate)
    yield "pooled ASR", pooled, cell.exact_width(cell.rate)
    yield "Safety Index", index, cell.exact_width(truth)
    for place, (length, found, share) in enumerate(zip(LENGTHS, curve, failed.tolist(), strict=True)):
        yield f"first failure by {length}", found, cell.exact_width(share, verdicts=place + 1)


def paired_runs(cell: Cell, runs: int, generator: np.random.Generator, *, factor: float) -> Iterator[tuple[str, Intervals, float | None]]:
    """The paired differences of two runs, the second of which fails ``factor`` times as often."""
    a, b = (Population((cell.rate * times,) * len(LENGTHS)) for times in (1.0, factor))
    change, index_change = b.asr[0] - a.asr[0], b.safety_index() - a.safety_index()
    by_length, pooled, index = Intervals(change), Intervals(change), Intervals(index_change)
    for run in range(runs):
        weakness = generator.standard_normal(cell.ids)
        pair = [matrix(cell.damaged(population.draw(generator, weakness), generator)) for population in (a, b)]
        table, asr_change, found = paired_differences(*paired(*pair), resamples=RESAMPLES, seed=run)
        for row in table.iter_rows(named=True):
            by_length.note(row["difference"], row["ci_low"], row["ci_high"])
        pooled.note(asr_change.value, asr_change.ci_low, asr_change.ci_high)
        index.note(found.value, found.ci_low, found.ci_high)
    in_one_alone = [cell.exact_width(x.alone(y), verdicts=2) for x, y in ((a, b), (b, a))]
    known = [width for width in in_one_alone if width is not None]
    exact = sum(known) if len(known) == 2 else None
    kind = "like runs" if factor == 1 else "halved"
    for name, intervals in (("ASR by length", by_length), ("pooled ASR", pooled), ("SI", index)):
        yield f"difference of {name}, {kind}", intervals, exact


def grid(runs: int) -> bool:
    """The gate; whether it holds."""
    print(f"  {'score':<40}{'ids':>5}{'rate':>6}{'missing':>9}  {'coverage':<28}width / exact", flush=True)
    held = True
    for ids, rate, missing in product(IDS, RATES, SHARES_MISSING):
        cell = Cell(ids, rate, missing)
        generator = np.random.default_rng([ids, round(100 * rate), round(100 * missing)])
        rows = [*single_runs(cell, runs, generator)]
        rows += [row for factor in (1.0, 0.5) for row in paired_runs(cell, runs, generator, factor=factor)]
        shown = [_show_row(cell, *row, runs=runs) for row in rows]
        held = held and all(shown)
    return held


def _show_row(cell: Cell, name: str, found: Intervals, exact_width: float | None, *, runs: int) -> bool:
    start = f"  {name:<40}{cell.ids:>5}{cell.rate:>6}{cell.missing:>9.0%}"
    if not found.given:
        print(f"{start}  given in {len(found.widths) / (len(found.widths) + found.withheld):.0%} of the runs", flush=True)
        return True
    covered, wide = verdicts_on(found, exact_width, runs=runs)
    measured = "" if exact_width is None else " (exact: Clopper-Pearson)"
    print(f"{start}  {100 * found.coverage:5.1f} % {covered:<20}{found.excess(exact_width):5.2f} {wide}{measured}", flush=True)
    return "MISSED" not in (covered, wide)


def verdicts_on(found: Intervals, exact_width: float | None, *, runs: int) -> tuple[str, str]:
    """Whether coverage and width meet their goals: met, within the simulation's error, or MISSED."""
    # An empirical 95 % quantile of a stretch, taken as that of a normal deviate's size, has this relative error at two sigma.
    width_error = 2 * (0.05 * 0.95 / runs) ** 0.5 / 0.117 / 1.96
    covered = _verdict(LEAST_COVERAGE - found.coverage, coverage_error(runs))
    return covered, _verdict(found.excess(exact_width) - MOST_WIDTH, MOST_WIDTH * width_error)


def _verdict(beyond: float, error: float) -> str:
    return "met" if beyond <= 0 else "within its error" if beyond <= error else "MISSED"


def _judged(generator: np.random.Generator, truth: Codes) -> Codes:
    chance = np.where(truth == 1, SENSITIVITY, 1 - SPECIFICITY)
    return (generator.random(truth.shape) < chance).astype(np.int8)


def corrections(runs: int, ids: int, labelled: int) -> bool:
    """Scores corrected for a judge that errs, from a sheet drawn evenly from the run's verdicts: weighted, as a run's own sheet is."""
    held = True
    for name, asr in (("10 %", (0.1,) * 5), ("30 %", (0.3,) * 5), ("rising 5 to 40 %", RISING)):
        population, generator = Population(asr), np.random.default_rng(labelled)
        truth, names = (
            population.safety_index(),
            ("sensitivity", "Rogan–Gladen ASR", "the same of the run's own replies", "Rogan–Gladen SI"),
        )
        tallies = {what: Tally() for what in names}
        for run in range(runs):
            outcomes = population.draw(generator, generator.standard_normal(ids))
            seen = _judged(generator, outcomes)
            sheet = _sheet(outcomes, seen, labelled, seed=run)
            found, judge = (
                corrected_scores(frame(seen), sheet, resamples=RESAMPLES, seed=run),
                agreement(sheet, resamples=RESAMPLES, seed=run),
            )
            tallies[names[0]].note(judge.sensitivity.ci_low, SENSITIVITY, judge.sensitivity.ci_high)
            for rate, own, row in zip(asr, outcomes.mean(axis=0), found.asr_by_turn.iter_rows(named=True), strict=True):
                tallies[names[1]].note(row["ci_low"], rate, row["ci_high"])
                tallies[names[2]].note(row["run_low"], float(own), row["run_high"])
            tallies[names[3]].note(found.safety_index.ci_low, truth, found.safety_index.ci_high)
        for what, tally in tallies.items():
            held &= show(f"{what}, ASR {name}, {ids} ids, {labelled} labels", tally, runs, goal=(LEAST_COVERAGE, 1.0))
    return held


def powered(runs: int, ids: int) -> bool:
    """Prediction-powered ASR with labels on three replies of ten."""
    population, generator, tally = Population(RISING), np.random.default_rng(3), Tally()
    for run in range(runs):
        outcomes = population.draw(generator, generator.standard_normal(ids))
        chosen = frame(outcomes).sample(fraction=0.3, seed=run).rename({"verdict": "truth"})
        seen = frame(_judged(generator, outcomes))
        for rate, row in zip(RISING, prediction_powered_asr(seen, chosen).iter_rows(named=True), strict=True):
            tally.note(row["ci_low"], rate, row["ci_high"])
    return show(f"prediction-powered ASR, ASR rising, {ids} ids, 30 % labelled", tally, runs)


def _sheet(outcomes: Codes, seen: Codes, labelled: int, *, seed: int) -> pl.DataFrame:
    """Half of the labels on replies judged unsafe, half on those judged safe, each weighing what it stands for."""
    both = frame(seen).rename({"verdict": "judge"}).join(frame(outcomes).rename({"verdict": "truth"}), on=["dialogue_id", "length"])
    parts = [both.filter(pl.col("judge") == verdict) for verdict in ("safe", "unsafe")]
    sizes = [min(part.height, labelled // 2) for part in parts]
    pairs = [(part, size) for part, size in zip(parts, sizes, strict=True) if size]
    drawn = [part.sample(size, seed=seed).with_columns(weight=pl.lit(part.height / size)) for part, size in pairs]
    return pl.concat(drawn)


def sequences(runs: int) -> bool:
    """The confidence sequence, looked at after every draw and stopped at a half-width of 0.1 or when it first excludes the truth."""
    all_held = True
    for rate in (0.05, 0.3):
        generator, always, spent = np.random.default_rng(7), Tally(), []
        for _ in range(runs):
            sequence = ConfidenceSequence()
            held = True
            while sequence.half_width > 0.1 and held:
                low, high = sequence.update(float(np.mean(generator.random(5) < generator.beta(rate, 1 - rate))))
                held = low <= rate <= high
            always.note(0.0, 0.0 if held else 1.0, 0.5)
            spent.append(sequence.count)
        all_held &= show(
            f"confidence sequence at every look, mean {rate}, stops near {int(np.median(spent))} ids", always, runs, goal=(0.95, 1.0)
        )
    return all_held


def speed() -> bool:
    """10,000 resamples over 2,000 ids × 5 lengths × 17 runs: ASR by turn and SI with intervals, from the frames on."""
    generator = np.random.default_rng(1)
    population = Population(RISING)
    frames = [frame(population.draw(generator, generator.standard_normal(2_000))) for _ in range(17)]
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        scores_with_intervals(frames)
        seconds.append(time.perf_counter() - started)
    best = min(seconds)
    verdict = "met" if best < SPEED_GOAL_SECONDS else "MISSED"
    what = "10,000 resamples, 2,000 ids × 5 lengths × 17 runs"
    print(f"  {what:<72} {best:6.2f} s   < {SPEED_GOAL_SECONDS:.0f} s      {verdict}", flush=True)
    return best < SPEED_GOAL_SECONDS


def main() -> None:
    """Print the table; exit with 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000, help="simulated runs a row")
    runs: int = parser.parse_args().runs
    parts: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("speed", speed),
        ("coverage and width of 95 % intervals", lambda: grid(runs)),
        ("corrections", lambda: corrections(runs // 2, 200, 200)),
        ("prediction-powered", lambda: powered(runs // 2, 200)),
        ("stopping early", lambda: sequences(runs // 2)),
    )
    held = True
    for title, part in parts:
        print(f"{title}", flush=True)
        started = time.perf_counter()
        held = part() and held
        print(f"  ({time.perf_counter() - started:.0f} s)", flush=True)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
