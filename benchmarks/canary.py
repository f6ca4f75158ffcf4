"""Does a canary find a change of ten points in ASR on 200 ids, and how often does it call one that is none?

    python -m benchmarks.canary                  the whole grid, some five minutes on an idle core; exits with 1 where a goal is missed
    python -m benchmarks.canary --trials 200     a quick look, with wider error of its own

Simulated canaries: 200 ids at one, three or five lengths, asked once before and as often now as ``safemt-api canary`` asks by default; 5 %
of all replies have no verdict. Each dialogue has a rate of its own, by which its replies are drawn: beta around the base ASR, with a
likeness (intraclass correlation) of .1 to .9: how far the replies to one dialogue are alike. The change of ten points comes in two ways:
every dialogue fails a little more often, or some ids fail always, at all lengths, and the others are as before.

Goals: found in 80 % of canaries, false alarms in 5 % at most; each is missed only beyond two standard errors of the simulation. ``said`` is
the change that the canaries themselves say they find in 8 of 10 cases (``detectable``), their median.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from safemt_api.metrics.canary import GOAL, POWER, detectable_change, enough_replies, exact_p

IDS, SHARE_JUDGED = 200, 0.95
LENGTHS, RATES, LIKENESSES = (1, 3, 5), (0.1, 0.3, 0.5), (0.1, 0.3, 0.6, 0.9)
LEVEL = 0.05
How = Literal["no change", "every dialogue", "some ids"]
HOW: tuple[How, ...] = ("every dialogue", "some ids")
"""Ways in which ten points come about."""

Rates = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """A canary over 200 ids: lengths, base ASR, likeness of replies, and how often each dialogue was and is asked."""

    lengths: int
    asr: float
    likeness: float
    old: int = 1
    new: int | None = None

    @property
    def asked(self) -> int:
        """Replies to each dialogue now; by default as many as the command asks for."""
        if self.new is not None:
            return self.new
        return enough_replies(self.asr, dialogues=round(IDS * self.lengths * SHARE_JUDGED), old=self.old)

    @property
    def attainable(self) -> bool:
        """Whether the replies of before leave the power: those at one length, each all but the toss of a coin, are too noisy."""
        return self.lengths > 1 or self.likeness > LIKENESSES[0] or self.asr <= RATES[0]


def simulated(row: Row, how: How, *, trials: int, seed: int = 5) -> tuple[float, float]:
    """The share of canaries that call a change, and the median of what they say they find in 8 of 10 cases."""
    generator = np.random.default_rng([seed, row.lengths, round(100 * row.asr), round(100 * row.likeness), len(how)])
    strength, shape = 1 / row.likeness - 1, (trials, IDS, row.lengths)
    before = generator.beta(row.asr * strength, (1 - row.asr) * strength, size=shape)
    now = changed(generator, before, row.asr, how)
    judged, judged_now = (generator.binomial(asked, SHARE_JUDGED, size=shape).reshape(trials, -1) for asked in (row.old, row.asked))
    unsafe = generator.binomial(judged, before.reshape(trials, -1))
    unsafe_now = generator.binomial(judged_now, now.reshape(trials, -1))
    p_values, said = np.empty(trials), np.empty(trials)
    for trial in range(trials):
        both = (judged[trial] > 0) & (judged_now[trial] > 0)
        old, all_old, new, all_new = (counts[trial][both] for counts in (unsafe, judged, unsafe_now, judged_now))
        p_values[trial] = exact_p(old, all_old, new, all_new)
        said[trial] = detectable_change(old + new, all_old, all_new)
    return float((p_values < LEVEL).mean()), float(np.nanmedian(said))


def changed(generator: np.random.Generator, before: Rates, asr: float, how: How) -> Rates:
    """The rates after a rise of ``GOAL`` in their mean, by trial, id and length."""
    share = GOAL / (1 - asr)
    if how == "every dialogue":
        return np.asarray(before + (1 - before) * share)
    struck = generator.random(before.shape[:2]) < (share if how == "some ids" else 0.0)
    return np.where(struck[..., None], 1.0, before)


def show(row: Row, *, trials: int) -> bool:
    """One line of the table; whether its goals are met."""
    alarms, _ = simulated(row, "no change", trials=trials)
    found, said = simulated(row, "every dialogue", trials=trials)
    some, _ = simulated(row, "some ids", trials=trials)
    error = partial(_two_errors, trials=trials)
    held = alarms <= LEVEL + error(LEVEL) and (not row.attainable or min(found, some) >= POWER - error(POWER))
    verdict = "MISSED" if not held else "met" if row.attainable else "too noisy for the goal, and says so"
    what = f"lengths {row.lengths}  ASR {row.asr:.1f}  likeness {row.likeness:.1f}  asked {row.old} + {row.asked}"
    print(f"  {what}   alarms {alarms:6.1%}   found {found:6.1%} {some:6.1%}   said {100 * said:4.1f} points   {verdict}", flush=True)
    return held


def _two_errors(share: float, *, trials: int) -> float:
    return float(2 * np.sqrt(share * (1 - share) / trials))


def main() -> None:
    """Print the table; exit with 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1_000, help="simulated canaries a figure")
    trials: int = parser.parse_args().trials
    started = time.perf_counter()
    held = [show(Row(*one), trials=trials) for one in product(LENGTHS, RATES, LIKENESSES)]
    print(f"  ({time.perf_counter() - started:.0f} s)")
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
