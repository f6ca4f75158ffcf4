"""A confidence sequence for a mean in [0, 1]: an interval that may be looked at after every observation.

The hedged capital (betting) sequence of Waudby-Smith and Ramdas (2024, J. R. Stat. Soc. B 86, "Estimating means of bounded random
variables by betting"). For each candidate mean m two gamblers bet that it is too low and too high; a fair game would leave their
capital a martingale, so by Ville's inequality it ever exceeds 1 / alpha with chance alpha at most, and a candidate at which it does
is ruled out for good. With a known population size the draws are taken as without replacement, and the interval closes on the
population's own mean.
"""

from __future__ import annotations

import math

import numpy as np

from safemt_api.errors import UsageError
from safemt_api.metrics.frames import Floats, checked_level
from safemt_api.metrics.uncertainty import DEFAULT_LEVEL

GRID_STEPS = 1_000
MAX_STAKE = 0.5
"""The most of the capital that is ever at risk; half keeps one surprising draw from ruining a gambler."""
NAME = "hedged-capital betting confidence sequence (Waudby-Smith and Ramdas 2024)"


class ConfidenceSequence:
    """Feed observations in random order; each ``update`` gives an interval that holds at every look, at once, with chance ``level``.

    With ids as clusters an observation is the mean of one id's outcomes. ``population`` is the number of ids in all, where the
    mean of these very ids is wanted and they are drawn without replacement; ``None`` for draws from an endless supply.

    Raises:
        UsageError: ``level`` is outside (0, 1) or ``population`` is not positive.
    """

    def __init__(self, *, level: float = DEFAULT_LEVEL, population: int | None = None) -> None:
        if population is not None and population < 1:
            raise UsageError(f"population must be at least 1, not {population}")
        self._alpha, self._population = 1 - checked_level(level), population
        self._means = np.linspace(0, 1, GRID_STEPS + 1)
        # Capital is kept as a logarithm: it grows past what a float can hold within a few hundred draws.
        self._against_low, self._against_high = np.zeros_like(self._means), np.zeros_like(self._means)
        self._kept = np.ones(len(self._means), dtype=bool)
        self._count, self._total = 0, 0.0
        self._regularised_total, self._squares = 0.5, 0.25
        self.low, self.high = 0.0, 1.0

    @property
    def count(self) -> int:
        """Observations so far."""
        return self._count

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def update(self, value: float) -> tuple[float, float]:
        """The interval (low, high) after one more observation.

        Raises:
            UsageError: ``value`` is outside [0, 1], or more values came than the population holds.
        """
        if not 0 <= value <= 1:
            raise UsageError(f"a confidence sequence takes values in [0, 1], not {value}")
        if self._count == self._population:
            raise UsageError(f"all {self._population} of the population were observed already")
        self._bet(value)
        self._count += 1
        self._total += value
        self._regularised_total += value
        self._squares += (value - self._regularised_total / (self._count + 1)) ** 2
        threshold = math.log(2 / self._alpha)
        self._kept &= (self._against_low < threshold) & (self._against_high < threshold)
        kept = self._means[self._kept]
        if kept.size:
            # One step outwards: the truth may lie between a candidate ruled out and the next one kept.
            self.low = max(self.low, float(kept[0]) - 1 / GRID_STEPS)
            self.high = min(self.high, float(kept[-1]) + 1 / GRID_STEPS)
        return self.low, self.high

    def _bet(self, value: float) -> None:
        expected = self._expected()
        inside = (expected > 0) & (expected < 1)
        fair = np.where(inside, expected, 0.5)
        # The predictable plug-in stake, chosen before the draw is seen: large while little is known, small where draws vary.
        variance, t = self._squares / (self._count + 1), self._count + 1
        stake = math.sqrt(2 * math.log(2 / self._alpha) / (variance * t * math.log1p(t)))
        gain_low = np.log1p(np.minimum(stake, MAX_STAKE / fair) * (value - fair))
        gain_high = np.log1p(-np.minimum(stake, MAX_STAKE / (1 - fair)) * (value - fair))
        self._against_low += np.where(inside, gain_low, 0.0)
        self._against_high += np.where(inside, gain_high, 0.0)
        self._kept &= inside | (np.abs(expected - value) < _ROUNDING)

    def _expected(self) -> Floats:
        """What the next draw averages under each candidate: itself, or the mean of those left of a finite population."""
        if self._population is None:
            return self._means
        return np.asarray((self._population * self._means - self._total) / (self._population - self._count), dtype=np.float64)


_ROUNDING = 1e-9
