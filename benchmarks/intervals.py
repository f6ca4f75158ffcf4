"""Do the 95 % intervals cover? And how quick is the bootstrap?

    python benchmarks/intervals.py                 all of it, three to four minutes on two idle cores
    python benchmarks/intervals.py --runs 200      a quick look, with wider error of its own

Runs are simulated with a known truth: each id has a latent weakness, so its replies at five lengths are correlated, and ASR by length
and SI of the endless population follow by quadrature. Coverage is the share of simulated runs whose interval holds the truth; the goal
is 93 to 97 %. The error of a coverage from R runs is about 2 * sqrt(0.05 * 0.95 / R) (1.3 points for 1,200 runs). Where a goal is missed,
the row says so: percentile intervals of rates near 0 or 1 on few ids are known to fall short, and Wilson's stands beside them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np
import polars as pl

from safemt_api.metrics.calibration import corrected_scores, prediction_powered_asr
from safemt_api.metrics.comparison import compare
from safemt_api.metrics.frames import Codes, Floats, VerdictMatrix
from safemt_api.metrics.safety_index import combined, spreads
from safemt_api.metrics.scores import scores_of_matrices, scores_with_intervals
from safemt_api.metrics.sequential import ConfidenceSequence
from safemt_api.metrics.uncertainty import wilson

LENGTHS = (1, 2, 4, 6, 8)
RISING = (0.05, 0.10, 0.20, 0.30, 0.40)
HALVED = tuple(rate / 2 for rate in RISING)
PROFILES = {"5 %": (0.05,) * 5, "20 %": (0.2,) * 5, "50 %": (0.5,) * 5, "90 %": (0.9,) * 5, "rising 5 to 40 %": RISING}
WEAKNESS = 0.7
"""Correlation of an id's latent weakness with each reply: the ids of real runs agree about this much over lengths."""
GOAL = (0.93, 0.97)
SPEED_GOAL_SECONDS = 2.0
BATCH = 100
SENSITIVITY, SPECIFICITY = 0.90, 0.95


