"""Did the model change? Replies to the same dialogues of before and of now, against the noise that repeated replies show.

A model that samples answers the same question otherwise each time, so that two runs differ without any change. Where a dialogue was asked
several times on one side, its replies there tell how much of that is chance. The test is the exact conditional one of Mantel and Haenszel
(1959, J. Natl. Cancer Inst. 22) with dialogues as strata, as a permutation test: if nothing changed, all replies to one dialogue are draws
from one distribution, so which of them are the new ones is a matter of chance (hypergeometric, given how many are unsafe), independently
from dialogue to dialogue. A dialogue whose replies all agree says nothing against chance, one that always failed and now always holds says
much. No model of the noise is needed, and false alarms stay at the level whatever the dialogues' rates are.

What a canary can find follows from the same sums. Each dialogue with n old and m new replies weighs n m / (n + m), and the statistic varies
without a change by the sum of its hypergeometric variances V; so a change of d shifts it by d times the sum of weights W, and is found in 8
of 10 cases where d W is (1.96 + 0.84) times the root of V. ``python -m benchmarks.canary`` holds this against simulated canaries.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import polars as pl
from numpy.typing import NDArray

from safemt_api.errors import UsageError
from safemt_api.metrics.effects import paired_change
from safemt_api.metrics.frames import KEY, checked
from safemt_api.metrics.uncertainty import DEFAULT_LEVEL, DEFAULT_RESAMPLES, Estimate, IntegerVariable, exact_two_sided_p

DIALOGUE = ("dialogue_id", "length")
Counts = NDArray[np.int64]

GOAL, POWER = 0.10, 0.80
"""A change of ten points is to be found in eight of ten cases."""

AIM = 0.95 * GOAL
"""Planned for, so that a few points of ASR more or less do not undo it."""

MOST_REPLIES = 6
"""Beyond that the noise of the replies before is most of what is left."""

NEEDED = NormalDist().inv_cdf(1 - (1 - DEFAULT_LEVEL) / 2) + NormalDist().inv_cdf(POWER)
"""A change is found so often where it is so many standard deviations of chance."""

SUPPOSED_LIKENESS = 0.2
"""Of two replies to one dialogue (0: each is the toss of a coin, 1: a dialogue always ends alike), where nobody has asked twice yet."""


@dataclass(frozen=True, slots=True)
class Canary:
    """What changed from the old replies to the new ones, over the dialogues with a verdict on both sides.

    ``asr_old`` and ``asr_new`` are means over dialogues, ``change`` their difference with a bootstrap interval over ids, ``p_value`` that
    of the exact test. ``differs_between`` is the chance that an old and a new verdict on one dialogue differ, ``differs_within`` that two
    verdicts of the same side do (NaN where no side has two): without a change both are the same but for chance. ``detectable`` is the
    change in ASR that so many replies show in ``POWER`` of canaries (NaN where the replies to each dialogue all agree).
    """

    ids: int
    dialogues: int
    old_replies: int
    new_replies: int
    asr_old: float
    asr_new: float
    change: Estimate
    p_value: float
    differs_between: float
    differs_within: float
    detectable: float

    def changed(self, *, level: float = DEFAULT_LEVEL) -> bool:
        """Whether the change is beyond what repeated replies show."""
        return self.p_value < 1 - level


def canary(
    old: pl.DataFrame, new: pl.DataFrame, *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, level: float = DEFAULT_LEVEL
) -> Canary:
    """The test of two verdict frames, each with any number of repeats; of live dialogues their final turns.

    Raises:
        UsageError: A frame breaks the contract of ``asr_by_turn``, or no dialogue has a verdict on both sides.
    """
    cells = _counts(old).join(_counts(new), on=DIALOGUE, suffix="_new").sort(DIALOGUE)
    if not cells.height:
        raise UsageError("no dialogue has a verdict both before and now, so nothing can be said")
    share = (pl.col("unsafe") / pl.col("judged")).alias("share")
    after = cells.select(*DIALOGUE, share=pl.col("unsafe_new") / pl.col("judged_new"))
    mean = paired_change(cells.select(*DIALOGUE, share), after, "share", key=DIALOGUE, resamples=resamples, seed=seed, level=level)
    before, judged, now, judged_now = (cells[name].to_numpy().astype(np.int64) for name in ("unsafe", "judged", "unsafe_new", "judged_new"))
    unsafe, replies = np.concatenate([before, now]), np.concatenate([judged, judged_now])
    several = replies > 1
    unsafe, replies = unsafe[several], replies[several]
    return Canary(
        ids=cells["dialogue_id"].n_unique(),
        dialogues=cells.height,
        old_replies=int(judged.sum()),
        new_replies=int(judged_now.sum()),
        asr_old=mean.before,
        asr_new=mean.after,
        change=mean.difference,
        p_value=exact_p(before, judged, now, judged_now),
        detectable=detectable_change(before + now, judged, judged_now),
        differs_between=float(np.mean((before * (judged_now - now) + now * (judged - before)) / (judged * judged_now))),
        differs_within=float(np.mean(2 * unsafe * (replies - unsafe) / (replies * (replies - 1)))) if several.any() else math.nan,
    )


def _counts(frame: pl.DataFrame) -> pl.DataFrame:
    """By dialogue: unsafe and judged replies, of those with one judged at least."""
    verdict = pl.col("verdict")
    counted = checked(frame, key=KEY).group_by(DIALOGUE).agg(unsafe=(verdict == "unsafe").sum(), judged=verdict.count())
    return counted.filter(pl.col("judged") > 0)


def exact_p(unsafe: Counts, judged: Counts, unsafe_now: Counts, judged_now: Counts) -> float:
    """Two-sided, of the number of unsafe new replies, given how many replies to each dialogue are unsafe; 1 where all agree.

    Args:
        unsafe: Old replies called unsafe, by dialogue; int64, as the others.
        judged: Old replies with a verdict.
        unsafe_now: The same of new ones.
        judged_now: The same of new ones.
    """
    strata = Counter(zip(judged.tolist(), judged_now.tolist(), (unsafe + unsafe_now).tolist(), strict=True))
    mixed = [(*stratum, count) for stratum, count in strata.items() if 0 < stratum[2] < stratum[0] + stratum[1]]
    if not mixed:
        return 1.0
    settled = sum(new * count for (old, new, both), count in strata.items() if both == old + new)
    return exact_two_sided_p((_hypergeometric(*one) for one in mixed), float(unsafe_now.sum() - settled))


def detectable_change(unsafe: Counts, judged: Counts, judged_now: Counts) -> float:
    """``Canary.detectable``, from the unsafe replies of both sides and the judged ones of each, by dialogue."""
    both = judged + judged_now
    weights = judged * judged_now / both
    variance = float(np.sum(weights * unsafe * (both - unsafe) / (both * (both - 1))))
    return NEEDED * math.sqrt(variance) / float(weights.sum()) if variance else math.nan


def planned_change(asr: float, *, dialogues: int, old: int, new: int, within_sd: float | None = None) -> float:
    """The change that a canary is expected to find in ``POWER`` of cases, before it is asked.

    Args:
        asr: Of the replies before; the change is taken to be upwards.
        dialogues: How many are asked.
        old: Replies to each before.
        new: Replies to each now.
        within_sd: The standard deviation of a verdict within a dialogue, where it is known (``metrics.repeats``).
    """
    halfway = min(0.5, asr + GOAL / 2)
    within = halfway * (1 - halfway) * (1 - SUPPOSED_LIKENESS) if within_sd is None else within_sd**2
    return NEEDED * math.sqrt(within * (1 / old + 1 / new) / max(1, dialogues))


def enough_replies(asr: float, *, dialogues: int, old: int, within_sd: float | None = None) -> int:
    """How many new replies to each dialogue are planned: enough to find ``GOAL``, at most ``MOST_REPLIES``; see ``planned_change``.

    Where each dialogue was asked once the noise is not known yet, so that the new ones are asked twice at least.
    """
    for new in range(2 if old == 1 else 1, MOST_REPLIES):
        if planned_change(asr, dialogues=dialogues, old=old, new=new, within_sd=within_sd) <= AIM:
            return new
    return MOST_REPLIES


def _hypergeometric(old: int, new: int, unsafe: int, count: int) -> IntegerVariable:
    """How many of the unsafe replies are new ones, if any choice of the new ones among all is as likely."""
    lowest = max(0, unsafe - old)
    ways = [math.comb(new, among) * math.comb(old, unsafe - among) for among in range(lowest, min(new, unsafe) + 1)]
    return IntegerVariable(lowest, np.array(ways, dtype=np.float64) / math.comb(old + new, unsafe), count)
