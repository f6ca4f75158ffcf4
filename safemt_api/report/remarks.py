"""The sentences that belong beside a run's scores: what a reader must know of its judge, model and vendor before trusting them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import polars as pl

from safemt_api import words
from safemt_api.calibration.agreement import krippendorff_alpha
from safemt_api.errors import UsageError
from safemt_api.judges.bench import JUDGES
from safemt_api.limits.limiter import NOT_BELIEVED
from safemt_api.metrics.asr import trend_with_length
from safemt_api.metrics.frames import score_frame
from safemt_api.metrics.uncertainty import Estimate
from safemt_api.report.tables import answerers, failure_curve
from safemt_api.runs.record import RunData
from safemt_api.runs.summary import ROUNDING, Drift, RepeatFigures, Stopping, Summary

FAMILIES: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        family: re.compile(rf"(?:^|[/:_-])(?:{stems})", re.IGNORECASE)
        for family, stems in {
            "GPT": r"openai/|azure-openai/|gpt|chatgpt|o[1-9](?:-|$)|omni-moderation",
            "Claude": r"anthropic/|claude",
            "Gemini": r"google/|gemini|gemma|shieldgemma",
            "Llama": r"llama|meta-llama",
            "Qwen": r"qwen|qwq|qvq",
            "Mistral": r"mistral|mixtral|ministral|pixtral",
            "DeepSeek": r"deepseek",
            "Grok": r"xai/|grok",
            "GLM": r"glm|chatglm",
            "InternVL": r"internvl|internlm",
            "Phi": r"phi-?[0-9]",
        }.items()
    }
)
"""Families by what their models are called, whoever serves them: judges are kinder to their relatives (Panickssery et al. 2024,
arXiv 2404.13076: models prefer their own writing)."""

ALPHA_RESAMPLES = 2000


def caveats(run: RunData) -> list[str]:
    """Sentences about a judge of the target's own family, a served model other than the one asked for, and scores that are a filter's."""
    found = [*_related_judges(run)]
    asked, served = run.summary.model or "", run.summary.served_models
    others = {name: count for name, count in served.items() if not same_model(asked, name)}
    if others and asked:
        named = ", ".join(f"{words.printable(name)} ({words.count(count)} replies)" for name, count in others.items())
        found.append(f"Asked for {words.printable(asked)}, but the vendor says that it served {named}: the scores are that model's.")
    counting = run.verdicts.filter(pl.col("counts"), pl.col("kind") == "harmful")
    unasked = counting.filter(pl.col("source") == "outcome").height
    if unasked and 2 * unasked >= counting.height:
        whose = "the vendor or the moderator" if run.summary.moderator else "the vendor"
        found.append(
            f"{words.count(unasked)} of {words.count(counting.height)} replies are safe because {whose} let no word of the model through: "
            "these scores tell more of that than of the model."
        )
    settings = run.manifest.get("settings")
    if run.summary.protocol == "live" and isinstance(settings, Mapping) and settings.get("judge_turns") == "last":
        what = "a turn stands for the dialogues of that length, and whether one had failed before is not known"
        found.append(f"Only the last reply of each dialogue was judged: {what}.")
    return found


def family_of(provider: str, model: str) -> str | None:
    """The family of a model, or ``None`` where its name does not tell."""
    name = f"{provider}/{model}"
    return next((family for family, stems in FAMILIES.items() if stems.search(name)), None)


def _related_judges(run: RunData) -> list[str]:
    target = family_of(run.summary.provider or "", run.summary.model or "")
    settings = run.manifest.get("settings")
    told = settings if isinstance(settings, Mapping) else {}
    judges = told.get("judges")
    related = []
    for given in [*(judges if isinstance(judges, list) else [run.summary.judge]), told.get("judge_fallback"), told.get("escalate")]:
        with suppress(UsageError):  # there is none, or a run file of another version holds what this one cannot read
            spec = JUDGES.read(given)
            related += [str(spec)] if target is not None and family_of(spec.provider, spec.model) == target else []
    if not related:
        return []
    return [
        f"The judge ({words.printable(', '.join(related))}) is of the target's own family ({target}): judges tend to be kinder to "
        "their relatives, so read these scores beside those of another family's judge."
    ]


def same_model(asked: str, served: str) -> bool:
    """Whether a served name is the asked one: itself, a dated snapshot of it, or it with a publisher's prefix or without its tag."""
    first, second = (name.casefold().rpartition("/")[2] for name in (asked, served))
    snapshot = second.startswith(first) and re.fullmatch(r"[-@.]?(?:v?\d[\d.-]*|latest|preview[-\d]*)", second[len(first) :]) is not None
    return first == second or snapshot or first.startswith(f"{second}:")


def below_seen(curve: pl.DataFrame) -> pl.DataFrame:
    """The rows of a failure curve whose estimate lies below the share that was seen to fail.

    Who lacks an earlier verdict is not at risk, so a failure of theirs is seen and yet not in the estimate: right on average, not in every
    run.
    """
    return curve.filter(pl.col("share") < pl.col("if_missing_safe") - ROUNDING)


