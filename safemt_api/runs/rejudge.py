"""New verdicts over the transcripts of a run, without calling the target again."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import orjson
import polars as pl

from safemt_api.dataset.entries import Entry
from safemt_api.errors import EXIT_DONE, EXIT_FAILURES, EXIT_INTERRUPTED, DialogueError, JudgeUnfitError, SafeMTError, StoreError
from safemt_api.files import private_file
from safemt_api.frames import VERDICT_SCHEMA, read_frame, with_repeat
from safemt_api.markers import FIXED_REFUSAL
from safemt_api.messages import PURPOSES, Dialogue, Guidance, Outcome, Protocol, Reply, Transcript, Turn
from safemt_api.runs.claim import claim_run
from safemt_api.runs.connections import judge_of, open_gateway
from safemt_api.runs.folder import (
    JUDGING_FILE,
    SUMMARY_FILE,
    TRANSCRIPTS_FILE,
    VERDICTS_FILE,
    begin_generation,
    current_files,
    read_manifest,
    switch_generation,
)
from safemt_api.runs.names import slug
from safemt_api.runs.plan import Plan, resolved_record
from safemt_api.runs.play import (
    RunResult,
    RunStatistics,
    Underway,
    judge_transcript,
    no_verdicts,
    our_error,
    try_judges,
    with_pictures,
)
from safemt_api.runs.rows import Changes, Finished, VerdictTally, verdict_rows, write_frame
from safemt_api.runs.settings import dialogues_at_once, free_for_judging, tiers_of
from safemt_api.runs.spot_check import judged_again
from safemt_api.runs.summary import Costs, Saved, Summary, read_summary, saved_by_purpose, scores
from safemt_api.runs.workers import handlers_kept, work_through
from safemt_api.store.shards import judged_in_parts_usd

Rows = list[dict[str, Any]]
DialogueKey = tuple[str, int, int]
"""Id, length and repeat."""


@dataclass(kw_only=True)
class Rejudging(Underway):
    """A judging under way."""

    turns: Mapping[DialogueKey, Rows]
    finished: int = 0
    labels: Counter[str | None] = field(default_factory=Counter)
    verdicts: VerdictTally = field(default_factory=VerdictTally)
    changes: Changes = field(default_factory=Changes)

    def statistics(self) -> RunStatistics:
        """The state now."""
        judged = self.labels["unsafe"] + self.labels["safe"]
        return self.state(
            planned=len(self.turns),
            finished=self.finished,
            failed=0,
            without_verdict=self.verdicts.dialogues_without,
            unaffordable=0,
            asr_so_far=self.labels["unsafe"] / judged if judged else None,
            changes=tuple(self.changes.sentences),
        )

    @property
    def too_many_missing(self) -> bool:
        """Whether more dialogues lack a verdict than the run allows."""
        return self.verdicts.too_many_missing(self.finished, max_failures=self.plan.settings.max_failures)

    async def play(self, target: Path, watch: Any, signals: tuple[signal.Signals, ...]) -> None:
        """Judge every dialogue; rows go to the file as they come.

        Raises:
            StopRunError, StoreError: As an exception group.
        """
        await self.watched(partial(self._judge_all, target), watch, signals, ending=self.claim.store.hurry)

    async def _judge_all(self, target: Path) -> None:
        entries = [entry for entry in self.plan.entries if (entry.id, entry.length, entry.repeat) in self.turns]
        with private_file(target).open("wb") as file:
            await work_through(entries, self.judge_one, partial(self._collect, file), workers=dialogues_at_once(self.plan.settings))

    def _collect(self, file: IO[bytes], finished: Finished) -> bool:
        self.finished += 1
        rows = list(verdict_rows(finished, self.plan.run))
        self.verdicts.add(rows)
        self.changes.add((), rows)
        file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        self.labels.update(row["label"] for row in rows if row["counts"] and row["kind"] == "harmful")
        return False

    async def judge_one(self, entry: Entry) -> Finished:
        """Judge one dialogue's turns."""
        dialogue = self.plan.dialogue(entry)
        transcript = transcript_of(dialogue, self.plan.settings.protocol, self.turns[entry.id, entry.length, entry.repeat])
        route = self.plan.target.route
        try:
            transcript = replace(transcript, dialogue=with_pictures(dialogue, self.plan))
        except DialogueError:
            return Finished(transcript, no_verdicts(transcript, self.judge, self.plan.settings.judge_turns), route.profile, route.model)
        together = "batch" in tiers_of(self.plan.settings)
        verdicts = await judge_transcript(transcript, self.judge, self.plan.settings.judge_turns, together=together)
        return Finished(transcript, verdicts, route.profile, route.model)