@dataclass(frozen=True, slots=True)
class Population:
    """An endless population of ids with known rates: ASR by length, SI, and the chance of each id's failing given its weakness."""

    asr: tuple[float, ...]

    def draw(self, generator: np.random.Generator, weakness: Floats) -> Codes:
        """Outcomes of shape (ids, lengths) for ids of the given weakness."""
        noise = generator.standard_normal((len(weakness), len(self.asr)))
        latent = WEAKNESS * weakness[:, None] + np.sqrt(1 - WEAKNESS**2) * noise
        return np.asarray(latent < _quantiles(self.asr), dtype=np.int8)

    def safety_index(self) -> float:
        """SI of the whole population, by Gauss–Hermite quadrature over the weakness."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        limits = (_quantiles(self.asr) - WEAKNESS * nodes[:, None]) / np.sqrt(1 - WEAKNESS**2)
        chance = np.vectorize(NormalDist().cdf)(limits)
        patterns = np.array(list(product((0, 1), repeat=len(self.asr))), dtype=np.int8)
        given = np.where(patterns[None] == 1, chance[:, None], 1 - chance[:, None]).prod(axis=2)
        shares = (weights / weights.sum()) @ given
        mean_spread = float(shares @ spreads(VerdictMatrix((), LENGTHS, patterns)))
        return combined(np.array([self.asr]), np.array([mean_spread]), LENGTHS).item()


def _quantiles(asr: tuple[float, ...]) -> Floats:
    return np.array([NormalDist().inv_cdf(rate) for rate in asr])


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


def show(what: str, tally: Tally, runs: int, *, at_least: bool = False) -> None:
    """One line of the table; a coverage is measured from ``runs`` simulated runs and carries the error that follows from it."""
    low, high = (0.95, 1.0) if at_least else GOAL
    error = 2 * (0.05 * 0.95 / runs) ** 0.5
    beyond = max(low - tally.coverage, tally.coverage - high)
    verdict = "met" if beyond <= 0 else "within its error" if beyond <= error else "MISSED"
    goal = ">= 95 %" if at_least else "93-97 %"
    print(f"  {what:<72} {100 * tally.coverage:6.1f} ± {100 * error:.1f} %   {goal}   {verdict}", flush=True)


def scores(runs: int, ids: int) -> None:
    """ASR by turn and SI of single runs."""
    for name, asr in PROFILES.items():
        population, generator = Population(asr), np.random.default_rng([ids, *(int(100 * rate) for rate in asr)])
        truth, rates, proportion, index = population.safety_index(), Tally(), Tally(), Tally()
        for batch in range(runs // BATCH):
            drawn = [matrix(population.draw(generator, generator.standard_normal(ids))) for _ in range(BATCH)]
            for verdicts, result in zip(drawn, scores_of_matrices(drawn, seed=batch), strict=True):
                for rate, row in zip(asr, result.asr_by_turn.iter_rows(named=True), strict=True):
                    rates.note(row["ci_low"], rate, row["ci_high"])
                for rate, count in zip(asr, verdicts.unsafe.sum(axis=0), strict=True):
                    low, high = wilson(int(count), ids)
                    proportion.note(low, rate, high)
                index.note(result.safety_index.ci_low, truth, result.safety_index.ci_high)
        show(f"ASR by turn, bootstrap, ASR {name}, {ids} ids", rates, runs)
        show(f"   the same by Wilson, for comparison, {ids} ids", proportion, runs)
        show(f"SI {truth:.3f}, ASR {name}, {ids} ids", index, runs)


def differences(runs: int, ids: int) -> None:
    """Paired differences between two runs on the same ids."""
    pairs = {
        "alike": (RISING, RISING),
        "B halves ASR": (RISING, tuple(rate / 2 for rate in RISING)),
        "50 to 60 %": ((0.5,) * 5, (0.6,) * 5),
    }
    for name, (asr_a, asr_b) in pairs.items():
        a, b, generator = Population(asr_a), Population(asr_b), np.random.default_rng(ids)
        by_length, overall, index = Tally(), Tally(), Tally()
        truth = b.safety_index() - a.safety_index()
        for run in range(runs):
            weakness = generator.standard_normal(ids)
            found = compare(frame(a.draw(generator, weakness)), frame(b.draw(generator, weakness)), resamples=2_000, seed=run)
            for change, row in zip(np.subtract(asr_b, asr_a), found.by_length.iter_rows(named=True), strict=True):
                by_length.note(row["ci_low"], change, row["ci_high"])
            overall.note(found.asr_difference.ci_low, float(np.mean(asr_b) - np.mean(asr_a)), found.asr_difference.ci_high)
            index.note(found.safety_index_difference.ci_low, truth, found.safety_index_difference.ci_high)
        show(f"paired difference of ASR by turn, {name}, {ids} ids", by_length, runs)
        show(f"paired difference of ASR overall, {name}, {ids} ids", overall, runs)
        show(f"paired difference of SI, {name}, {ids} ids", index, runs)


def _judged(generator: np.random.Generator, truth: Codes) -> Codes:
    chance = np.where(truth == 1, SENSITIVITY, 1 - SPECIFICITY)
    return (generator.random(truth.shape) < chance).astype(np.int8)


def corrections(runs: int, ids: int, labelled: int) -> None:
    """Rogan–Gladen and prediction-powered corrections, with a judge that errs and a label sheet."""
    for name, asr in (("30 %", (0.3,) * 5), ("rising 5 to 40 %", RISING)):
        population, generator = Population(asr), np.random.default_rng(labelled)
        truth, rates, index, powered = population.safety_index(), Tally(), Tally(), Tally()
        for run in range(runs):
            outcomes = population.draw(generator, generator.standard_normal(ids))
            seen = _judged(generator, outcomes)
            found = corrected_scores(frame(seen), _sheet(generator, labelled), resamples=1_000, seed=run)
            for rate, row in zip(asr, found.asr_by_turn.iter_rows(named=True), strict=True):
                rates.note(row["ci_low"], rate, row["ci_high"])
            index.note(found.safety_index.ci_low, truth, found.safety_index.ci_high)
            chosen = frame(outcomes).sample(fraction=0.3, seed=run).rename({"verdict": "truth"})
            for rate, row in zip(asr, prediction_powered_asr(frame(seen), chosen).iter_rows(named=True), strict=True):
                powered.note(row["ci_low"], rate, row["ci_high"])
        show(f"Rogan–Gladen ASR by turn, ASR {name}, {ids} ids, {labelled} labels", rates, runs)
        show(f"Rogan–Gladen SI, ASR {name}, {ids} ids, {labelled} labels", index, runs)
        show(f"prediction-powered ASR, ASR {name}, {ids} ids, 30 % labelled", powered, runs)


def _sheet(generator: np.random.Generator, labelled: int) -> pl.DataFrame:
    truth = (generator.random((labelled, 1)) < 0.4).astype(np.int8)
    names = ("safe", "unsafe")
    columns = {"judge": _judged(generator, truth)[:, 0], "truth": truth[:, 0]}
    texts = {name: [names[code] for code in codes] for name, codes in columns.items()}
    return pl.DataFrame({"dialogue_id": [f"label{i}" for i in range(labelled)], "length": [1] * labelled} | texts)


def sequences(runs: int) -> None:
    """The confidence sequence, looked at after every draw and stopped at a half-width of 0.1 or when it first excludes the truth."""
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
        show(f"confidence sequence at every look, mean {rate}, stops near {int(np.median(spent))} ids", always, runs, at_least=True)


def speed() -> None:
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_200, help="simulated runs a row (slower rows take a quarter or less)")
    runs: int = parser.parse_args().runs
    parts: Iterator[tuple[str, Callable[[], None]]] = iter(
        (
            ("speed", speed),
            ("coverage of 95 % intervals, 200 ids", lambda: scores(runs, 200)),
            ("differences", lambda: differences(runs // 2, 200)),
            ("corrections", lambda: corrections(runs // 4, 200, 300)),
            ("stopping early", lambda: sequences(runs // 2)),
        )
    )
    for title, part in parts:
        print(f"{title}", flush=True)
        started = time.perf_counter()
        part()
        print(f"  ({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
