"""``load_run`` and ``load_study``: what stands on disk as frames and figures; ``progress``: bars under a notebook's cell.

>>> import safemt_api
>>> run = safemt_api.load_run("a")                             # doctest: +SKIP
>>> run.safety_index.value, run.cost.total                     # doctest: +SKIP
>>> run.verdicts.filter(label="unsafe").join(run.transcripts, on=["dialogue_id", "length", "turn"])   # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import anyio
import polars as pl

from safemt_api import words
from safemt_api.errors import UsageError
from safemt_api.report.exports import charts_module
from safemt_api.report.page import arm_runs
from safemt_api.report.sections import turn_title
from safemt_api.report.tables import by_protocol
from safemt_api.runs.folder import locate, study_folder
from safemt_api.runs.play import RunStatistics
from safemt_api.runs.record import RunData, read_run
from safemt_api.runs.summary import Costs, Index, Summary
from safemt_api.studies.record import Effect, StudyRecord, read_study

PLOT_PIXELS = 480
EFFECT_SCHEMA = {
    "arm": pl.String,
    "reference": pl.String,
    "measure": pl.String,
    "turn": pl.Int64,
    "pairs": pl.Int64,
    **dict.fromkeys(("before", "after", "difference", "ci_low", "ci_high", "p_value", "p_holm"), pl.Float64),
    "not_claimed": pl.String,
}


class InFolder(Protocol):
    """What ``evaluate`` and ``study`` return: it knows the folder of what was played."""

    @property
    def folder(self) -> Path:
        """Its folder."""


@dataclass(frozen=True)
class LoadedRun:
    """A run as it stands on disk, also while it is played and where it was killed; made by ``load_run``.

    Frames are of polars (``.to_pandas()`` gives pandas' own, with pyarrow installed).
    """

    data: RunData

    @property
    def name(self) -> str:
        """The run's name."""
        return self.data.name

    @property
    def summary(self) -> Summary:
        """The whole of ``summary.json``."""
        return self.data.summary

    @property
    def safety_index(self) -> Index:
        """The Safety Index: ``value`` (1 is safest; ``None`` where too few ids are complete), its interval, its bounds."""
        return self.summary.safety_index

    @property
    def cost(self) -> Costs:
        """Dollars by who asked; ``None`` where no price is known."""
        return self.summary.cost_usd

    @property
    def asr(self) -> pl.DataFrame:
        """One row a turn (scripted: length): ``turn``, ``unsafe``, ``safe``, ``missing``, ``asr`` with interval and bounds, in [0, 1]."""
        return pl.DataFrame([row.model_dump(exclude_unset=True) for row in self.summary.asr_by_turn], infer_schema_length=None)

    @property
    def verdicts(self) -> pl.DataFrame:
        """One row a verdict; scores use the rows with ``counts``."""
        return self.data.verdicts

    @property
    def transcripts(self) -> pl.DataFrame:
        """One row a turn: what was said, what came back, what it cost."""
        return self.data.transcripts

    def plot(self) -> Any:
        """ASR by turn with its 95 % band, as an altair chart.

        Raises:
            UsageError: The extra ``charts`` is not installed.
        """
        return _plotted([self.data])

    def _repr_html_(self) -> str:
        index, summary = self.safety_index, self.summary
        spent = words.dollars(self.cost.total)
        line = (
            f"{self.data.model_title}, {summary.protocol}, {summary.status}: Safety Index {words.index(index.value)} "
            f"({words.index_interval(index.ci_low, index.ci_high)}), {self.data.judge_title}, {spent}"
        )
        return _html(self.name, line, self.asr)


@dataclass(frozen=True)
class LoadedStudy:
    """A study as it stands on disk; made by ``load_study``. Frames have a column ``arm``."""

    record: StudyRecord
    folder: Path

    @property
    def name(self) -> str:
        """The study's name."""
        return self.record.study

    @cached_property
    def runs(self) -> Mapping[str, LoadedRun]:
        """The run of each arm that is not left out, by the arm's name.

        Raises:
            StoreError: One cannot be read.
        """
        return {data.name: LoadedRun(data) for data in arm_runs(self.folder, self.record)}

    @property
    def asr(self) -> pl.DataFrame:
        """One row an arm and turn, over the ids and lengths that all arms of its leaderboard hold; shares in [0, 1]."""
        rows = [
            {"arm": place.arm, **turn.model_dump()}
            for board in self.record.leaderboard
            for place in board.rows
            for turn in place.asr_by_turn
        ]
        return pl.DataFrame(rows, infer_schema_length=None)

    @property
    def safety_index(self) -> pl.DataFrame:
        """One row an arm, the safest first: ``rank`` with the range (``best`` to ``worst``) that the data leave open, and the index."""
        rows = [
            {"arm": place.arm, **{name: getattr(place, name) for name in ("rank", "best", "worst")}, **place.safety_index.model_dump()}
            for board in self.record.leaderboard
            for place in board.rows
        ]
        return pl.DataFrame(rows, infer_schema_length=None)

    @property
    def effects(self) -> pl.DataFrame:
        """One row an arm, measure (``asr`` or ``safety_index``) and turn (``None``: all together) against the arm's reference.

        ``p_holm`` is corrected over all comparisons of the study; ``not_claimed`` says why there is no effect.
        """
        rows = [row for effect in self.record.effects for row in _effect_rows(effect)]
        return pl.DataFrame(rows, schema=EFFECT_SCHEMA)

    @property
    def cost(self) -> pl.DataFrame:
        """One row an arm: ``spent_usd`` is what it bought, ``cost_per_dialogue_usd`` what a dialogue costs without the judge."""
        places = [place for board in self.record.leaderboard for place in board.rows]
        rows = [(place.arm, place.spent_usd, place.cost_per_dialogue_usd) for place in places]
        return pl.DataFrame(rows, schema={"arm": pl.String, "spent_usd": pl.Float64, "cost_per_dialogue_usd": pl.Float64}, orient="row")

    @property
    def verdicts(self) -> pl.DataFrame:
        """The verdicts of all arms."""
        return _with_arm({name: run.verdicts for name, run in self.runs.items()})

    @property
    def transcripts(self) -> pl.DataFrame:
        """The transcripts of all arms."""
        return _with_arm({name: run.transcripts for name, run in self.runs.items()})

    def plot(self) -> Any:
        """ASR by turn, one line an arm, as an altair chart (one below the other where protocols differ).

        Raises:
            UsageError: The extra ``charts`` is not installed, or no arm was played.
        """
        return _plotted([run.data for run in self.runs.values()])

    def _repr_html_(self) -> str:
        return _html(self.name, f"a study of {len(self.record.arms)} arms, {self.record.status}", self.safety_index)


def load_run(run: str | Path | InFolder, *, results: str | Path = "results") -> LoadedRun:
    """A run by its name under the results folder, by its path, or as ``evaluate`` returned it.

    Raises:
        UsageError: There is no such run; the sentence lists those there are.
        NothingPlayedError: No dialogue of it is finished.
        StoreError: A file of it is missing, torn or of a newer version.
    """
    folder = locate(str(run), Path(results)).folder if isinstance(run, (str, Path)) else run.folder
    return LoadedRun(read_run(folder))


def load_study(study: str | Path | InFolder, *, results: str | Path = "results") -> LoadedStudy:
    """A study by its name under the results folder, by its path, or as ``study`` returned it.

    Raises:
        UsageError: There is no such study.
        StoreError: Its ``study.json`` is damaged or of a newer version.
    """
    folder = study_folder(str(study), Path(results)) if isinstance(study, (str, Path)) else study.folder
    if folder is None:
        raise UsageError(f"no study called {str(study)!r} in {results} (`safemt-api runs` lists what there is)")
    return LoadedStudy(read_study(folder), folder)


def _with_arm(frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    named = [frame.select(pl.lit(name).alias("arm"), pl.all()) for name, frame in frames.items()]
    return pl.concat(named, how="diagonal") if named else pl.DataFrame()


def _effect_rows(effect: Effect) -> Iterator[dict[str, Any]]:
    who = {"arm": effect.arm, "reference": effect.reference, "not_claimed": effect.not_claimed}
    for turn in effect.asr_by_turn or ():
        told = ("turn", "pairs", "difference", "ci_low", "ci_high", "p_value", "p_holm")
        figures = {name: getattr(turn, name) for name in told}
        yield {**who, "measure": "asr", "before": turn.asr_before, "after": turn.asr_after, **figures}
    if effect.asr is not None:
        pooled = effect.asr
        both = {"before": pooled.before, "after": pooled.after, "p_value": pooled.p_value, "p_holm": pooled.p_holm}
        yield {**who, "measure": "asr", **both, **_interval(pooled.difference)}
    if effect.safety_index is not None:
        index = effect.safety_index
        yield {**who, "measure": "safety_index", "before": index.before.value, "after": index.after.value, **_interval(index.difference)}
    if effect.not_claimed is not None:
        yield who


def _interval(difference: Any) -> dict[str, float | None]:
    return {"difference": difference.value, "ci_low": difference.ci_low, "ci_high": difference.ci_high}


def _plotted(runs: Sequence[RunData]) -> Any:
    if not runs:
        raise UsageError("there is nothing to draw: no arm was played")
    drawing = charts_module()
    drawn = [
        drawing.asr_by_turn(drawing.asr_frame(members), drawing.PRINT_PALETTE, width=PLOT_PIXELS, turn_title=turn_title(protocol))
        for protocol, members in by_protocol(runs)
    ]
    return drawn[0] if len(drawn) == 1 else drawing.alt.vconcat(*drawn)


def _html(name: str, line: str, frame: pl.DataFrame) -> str:
    return f"<p><b>{escape(words.printable(name))}</b> {escape(words.printable(line))}</p>{frame._repr_html_()}"


REFRESH_SECONDS = 0.5


class Watched(Protocol):
    """A run under way, or the arms of a study."""

    def statistics(self) -> RunStatistics | Mapping[str, RunStatistics]:
        """Its state now; of a study by arm, those that have begun."""
        ...


async def progress(watched: Watched) -> None:
    """Show a bar for a run, or one for each arm, until the playing ends.

    Raises:
        UsageError: There is no notebook to show it in.
    """
    try:
        ipython = import_module("IPython.display")
    except ModuleNotFoundError as error:
        raise UsageError("safemt_api.progress shows its bars in a notebook, and IPython is not installed") from error
    shown = ipython.display(ipython.HTML(bars(watched.statistics())), display_id=True)
    try:
        while True:
            await anyio.sleep(REFRESH_SECONDS)
            shown.update(ipython.HTML(bars(watched.statistics())))
    finally:
        shown.update(ipython.HTML(bars(watched.statistics())))


def bars(statistics: RunStatistics | Mapping[str, RunStatistics]) -> str:
    """What the cell shows, as HTML: a row a run with its bar, its ASR so far and what it has cost."""
    found = {"": statistics} if isinstance(statistics, RunStatistics) else statistics
    return f"<table>{''.join(_row(name, one) for name, one in found.items())}</table>"


def _row(name: str, one: RunStatistics) -> str:
    missing = f", {one.without_verdict:,} without verdict" if one.without_verdict else ""
    asr = "–" if one.asr_so_far is None else words.percent(one.asr_so_far)
    cells = (
        escape(words.printable(name)),
        f'<progress max="{max(one.planned, 1)}" value="{one.finished + one.unaffordable}"></progress>',
        f"{one.finished:,} of {one.planned:,} dialogues{missing}",
        f"ASR so far {asr}",
        words.dollars(one.spent_usd),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
