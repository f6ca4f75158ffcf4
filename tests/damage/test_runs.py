"""Whole runs through a middleman that damages what passes: no verdict turns safe, no score leaves its bounds, no exit code hides it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safemt_api.errors import SafeMTError
from safemt_api.evaluation import evaluate
from safemt_api.gateway import Gateway
from safemt_api.limits.retry import RetryPolicy
from safemt_api.messages import DECLINED
from safemt_api.metrics.asr import asr_by_turn, cumulative_asr, live_asr_by_turn
from safemt_api.metrics.frames import ABSENT, encode
from safemt_api.metrics.safety_index import safety_index
from safemt_api.profiles import WIRE_FORMATS, WireFormat
from safemt_api.runs.play import RunResult
from safemt_api.runs.summary import Index
from safemt_api.simulator.roles import Role
from safemt_api.simulator.server import run_simulator
from safemt_api.simulator.settings import SimulatorSettings
from tests.damage.middleman import HARMS, MISREADINGS, Damage, Middleman, middleman

CLOSE = 1e-6
PROVIDERS: Mapping[WireFormat, str] = dict(zip(WIRE_FORMATS, ("simulator", "simulator-anthropic", "simulator-google"), strict=True))
SLOW_TO_FAIL = {"hang_up", "not_there", "half", "page"}
"""Tried again and again before they count as failed."""
FAST_HARMS = sorted(set(HARMS) - SLOW_TO_FAIL)
LENGTHS = (1, 2)
IDS = 8
PARTS: tuple[Role, ...] = ("target", "judge", "moderator")
Failure = Literal["fail", "open", "closed"]


@dataclass(frozen=True)
class Course:
    """One run: its settings as far as they vary, and what befalls it."""

    wire_format: WireFormat = "openai_chat"
    protocol: Literal["scripted", "live"] = "scripted"
    moderated: Failure | None = None
    max_failures: float = 0.05
    damages: tuple[Damage, ...] = field(default=())

    @property
    def options(self) -> dict[str, Any]:
        """Of ``evaluate``."""
        provider = PROVIDERS[self.wire_format]
        guarded = {"moderator": f"policy:{provider}:sim-moderator", "moderator_failure": self.moderated} if self.moderated else {}
        return {
            "provider": provider,
            "model": "sim-brittle",
            "judges": (f"{provider}:sim-judge",),
            "protocol": self.protocol,
            "lengths": LENGTHS,
            "sample": IDS,
            "seed": 5,
            "concurrency": 4,
            "stall_seconds": 2.0,
            "idle_seconds": 2.0,
            "max_failures": self.max_failures,
            "run": "run",
            **guarded,
        }

    @property
    def healthy(self) -> Course:
        """The same without damage."""
        return Course(self.wire_format, self.protocol, self.moderated, self.max_failures)

    def kinds(self, part: str) -> set[str]:
        """What befalls a part."""
        return {one.kind for one in self.damages if one.part == part}


async def played(course: Course, folder: Path) -> tuple[RunResult | SafeMTError, Middleman]:
    """The course, played: its result, or why there is none."""
    async with (
        run_simulator(SimulatorSettings(seed=5)) as simulator,
        middleman(simulator.port, course.wire_format, course.damages) as between,
    ):
        try:
            return await evaluate(results=folder, base_urls=(between.url,), **course.options), between
        except SafeMTError as error:
            return error, between


Cell = tuple[str, int, int]


@dataclass(frozen=True)
class Ended:
    """What a run left: its summary, how it ended, and its rows by dialogue id, length and turn."""

    summary: Mapping[str, Any]
    exit_code: int
    labels: Mapping[Cell, str | None]
    outcomes: Mapping[Cell, tuple[str, str]]
    undecided: frozenset[tuple[str, int]]

    @classmethod
    def of(cls, result: RunResult) -> Ended:
        """Read from the run's files, which are what users get."""
        verdicts = pl.read_parquet(result.folder / "verdicts.parquet").filter("counts")
        turns = pl.read_parquet(result.folder / "transcripts.parquet")
        failed = turns.filter(pl.col("moderator_failure").is_not_null())
        return cls(
            json.loads((result.folder / "summary.json").read_text(encoding="utf-8")),
            result.exit_code,
            {(row["dialogue_id"], row["length"], row["turn"]): row["label"] for row in verdicts.iter_rows(named=True)},
            {(r["dialogue_id"], r["length"], r["turn"]): (r["outcome"], r["reply_text"] or "") for r in turns.iter_rows(named=True)},
            frozenset((row["dialogue_id"], row["length"]) for row in failed.iter_rows(named=True)),
        )

    def declined_without_words(self, cell: Cell) -> bool:
        """Whether the vendor let no word through, which is safe by definition and counted on its own."""
        outcome, text = self.outcomes[cell]
        return outcome in {one.value for one in DECLINED} and not text.strip()


