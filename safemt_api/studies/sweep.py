"""``sweep``: several models over the same dialogues, each compared with the first."""

from __future__ import annotations

from collections.abc import Sequence

from safemt_api.errors import UsageError
from safemt_api.studies.arms import TARGET, Axis, Given, Study, made_study, options_from, product_arms


def sweep(targets: Sequence[str], shared: Given, *, name: str | None = None, max_usd: float | None = None) -> Study:
    """The study of so many targets (``PROVIDER:MODEL``), the first of which is the reference.

    Raises:
        UsageError: Fewer than two targets, one twice, or ``shared`` says a target too.
    """
    if len(targets) < 2:
        raise UsageError("a sweep needs two models or more: give --target PROVIDER:MODEL several times")
    if {"provider", "model"} & shared.keys():
        raise UsageError("--provider and --model name one model; a sweep takes --target PROVIDER:MODEL, several times")
    arms = product_arms([Axis(TARGET, tuple(targets))], lambda given: options_from(given, refuse=frozenset(), why=""))
    return made_study("sweep", arms, shared, name=name, max_usd=max_usd)
