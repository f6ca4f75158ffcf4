"""A run placed by Ray: its shards as tasks of so many workers, which Ray starts again where one dies; the driver writes the whole.

What makes this safe is in the store: a shard that is played again buys nothing again, and the ceiling is one row there. Keys reach workers
by their environment alone: what is handed to Ray are settings, which hold none. Imports polars: import it late.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from safemt_api.errors import EXIT_INTERRUPTED, EXIT_STOPPED, NothingPlayedError, SetupError, StopRunError, UsageError
from safemt_api.gateway import GatewayStatistics
from safemt_api.messages import Usage
from safemt_api.runs.attempt import enter_run
from safemt_api.runs.folder import playing
from safemt_api.runs.joining import write_whole
from safemt_api.runs.parts import whole_of
from safemt_api.runs.plan import Plan, resolved_record
from safemt_api.runs.play import GATEWAY_COUNTS, RunResult, RunStatistics, our_error
from safemt_api.runs.record import read_run
from safemt_api.runs.shard import Order, Played, Shard
from safemt_api.runs.summary import Summary
from safemt_api.runs.workers import handlers_kept, shown, work_watched
from safemt_api.store.connection import ServerAddress
from safemt_api.store.shards import Sharded, parts_of, sharded
from safemt_api.store.turns import TurnStore, open_store

LOCAL = "local"
PARTS_A_WORKER = 8
"""Small enough that no worker is left alone with a large one at the end, large enough that starting one does not tell."""
RETRIES = 10
"""Of a shard whose worker died, by Ray."""
LOOK_SECONDS = 0.25
ENDING_SECONDS = 8.0
"""So long workers may wind up after Ctrl-C: what they have bought is in the store in any case."""
CONNECT_SECONDS = 5.0
OBJECT_STORE_BYTES = 80_000_000
"""The least that Ray takes; nothing but settings and exit codes passes through it."""


Worker = Callable[[Order], Played]


@dataclass(kw_only=True)
class RayExecution:
    """A run under way at Ray's workers."""

    plan: Plan
    store: TurnStore
    run: Sharded
    ray: Any
    task: Any
    workers: int
    started: float = field(default_factory=anyio.current_time)
    under_way: dict[Any, Shard] = field(default_factory=dict)
    stopped_by: StopRunError | None = None
    stopped_code: int = EXIT_STOPPED
    interrupted: bool = False

    def interrupt(self) -> None:
        """Note that a signal ended it."""
        self.interrupted = True

    def statistics(self) -> RunStatistics:
        """The state of all shards together, as they told the store some seconds ago at most."""
        counts = whole_of(self.store.read(parts_of(self.run.run)), self.run.parts).counts
        numbers: dict[str, Any] = {name: int(counts.get(name, 0)) for name in ("finished", "failed", "without_verdict", "unaffordable")}
        judged = counts.get("judged", 0)
        calls: dict[str, Any] = {name: int(counts.get(name, 0)) for name in GATEWAY_COUNTS}
        gateway = GatewayStatistics(
            **calls,
            calls={},
            usage={"target": Usage(int(counts.get("tokens", 0)))},
            unpriced=frozenset({"target"} if counts.get("unpriced") else ()),
            above_reservation_usd={},
            unread_usage=0,
            limiters={},
        )
        return RunStatistics(
            **numbers,
            planned=self.plan.planned,
            asr_so_far=counts.get("unsafe", 0) / judged if judged else None,
            spent_usd=float(counts.get("spent_usd", 0.0)),
            elapsed_seconds=anyio.current_time() - self.started,
            gateway=gateway,
            ceiling_usd=self.plan.settings.max_usd,
        )

    async def play(self) -> None:
        """Hand out every shard that is not complete, so many at a time, until all are over or one says that none can go on.

        Raises:
            SetupError: A worker could not begin.
        """
        complete = {one.part for one in self.store.read(parts_of(self.run.run)) if _is_complete(one.record) and one.state == "over"}
        waiting = deque(Shard(part, self.run.parts) for part in range(1, self.run.parts + 1) if part not in complete)
        while (waiting or self.under_way) and self.stopped_by is None:
            while waiting and len(self.under_way) < self.workers:
                shard = waiting.popleft()
                self.under_way[self.task.remote(self._order(shard))] = shard
            ready, _ = self.ray.wait(list(self.under_way), timeout=0)
            for one in ready:
                self._take(one, waiting)
            await anyio.sleep(LOOK_SECONDS)

    def _order(self, shard: Shard) -> Order:
        settings = {**resolved_record(self.plan), "otel": self.plan.settings.otel}
        return Order(settings, self.run.run, str(self.plan.settings.results.absolute()), str(shard))

    def _take(self, ref: Any, waiting: deque[Shard]) -> None:
        shard = self.under_way.pop(ref)
        try:
            played = Played(*self.ray.get(ref))
        except self.ray.exceptions.RayError as error:
            # Ray has tried it often enough: something on the machine kills whoever plays it.
            played = Played(EXIT_STOPPED, f"shard {shard} of {self.run.run} cannot be played by Ray ({type(error).__name__})")
        if played.busy:
            waiting.append(shard)
        elif played.setup:
            raise SetupError(f"a worker could not begin: {played.sentence}")
        elif played.sentence:
            self.stopped_by, self.stopped_code = StopRunError(played.sentence), played.exit_code

    async def end(self) -> None:
        """Ask what is under way to end, and wait a moment for it."""
        with anyio.CancelScope(shield=True):
            for ref in self.under_way:
                self.ray.cancel(ref, force=False)
            waiting = list(self.under_way)
            with anyio.move_on_after(ENDING_SECONDS):
                while waiting:
                    _, waiting = self.ray.wait(waiting, num_returns=len(waiting), timeout=0)
                    await anyio.sleep(LOOK_SECONDS)


