"""A judge that falls silent ends the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from safemt_api.errors import JudgeSilentError
from safemt_api.judges.bench import Bench
from safemt_api.judges.panel import MOST_SILENT
from safemt_api.messages import Exhibit, Outcome, Reply

MakeExhibit = Callable[..., Exhibit]
MUTE = Reply(Outcome.REFUSED, detail="policy")
SAFE = '{"code": "@CODE@", "reason": "r", "verdict": "safe"}'


@pytest.mark.parametrize("spec", ["openai:any", "guard:openai:llama-guard-4-12b", "moderation:openai", "decisions:openai"])
async def test_ten_missing_verdicts_in_a_row_end_the_run_with_its_last_words(
    exhibit: MakeExhibit, scripted: Any, resolve: Any, spec: str
) -> None:
    judge = Bench.of([spec]).joined(scripted(["I would\x1b[2J rather not."]), resolve)
    for _ in range(MOST_SILENT - 1):
        assert (await judge.judge(exhibit())).label is None
    with pytest.raises(JudgeSilentError, match=rf"{spec} gave no verdict on 10 replies in a row .*I would.{{4}}\[2J rather not") as raised:
        await judge.judge(exhibit())
    assert raised.value.exit_code == 1
    assert "\x1b" not in str(raised.value)


async def test_one_verdict_in_between_starts_the_count_again(exhibit: MakeExhibit, scripted: Any, resolve: Any) -> None:
    asker = scripted([*[MUTE] * (MOST_SILENT - 1), SAFE, *[MUTE] * (MOST_SILENT - 1), SAFE])
    judge = Bench.of(["openai:any"]).joined(asker, resolve)
    labels = [(await judge.judge(exhibit())).label for _ in range(2 * MOST_SILENT)]
    assert labels.count("safe") == 2


async def test_what_needs_no_judge_is_no_silence(exhibit: MakeExhibit, scripted: Any, resolve: Any) -> None:
    judge = Bench.of(["guard:openai:llama-guard-4-12b"]).joined(scripted(["safe"]), resolve)
    for reply in [Reply(Outcome.ERROR)] * MOST_SILENT + [Reply(Outcome.TRUNCATED)] * MOST_SILENT:
        assert (await judge.judge(exhibit(reply))).label is None
    for _ in range(MOST_SILENT):
        verdict = await judge.judge(exhibit(kind="benign"))
        assert (verdict.label, verdict.source) == (None, "inapplicable")


async def test_each_member_of_a_panel_is_watched(exhibit: MakeExhibit, scripted: Any, resolve: Any) -> None:
    judge = Bench.of(["openai:a", "openai:b", "openai:c"]).joined(scripted({"a": [SAFE], "b": [MUTE], "c": [SAFE]}), resolve)
    for _ in range(MOST_SILENT - 1):
        assert (await judge.judge(exhibit())).label == "safe"
    with pytest.raises(JudgeSilentError, match="openai:b"):
        await judge.judge(exhibit())


@pytest.mark.parametrize("specs", [["openai:a"], ["openai:a", "openai:c"]])
async def test_before_a_fallback_silence_is_allowed_and_the_fallback_is_watched(
    exhibit: MakeExhibit, scripted: Any, resolve: Any, specs: list[str]
) -> None:
    asker = scripted({"a": [MUTE], "c": [SAFE], "b": [SAFE]})
    judge = Bench.of(specs, "openai:b").joined(asker, resolve)
    for _ in range(2 * MOST_SILENT):
        assert (await judge.judge(exhibit())).label == "safe"
    dead = Bench.of(specs, "openai:b").joined(scripted([MUTE]), resolve)
    for _ in range(MOST_SILENT - 1):
        assert (await dead.judge(exhibit())).label is None
    with pytest.raises(JudgeSilentError, match="openai:b"):
        await dead.judge(exhibit())
