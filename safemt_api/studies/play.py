"""``study``: all arms of a study at the same time, through shared accounts and out of one purse, as one awaitable."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Unpack
from uuid import uuid4

import anyio

from safemt_api.errors import EXIT_BUDGET, EXIT_DONE, EXIT_FAILURES, EXIT_INTERRUPTED, SafeMTError, SetupError, StopRunError, UsageError
from safemt_api.evaluation import open_plan, open_simulators
from safemt_api.files import private_folder
from safemt_api.messages import Answer, Asker, Call
from safemt_api.moderators.opening import open_moderator
from safemt_api.runs.balance import Balance
from safemt_api.runs.connections import open_shared
from safemt_api.runs.folder import STUDY_FILE, playing, read_manifest
from safemt_api.runs.joining import join_shards
from safemt_api.runs.keywords import EvalKeywords
from safemt_api.runs.plan import ChosenData, Plan, choose_data
from safemt_api.runs.play import Execution, RunResult, RunStatistics, Together, execute, in_order
from safemt_api.runs.settings import dialogues_at_once
from safemt_api.runs.shard import Shard
from safemt_api.runs.workers import handlers_kept, shown, work_watched
from safemt_api.simulator.settings import SimulatorSettings
from safemt_api.store.books import entered
from safemt_api.store.shards import Fence, PartState, Sharded, Standing, begun, ended, sharded, standing, taken
from safemt_api.store.turns import TurnStore, open_store
from safemt_api.studies.arms import OF_THE_STUDY, Arm, Study, made_study, options_from
from safemt_api.studies.file import ONCE, study_from
from safemt_api.studies.file import read_study as read_study_file
from safemt_api.studies.measurement import measure_study
from safemt_api.studies.record import ArmRecord, ArmState, StudyRecord, read_study

Opening = Callable[[Mapping[str, Plan]], None]
StudyWatcher = Callable[["StudyExecution"], Coroutine[Any, Any, None]]


class StudyResult(NamedTuple):
    """What came of a study: ``study.json`` as written, its folder, the exit code, and the sentence of each arm that was left out.

    ``standing`` is of a study in shards: how many of its parts are over; until all are, the record has no figures.
    """

    record: StudyRecord
    folder: Path
    exit_code: int
    left_out: Mapping[str, str]
    standing: Standing | None = None


@dataclass
class StudyExecution:
    """A study under way."""

    study: Study
    plans: Mapping[str, Plan]
    running: dict[str, Execution] = field(default_factory=dict)
    results: dict[str, RunResult] = field(default_factory=dict)
    left_out: dict[str, SafeMTError] = field(default_factory=dict)
    interrupted: bool = False

    def statistics(self) -> Mapping[str, RunStatistics]:
        """Every arm's state now, by its name; arms that have not begun are not there."""
        return {name: execution.statistics() for name, execution in self.running.items()}

    def interrupt(self) -> None:
        """Note that a signal ended the study."""
        self.interrupted = True
        for execution in self.running.values():
            execution.interrupt()

    async def play(self, together: Together) -> None:
        """Play all arms; one that cannot go on is left out, and the others go on."""
        async with anyio.create_task_group() as group:
            for arm in self.study.arms:
                group.start_soon(self._play_arm, arm, together)

    async def _play_arm(self, arm: Arm, together: Together) -> None:
        plan = self.plans[arm.name]

        async def note(execution: Execution) -> None:
            self.running[arm.name] = execution

        try:
            result = await execute(plan, watch=note, together=together)
        except (SetupError, StopRunError) as error:
            self.left_out[arm.name] = error
        else:
            self.results[arm.name] = result
            if result.stopped_by is not None:
                self.left_out[arm.name] = result.stopped_by
        finally:
            together.balance.leave(plan.run)


async def study(
    given: Study | str | Path | None = None,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    name: str | None = None,
    simulator: SimulatorSettings | None = None,
    watch: StudyWatcher | None = None,
    signals: tuple[signal.Signals, ...] = (),
    opening: Opening | None = None,
    **options: Unpack[EvalKeywords],
) -> StudyResult:
    """Play a study, or go on with it: every arm is an ordinary run under ``results/STUDY/``, whose replies are bought once.

    ``await safemt_api.study("study.toml", max_usd=5)``, or without a file
    ``await safemt_api.study(vary={"target": ["simulator:sim-average", "simulator:sim-brittle"]}, sample=10)``.

    Args:
        given: The arms, or their TOML file.
        vary: Instead of it what the arms differ in, as the ``[vary]`` of such a file: one arm for each combination.
        name: What the study is called. Default: the file's own name, or date and digest.
        simulator: What the built-in simulator plays, for arms that use it.
        watch: Called in the study's task group; read its ``statistics()`` as often as you like.
        signals: End the study as interrupted (resumable) when one of these arrives; the next one ends the process at once.
        opening: Called with the arms' plans before anything is sent.
        **options: Fields of ``EvalSettings``, for all arms that do not say otherwise; ``max_usd`` is one ceiling over all of them.

    Raises:
        SetupError: An arm cannot start (nothing was sent then), or another process plays the study.
    """
    results = Path(options.pop("results", "results"))
    made = _described(given, vary, name=name, options=options)
    return await _play(made, results=results, simulator=simulator, watch=watch, signals=signals, opening=opening)