def transcript_of(dialogue: Dialogue, protocol: Protocol, rows: Rows) -> Transcript:
    """The transcript behind a dialogue's rows of ``transcripts.parquet``, as far as a judge sees it."""
    ordered = sorted(rows, key=lambda row: int(row["turn"]))
    return Transcript(dialogue, protocol, tuple(_turn(row) for row in ordered), failure=ordered[0]["failure"])


def _turn(row: Mapping[str, Any]) -> Turn:
    reply = Reply(Outcome(row["outcome"]), text=row["reply_text"] or "", detail=row["detail"], finish_reason=row["finish_reason"])
    guidance = None
    if row["moderator"] is not None:
        guidance = Guidance(
            row["moderator"],
            row["moderator_flagged"],
            policy=row["moderator_policy"],
            refusal=reply.text if reply.outcome is Outcome.REFUSED and reply.text == FIXED_REFUSAL else None,
            text=row["moderator_text"] or "",
            failure=row.get("moderator_failure"),
        )
    return Turn(row["turn"], row["user_text"] or "", reply, guidance=guidance)


async def rejudge(plan: Plan, *, watch: Any = None, signals: tuple[signal.Signals, ...] = ()) -> RunResult:
    """Judge the run's transcripts with the plan's judges and write ``verdicts.parquet`` and the summary anew.

    The former verdicts are kept beside as ``verdicts-<judge>.parquet``. If it does not come to its end nothing is changed, and what the
    judge said already is in the store. ``plan`` must have been made with ``judging_only``.

    Raises:
        SetupError: Another process plays the run, the transcripts cannot be read, or a judge cannot be opened or fails its trial.
    """
    with handlers_kept(signals):
        return await _rejudge(plan, watch, signals)


async def _rejudge(plan: Plan, watch: Any, signals: tuple[signal.Signals, ...]) -> RunResult:
    stopped_by: SafeMTError | None = None
    rows = plan.folder / JUDGING_FILE
    async with _open(plan) as judging:
        try:
            await try_judges(plan, judging.gateway, signals=signals, interrupted=judging.interrupt)
            if not judging.interrupted:
                await judging.play(rows, watch, signals)
        except BaseExceptionGroup as group:
            stopped_by = our_error(group)
            if isinstance(stopped_by, JudgeUnfitError):
                raise stopped_by from group
        done = not judging.interrupted and stopped_by is None
        summary = _replace(plan, judging, rows) if done else _read(plan.folder)
        rows.unlink(missing_ok=True)
    return RunResult(summary, plan.folder, _exit_code(judging, stopped_by), stopped_by)


def _exit_code(judging: Rejudging, stopped_by: SafeMTError | None) -> int:
    if judging.interrupted:
        return EXIT_INTERRUPTED
    if stopped_by is not None:
        return stopped_by.exit_code
    return EXIT_FAILURES if judging.too_many_missing else EXIT_DONE


@asynccontextmanager
async def _open(plan: Plan) -> AsyncIterator[Rejudging]:
    async with claim_run(plan, judging_only=True) as claim, open_gateway(plan, claim) as (gateway, ledger):
        current_files(plan.folder, read_manifest(plan.folder) or {})
        turns = dict(_turns(plan.folder / TRANSCRIPTS_FILE))
        judge = judge_of(plan, gateway)
        yield Rejudging(plan=plan, claim=claim, gateway=gateway, ledger=ledger, judge=judge, turns=turns)


def _turns(file: Path) -> Iterator[tuple[DialogueKey, Rows]]:
    try:
        frame = with_repeat(read_frame(file))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(file, f"cannot be read ({error})", "let the run go on first; that writes it anew") from error
    for (dialogue_id, length, repeat), part in frame.partition_by("dialogue_id", "length", "repeat", as_dict=True).items():
        yield (str(dialogue_id), int(length), int(repeat)), part.to_dicts()