def _is_complete(record: Mapping[str, Any] | None) -> bool:
    return record is not None and bool(record["summary"]["status"] == "complete")


async def execute_on_ray(plan: Plan, worker: Worker, *, watch: Any = None, signals: tuple[signal.Signals, ...] = ()) -> RunResult:
    """Play a plan by Ray's workers, as ``play.execute`` plays it in one process.

    Args:
        plan: The whole run's.
        worker: Plays one shard, in another process; a function of a module, so that Ray can name it.
        watch: Reads ``statistics()`` while the run goes on.
        signals: End the run as interrupted when one of these arrives.

    Raises:
        UsageError: Ray is not installed, no cluster answers at the address, or its machines cannot share the store.
        SetupError: The run cannot start, here or at a worker.
    """
    address, settings = str(plan.settings.ray), plan.settings
    await _check_reachable(address)
    if address == LOCAL and settings.store is not None and settings.store.password is not None:
        # The workers of this machine get our environment, and the database's client reads it there: a password is no argument either.
        os.environ["PGPASSWORD"] = settings.store.password
    with handlers_kept(signals), playing(plan.folder, plan.run) as note, _connected(address, settings.workers) as ray:
        async with open_store(settings.store_place) as store:
            note(store.id)
            _check_store(ray, store)
            workers = settings.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            known = store.read(sharded(plan.run))
            parts = min(workers * PARTS_A_WORKER, len(plan.dataset.ids)) if known is None else known.parts
            run = await enter_run(plan, parts, store)
            task = ray.remote(max_retries=RETRIES, num_cpus=1)(worker)
            execution = RayExecution(plan=plan, store=store, run=run, ray=ray, task=task, workers=workers)
            try:
                await _watched(execution, watch, signals)
            finally:
                await execution.end()
            return _result(execution)


async def _watched(execution: RayExecution, watch: Any, signals: tuple[signal.Signals, ...]) -> None:
    async def display() -> None:
        await shown(watch, execution)

    beside = [] if watch is None else [display]
    try:
        await work_watched(execution.play, beside=beside, signals=signals, interrupted=execution.interrupt, ending=execution.store.hurry)
    except BaseExceptionGroup as group:
        raise our_error(group) from group


def _result(execution: RayExecution) -> RunResult:
    plan, run = execution.plan, execution.run
    whole = whole_of(execution.store.read(parts_of(run.run)), run.parts)
    if whole.all_over and not execution.interrupted and execution.stopped_by is None:
        return write_whole(execution.store, run, plan.settings)
    try:
        summary = read_run(plan.folder).summary
    except NothingPlayedError:
        summary = Summary.model_validate({**run.record["outline"], "status": "interrupted" if execution.interrupted else "partial"})
    code = EXIT_INTERRUPTED if execution.interrupted else execution.stopped_code
    return RunResult(summary, plan.folder, code, execution.stopped_by)


async def _check_reachable(address: str) -> None:
    """Ray itself waits for a minute where nobody answers, and then ends the process."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    try:
        with anyio.fail_after(CONNECT_SECONDS):
            await (await anyio.connect_tcp(host, int(port))).aclose()
    except (OSError, TimeoutError, ValueError) as error:
        raise UsageError(
            f"--ray {address}: no Ray cluster answers there; `ray start --head` on a machine makes one, and --ray alone needs none"
        ) from error


@contextmanager
def _connected(address: str, workers: int | None) -> Iterator[Any]:
    # Before Ray is imported: nothing is told to anybody.
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_PROMPT_ENABLED": "0"})
    try:
        import ray  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise UsageError("--ray needs Ray, which is not installed: pip install 'safemt-api[ray]'") from error
    given: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        given |= {
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        ray.init(address=address, **given)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"--ray {address}: no Ray cluster can be joined there ({str(error).splitlines()[0][:200]})") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_store(ray: Any, store: TurnStore) -> None:
    machines = sum(bool(node["Alive"]) for node in ray.nodes())
    if machines > 1 and not isinstance(store.place, ServerAddress):
        raise UsageError(
            f"the Ray cluster has {machines} machines, and {store.place} can be shared by processes of one machine alone; give --store"
        )
