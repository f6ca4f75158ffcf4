"""``ablate``: one model, shown less and less of the same dialogues; each arm is compared with the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from safemt_api.errors import UsageError
from safemt_api.shown import OF_SCRIPTED_HISTORY, Show
from safemt_api.studies.arms import Axis, Given, Study, made_study, options_from, product_arms

SHOW = "show"
WHOLE: Show = "whole"


def ablate(shared: Given, *, without: Sequence[str] = (), name: str | None = None, max_usd: float | None = None) -> Study:
    """The study of what picture and history do.

    Args:
        shared: The options of all arms, the target among them.
        without: Values of ``--show`` to compare with the whole; default: all that the protocol knows.
        name: The study's.
        max_usd: Its ceiling.

    Raises:
        UsageError: An ablation is unknown or stands twice, or ``shared`` says what is shown too.
    """
    if SHOW in shared:
        raise UsageError("--show is what the arms of an ablation differ in; leave it out, or name ablations with --without")
    live = shared.get("protocol") == "live"
    known = tuple(show for show in get_args(Show) if show != WHOLE)
    usual = tuple(show for show in known if not (live and show in OF_SCRIPTED_HISTORY))
    unknown = next((show for show in without if show not in known), None)
    if unknown is not None:
        raise UsageError(f"--without {unknown}: choose among {', '.join(known)}")
    axis = Axis(SHOW, (WHOLE, *(without or usual)))
    arms = product_arms([axis], lambda given: options_from(given, refuse=frozenset(), why=""))
    return made_study("ablate", arms, shared, name=name, max_usd=max_usd)