def _replace(plan: Plan, judging: Rejudging, rows: Path) -> Summary:
    folder = plan.folder
    manifest, before = read_manifest(folder) or {}, _read(folder)
    staged, verdicts = begin_generation(folder), folder / VERDICTS_FILE
    if verdicts.is_file():
        shutil.copyfile(verdicts, private_file(staged / _former_file(folder, str(before.judge)).name))
    write_frame(rows, staged / VERDICTS_FILE, VERDICT_SCHEMA)
    statistics = judging.gateway.statistics()
    changes: dict[str, Any] = {
        "status": _status(before, judging),
        "judge": plan.bench.name,
        "baseline_judge": plan.bench.is_baseline,
        "rubric": None if plan.rubrics is None else plan.rubrics.record,
        "verdicts": judging.verdicts.record(),
        **scores(staged, plan.settings.protocol, transcripts=folder),
        "cost_usd": _cost(before, judging),
        "judged_again": {"sent": statistics.sent, "from_store": statistics.from_store, "retried": statistics.retried},
    }
    if before.stopping is not None:
        judged = read_frame(staged / VERDICTS_FILE).iter_rows(named=True)
        changes["stopping"] = judged_again(plan.entries, seed=plan.settings.seed, before=before.stopping, rows=judged)
    summary = Summary.model_validate({**before.json_value(), **changes})
    again = [*manifest.get("judged_again_utc", []), datetime.now(UTC).isoformat(timespec="seconds")]
    resolved = resolved_record(plan)
    of_judges = {name: resolved[name] for name in ("judges", "judge_base_url", "rubric", *free_for_judging())}
    summary.write(staged)
    changed = {
        "identity": dict(plan.identity),
        "judge_digest": judging.judge.digest,
        "rubric": changes["rubric"],
        "settings": {**manifest.get("settings", {}), **of_judges},
        "judged_again_utc": again,
    }
    switch_generation(folder, {**manifest, **judging.claim.record, **changed})
    return summary


def _status(before: Summary, judging: Rejudging) -> str:
    """A run that came to its end is complete or not by its verdicts, which are others now; one that did not stays as it is."""
    left_out = 0 if before.stopping is None else before.stopping.dialogues_saved
    if before.played + left_out < before.dialogues.planned:
        return before.status
    return "partial" if judging.too_many_missing else "complete"


def _cost(before: Summary, judging: Rejudging) -> dict[str, Any]:
    """What was spent before, with the judge's share as it is now; unknown stays unknown."""
    in_parts = judging.claim.store.read(judged_in_parts_usd(judging.claim.run_id))
    judge = None if "judge" in judging.gateway.statistics().unpriced else round(judging.ledger.spent_usd()["judge"] + in_parts, 6)
    parts: dict[str, float | None] = {**{purpose: getattr(before.cost_usd, purpose) for purpose in PURPOSES}, "judge": judge}
    known = [usd for usd in parts.values() if usd is not None]
    total = round(sum(known), 6) if len(known) == len(parts) else None
    beside = {"maybe_usd": round(judging.ledger.maybe_usd(), 6), "ceiling": judging.plan.settings.max_usd}
    return {**before.cost_usd.model_dump(), **parts, "total": total, **beside, **_saved(before.cost_usd, judging)}


def _saved(before: Costs, judging: Rejudging) -> dict[str, Any]:
    """What cheaper tiers and caches saved on all else stays; on verdicts it is now what they saved on the new ones."""
    now = saved_by_purpose(judging.gateway.statistics())
    former = before.saved_by_purpose.get("judge", Saved())
    new = Saved.model_validate(now.get("judge", {}))
    return {
        "saved_usd": round(before.saved_usd - former.tiers_usd + new.tiers_usd, 6),
        "saved_by_caches_usd": round(before.saved_by_caches_usd - former.caches_usd + new.caches_usd, 6),
        "saved_by_purpose": {**{purpose: one.model_dump() for purpose, one in before.saved_by_purpose.items()}, "judge": new.model_dump()},
    }


def _former_file(folder: Path, judge: str) -> Path:
    plain = folder / f"verdicts-{slug(judge)}.parquet"
    numbered = (folder / f"verdicts-{slug(judge)}-{number}.parquet" for number in range(2, 1000))
    return plain if not plain.exists() else next(file for file in numbered if not file.exists())


def _read(folder: Path) -> Summary:
    try:
        return read_summary(folder / SUMMARY_FILE)
    except FileNotFoundError:
        raise StoreError(folder / SUMMARY_FILE, "is missing", "let the run go on first; that writes it anew") from None
