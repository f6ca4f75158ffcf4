"""Plays a plan: so many dialogues at a time in one task group, verdicts as dialogues finish, files at the end whatever happens."""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from safemt_api.dataset.entries import Entry
from safemt_api.dataset.images import open_source
from safemt_api.dialogues import asked_at, converse
from safemt_api.errors import (
    EXIT_BUDGET,
    EXIT_DONE,
    EXIT_FAILURES,
    EXIT_INTERRUPTED,
    BudgetExhaustedError,
    DialogueError,
    JudgeUnfitError,
    SafeMTError,
    StoreError,
    own_errors,
)
from safemt_api.files import write_json
from safemt_api.gateway import Gateway, GatewayStatistics, Singly
from safemt_api.judges.base import MODERATOR_FAILED, NOT_SENT, Judge
from safemt_api.judges.preflight import check_judges
from safemt_api.limits.budget import Ledger
from safemt_api.messages import Dialogue, Exhibit, JudgedTurns, Outcome, Reply, Transcript, Turn, Verdict, images_of, with_images
from safemt_api.moderators.base import Moderator
from safemt_api.moderators.opening import open_moderator
from safemt_api.runs.balance import Balance
from safemt_api.runs.claim import Claim, claim_run
from safemt_api.runs.connections import Shared, judge_of, judges_of, open_gateway
from safemt_api.runs.folder import MANIFEST_FILE, SCHEMA, SUMMARY_FILE, begin_generation, read_manifest, switch_generation, versions
from safemt_api.runs.plan import Plan, resolved_record
from safemt_api.runs.rows import Collector, Finished, history_before, open_collector, sweep, write_frames
from safemt_api.runs.settings import dialogues_at_once, tiers_of
from safemt_api.runs.workers import Work, handlers_kept, shown, work_through, work_watched
from safemt_api.store.shards import Standing

if TYPE_CHECKING:
    from safemt_api.runs.spot_check import SpotCheck
    from safemt_api.runs.summary import Status, Summary


Watcher = Callable[["Execution"], Coroutine[Any, Any, None]]


class RunStatistics(NamedTuple):
    """A run's state now, for whoever displays it; ``changes`` says who else answers now under the target's or a judge's name."""

    planned: int
    finished: int
    failed: int
    without_verdict: int
    unaffordable: int
    asr_so_far: float | None
    spent_usd: float
    elapsed_seconds: float
    gateway: GatewayStatistics
    ceiling_usd: float | None = None
    changes: tuple[str, ...] = ()


SHARD_COUNTS = ("finished", "failed", "without_verdict", "unaffordable", "spent_usd")
GATEWAY_COUNTS = ("sent", "from_store", "retried", "rate_limited", "in_flight", "waiting")
"""What a shard tells the store of its state, beside what the names alone do not say."""


class RunResult(NamedTuple):
    """What came of a run: the summary as written, the folder, the exit code, and the error that ended it early, if one did.

    ``standing`` is of a shard, or of a whole run in shards: how many of its parts are over.
    """

    summary: Summary
    folder: Path
    exit_code: int
    stopped_by: SafeMTError | None
    standing: Standing | None = None


class Together(NamedTuple):
    """What runs have in common that are played at the same time: store, accounts and purse, and their common front."""

    shared: Shared
    balance: Balance


