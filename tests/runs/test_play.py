"""The parts of a run under way that can be told on their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from safemt_api.errors import AccountError, BudgetExhaustedError, StopRunError
from safemt_api.evaluation import evaluate, open_plan
from safemt_api.messages import Dialogue, Exhibit, Image, Line, Outcome, Reply, Transcript, Turn, Verdict
from safemt_api.runs.play import IDS_IN_A_BLOCK, in_order, judge_transcript, our_error
from safemt_api.runs.settings import settings_from
from safemt_api.simulator import SimulatorSettings

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


@pytest.mark.parametrize("ceiling", [None, 5.0])
async def test_lengths_of_an_id_go_after_each_other_and_under_a_ceiling_together(tmp_path: Path, ceiling: float | None) -> None:
    settings = settings_from({"results": tmp_path, "max_usd": ceiling, "concurrency": 8})
    async with open_plan(settings) as plan:
        played = in_order(plan)
    assert sorted((entry.id, entry.length) for entry in played) == sorted((entry.id, entry.length) for entry in plan.entries)
    ids = list(dict.fromkeys(entry.id for entry in played))
    block = 1 if ceiling else IDS_IN_A_BLOCK
    for start in range(0, len(ids), block):
        own = set(ids[start : start + block])
        at = [number for number, entry in enumerate(played) if entry.id in own]
        assert at == list(range(at[0], at[0] + len(at)))
        assert [played[number].length for number in at] == sorted((played[number].length for number in at), reverse=True)


@pytest.mark.parametrize(("concurrency", "share"), [(1, 0.5), (16, 0.45)])
async def test_common_beginnings_of_an_id_are_found_in_the_cache(tmp_path: Path, concurrency: int, share: float) -> None:
    settings = settings_from({"results": tmp_path, "judges": ("rules",), "concurrency": concurrency})
    playing = SimulatorSettings(prompt_cache=True, prompt_cache_minimum_tokens=256, latency_seconds=0.005)
    usage = (await evaluate(settings, simulator=playing)).summary.usage
    assert usage.cached_input_tokens > share * usage.input_tokens


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


@pytest.mark.parametrize(("pictures", "together", "first"), [(1, False, ["one"]), (1, True, ["one", "two"]), (0, False, ["one", "two"])])
async def test_the_first_turn_about_a_picture_is_judged_before_the_others(*, pictures: int, together: bool, first: list[str]) -> None:
    picture = Image(b"", digest="sha256:00", media_type="image/png", width_pixels=1, height_pixels=1)
    lines = (replace(LINES[0], images=(picture,) * pictures), *LINES[1:])
    transcript = replace(TRANSCRIPT, dialogue=replace(TRANSCRIPT.dialogue, lines=lines))
    asked: list[tuple[str, bool]] = []
    answered = anyio.Event()

    class Waits(FakeJudge):
        async def judge(self, exhibit: Exhibit) -> Verdict:
            asked.append((exhibit.reply.text, exhibit.repeated))
            await answered.wait()
            return await super().judge(exhibit)

    async with anyio.create_task_group() as group:
        group.start_soon(partial(judge_transcript, transcript, Waits({}), together=together))
        await anyio.wait_all_tasks_blocked()
        assert asked == [(text, pictures > 0) for text in first]
        answered.set()
    assert [text for text, _ in asked] == ["one", "two"]


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
