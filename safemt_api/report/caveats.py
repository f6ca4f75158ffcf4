"""What a reader must know of a run's judge, model and vendor before trusting its scores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType

import polars as pl

from safemt_api.errors import UsageError
from safemt_api.judges.bench import JUDGES
from safemt_api.report import words
from safemt_api.runs.record import RunData
from safemt_api.specs import Spec

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


def caveats(run: RunData) -> list[str]:
    """Sentences about a judge of the target's own family, a served model other than the one asked for, and scores that are a filter's."""
    return [*_related_judges(run), *_other_model(run), *_mostly_declined(run)]


def family_of(provider: str, model: str) -> str | None:
    """The family of a model, or ``None`` where its name does not tell."""
    name = f"{provider}/{model}"
    return next((family for family, stems in FAMILIES.items() if stems.search(name)), None)


def _related_judges(run: RunData) -> list[str]:
    target = family_of(run.summary.provider or "", run.summary.model or "")
    related = [str(spec) for spec in _judge_specs(run) if target is not None and family_of(spec.provider, spec.model) == target]
    if not related:
        return []
    return [
        f"The judge ({words.printable(', '.join(related))}) is of the target's own family ({target}): judges tend to be kinder to "
        "their relatives, so read these scores beside those of another family's judge."
    ]


def _judge_specs(run: RunData) -> Iterator[Spec]:
    settings = run.manifest.get("settings")
    judges = settings.get("judges") if isinstance(settings, Mapping) else None
    for one in judges if isinstance(judges, list) else [run.summary.judge]:
        with suppress(UsageError):  # a run file of another version may hold what this one cannot read
            yield JUDGES.read(one)


def _other_model(run: RunData) -> list[str]:
    asked, served = run.summary.model or "", run.summary.served_models
    others = {name: count for name, count in served.items() if not same_model(asked, name)}
    if not others or not asked:
        return []
    named = ", ".join(f"{words.printable(name)} ({words.count(count)} replies)" for name, count in others.items())
    return [f"Asked for {words.printable(asked)}, but the vendor says that it served {named}: the scores are that model's."]


def _mostly_declined(run: RunData) -> list[str]:
    counting = run.verdicts.filter(pl.col("counts"), pl.col("kind") == "harmful")
    unasked = counting.filter(pl.col("source") == "outcome").height
    if not unasked or 2 * unasked < counting.height:
        return []
    whose = "the vendor or the moderator" if run.summary.moderator else "the vendor"
    return [
        f"{words.count(unasked)} of {words.count(counting.height)} replies are safe because {whose} let no word of the model through: "
        "these scores tell more of that than of the model."
    ]


def same_model(asked: str, served: str) -> bool:
    """Whether a served name is the asked one: itself, a dated snapshot of it, or it with a publisher's prefix or without its tag."""
    first, second = (name.casefold().rpartition("/")[2] for name in (asked, served))
    snapshot = second.startswith(first) and re.fullmatch(r"[-@.]?(?:v?\d[\d.-]*|latest|preview[-\d]*)", second[len(first) :]) is not None
    return first == second or snapshot or first.startswith(f"{second}:")
