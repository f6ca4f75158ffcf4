"""``evaluate``: the whole evaluation as one awaitable; the command line's ``eval`` and ``resume`` call it, and so may your own code."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import anyio

from safemt_api.errors import RunBusyError, SafeMTError, SetupError, UsageError
from safemt_api.judges.bench import Bench
from safemt_api.messages import Purpose
from safemt_api.moderators.opening import read_moderator
from safemt_api.profiles import Profile, find_profile, load_profiles
from safemt_api.routes import Router
from safemt_api.runs.connections import served_model
from safemt_api.runs.effects import idle_options, refuse_idle
from safemt_api.runs.keywords import EvalKeywords
from safemt_api.runs.plan import DEFAULT_PROVIDER, ChosenData, Plan, make_plan
from safemt_api.runs.play import RunResult, Watcher, execute
from safemt_api.runs.settings import EvalSettings, settings_from, settings_from_record
from safemt_api.runs.shard import Order, Played
from safemt_api.simulator.roles import check_model
from safemt_api.simulator.server import Simulator, run_simulator
from safemt_api.simulator.settings import FaultPlan, SimulatorSettings
from safemt_api.specs import RULES, TARGETS, Spec
from safemt_api.store.turns import open_store

Addresses = Mapping[str, tuple[str, ...]]
"""Base URLs by provider."""

CLASSIFIERS = frozenset({"moderation", "decisions"})
"""Kinds of judge and moderator that ask an endpoint which classifies."""

BUILT_IN: tuple[str, ...] = ("simulator", "simulator-anthropic", "simulator-google")
"""Profiles that a run starts the built-in simulator for, unless it is given an address."""


async def evaluate(
    settings: EvalSettings | None = None,
    *,
    simulator: SimulatorSettings | None = None,
    watch: Watcher | None = None,
    signals: tuple[signal.Signals, ...] = (),
    **options: Unpack[EvalKeywords],
) -> RunResult:
    """Evaluate a model: ``await safemt_api.evaluate(provider="openai", sample=50, max_usd=5)``.

    Args:
        settings: All options as one value; or give them as keywords, by the names of ``EvalSettings``.
        simulator: What the built-in simulator plays, when the run uses it.
        watch: Called in the run's task group with the ``Execution``; read its ``statistics()`` as often as you like.
        signals: End the run as interrupted (resumable) when one of these arrives.
        **options: Fields of ``EvalSettings``, as values or, where those are plain (paths, numbers, one judge), as strings.

    Returns:
        The summary as it stands in ``summary.json``, the run's folder, the exit code, and what ended the run early, if anything did.

    Raises:
        SetupError: The run cannot start.
    """
    if settings is not None and options:
        raise UsageError("give either settings or single options, not both")
    async with open_plan(settings or settings_from(options), simulator=simulator) as plan:
        return await played(plan, watch=watch, signals=signals)


async def played(plan: Plan, *, watch: Any = None, signals: tuple[signal.Signals, ...] = ()) -> RunResult:
    """Play a plan to its end in this process, or by Ray's workers where its settings say so.

    Of a run in shards the last one to end writes the files of the whole run, too, and its result is that of the whole.

    Raises:
        SetupError: The run cannot start.
    """
    result = None if plan.settings.ray else await execute(plan, watch=watch, signals=signals)
    if result is not None and (result.standing is None or not result.standing.all_over):
        return result
    from safemt_api.runs import cluster, joining  # noqa: PLC0415 (they import polars, which a start must not wait for)

    if result is None:
        return await cluster.execute_on_ray(plan, play_order, watch=watch, signals=signals)
    async with open_store(plan.settings.store_place) as store:
        return joining.join_shards(store, plan.settings, plan.run)


def play_order(order: Order) -> Played:
    """Play one shard, as a worker of Ray: its end by a signal is ours, too, and no error leaves as anything but a sentence."""
    # Ray pickles what comes back: plain values, since errors of ours are made of other things than their sentence.
    settings = replace(settings_from_record(order.settings, run=order.run, results=Path(order.results)), shard=order.shard)

    async def play() -> RunResult:
        async with open_plan(settings) as plan:
            return await execute(plan, signals=(signal.SIGINT, signal.SIGTERM))

    try:
        result = anyio.run(play)
    except SafeMTError as error:
        return Played(error.exit_code, str(error), setup=isinstance(error, SetupError), busy=isinstance(error, RunBusyError))
    return Played(result.exit_code, "" if result.stopped_by is None else str(result.stopped_by))


@asynccontextmanager
async def open_plan(
    settings: EvalSettings,
    *,
    simulator: SimulatorSettings | None = None,
    judging_only: bool = False,
    dry_run: bool = False,
    simulators: Simulators | None = None,
    data: ChosenData | None = None,
) -> AsyncIterator[Plan]:
    """A plan whose addresses answer: the built-in simulator runs for as long as the block lasts, where the settings use it.

    Args:
        settings: What to run.
        simulator: What the built-in simulator plays; ``None``: as the settings say.
        judging_only: The target will not be called: its key and price are not needed, and the run's judge may be another than before.
        dry_run: Nobody will be called: no key is needed.
        simulators: Those that run already, for several plans together.
        data: The dialogues, where they were chosen already by the same settings.

    Raises:
        SetupError: The run cannot start.
    """
    async with open_router(settings, simulator=simulator, simulators=simulators) as router:
        provider = settings.provider or DEFAULT_PROVIDER
        profile = router.profile(provider)
        if settings.model is None and profile.default_model is None and profile.local and not judging_only:
            # A local server that serves one model needs no ``--model``: it is asked.
            model = await served_model(profile, router.destination(provider, "").route.base_urls[0])
            settings = replace(settings, model=model)
        yield make_plan(settings, router=router, judging_only=judging_only, dry_run=dry_run, data=data)


class Simulators:
    """Built-in simulators that several plans share: one for each way of playing, started when first asked for."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._running: list[tuple[SimulatorSettings, Simulator]] = []

    async def playing(self, settings: SimulatorSettings) -> Simulator:
        """The simulator that plays so.

        Raises:
            SetupError: It cannot start.
        """
        found = next((server for played, server in self._running if played == settings), None)
        if found is None:
            found = await self._stack.enter_async_context(run_simulator(settings))
            self._running.append((settings, found))
        return found


