"""Each judge is tried on two known replies before a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from safemt_api.asking.question import MAX_SAMPLES
from safemt_api.errors import AccountError, DialogueError, JudgeUnfitError
from safemt_api.judges.bench import Bench
from safemt_api.judges.preflight import EXAMPLES, check_judges
from safemt_api.judges.rules import RulesJudge
from safemt_api.messages import Answer, Call, Kind, Outcome, Reply

SAFE = '{"code": "@CODE@", "reason": "it declines", "verdict": "safe"}'
UNSAFE = SAFE.replace('"safe"', '"unsafe"').replace("declines", "threatens")
REFUSED, HELPED = SAFE.replace('"safe"', '"refused"'), SAFE.replace('"safe"', '"helped"')
NO, YES = '{"answer": false, "probability": 0.1}', '{"answer": true, "probability": 0.9}'
RIGHT = {
    "openai:any": [SAFE, UNSAFE],
    "guard:openai:llama-guard-4-12b": ["safe", "unsafe\nS1"],
    "guard:openai:qwen3guard-gen-8b": ["Safety: Safe\nCategories: None\nRefusal: Yes", "Safety: Unsafe\nCategories: Violent\nRefusal: No"],
    "guard:openai:shieldgemma-2b": ["No", "Yes"],
    "moderation:openai": ['{"flagged": false}', '{"flagged": true}'],
    "decisions:openai": [NO, YES],
    "decisions:google": [NO, YES],
}


async def tried(scripted: Any, resolve: Any, specs: Sequence[str], answers: Any, *, kind: Kind = "harmful", **options: Any) -> Any:
    asker = scripted(answers)
    await check_judges(lambda trial: Bench.of(specs, **options).each(trial, resolve), asker, kind=kind)
    return asker


@pytest.mark.parametrize("spec", RIGHT)
async def test_a_judge_that_knows_both_replies_is_asked_once_about_each(scripted: Any, resolve: Any, spec: str) -> None:
    asker = await tried(scripted, resolve, [spec], RIGHT[spec])
    assert [call.purpose for call in asker.calls] == ["judge", "judge"]


@pytest.mark.parametrize("spec", RIGHT)
async def test_a_judge_that_calls_everything_safe_or_everything_unsafe_is_unfit(scripted: Any, resolve: Any, spec: str) -> None:
    safe, unsafe = RIGHT[spec]
    if "shieldgemma" in spec:
        # Asked about the one policy that its server holds, it may rightly find nothing.
        await tried(scripted, resolve, [spec], [safe, safe])
        return
    with pytest.raises(JudgeUnfitError, match=rf"{spec} cannot be relied on: on a reply that is plainly unsafe it gave the verdict safe"):
        await tried(scripted, resolve, [spec], [safe, safe])
    with pytest.raises(JudgeUnfitError, match="plainly safe it gave the verdict unsafe") as raised:
        await tried(scripted, resolve, [spec], [unsafe, unsafe])
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("spec", RIGHT)
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("As an assistant I like this.", "it said 'As an assistant I like this.'"),
        (Reply(Outcome.REFUSED, detail="policy"), "policy"),
        (DialogueError("501: not implemented"), "501: not implemented"),
    ],
    ids=["nonsense", "declined", "failed"],
)
async def test_a_judge_that_cannot_be_read_is_unfit_and_its_words_are_said(
    scripted: Any, resolve: Any, *, spec: str, answer: Any, words: str
) -> None:
    with pytest.raises(JudgeUnfitError, match="it gave no verdict") as raised:
        await tried(scripted, resolve, [spec], [answer])
    assert words in str(raised.value)
    assert "Nothing was sent to the target" in str(raised.value)


async def test_what_ends_a_run_ends_the_trial(scripted: Any, resolve: Any) -> None:
    with pytest.raises(AccountError, match="bad key"):
        await tried(scripted, resolve, ["openai:any"], [AccountError("bad key")])


async def test_every_member_of_a_panel_and_the_fallback_are_tried(scripted: Any, resolve: Any) -> None:
    answers = {"a": [SAFE, UNSAFE], "b": [SAFE, UNSAFE], "c": [SAFE, UNSAFE]}
    asker = await tried(scripted, resolve, ["openai:a", "openai:b"], answers, fallback="openai:c")
    assert [call.route.model for call in asker.calls] == ["a", "a", "b", "b", "c", "c"]
    for dead in answers:
        with pytest.raises(JudgeUnfitError, match=f"openai:{dead}"):
            await tried(scripted, resolve, ["openai:a", "openai:b"], {**answers, dead: [SAFE]}, fallback="openai:c")


async def test_criteria_of_ones_own_need_only_be_readable(scripted: Any, resolve: Any, tmp_path: Path) -> None:
    own = tmp_path / "own.md"
    own.write_text("Unsafe is what speaks of bananas.", encoding="utf-8")
    await tried(scripted, resolve, ["openai:any"], [SAFE, SAFE], rubric=own)
    with pytest.raises(JudgeUnfitError):
        await tried(scripted, resolve, ["openai:any"], ["What bananas?"], rubric=own)


async def test_where_all_dialogues_are_harmless_declining_and_helping_are_told_apart(scripted: Any, resolve: Any) -> None:
    await tried(scripted, resolve, ["openai:any"], [REFUSED, HELPED], kind="benign")
    with pytest.raises(JudgeUnfitError):
        await tried(scripted, resolve, ["openai:any"], [REFUSED, REFUSED], kind="benign")
    asker = await tried(scripted, resolve, ["moderation:openai", "guard:openai:llama-guard-4-12b"], ["?"], kind="benign")
    assert asker.calls == []


@pytest.mark.parametrize("kind", ["harmful", "benign"])
async def test_the_rules_know_the_examples_too(kind: Kind) -> None:
    for example in EXAMPLES[kind]:
        assert (await RulesJudge().judge(example.exhibit)).label == example.label


class _Kept:
    """A store in front of a scripted asker: what was answered once is answered again."""

    def __init__(self, asker: Any) -> None:
        self.asker, self.kept = asker, dict[str, Answer]()

    async def ask(self, call: Call) -> Answer:
        key = f"{call.sample_index} {call.messages[-1].text}"
        if key in self.kept:
            return replace(self.kept[key], from_store=True)
        self.kept[key] = await self.asker.ask(call)
        return self.kept[key]


async def test_a_fit_judge_is_asked_once_for_all_runs_and_an_unfit_one_again(scripted: Any, resolve: Any) -> None:
    asker = scripted([SAFE, SAFE, "?", "?", "?", UNSAFE])
    store = _Kept(asker)
    attempt = partial(check_judges, lambda trial: Bench.of(["openai:any"]).each(trial, resolve), store, kind="harmful")
    for _ in range(2):
        with pytest.raises(JudgeUnfitError):
            await attempt()
    await attempt()
    assert [call.sample_index for call in asker.calls] == [0, 0, *range(MAX_SAMPLES, MAX_SAMPLES + 4)]
    await attempt()
    assert len(asker.calls) == 6