def _described(
    given: Study | str | Path | None, vary: Mapping[str, Sequence[Any]] | None, *, name: str | None, options: EvalKeywords
) -> Study:
    """The study that was meant.

    Raises:
        UsageError: Nothing was given, or both; an option is unknown or belongs to an arm.
    """
    if (given is None) == (vary is None):
        raise UsageError("give a study (or its TOML file), or vary={...} to say what its arms differ in")
    max_usd = options.pop("max_usd", None)
    if vary is not None:
        written = {"vary": {key: list(values) for key, values in vary.items()}, "settings": dict(options)}
        made = study_from(written, name=name or "study")
        return made_study("study", made.arms, made.shared, name=name, max_usd=max_usd)
    described = given if isinstance(given, Study) else read_study_file(Path(str(given)))
    shared = {**described.shared, **options_from(options, refuse=OF_THE_STUDY, why=ONCE)}
    ceiling = described.max_usd if max_usd is None else max_usd
    return replace(described, name=name or described.name, shared=MappingProxyType(shared), max_usd=ceiling)


async def _play(
    study: Study,
    *,
    results: Path,
    simulator: SimulatorSettings | None,
    watch: StudyWatcher | None,
    signals: tuple[signal.Signals, ...],
    opening: Opening | None,
) -> StudyResult:
    with handlers_kept(signals):
        async with open_study(study, results=results, simulator=simulator) as plans:
            first = next(iter(plans.values()))
            folder = results / study.name
            own = folder if first.shard is None else folder / first.shard.folder_name
            private_folder(own)
            with playing(own, study.name) as note:
                if opening is not None:
                    opening(plans)
                async with open_store(next(iter(plans.values())).settings.store_place) as store:
                    note(store.id)
                    whole = None if first.shard is None else await _entered(study, first.shard, folder, store)
                    study_id = _study_id(folder, study) if whole is None else whole.id
                    if whole is None or not (folder / STUDY_FILE).is_file():
                        _begun(study, study_id).write(folder)
                    await store.write(entered(study_id, study.name))
                    execution = await _played(study, plans, store=store, purse_id=study_id, watch=watch, signals=signals)
                    standing = None if first.shard is None else await _joined(execution, store, first.shard)
                left_out = {name: str(error) for name, error in execution.left_out.items()}
                if standing is not None and not standing.all_over:
                    return StudyResult(read_study(folder), folder, _exit_code(execution), left_out, standing)
                planned = len({entry.id for entry in first.whole if entry.kind == "harmful"})
                states = {arm.name: _state(execution, arm) for arm in study.arms}
                record = measure_study(folder, study, states, study_id=study_id, planned_ids=planned)
                record.write(folder)
                return StudyResult(record, folder, _exit_code(execution), left_out, standing)


async def _entered(study: Study, shard: Shard, folder: Path, store: TurnStore) -> Sharded:
    """The study in shards as the store knows it: its id is every shard's purse, also where the others run on other machines.

    Raises:
        UsageError: It is played in another number of shards, or was begun in one piece.
    """
    if (folder / STUDY_FILE).is_file() and store.read(sharded(study.name)) is None:
        raise UsageError(f"the study {study.name} was begun in one piece: go on with it without --shard, or give it another name")
    new_id = uuid4().hex
    whole = await store.write(begun(Sharded(study.name, new_id, new_id, shard.parts, {}, {})))
    if whole.parts != shard.parts:
        raise UsageError(f"the study {study.name} is played in {whole.parts} shards: give --shard I/{whole.parts}")
    return whole


async def _joined(execution: StudyExecution, store: TurnStore, shard: Shard) -> Standing:
    """The end of a shard noted in the store; where it was the last one, every arm put together from what all shards handed in."""
    study = execution.study
    whole = store.read(sharded(study.name))
    id_in_books = "" if whole is None else whole.id
    part = await store.write(taken(study.name, shard.part, id=id_in_books, place="", player=f"shard {shard}"))
    state: PartState = "interrupted" if execution.interrupted else "over"
    found = await store.write(ended(Fence(study.name, part.part, part.attempt), state))
    for arm in study.arms if found.all_over else ():
        plan = execution.plans[arm.name]
        if store.read(standing(plan.run)).all_over:
            execution.results[arm.name] = join_shards(store, plan.settings, plan.run)
        elif arm.name not in execution.left_out:
            execution.left_out[arm.name] = StopRunError(f"not all of its shards are over: play those of {study.name} again")
    return found