@asynccontextmanager
async def open_simulators() -> AsyncIterator[Simulators]:
    """No simulator yet; those that are asked for run as long as the block lasts."""
    async with AsyncExitStack() as stack:
        yield Simulators(stack)


@asynccontextmanager
async def open_router(
    settings: EvalSettings, *, simulator: SimulatorSettings | None = None, simulators: Simulators | None = None
) -> AsyncIterator[Router]:
    """The ways to all models that the settings name; the built-in simulator runs as long as the block lasts, where they use it.

    Raises:
        SetupError: A profile is wrong or missing, or the simulator cannot start.
    """
    profiles = load_profiles(settings.providers)
    asked = _asked(settings, profiles)
    given, roles = _given_addresses(settings, asked)
    # Whom target, judges and moderator ask at no address of their own.
    unplaced = {asked.target.provider} | ({spec.provider for spec in asked.bench.everyone} - roles.get("judge", {}).keys())
    unplaced |= ({asked.moderator.provider} if asked.moderator else set()) - roles.get("moderator", {}).keys()
    used = [name for name in BUILT_IN if name not in given and name in unplaced]
    idle = idle_options(settings, bench=asked.bench, moderator=asked.moderator, built_in_simulator=bool(used))
    refuse_idle(settings, idle)
    for spec in asked.everyone:
        # The endpoints that classify answer by whatever name a vendor's model has.
        if spec.provider in used and spec.model and spec.kind not in CLASSIFIERS:
            check_model(spec.model)
    if not used:
        yield Router(profiles, base_urls=given, role_urls=roles)
        return
    playing = simulator or played_by(settings)
    async with AsyncExitStack() as stack:
        server = await (simulators or Simulators(stack)).playing(playing)
        urls = {name: (server.base_url(profiles[name].wire_format),) for name in used}
        yield Router(profiles, base_urls={**given, **urls}, role_urls=roles, endpoints=dict.fromkeys(used, endpoint_name(playing)))


def played_by(settings: EvalSettings) -> SimulatorSettings:
    """What the built-in simulator plays for these settings."""
    seed = settings.seed if settings.simulator_seed is None else settings.simulator_seed
    faults = FaultPlan.parse(settings.simulator_faults)
    return SimulatorSettings(seed=seed, faults=faults, latency_seconds=settings.simulator_latency_seconds)


def endpoint_name(simulator: SimulatorSettings) -> str:
    """Names what a built-in simulator plays, since its port does not: replies of one seed are not those of another."""
    usual, differing = SimulatorSettings(), []
    for one in fields(simulator):
        value = getattr(simulator, one.name)
        if one.name != "latency_seconds" and value != getattr(usual, one.name):
            # A set prints in another order in each process.
            differing.append(f"{one.name}={sorted(value) if isinstance(value, frozenset) else value}")
    return " ".join(["built-in simulator", *differing])


class _Asked(NamedTuple):
    """Whom the settings name."""

    target: Spec
    bench: Bench
    moderator: Spec | None

    @property
    def everyone(self) -> tuple[Spec, ...]:
        return (self.target, *self.bench.everyone, *filter(None, (self.moderator,)))


def _asked(settings: EvalSettings, profiles: Mapping[str, Profile]) -> _Asked:
    provider = settings.provider or DEFAULT_PROVIDER
    judges = settings.judges or (find_profile(profiles, provider).default_judge or RULES,)
    bench = Bench.of(judges, settings.judge_fallback, escalate=settings.escalate, when=settings.escalate_when)
    target = Spec("", TARGETS.plain, provider, settings.model or "")
    return _Asked(target, bench, read_moderator(settings.moderator))


def _given_addresses(settings: EvalSettings, asked: _Asked) -> tuple[Addresses, Mapping[Purpose, Addresses]]:
    """The target's addresses by provider, which its judge and moderator share, and those that are theirs alone."""
    roles: dict[Purpose, Addresses] = {}
    if settings.moderator_base_url and asked.moderator:
        roles["moderator"] = {asked.moderator.provider: (settings.moderator_base_url,)}
    if settings.judge_base_url:
        roles["judge"] = {spec.provider: (settings.judge_base_url,) for spec in asked.bench.judges}
    return ({asked.target.provider: settings.base_urls} if settings.base_urls else {}), roles