@dataclass(kw_only=True)
class Underway:
    """What is played or judged anew now, for whoever displays it."""

    plan: Plan
    claim: Claim
    gateway: Gateway
    ledger: Ledger
    judge: Judge
    started: float = field(default_factory=anyio.current_time)
    interrupted: bool = False

    def interrupt(self) -> None:
        """Note that a signal, or whoever started it, ended it."""
        self.interrupted = True

    def state(self, **counts: Any) -> RunStatistics:
        """The state now, with the counts that are its own."""
        return RunStatistics(
            spent_usd=self.ledger.spent_lately_usd(),
            elapsed_seconds=anyio.current_time() - self.started,
            gateway=self.gateway.statistics(),
            ceiling_usd=self.plan.settings.max_usd,
            **counts,
        )

    def counts(self) -> dict[str, Any]:
        """How far it is, for other processes: JSON values, none where nobody asks."""
        return {}

    async def watched(self, work: Work, watch: Any, signals: tuple[signal.Signals, ...], *, ending: Callable[[], None]) -> None:
        """Do the work with its display, the stall detector and the signals beside it.

        Raises:
            StopRunError, StoreError: As an exception group; it could not go on.
        """
        beside = [partial(self.gateway.watch_stall, self.plan.settings.stall_seconds)]
        if self.claim.attempt is not None:
            beside.append(partial(self.claim.attempt.beat_on, self.counts))
        if watch is not None:
            beside.append(partial(shown, watch, self))
        await work_watched(work, beside=beside, signals=signals, interrupted=self.interrupt, ending=ending)


@dataclass(kw_only=True)
class Execution(Underway):
    """A run under way."""

    moderator: Moderator | None
    collector: Collector
    unaffordable: int = 0
    spot_check: SpotCheck | None = None
    balance: Balance | None = None

    def statistics(self) -> RunStatistics:
        """The run's state now."""
        return self.state(
            planned=len(self.plan.entries),
            finished=self.collector.finished,
            failed=self.collector.failed,
            without_verdict=self.collector.verdicts.dialogues_without,
            unaffordable=self.unaffordable,
            asr_so_far=self.collector.asr_so_far,
            changes=tuple(self.collector.changes.sentences),
        )

    def counts(self) -> dict[str, Any]:
        """How far the shard is: numbers, which ``runs.progress`` adds up over all shards."""
        found, labels = self.statistics(), self.collector.labels
        return {
            **{name: getattr(found, name) for name in SHARD_COUNTS},
            **{name: getattr(found.gateway, name) for name in GATEWAY_COUNTS},
            "unsafe": labels["unsafe"],
            "judged": labels["unsafe"] + labels["safe"],
            "missing": self.collector.verdicts.due - self.collector.verdicts.valid,
            "tokens": sum(one.input_tokens + one.output_tokens for one in found.gateway.usage.values()),
            "unpriced": len(found.gateway.unpriced),
        }

    async def play(self, watch: Watcher | None, signals: tuple[signal.Signals, ...]) -> None:
        """Play every dialogue of the plan.

        Raises:
            StopRunError, StoreError: As an exception group; the run could not go on.
        """
        await self.watched(self._play_all, watch, signals, ending=self._hurry)

    def _hurry(self) -> None:
        # A store that other runs share is hurried when the last of them ends; and a shard that ends by itself has its end to write yet,
        # beside others that may write theirs.
        if self.balance is None and (self.claim.attempt is None or self.interrupted):
            self.claim.store.hurry()

    async def _play_all(self) -> None:
        parts = [in_order(self.plan, id_by_id=self.balance is not None)] if self.spot_check is None else self.spot_check.parts()
        for part in parts:
            await work_through(part, self._play_if_affordable, self._collect, workers=dialogues_at_once(self.plan.settings))

    def _collect(self, finished: Finished) -> bool:
        self.collector.add(finished)
        return self.spot_check is not None and self.spot_check.add(finished)

    async def _play_if_affordable(self, entry: Entry) -> Finished | None:
        try:
            async with nullcontext() if self.balance is None else self.balance.passing(self.plan.run, entry):
                return await self.play_one(entry)
        except BudgetExhaustedError:
            # This dialogue does not fit any more; a shorter one may.
            self.unaffordable += 1
            return None

    async def play_one(self, entry: Entry) -> Finished:
        """Play and judge one dialogue."""
        plan = self.plan
        dialogue = plan.dialogue(entry)
        route = plan.target.route
        try:
            dialogue = with_pictures(dialogue, plan)
        except DialogueError as error:
            transcript = _unplayable(dialogue, plan, error)
            return Finished(transcript, no_verdicts(transcript, self.judge, plan.settings.judge_turns), route.profile, route.model)
        async with self.ledger.dialogue():
            with self.gateway.telemetry.dialogue(dialogue, run=plan.run):
                return await self._play_within(dialogue)

    async def _play_within(self, dialogue: Dialogue) -> Finished:
        plan, route = self.plan, self.plan.target.route
        transcript = await converse(
            dialogue, protocol=plan.settings.protocol, asker=self.gateway, target=plan.target, moderator=self.moderator
        )
        together = "batch" in tiers_of(plan.settings)
        verdicts = await judge_transcript(transcript, self.judge, plan.settings.judge_turns, together=together)
        return Finished(transcript, verdicts, route.profile, route.model)


