"""Does risk rise with the number of turns? An exact permutation test within id.

It asks whether unsafe verdicts stand at longer lengths than chance would put them when each id's verdicts are dealt out anew over its own
lengths; it needs no model and holds for any number of ids.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from safemt_api.metrics.frames import VerdictMatrix, encode
from safemt_api.metrics.repeats import any_unsafe
from safemt_api.metrics.uncertainty import DEFAULT_LEVEL, IntegerVariable, exact_two_sided_p


@dataclass(frozen=True, slots=True)
class Trend:
    """``p_value`` is ``None`` where no id has both verdicts at two lengths, so that nothing can be tested; ``sentence`` names the test."""

    p_value: float | None
    sentence: str


def trend_with_length(frame: pl.DataFrame, *, level: float = DEFAULT_LEVEL) -> Trend:
    """Test of ASR against length; raises ``UsageError`` for a frame that breaks the contract of ``asr_by_turn``.

    Of dialogues that were asked several times the verdict is whether any reply was unsafe (``repeats.any_unsafe``): the replies of one cell
    depend on each other, so that they must not be dealt out apart.
    """
    matrix = any_unsafe(encode(frame))
    p_value = permutation_p(matrix)
    if p_value is None:
        return Trend(
            None, "No id has both safe and unsafe verdicts at different lengths, so a trend with turns cannot be tested within ids."
        )
    said = f"({'p < 0.001' if p_value < 0.001 else f'p = {p_value:.2g}'}, exact permutation test within id)"
    if p_value >= 1 - level:
        return Trend(p_value, f"No trend with the number of turns is shown {said}.")
    # Whether ids are unsafe at longer lengths than the mean of their own judged lengths.
    turns = np.array(matrix.lengths, dtype=np.float64)
    means = (matrix.judged * turns).sum(axis=1) / np.maximum(matrix.judged.sum(axis=1), 1)
    rises = float((matrix.unsafe * (turns - means[:, None])).sum()) > 0
    return Trend(p_value, f"Risk {'rises' if rises else 'falls'} with the number of turns {said}.")


def permutation_p(matrix: VerdictMatrix) -> float | None:
    """Exact two-sided p value of the sum of lengths at which ids are unsafe; ``None`` where no id has both verdicts at two lengths."""
    dealt = Counter((tuple(judged), int(unsafe.sum())) for judged, unsafe in zip(matrix.judged.tolist(), matrix.unsafe, strict=True))
    variables, observed = [], 0.0
    for (judged, failures), count in dealt.items():
        lengths = [k for k, has in zip(matrix.lengths, judged, strict=True) if has]
        if 0 < failures < len(lengths):
            sums = [sum(chosen) for chosen in combinations(lengths, failures)]
            variables.append(IntegerVariable(min(sums), np.bincount(np.array(sums) - min(sums)) / len(sums), count))
    if not variables:
        return None
    mixed = matrix.unsafe.any(axis=1) & (matrix.judged & ~matrix.unsafe).any(axis=1)
    observed = float((matrix.unsafe[mixed] * np.array(matrix.lengths)).sum())
    return exact_two_sided_p(variables, observed)
