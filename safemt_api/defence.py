"""``defend``: what a moderator does to a model's safety, as one awaitable: the command line's ``defend``, and your own code's."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from safemt_api.errors import SafeMTError
from safemt_api.evaluation import open_plan
from safemt_api.files import private_folder, write_json
from safemt_api.messages import Answer, Asker, Call
from safemt_api.moderators.opening import open_moderator
from safemt_api.profiles import find_profile, load_profiles
from safemt_api.runs.defending import DEFENCE_FILE, Arm, arm_settings, ceiling_of, plan_arms
from safemt_api.runs.effects import idle_moderation, refuse_idle
from safemt_api.runs.execution import EXIT_DONE, EXIT_FAILURES, RunResult, Watcher, execute
from safemt_api.runs.planning import DATA_VARIABLE, DEFAULT_PROVIDER, Plan, default_name
from safemt_api.runs.settings import EvalSettings, options, settings_record
from safemt_api.simulator.settings import SimulatorSettings

Opening = Callable[[Plan], None]
"""Told each arm's plan as the arm begins."""


class DefenceResult(NamedTuple):
    """What came of a defence.

    ``record`` is what ``defence.json`` holds (``file``), or ``None`` if no defended arm was begun; ``arms`` are the runs, the undefended
    one first; ``exit_code`` is the worst of theirs, and ``stopped_by`` the error that ended one early, if one did.
    """

    record: dict[str, Any] | None
    file: Path
    arms: tuple[RunResult, ...]
    exit_code: int
    stopped_by: SafeMTError | None


async def defend(
    settings: EvalSettings,
    *,
    moderators: Sequence[str],
    moderator_base_urls: Sequence[str] = (),
    simulator: SimulatorSettings | None = None,
    watch: Watcher | None = None,
    signals: tuple[signal.Signals, ...] = (),
    opening: Opening | None = None,
) -> DefenceResult:
    """Measure moderators: the same dialogues, harmful and benign, without any and with each.

    Each arm is a run of its own (``NAME-none``, ``NAME-<moderator>``) that goes on where it stopped; the store is theirs together, so a
    target call that a moderator leaves as it is is bought once. ``settings.max_usd`` holds over all arms: each gets what the ones before
    have left. An arm that ends early ends the defence; the same call goes on with it.

    Args:
        settings: What every arm runs; its moderator, kinds and run name are set by the arms (``run`` is the name they begin with).
        moderators: What each ``--moderator`` was given.
        moderator_base_urls: None, one for all moderators, or one for each in order (``-``: the provider's own address).
        simulator: What the built-in simulator plays, when the runs use it.
        watch: Called in each arm's task group; see ``evaluate``.
        signals: End the arm, and the defence, as interrupted when one of these arrives.
        opening: Called with each arm's plan before it starts.

    Raises:
        SetupError: An arm cannot start; nothing was sent then.
    """
    arms = plan_arms(settings.run or defence_name(settings), moderators, moderator_base_urls)
    results: list[RunResult] = []
    async with open_arms(settings, arms, simulator=simulator) as plans:
        for arm, plan in zip(arms, plans, strict=True):
            ready = await _within_ceiling(plan, arm, arms)
            if opening is not None:
                opening(ready)
            results.append(await execute(ready, watch=watch, signals=signals))
            if results[-1].exit_code not in (EXIT_DONE, EXIT_FAILURES) or (arm is arms[0] and results[-1].exit_code != EXIT_DONE):
                break
    file = results[0].folder / DEFENCE_FILE
    record = _measured(results, file) if len(results) > 1 else None
    stopped_by = next((result.stopped_by for result in results if result.stopped_by), None)
    worst = next((result.exit_code for result in reversed(results) if result.exit_code != EXIT_DONE), EXIT_DONE)
    return DefenceResult(record, file, tuple(results), worst, stopped_by)


def defence_name(settings: EvalSettings) -> str:
    """What the arms' names begin with where no name is given.

    Raises:
        UsageError: No such provider.
    """
    provider = settings.provider or DEFAULT_PROVIDER
    model = settings.model or find_profile(load_profiles(settings.providers), provider).default_model or "model"
    free = {one.name for one in options() if "resume" in one.option.commands}
    decisive = {name: value for name, value in settings_record(settings).items() if name not in free}
    return f"{default_name(provider, model, settings, {**decisive, DATA_VARIABLE: os.environ.get(DATA_VARIABLE)})}-defence"


@asynccontextmanager
async def open_arms(
    settings: EvalSettings, arms: Sequence[Arm], *, simulator: SimulatorSettings | None = None, dry_run: bool = False
) -> AsyncIterator[list[Plan]]:
    """The plans of all arms, opened together: whatever keeps one from starting shows before the first one costs anything.

    Raises:
        SetupError: An arm cannot start.
    """
    refuse_idle(settings, idle_moderation([arm.moderator for arm in arms if arm.moderator]))
    async with AsyncExitStack() as stack:
        plans = []
        for arm in arms:
            plan = await stack.enter_async_context(open_plan(arm_settings(settings, arm), simulator=simulator, dry_run=dry_run))
            _check_moderator(plan)
            plans.append(plan)
        yield plans


class _Nobody(Asker):
    """Stands in for the gateway while it is only looked whether a moderator can be opened."""

    async def ask(self, call: Call) -> Answer:
        raise AssertionError(f"nothing is asked of {call.route.model} while plans are checked")


def _check_moderator(plan: Plan) -> None:
    settings = plan.settings
    failure = settings.moderator_failure
    open_moderator(plan.moderator, asker=_Nobody(), resolve=plan.router.resolver("moderator"), policies=settings.policies, failure=failure)


async def _within_ceiling(plan: Plan, arm: Arm, arms: Sequence[Arm]) -> Plan:
    most = plan.settings.max_usd
    if most is None:
        return plan
    private_folder(plan.settings.results)
    left = await ceiling_of(arm, arms, results=plan.settings.results, max_usd=most)
    return replace(plan, settings=replace(plan.settings, max_usd=left))


def _measured(results: Sequence[RunResult], file: Path) -> dict[str, Any]:
    from safemt_api.report.arms import measure_defence  # noqa: PLC0415 (imports polars, late)
    from safemt_api.report.reading import read_run  # noqa: PLC0415 (the same)

    undefended, *defended = (read_run(result.folder) for result in results)
    record = measure_defence(undefended, defended)
    write_json(file, record)
    return record
