"""The parts of a run under way that can be told on their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from safemt_api.errors import AccountError, BudgetExhaustedError, StopRunError
from safemt_api.evaluation import open_plan
from safemt_api.messages import Dialogue, Exhibit, Line, Outcome, Reply, Transcript, Turn, Verdict
from safemt_api.runs.play import in_order, judge_transcript, our_error
from safemt_api.runs.settings import settings_from

BUDGET = BudgetExhaustedError(1.0, 0.9, 0.2)
ACCOUNT = AccountError("no credit")
LINES = (Line("user", "u1"), Line("assistant", "s1"), Line("user", "u2"))
TURNS = (Turn(1, "u1", Reply(Outcome.ANSWERED, "one")), Turn(2, "u2", Reply(Outcome.ANSWERED, "two")))
TRANSCRIPT = Transcript(Dialogue("mm_1", "Fraud", 2, LINES, "q"), "live", TURNS)


@pytest.mark.parametrize("seed", [0, 7])
async def test_live_dialogues_are_begun_longest_first(tmp_path: Path, seed: int) -> None:
    settings = settings_from({"protocol": "live", "lengths": (1, 2, 8), "sample": 3, "seed": seed, "results": tmp_path})
    async with open_plan(settings) as plan:
        played = [(entry.length, entry.id) for entry in in_order(plan)]
    assert [length for length, _ in played] == [8, 8, 8, 2, 2, 2, 1, 1, 1]
    assert sorted(played) == sorted((entry.length, entry.id) for entry in plan.entries)


@dataclass
class FakeJudge:
    """Fails on the replies it is told to."""

    failures: dict[str, Exception]
    name: str = "fake"
    digest: str = "digest"
    baseline: bool = False
    knows_examples: bool = True

    async def judge(self, exhibit: Exhibit) -> Verdict:
        if exhibit.reply.text in self.failures:
            raise self.failures[exhibit.reply.text]
        return Verdict(self.name, "unsafe" if exhibit.reply.text == "two" else "safe", "judge", exhibit.history[-1].text)


async def test_every_turn_gets_its_verdict_in_order() -> None:
    verdicts = await judge_transcript(TRANSCRIPT, FakeJudge({}))
    assert [(turn, verdict.label, verdict.reason) for turn, verdict in verdicts] == [(1, "safe", "u1"), (2, "unsafe", "u2")]


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ({"one": BUDGET}, BUDGET),
        ({"one": BUDGET, "two": BUDGET}, BUDGET),
        ({"two": ACCOUNT}, ACCOUNT),
        ({"one": BUDGET, "two": ACCOUNT}, ACCOUNT),
    ],
)
async def test_what_stops_a_judge_comes_out_bare(failures: dict[str, Exception], expected: Exception) -> None:
    with pytest.raises(StopRunError) as caught:
        await judge_transcript(TRANSCRIPT, FakeJudge(failures))
    assert caught.value is expected


async def test_a_defect_in_a_judge_is_not_hidden() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await judge_transcript(TRANSCRIPT, FakeJudge({"one": RuntimeError("a defect")}))
    assert caught.group_contains(RuntimeError, match="a defect")


def test_our_error_is_found_however_deep_and_a_defect_is_raised() -> None:
    assert our_error(BaseExceptionGroup("", [BaseExceptionGroup("", [BUDGET]), ACCOUNT])) is ACCOUNT
    mixed = BaseExceptionGroup("", [ACCOUNT, RuntimeError("a defect")])
    with pytest.raises(BaseExceptionGroup) as caught:
        our_error(mixed)
    assert caught.value is mixed