def _study_id(folder: Path, study: Study) -> str:
    """The id that the study's money is booked under; where its file is lost, its arms still name it, so that no new ceiling opens."""
    known = read_study(folder).id if (folder / STUDY_FILE).is_file() else None
    purses = ((read_manifest(folder / arm.name) or {}).get("purse") for arm in study.arms)
    return known or next((purse for purse in purses if isinstance(purse, str)), None) or uuid4().hex


def _begun(study: Study, study_id: str) -> StudyRecord:
    """What stands in the folder until the study has ended: a killed one shows its arms and its id."""
    arms = tuple(
        ArmRecord(name=arm.name, run=f"{study.name}/{arm.name}", reference=arm.reference, given=dict(arm.given), state="partial")
        for arm in study.arms
    )
    return StudyRecord(study=study.name, id=study_id, status="partial", max_usd=study.max_usd, shared=dict(study.shared), arms=arms)


@asynccontextmanager
async def open_study(
    study: Study, *, results: Path, simulator: SimulatorSettings | None = None, dry_run: bool = False
) -> AsyncIterator[Mapping[str, Plan]]:
    """The plans of all arms by name, opened together: whatever keeps one from starting shows before the first one costs anything.

    Raises:
        UsageError: An arm cannot start; the sentence names it.
    """
    async with open_simulators() as simulators, AsyncExitStack() as stack:
        plans: dict[str, Plan] = {}
        data: dict[tuple[int, str], ChosenData] = {}
        for arm in study.arms:
            settings = study.settings(arm, results=results)
            try:
                # The same dialogues in all arms: looked through once, and held once for all that number their repeats alike.
                alike = settings.repeats_from, settings.protocol
                if alike not in data:
                    data[alike] = choose_data(settings, os.environ)
                opened = open_plan(settings, simulator=simulator, simulators=simulators, dry_run=dry_run, data=data[alike])
                plans[arm.name] = await stack.enter_async_context(opened)
                # A moderator that cannot be shows before the arms beside it have cost anything.
                plan = plans[arm.name]
                resolve = plan.router.resolver("moderator")
                open_moderator(plan.moderator, asker=_Nobody(), resolve=resolve, policies=plan.settings.policies)
            except SetupError as error:
                raise UsageError(f"arm {arm.name}: {error}") from error
        yield plans


class _Nobody(Asker):
    """Stands in for the gateway while it is only looked whether a moderator can be opened."""

    async def ask(self, call: Call) -> Answer:
        raise AssertionError(f"nothing is asked of {call.route.model} while plans are checked")


async def _played(
    study: Study,
    plans: Mapping[str, Plan],
    *,
    store: TurnStore,
    purse_id: str,
    watch: StudyWatcher | None,
    signals: tuple[signal.Signals, ...],
) -> StudyExecution:
    execution = StudyExecution(study, plans)
    first = next(iter(plans.values()))
    beside = [] if watch is None else [partial(shown, watch, execution)]
    runs, concurrency = [plan.run for plan in plans.values()], dialogues_at_once(first.settings)
    async with open_shared(first.settings, store=store, purse_id=purse_id, runs=len(plans)) as shared:
        balance = Balance(in_order(first, id_by_id=True), runs, concurrency=concurrency, purse=shared.purse)
        work = partial(execution.play, Together(shared, balance))

        def ending() -> None:
            # A shard that ends by itself has its end to write yet, beside others that may write theirs.
            if first.shard is None or execution.interrupted:
                store.hurry()

        await work_watched(work, beside=beside, signals=signals, interrupted=execution.interrupt, ending=ending)
    return execution


def _state(execution: StudyExecution, arm: Arm) -> ArmState:
    error, result = execution.left_out.get(arm.name), execution.results.get(arm.name)
    if error is not None:
        return ArmState("left out", str(error))
    return ArmState("interrupted" if result is None else result.summary.status)


def _exit_code(execution: StudyExecution) -> int:
    """The worst of the arms': interrupted, then what ended an arm, then the ceiling, then too many failures."""
    if execution.interrupted:
        return EXIT_INTERRUPTED
    codes = [error.exit_code for error in execution.left_out.values()]
    codes += [result.exit_code for result in execution.results.values()]
    stopped = [code for code in codes if code not in (EXIT_DONE, EXIT_BUDGET, EXIT_FAILURES, EXIT_INTERRUPTED)]
    return next((code for code in (*stopped, EXIT_BUDGET, EXIT_FAILURES) if code in codes), EXIT_DONE)
