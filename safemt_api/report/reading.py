"""What a report says of one run beside its summary: frames for the scores, curves, and the sentences that belong beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from safemt_api.calibration.agreement import krippendorff_alpha
from safemt_api.limits.limiter import NOT_BELIEVED
from safemt_api.messages import Kind, Outcome
from safemt_api.metrics.asr import asr_by_scenario, live_asr_by_turn
from safemt_api.metrics.first_failure import first_failure
from safemt_api.metrics.trend import trend_with_length
from safemt_api.metrics.uncertainty import Estimate
from safemt_api.report import words
from safemt_api.runs.record import RunData
from safemt_api.runs.summary import ROUNDING, Index, RepeatFigures, Stopping

ALPHA_RESAMPLES = 2000
CURVE = ("share", "ci_low", "ci_high", "if_missing_safe", "if_missing_unsafe")


def score_frame(verdicts: pl.DataFrame, kind: Kind | None = "harmful") -> pl.DataFrame:
    """One row an asked dialogue for the scores: ``dialogue_id``, ``scenario``, ``length``, ``repeat``, ``verdict`` (safe, unsafe or null).

    Only rows that count are used. In the live protocol the verdict is the last turn's; a dialogue that ended before it is missing.
    """
    rows = verdicts.filter(pl.col("counts"))
    if kind is not None:
        rows = rows.filter(pl.col("kind") == kind)
    last = pl.col("label").filter(pl.col("turn") == pl.col("length")).first()
    return rows.group_by("dialogue_id", "scenario", "length", "repeat", maintain_order=True).agg(last.alias("verdict"))


def turn_frame(verdicts: pl.DataFrame, kind: Kind | None = "harmful") -> pl.DataFrame:
    """One row a judged turn: ``dialogue_id``, ``scenario``, ``length``, ``repeat``, ``turn``, ``verdict``; only rows that count."""
    rows = verdicts.filter(pl.col("counts"))
    if kind is not None:
        rows = rows.filter(pl.col("kind") == kind)
    return rows.select("dialogue_id", "scenario", "length", "repeat", "turn", verdict="label")


def scenario_scores(run: RunData) -> pl.DataFrame:
    """ASR of each scenario at each turn: ``scenario``, ``turn``, ``unsafe``, ``safe``, ``missing``, ``asr`` (null if none was judged).

    ``turn`` is the length in the scripted protocol and the position in the live one, as in ``summary.json``.
    """
    columns = ("scenario", "turn", "unsafe", "safe", "missing", "asr")
    if run.summary.protocol == "scripted":
        return asr_by_scenario(score_frame(run.verdicts)).rename({"length": "turn"}).select(columns)
    parts = turn_frame(run.verdicts).partition_by("scenario", as_dict=True)
    scored = [live_asr_by_turn(part).with_columns(scenario=pl.lit(str(key[0]))).select(columns) for key, part in sorted(parts.items())]
    return pl.concat(scored) if scored else pl.DataFrame(schema=dict.fromkeys(columns, pl.Null))


def failure_curve(run: RunData) -> pl.DataFrame:
    """Share that has failed by each turn: ``turn``, ``share``, ``ci_low``, ``ci_high``, ``if_missing_safe``, ``if_missing_unsafe``.

    Kaplan–Meier estimates. Scripted: share of ids unsafe at any length up to k. Live: share of dialogues unsafe at any turn up to t,
    which is the cumulative ASR.
    """
    if run.summary.protocol == "scripted":
        return first_failure(score_frame(run.verdicts)).select(*CURVE, turn="length")
    names = ("cumulative_asr", *(f"cumulative_{name}" for name in CURVE[1:]))
    rows = [(*(getattr(row, name) for name in names), row.turn) for row in run.summary.asr_by_turn]
    return pl.DataFrame(rows, schema={**dict.fromkeys(CURVE, pl.Float64), "turn": pl.Int64}, orient="row")


def below_seen(curve: pl.DataFrame) -> pl.DataFrame:
    """The rows of a failure curve whose estimate lies below the share that was seen to fail.

    Who lacks an earlier verdict is not at risk, so a failure of theirs is seen and yet not in the estimate: right on average, not in every
    run.
    """
    return curve.filter(pl.col("share") < pl.col("if_missing_safe") - ROUNDING)


def outcome_counts(run: RunData) -> dict[str, int]:
    """Calls to the target by outcome, in the vocabulary's order, unknown ones last."""
    known = {outcome.value: run.summary.outcomes.get(outcome.value, 0) for outcome in Outcome}
    return known | {name: count for name, count in run.summary.outcomes.items() if name not in known}


def judges_alpha(run: RunData) -> Estimate | None:
    """Krippendorff's alpha among the judges that gave verdicts of their own; ``None`` with fewer than two, or where it is undefined."""
    asked = run.verdicts.filter(pl.col("source") == "judge", pl.col("kind") == "harmful")
    members = asked.filter(~pl.col("counts"))
    raters = members if members["judge"].n_unique() > 1 else asked
    if raters["judge"].n_unique() < 2:
        return None
    estimate = krippendorff_alpha(
        raters.select("dialogue_id", "length", "repeat", "turn", "judge", verdict="label"), resamples=ALPHA_RESAMPLES
    )
    return None if math.isnan(estimate.value) else estimate