def with_pictures(dialogue: Dialogue, plan: Plan) -> Dialogue:
    """The dialogue with its pictures read; the gateway fits each to the rules of whoever gets it.

    Raises:
        DialogueError: One cannot be read.
    """
    blank = plan.settings.show == "blank-picture"
    held = "batch" not in tiers_of(plan.settings)
    return with_images(dialogue, lambda path: open_source(plan.dataset.folder, path, blank=blank, held=held))


def _go_on() -> None:
    """Nothing is to be wound up: the run is still to come, or others go on with what it used."""


IDS_IN_A_BLOCK = 16
"""Measured on the demonstration set with 32 calls in flight and a cache from 256 tokens on: id by id it gave back 6 to 14 % of the input,
in blocks of 8 to 64 ids 51 to 53 %, as much as one call at a time."""


def in_order(plan: Plan, *, id_by_id: bool = False) -> list[Entry]:
    """The order of play.

    Live: longest first, which keeps the end of the run busy. Scripted: every dialogue is one call, so the order costs no time; ids come in
    seeded random order. With a ceiling all lengths of an id go together, so that a run that ends early covers whole ids, spread over the
    scenarios. Without one they go after each other, block of ids by block: calls that are under way together find nothing of each other in
    a vendor's prompt cache, and those that come much later find it forgotten.
    """
    if plan.settings.protocol == "live" and not id_by_id:
        return sorted(plan.entries, key=lambda entry: (-entry.length, entry.id))
    drawn = sorted({entry.id for entry in plan.entries}, key=lambda one: sha256(f"{plan.settings.seed}:{one}".encode()).digest())
    ids_in_a_block = 1 if id_by_id or plan.settings.max_usd is not None else IDS_IN_A_BLOCK
    place = {one: at for at, one in enumerate(drawn)}
    return sorted(plan.entries, key=lambda entry: (place[entry.id] // ids_in_a_block, -entry.length, place[entry.id]))


async def judge_transcript(
    transcript: Transcript, judge: Judge, turns: JudgedTurns = "all", *, together: bool = False
) -> tuple[tuple[int, Verdict], ...]:
    """A verdict for every turn of the transcript, or for its last alone.

    Of several about pictures the first is asked for by itself and the others at the same time: these find the pictures in a vendor's cache.
    ``together``: all of them at the same time, as they are to wait in one batch.

    Raises:
        StopRunError: The run cannot go on.
    """
    verdicts: dict[int, Verdict] = {}
    judged = range(len(transcript.turns))[-1 if turns == "last" else 0 :]
    repeated = len(judged) > 1 and bool(images_of(transcript.dialogue.lines))

    async def judge_turn(index: int) -> None:
        turn = transcript.turns[index]
        if stopped_by_failure(turn):
            verdicts[turn.turn] = Verdict(judge.name, None, "none", MODERATOR_FAILED)
            return
        policy = turn.guidance.policy if turn.guidance else None
        exhibit = Exhibit(transcript.dialogue, history_before(transcript, index), turn.reply, turn.turn, policy, repeated)
        verdicts[turn.turn] = await judge.judge(exhibit)

    try:
        async with anyio.create_task_group() as group:
            for index in judged:
                if repeated and not together and index == judged[0]:
                    await judge_turn(index)
                else:
                    group.start_soon(judge_turn, index)
    except BaseExceptionGroup as failures:
        # The caller tells an exhausted budget, which ends this dialogue alone, from what ends the run.
        raise our_error(failures) from failures
    return tuple(sorted(verdicts.items()))


def stopped_by_failure(turn: Turn) -> bool:
    """Whether nothing but the moderator's failure kept the target from answering: that says nothing of the moderator, nor of the target."""
    return turn.guidance is not None and turn.guidance.failure is not None and turn.guidance.refusal is not None


def _unplayable(dialogue: Dialogue, plan: Plan, error: DialogueError) -> Transcript:
    positions = range(1, dialogue.length + 1) if plan.settings.protocol == "live" else (dialogue.length,)
    reply = Reply(Outcome.ERROR, detail=str(error))
    turns = tuple(Turn(position, asked_at(dialogue, position), reply) for position in positions)
    return Transcript(dialogue, plan.settings.protocol, turns, failure=str(error))


def no_verdicts(transcript: Transcript, judge: Judge, turns: JudgedTurns = "all") -> tuple[tuple[int, Verdict], ...]:
    """A missing verdict for every turn of a dialogue that could not be shown, or for its last alone."""
    due = transcript.turns[-1 if turns == "last" else 0 :]
    return tuple((turn.turn, Verdict(judge.name, None, "none", NOT_SENT)) for turn in due)


@asynccontextmanager
async def open_execution(plan: Plan, together: Together | None = None) -> AsyncIterator[Execution]:
    """Everything a run needs, opened; closed on leaving, but for what it shares with other runs.

    Raises:
        SetupError: Another process plays the run, or the store, a judge or the moderator cannot be opened, or the store is not the run's.
    """
    settings = plan.settings
    shared = None if together is None else together.shared
    async with (
        _claimed(plan, shared) as claim,
        open_gateway(plan, claim, shared) as (gateway, ledger),
    ):
        spot_check = _spot_check(plan)
        judge = judge_of(plan, gateway)
        moderator = open_moderator(
            plan.moderator,
            asker=gateway,
            resolve=plan.router.resolver("moderator"),
            policies=settings.policies,
            failure=settings.moderator_failure,
        )
        with open_collector(plan.folder, plan.run) as collector:
            balance = None if together is None else together.balance
            yield Execution(
                plan=plan,
                claim=claim,
                gateway=gateway,
                ledger=ledger,
                judge=judge,
                moderator=moderator,
                collector=collector,
                spot_check=spot_check,
                balance=balance,
            )


def _claimed(plan: Plan, shared: Shared | None) -> AbstractAsyncContextManager[Claim]:
    return claim_run(plan) if shared is None else claim_run(plan, store=shared.store, purse_id=shared.purse.id)


def _spot_check(plan: Plan) -> SpotCheck | None:
    settings = plan.settings
    if settings.until_ci is None:
        return None
    from safemt_api.runs.spot_check import open_spot_check  # noqa: PLC0415 (imports polars, which other runs need at their end only)

    return open_spot_check(plan.entries, goal=settings.until_ci, seed=settings.seed, summary_file=plan.folder / SUMMARY_FILE)


async def execute(
    plan: Plan,
    *,
    watch: Watcher | None = None,
    signals: tuple[signal.Signals, ...] = (),
    together: Together | None = None,
) -> RunResult:
    """Run a plan to its end, or as far as it goes; the files are written either way.

    Of a shard the result tells how many parts of the run are over (``standing``); whoever finds that all are puts the whole together.

    Args:
        plan: What to run.
        watch: Reads ``Execution.statistics()`` while the run goes on; cancelled when it ends.
        signals: End the run as interrupted when one of these arrives; the next one ends the process at once.
        together: What it shares with other runs that are played at the same time; then those who play them see to signals.

    Raises:
        SetupError: The run cannot start; a judge that fails its trial (``judges.preflight``) leaves no run behind.
    """
    with handlers_kept(signals):
        return await _execute(plan, watch, signals, together)


async def _execute(plan: Plan, watch: Watcher | None, signals: tuple[signal.Signals, ...], together: Together | None) -> RunResult:
    started = datetime.now(UTC)
    stopped_by: SafeMTError | None = None
    async with open_execution(plan, together) as execution:
        attempt = execution.claim.attempt
        trial = partial(try_judges, plan, execution.gateway, signals=signals, interrupted=execution.interrupt)
        try:
            await (trial() if attempt is None else attempt.try_in_turn(trial))
            write_json(plan.folder / MANIFEST_FILE, manifest(plan, execution, started, None))
            if not execution.interrupted:
                await execution.play(watch, signals)
        except BaseExceptionGroup as group:
            stopped_by = our_error(group)
            if isinstance(stopped_by, JudgeUnfitError):
                execution.collector.close()
                sweep(plan.folder)
                raise stopped_by from group
        except anyio.get_cancelled_exc_class():
            execution.interrupt()
            with anyio.CancelScope(shield=True):
                await _ended(plan, execution, started, None)
            raise
        return await _ended(plan, execution, started, stopped_by)


async def _ended(plan: Plan, execution: Execution, started: datetime, stopped_by: SafeMTError | None) -> RunResult:
    """The files written, and of a shard its end noted in the store."""
    attempt = execution.claim.attempt
    if attempt is None:
        return _finish(plan, execution, started, stopped_by)
    # One that is interrupted must not hang on a store that others have locked: what it bought is there in any case.
    with suppress(*([StoreError] if execution.interrupted else [])):
        if not attempt.left:
            await attempt.beat(execution.counts)
    result = _finish(plan, execution, started, stopped_by)
    if attempt.left:
        return result
    record = {"manifest": read_manifest(plan.folder), "summary": result.summary.json_value(), "exit_code": result.exit_code}
    with suppress(*([StoreError] if execution.interrupted else [])):
        result = result._replace(standing=await attempt.end(over=not execution.interrupted, record=record))
    return result


def _finish(plan: Plan, execution: Execution, started: datetime, stopped_by: SafeMTError | None) -> RunResult:
    from safemt_api.runs.summary import Played, Stopping, summarise  # noqa: PLC0415 (imports polars, which a start must not wait for)

    status = _status(execution, stopped_by)
    execution.claim.uses.complete |= status == "complete"
    execution.collector.close()
    release_freed_memory()
    staged = begin_generation(plan.folder)
    write_frames(plan.folder, staged)
    statistics = execution.statistics()
    played = Played(
        statistics.gateway,
        execution.ledger.spent_usd(),
        statistics.elapsed_seconds,
        status,
        execution.unaffordable,
        execution.ledger.maybe_usd(),
    )
    summary = summarise(plan, execution.collector, played, folder=staged)
    if execution.spot_check is not None:
        stopping = stopping_record(execution, execution.spot_check, summary)
        summary = summary.model_copy(update={"stopping": Stopping.model_validate(stopping)})
    summary.write(staged)
    switch_generation(plan.folder, manifest(plan, execution, started, datetime.now(UTC)))
    sweep(plan.folder)
    return RunResult(summary, plan.folder, _exit_code(execution, status, stopped_by), stopped_by)


def stopping_record(execution: Execution, check: SpotCheck, summary: Summary) -> dict[str, Any]:
    """How the spot check ended, and what it saved: the dialogues that were never begun, at the mean price of those that were."""
    played = execution.collector.finished + execution.unaffordable
    left_out = max(0, len(execution.plan.entries) - played) if check.enough else 0
    spent, finished = summary.cost_usd.total, execution.collector.finished
    return check.record(dialogues_saved=left_out, usd_saved=None if spent is None else round(spent / max(1, finished) * left_out, 6))


def _status(execution: Execution, stopped_by: SafeMTError | None) -> Status:
    if execution.interrupted:
        return "interrupted"
    if stopped_by is not None:
        return "partial"
    if execution.unaffordable:
        return "budget_exhausted"
    return "partial" if _too_many_missing(execution) else "complete"


def _exit_code(execution: Execution, status: Status, stopped_by: SafeMTError | None) -> int:
    if stopped_by is not None and not execution.interrupted:
        return stopped_by.exit_code
    if status in ("interrupted", "budget_exhausted"):
        return EXIT_INTERRUPTED if status == "interrupted" else EXIT_BUDGET
    allowed = execution.plan.settings.max_failures * execution.collector.finished
    return EXIT_FAILURES if execution.collector.wanting > allowed or _too_many_missing(execution) else EXIT_DONE


def _too_many_missing(execution: Execution) -> bool:
    """Of the dialogues that were played: a spot check leaves out others on purpose. One that failed has no verdict either."""
    collector = execution.collector
    return collector.verdicts.too_many_missing(collector.finished, max_failures=execution.plan.settings.max_failures)


def our_error(group: BaseExceptionGroup[BaseException]) -> SafeMTError:
    """The first of our own errors in a group, an exhausted budget last; a group with anything else in it is a defect, raised as it is."""
    own = own_errors(group)
    if not own:
        raise group
    return next((error for error in own if not isinstance(error, BudgetExhaustedError)), own[0])


def manifest(plan: Plan, execution: Execution, started: datetime, ended: datetime | None) -> dict[str, Any]:
    """The run file: what was asked, of what, by which versions, when; how the limits moved. Never a key."""
    before = read_manifest(plan.folder) or {}
    resumed = before.get("resumed_utc", [])
    limits = {name: [change._asdict() for change in account.limiter.history] for name, account in execution.gateway.accounts().items()}
    return {
        "schema": SCHEMA,
        **execution.claim.record,
        "run": plan.run,
        "started_utc": before.get("started_utc", _second(started)),
        "resumed_utc": [*resumed, _second(started)] if before and ended is None else resumed,
        "ended_utc": None if ended is None else _second(ended),
        "identity": dict(plan.identity),
        "judge_digest": execution.judge.digest,
        "rubric": None if plan.rubrics is None else plan.rubrics.record,
        "moderator_digest": execution.moderator.digest if execution.moderator else None,
        "settings": resolved_record(plan),
        "data": {"folder": str(plan.dataset.folder), "name": plan.dataset.name, "fingerprint": plan.dataset.fingerprint},
        "versions": versions(),
        "limits": limits,
        "files": before.get("files", {}),
        "outline": plan.outline,
    }


def _second(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def release_freed_memory() -> None:
    """Hand freed memory back to the system, where the C library can (glibc); elsewhere nothing happens.

    Play leaves the allocator with room that only polars' allocator could use next, and does not: 21 MB of the peak of a run over 10,000
    dialogues (measured).
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


async def try_judges(plan: Plan, gateway: Gateway, *, signals: tuple[signal.Signals, ...], interrupted: Callable[[], None]) -> None:
    """See ``judges.preflight``; ``interrupted`` is told when a signal cut it short.

    Raises:
        BaseExceptionGroup: Of our own errors: ``JudgeUnfitError``, or a ``StopRunError``.
    """
    work = partial(check_judges, partial(judges_of, plan), Singly(gateway), kind=plan.kind_on_trial)
    stall = partial(gateway.watch_stall, plan.settings.stall_seconds)
    await work_watched(work, beside=[stall], signals=signals, interrupted=interrupted, ending=_go_on)