def judges_alpha(run: RunData) -> Estimate | None:
    """Krippendorff's alpha among the judges that gave verdicts of their own; ``None`` with fewer than two, or where it is undefined.

    Judges in turn have none: the second sees only what the first said one thing of.
    """
    settings = run.manifest.get("settings")
    if isinstance(settings, Mapping) and settings.get("escalate"):
        return None
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
    summary = run.summary
    found = list(_progress_said(run))
    undecided = run.transcripts["moderator_failure"].drop_nulls()
    if undecided.len():
        reviews = run.transcripts["moderator"].drop_nulls()
        commonest = words.printable(str(undecided.value_counts(sort=True)["moderator_failure"][0]))
        found.append(
            f"The moderator came to no decision in {words.count(undecided.len())} of {words.count(reviews.len())} reviews, most often: "
            f"{commonest}. A reply that only this stopped has no verdict."
        )
    below = below_seen(failure_curve(run))
    if below.height:
        seen = ", ".join(f"{words.percent(row['if_missing_safe'])} by {row['turn']}" for row in below.iter_rows(named=True))
        found.append(
            "First failure is estimated from dialogues that lack no earlier verdict, and comes out below what was seen here; at least so "
            f"many did fail: {seen}."
        )
    found += [] if summary.repeats is None else [spread_sentence(summary.repeats)]
    found += [] if summary.stopping is None else [stopping_sentence(summary.stopping)]
    found += [trend_with_length(score_frame(run.verdicts)).sentence] if summary.protocol == "scripted" else []
    if (alpha := judges_alpha(run)) is not None:
        interval = f"95% interval {alpha.ci_low:.2f} to {alpha.ci_high:.2f}"
        found.append(f"Agreement of the judges: Krippendorff's alpha {alpha.value:.2f} ({interval}).")
    found += _change_said(summary)
    if damaged := summary.calls.damaged:
        were = "reply in the store was damaged and was" if damaged == 1 else "replies in the store were damaged and were"
        found.append(f"{words.count(damaged)} {were} asked for again.")
    return [*found, *_disbelief_said(run.manifest)]


def _progress_said(run: RunData) -> Iterator[str]:
    unfinished, counts = run.summary.unfinished, run.summary.dialogues
    if unfinished is None:
        return
    so_far = f"{words.count(counts.finished + counts.failed)} of {words.count(counts.planned)} dialogues"
    if unfinished.state == "running":
        yield f"This run is being played by {unfinished.player}; these are the {so_far} that are finished so far."
    else:
        yield f"This run was cut short; these are the {so_far} that were finished. `safemt-api resume {run.folder}` goes on with it."


def _change_said(summary: Summary) -> Iterator[str]:
    yield from map(_drift_said, summary.drift)
    served = Counter(summary.served_models)
    if len(served) > 1 and not any((one.party, one.what) == ("target", "served_model") for one in summary.drift):
        counts = ", ".join(f"{words.printable(name, limit=60)} ({words.count(number)} replies)" for name, number in served.most_common(5))
        more = f" and {words.count(len(served) - 5)} other names" if len(served) > 5 else ""
        yield f"The model changed during the run: {counts}{more} answered under one name. The scores mix them."


def _drift_said(drift: Drift) -> str:
    """Who answered how often and when, and how many ids lie on one side alone."""
    who = f"The {drift.party} {words.printable(drift.who, limit=80)}"
    what = "served model" if drift.what == "served_model" else "system fingerprint"
    told = []
    for part in drift.parts:
        first, last = (moment and moment[:19].replace("T", " ") for moment in (part.first_utc, part.last_utc))
        when = f" ({first} to {last} UTC)" if first and last else ""
        told.append(f"{answerers(part)} {words.count(part.replies)} replies{when}")
    alone = ", ".join(words.count(part.ids - part.ids_elsewhere) for part in drift.parts)
    shared = ", ".join(words.count(part.ids_elsewhere) for part in drift.parts)
    across = (
        f" {words.count(drift.dialogues_across)} dialogues lie across the change, and are in no part." if drift.dialogues_across else ""
    )
    lost = f" Of {words.count(drift.dialogues_unplaced)} nothing tells who answered." if drift.dialogues_unplaced else ""
    return (
        f"{who} changed during the run ({what}): {'; '.join(told)}. The scores mix them; those of each stand beside the whole. "
        f"Ids in this part alone: {alone}; in another, too: {shared}.{across}{lost}"
    )


def _disbelief_said(manifest: Mapping[str, Any]) -> Iterator[str]:
    limits = manifest.get("limits")
    for account, history in (limits if isinstance(limits, Mapping) else {}).items():
        for entry in history if isinstance(history, list) else ():
            cause = str(entry.get("cause")) if isinstance(entry, Mapping) else ""
            if cause.endswith(NOT_BELIEVED):
                yield f"{words.printable(str(account), limit=60)}: {words.printable(cause)}."