HEALTHY: dict[Course, Ended] = {}


async def healthy_of(course: Course) -> Ended:
    """The run as it is without damage, played once."""
    if course.healthy not in HEALTHY:
        with tempfile.TemporaryDirectory() as folder:
            result, _ = await played(course.healthy, Path(folder))
            assert isinstance(result, RunResult)
            HEALTHY[course.healthy] = Ended.of(result)
    found = HEALTHY[course.healthy]
    assert (found.exit_code, found.summary["status"]) == (0, "complete")
    assert {"safe", "unsafe"} == set(found.labels.values())
    return found


def frame(labels: Mapping[Cell, str | None]) -> pl.DataFrame:
    """Verdicts as scores read them."""
    rows = [(*cell, label) for cell, label in labels.items()]
    schema = {"dialogue_id": pl.String, "length": pl.Int64, "turn": pl.Int64, "verdict": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def check_verdicts(course: Course, ended: Ended, healthy: Ended) -> dict[Cell, str | None]:
    """No verdict is kinder than the truth; gives the truth of the cells that were played."""
    truth: dict[Cell, str | None] = {}
    for cell, label in ended.labels.items():
        truth[cell] = healthy.labels[cell]
        if "filtered" in course.kinds("target") and ended.declined_without_words(cell):
            truth[cell] = "safe"
        elif course.moderated == "open" and cell[:2] in ended.undecided and label == "unsafe":
            truth[cell] = "unsafe"  # without its moderator the target did what it does
        assert label in (truth[cell], None), (cell, label, ended.outcomes[cell])
    return truth


def check_scores(course: Course, ended: Ended, truth: Mapping[Cell, str | None]) -> None:
    """The true scores of what was played lie within the bounds that the summary states."""
    whole, rows = frame(truth), ended.summary["asr_by_turn"]
    live = course.protocol == "live"
    expected = live_asr_by_turn(whole) if live else asr_by_turn(whole.drop("turn")).rename({"length": "turn"})
    for before, after in zip(expected.to_dicts(), rows, strict=True):
        assert after["if_missing_safe"] - CLOSE <= before["asr"] <= after["if_missing_unsafe"] + CLOSE
        assert after["asr"] is None or after["if_missing_safe"] - CLOSE <= after["asr"] <= after["if_missing_unsafe"] + CLOSE
    if live:
        for before, after in zip(cumulative_asr(whole, resamples=1).to_dicts(), rows, strict=True):
            assert after["cumulative_if_missing_safe"] - CLOSE <= before["share"] <= after["cumulative_if_missing_unsafe"] + CLOSE
    final = whole.filter(pl.col("turn") == pl.col("length")).drop("turn")
    shown = Index.model_validate(ended.summary["safety_index"])
    assert (shown.value is None) == (2 * (shown.complete_ids or 0) < (shown.ids or 0) or not shown.ids)
    if final.height and not (encode(final).codes == ABSENT).any():
        best, worst = shown.if_missing_high, shown.if_missing_low
        assert best is not None
        assert worst is not None
        assert worst - CLOSE <= safety_index(final) <= best + CLOSE
        better = shown.value is not None and shown.value > safety_index(final) + CLOSE
        assert not better or shown.value is None or shown.value <= best + CLOSE or shown.above_bounds


def check_ending(course: Course, ended: Ended, healthy: Ended) -> None:
    """What is missing shows in status and exit code."""
    planned = {cell[:2] for cell in healthy.labels}
    dialogues = {cell[:2] for cell in ended.labels}
    without = {cell[:2] for cell, label in ended.labels.items() if label is None}
    too_many = len(without) > course.max_failures * len(dialogues) or not any(ended.labels.values())
    if dialogues != planned or too_many:
        assert ended.exit_code != 0
        assert ended.summary["status"] != "complete"
    elif len(without | ended.undecided) > course.max_failures * len(dialogues):
        assert ended.exit_code != 0
    else:
        assert (ended.exit_code, ended.summary["status"]) == (0, "complete")
    missing = sum(label is None for label in ended.labels.values())
    assert ended.summary["verdicts"]["missing"] == missing == sum(ended.summary["verdicts"]["missing_reasons"].values())


async def check(course: Course) -> None:
    """Play a course and compare it with its healthy run."""
    healthy = await healthy_of(course)
    with tempfile.TemporaryDirectory() as folder:
        result, between = await played(course, Path(folder))
        if isinstance(result, SafeMTError):
            # The judge did not pass its trial: no run, and nothing bought of the target.
            assert course.kinds("judge")
            assert result.exit_code != 0
            assert between.calls["target"] == 0
            assert not await anyio.Path(folder, "run", "summary.json").exists()
            return
        ended = Ended.of(result)
    truth = check_verdicts(course, ended, healthy)
    check_scores(course, ended, truth)
    check_ending(course, ended, healthy)
    if not between.harmed.total():
        assert dict(ended.labels) == dict(healthy.labels)


def harm(draw: st.DrawFn, kinds: list[str]) -> Damage:
    """One damage, of a part that may suffer it."""
    part = draw(st.sampled_from(PARTS))
    kind = draw(st.sampled_from(kinds if part == "target" else [*kinds, *sorted(MISREADINGS)]))
    since, share = draw(st.sampled_from([1, 3, 6, 12])), draw(st.sampled_from([0.1, 0.3, 1.0]))
    return Damage(kind, part, since, share, seed=draw(st.integers(0, 99)))


@st.composite
def courses(draw: st.DrawFn, kinds: list[str]) -> Course:
    """A run with one or two damages."""
    return Course(
        draw(st.sampled_from(WIRE_FORMATS)),
        draw(st.sampled_from(["scripted", "live"])),
        draw(st.sampled_from([None, "fail", "open", "closed"])),
        draw(st.sampled_from([0.0, 0.05, 0.3, 1.0])),
        tuple(harm(draw, kinds) for _ in range(draw(st.integers(1, 2)))),
    )


@pytest.fixture(scope="module", autouse=True)
def short_waits() -> Iterator[None]:
    """What is tried again is tried again soon: the damage is the same on every try."""
    with pytest.MonkeyPatch.context() as patch:
        policy = RetryPolicy(attempts=4, patient_attempts=4, first_wait_seconds=0.01, longest_wait_seconds=0.05)
        patch.setitem(Gateway.__init__.__kwdefaults__ or {}, "retry_policy", policy)
        yield


@pytest.mark.timeout(300)  # a dozen whole runs: 16 s, and over 60 s where many tests share the processor
@settings(max_examples=6)
@given(course=courses(FAST_HARMS))
@example(course=Course(damages=(Damage("firewall", "target", share=0.3),)))
@example(course=Course("google_genai", damages=(Damage("filtered", "target", share=0.3), Damage("beside", "judge", since=6))))
@example(course=Course("anthropic_messages", moderated="closed", damages=(Damage("uncoded", "moderator"),)))
async def test_damage_never_flatters(course: Course) -> None:
    await check(course)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=100)
@given(course=courses(sorted(HARMS)))
async def test_much_damage_never_flatters(course: Course) -> None:
    await check(course)


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
@pytest.mark.parametrize("kind", ["firewall", "filtered", "echo", "uncoded", "beside"])
async def test_a_judge_that_is_dead_from_the_start_costs_no_target_call(tmp_path: Path, wire_format: WireFormat, kind: str) -> None:
    result, between = await played(Course(wire_format, damages=(Damage(kind, "judge"),)), tmp_path)
    assert result.exit_code != 0
    assert between.calls["target"] == 0
    assert between.harmed["judge"] > 0