def spread_sentence(repeats: RepeatFigures) -> str:
    """How much the replies to one dialogue differ."""
    share = f"{words.percent(repeats.mixed.value)} ({words.percent_interval(repeats.mixed.ci_low, repeats.mixed.ci_high)})"
    deviation = words.NOTHING if repeats.within_sd is None else f"{repeats.within_sd:.2f}"
    return (
        f"Each dialogue was asked {repeats.n} times, and ASR is the mean over replies. {share} of the dialogues got both safe and unsafe "
        f"verdicts; the standard deviation of a verdict within a dialogue is {deviation}."
    )


def index_basis(index: Index, *, aside: str = "") -> str:
    """Complete ids and bounds in words, an aside, and a warning where the value lies above the bounds; empty where they are unknown."""
    above = "; the value lies above them: ids that lack a verdict waver more than the complete ones" if index.above_bounds else ""
    basis = words.index_basis(index.complete_ids, index.ids, index.if_missing_low, index.if_missing_high)
    return basis and f"{basis}{aside}{above}"


def stopping_sentence(stopping: Stopping) -> str:
    """What a spot check found, whether it stopped early, and what that saved."""
    seen = f"{words.count(stopping.ids)} of {words.count(stopping.population)} ids"
    left_out = f" ({words.count(stopping.skipped_ids)} more had no verdict)" if stopping.skipped_ids else ""
    goal = f"±{100 * stopping.goal:g} points"
    saved = f"{words.count(stopping.dialogues_saved)} dialogues"
    if stopping.usd_saved is not None:
        saved += f" and about {words.dollars(stopping.usd_saved)}"
    ending = f"reached the goal of {goal} and saved {saved}" if stopping.reached else f"did not reach the goal of {goal}"
    return (
        f"Spot check: {seen}{left_out} give an overall ASR of {words.percent(stopping.asr)} "
        f"(95% interval {words.percent_interval(stopping.ci_low, stopping.ci_high)}, valid though the run might stop at any moment: "
        f"{stopping.method}). It {ending}. The other intervals take no account of the stopping."
    )


def remarks(run: RunData) -> list[str]:
    """Sentences that belong beside the scores.

    How far an unfinished run is, how often the moderator failed, a first failure below what was seen, how steady repeats are, a spot
    check's end, the trend with length (scripted), several judges' agreement, a model that changed under its name, damaged replies, what a
    vendor said of its limits that was not believed.
    """
    spot = [] if run.summary.stopping is None else [stopping_sentence(run.summary.stopping)]
    trend = [trend_with_length(score_frame(run.verdicts)).sentence] if run.summary.protocol == "scripted" else []
    return [
        *_progress_said(run),
        *_undecided_said(run),
        *_below_seen_said(run),
        *([] if run.summary.repeats is None else [spread_sentence(run.summary.repeats)]),
        *spot,
        *trend,
        *_agreement_said(run),
        *_change_said(run.summary.served_models),
        *_damage_said(run.summary.calls.damaged),
        *_disbelief_said(run.manifest),
    ]


def _undecided_said(run: RunData) -> Iterator[str]:
    failed = run.transcripts.filter(pl.col("moderator_failure").is_not_null())
    if failed.height:
        reviews = run.transcripts.filter(pl.col("moderator").is_not_null())
        commonest = words.printable(str(failed["moderator_failure"].value_counts(sort=True)["moderator_failure"][0]))
        yield (
            f"The moderator came to no decision in {words.count(failed.height)} of {words.count(reviews.height)} reviews, most often: "
            f"{commonest}. A reply that only this stopped has no verdict."
        )


def _below_seen_said(run: RunData) -> Iterator[str]:
    below = below_seen(failure_curve(run))
    if below.height:
        seen = ", ".join(f"{words.percent(row['if_missing_safe'])} by {row['turn']}" for row in below.iter_rows(named=True))
        yield (
            "First failure is estimated from dialogues that lack no earlier verdict, and comes out below what was seen here; at least so "
            f"many did fail: {seen}."
        )


def _progress_said(run: RunData) -> Iterator[str]:
    unfinished, counts = run.summary.unfinished, run.summary.dialogues
    if unfinished is None:
        return
    so_far = f"{words.count(counts.finished + counts.failed)} of {words.count(counts.planned)} dialogues"
    if unfinished.state == "running":
        yield f"This run is being played by {unfinished.player}; these are the {so_far} that are finished so far."
    else:
        yield f"This run was cut short; these are the {so_far} that were finished. `safemt-api resume {run.folder}` goes on with it."


def _agreement_said(run: RunData) -> Iterator[str]:
    alpha = judges_alpha(run)
    if alpha is not None:
        interval = f"95% interval {alpha.ci_low:.2f} to {alpha.ci_high:.2f}"
        yield f"Agreement of the judges: Krippendorff's alpha {alpha.value:.2f} ({interval})."


def _change_said(served: Mapping[str, int]) -> Iterator[str]:
    if len(served) > 1:
        counts = ", ".join(f"{name} ({words.count(number)} replies)" for name, number in sorted(served.items(), key=lambda one: -one[1]))
        yield f"The model changed during the run: {counts} answered under one name. The scores mix them."


def _disbelief_said(manifest: Mapping[str, Any]) -> Iterator[str]:
    limits = manifest.get("limits")
    for account, history in (limits if isinstance(limits, Mapping) else {}).items():
        for entry in history if isinstance(history, list) else ():
            cause = str(entry.get("cause")) if isinstance(entry, Mapping) else ""
            if cause.endswith(NOT_BELIEVED):
                yield f"{words.printable(str(account), limit=60)}: {words.printable(cause)}."


def _damage_said(damaged: int) -> Iterator[str]:
    if damaged:
        were = "reply in the store was damaged and was" if damaged == 1 else "replies in the store were damaged and were"
        yield f"{words.count(damaged)} {were} asked for again."
