"""From specs to judges."""

from __future__ import annotations

from typing import Any

import pytest

from safemt_api.errors import UsageError
from safemt_api.judges.base import ModelJudge
from safemt_api.judges.bench import Bench
from safemt_api.judges.panel import EndsRunWhenSilent
from safemt_api.judges.rules import RulesJudge


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("rules", RulesJudge),
        (" rules ", RulesJudge),
        ("openai:gpt-6-luna", ModelJudge),
        ("openai:name:with:colons", ModelJudge),
        ("guard:openai:llama-guard3:8b", ModelJudge),
        ("moderation:openai", ModelJudge),
        ("decisions:google", ModelJudge),
    ],
)
def test_each_form_opens_its_judge_and_is_its_name(scripted: Any, resolve: Any, spec: str, kind: type) -> None:
    judge = Bench.of([spec]).joined(scripted([]), resolve)
    assert isinstance(judge, EndsRunWhenSilent)
    assert isinstance(judge.judge_watched, kind)
    assert judge.name == spec.strip()


BAD = ("", "gpt-6", "rules:strict", "moderation:", "rubric", ":model", "openai:", "guard:", "guard:openai", "guard::m", "Rules")


@pytest.mark.parametrize("spec", BAD)
def test_a_bad_spec_says_what_would_be_right(scripted: Any, resolve: Any, spec: str) -> None:
    with pytest.raises(UsageError, match=r"guard:PROVIDER:MODEL|write it as"):
        Bench.of([spec]).joined(scripted([]), resolve)


@pytest.mark.parametrize(
    ("specs", "fallback", "words"),
    [
        ([], None, "no judge was given"),
        (["rules", "rules"], None, "given twice"),
        (["openai:a", "openai:b"], "openai:a", "given twice"),
        (["nobody:a"], None, "no provider called 'nobody'"),
        (["openai:a"], "what", "--judge-fallback 'what'"),
        (["moderation:anthropic:m"], None, "no moderation endpoint"),
        (["moderation:google"], None, "names no model"),
        (["decisions:anthropic:m"], None, "no decision endpoint"),
        (["guard:openai:gpt-6"], None, "of no known kind"),
    ],
)
def test_what_cannot_be_opened_says_why(scripted: Any, resolve: Any, specs: list[str], fallback: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Bench.of(specs, fallback).joined(scripted([]), resolve)
