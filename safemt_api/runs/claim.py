"""What a process needs before it plays a run: the run's lock, the store that the run was bought into, and the run's books in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import anyio

from safemt_api.errors import DataChangedError, StoreError, UsageError
from safemt_api.runs.attempt import Attempt, open_attempt
from safemt_api.runs.folder import playing, read_manifest, settle, store_record
from safemt_api.runs.plan import Plan, check_still_same
from safemt_api.store.books import name_of, older_run_id, replies_bought
from safemt_api.store.connection import Place, ServerAddress
from safemt_api.store.shards import sharded
from safemt_api.store.turns import TurnStore, open_store
from safemt_api.store.uses import Uses, open_uses

LOST = "restore it from a copy, or choose another --run to buy every reply anew"


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that this process may play. ``record`` is what the run file says of it: its id, its store, the purse that it shares.

    ``attempt`` is this process at its shard, where it plays no more.
    """

    run_id: str
    purse_id: str
    store: TurnStore
    record: Mapping[str, Any]
    uses: Uses
    attempt: Attempt | None = None


@asynccontextmanager
async def claim_run(
    plan: Plan, *, judging_only: bool = False, store: TurnStore | None = None, purse_id: str | None = None
) -> AsyncIterator[Claim]:
    """Hold the run and open its store.

    Args:
        plan: The run; it may have been begun by another process since the plan was made.
        judging_only: The target will not be called, so the store may be another than the one that its replies were bought into.
        store: The store, where it is open already for several runs.
        purse_id: Under which the ceiling is held, where the run shares it with others; a run that did once goes on doing so.

    Raises:
        RunBusyError: Another process plays the run.
        SettingsChangedError: It was begun with other settings since the plan was made.
        DataChangedError: Pictures that were sent are others now.
        UsageError: The run is played in shards, and this is none, or the other way round.
        StoreError: The store cannot be used, or is not (or no longer) the one that the run was bought into.
    """
    place = plan.settings.store_place
    with playing(plan.folder, plan.run) as note:
        settle(plan.folder)
        before = read_manifest(plan.folder) or {}
        check_still_same(plan, before, judging_only=judging_only)
        _check_pictures(plan, before)
        bought_into = before.get("store")
        expected = bought_into.get("id") if isinstance(bought_into, Mapping) else None
        if expected is not None and not judging_only:
            _check_there(place, plan.run)
        async with _opened(store, place) as opened:
            note(opened.id)
            if expected is not None and not judging_only:
                lost = _what_is_lost(opened, before, plan, expected)
                if lost is not None:
                    raise StoreError(str(place), lost, LOST)
            async with _hurried_by_the_end(opened):
                claim = await _entered(plan, opened, before, purse_id=purse_id, judging_only=judging_only)
            try:
                yield claim
            finally:
                with suppress(StoreError):  # then its uses stay unknown, and nothing that it may need is freed
                    await claim.uses.close()
                    if claim.attempt is not None and not claim.attempt.left:
                        await claim.attempt.end(over=False)


async def _entered(plan: Plan, store: TurnStore, before: Mapping[str, Any], *, purse_id: str | None, judging_only: bool) -> Claim:
    """The run, or the shard of it, as the books know it from now on."""
    name = str(before.get("run") or plan.run)
    run_id = str(before.get("id") or (older_run_id(store.id, name) if before else uuid4().hex))
    purse = purse_id or str(before.get("purse") or run_id)
    attempt, kept = (
        None,
        {"id": run_id, "store": before.get("store") or store_record(plan.folder, store.place, store.id, plan.settings.results)},
    )
    if plan.shard is not None:
        attempt = await open_attempt(plan, plan.shard, store, purse_id=purse_id)
        run_id, purse, name = attempt.part.id, attempt.run.purse, f"{plan.run} {plan.shard}"
        kept |= {"id": run_id, "shard": str(plan.shard)}
    elif not judging_only and (found := store.read(sharded(plan.run))) is not None:
        raise UsageError(
            f"run {plan.run!r} is played in {found.parts} shards: give --shard I/{found.parts} to go on with one, or see what there is "
            f"with `safemt-api report {plan.run}`"
        )
    uses = await open_uses(store, run_id, name)
    return Claim(run_id, purse, store, kept if purse == run_id else {**kept, "purse": purse}, uses, attempt)


@asynccontextmanager
async def _hurried_by_the_end(store: TurnStore) -> AsyncIterator[None]:
    """A run that is ended while another program has locked the store waits only a moment: nothing is at stake before its first call."""

    async def listen() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if not written:
                store.hurry()
            raise

    written, failure = False, None
    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        try:
            yield
        except Exception as error:  # noqa: BLE001 (raised again below, bare: a task group would wrap it in a group)
            failure = error
        written = True
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def _opened(store: TurnStore | None, place: Place) -> AsyncIterator[TurnStore]:
    if store is not None:
        yield store
    else:
        async with open_store(place) as own:
            yield own


def _check_pictures(plan: Plan, before: Mapping[str, Any]) -> None:
    if not before:
        return
    from safemt_api.runs.provenance import picture_changes  # noqa: PLC0415 (imports polars, which a first start must not)

    changes = list(picture_changes(plan.dataset, plan.folder))
    if changes:
        raise DataChangedError(plan.run, changes)


def _check_there(path: Place, run: str) -> None:
    """Before the store is opened, since that would make a new one; one on a server is known by its id."""
    if isinstance(path, ServerAddress):
        return
    if not path.is_file():
        raise StoreError(path, f"is gone, and run {run!r} was bought into it", LOST)
    if path.stat().st_size == 0:
        raise StoreError(path, f"is empty, and run {run!r} was bought into it", LOST)


def _what_is_lost(store: TurnStore, before: Mapping[str, Any], plan: Plan, expected: str) -> str | None:
    run_id = str(before.get("id"))
    if store.id != expected:
        return f"is not the store that run {plan.run!r} was bought into"
    if before.get("ended_utc") is not None and store.read(name_of(run_id)) is None:
        return f"knows nothing of run {plan.run!r}, which was bought into it"
    bought, kept = store.read(replies_bought(run_id))
    if kept < bought:
        return f"has lost {bought - kept:,} of the {bought:,} replies that run {plan.run!r} paid for"
    return None
