"""Tries the judges of a run before anything is sent to the target, beside the stall detector and the signals that end a run."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial

from safemt_api.gateway import Gateway
from safemt_api.judges.preflight import check_judges
from safemt_api.runs.opening import judges_of
from safemt_api.runs.planning import Plan
from safemt_api.runs.watching import work_watched


async def try_judges(plan: Plan, gateway: Gateway, *, signals: tuple[signal.Signals, ...], interrupted: Callable[[], None]) -> None:
    """See ``judges.preflight``; ``interrupted`` is told when a signal cut it short.

    Raises:
        BaseExceptionGroup: Of our own errors: ``JudgeUnfitError``, or a ``StopRunError``.
    """
    work = partial(check_judges, partial(judges_of, plan), gateway, kind=plan.kind_on_trial)
    stall = partial(gateway.watch_stall, plan.settings.stall_seconds)
    await work_watched(work, beside=[stall], signals=signals, interrupted=interrupted, ending=_go_on)


def _go_on() -> None:
    """What the judges said is written by then, and the run itself is still to come."""
