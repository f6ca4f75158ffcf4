"""What stands on the page, section by section: charts, tables and the sentences beside them.

The charts module comes as an argument (``None`` where the optional extra is missing), so that this module imports without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import polars as pl
from markupsafe import Markup

from safemt_api import words
from safemt_api.calibration.correction import Correction, corrected_rows, correction_notes
from safemt_api.report.remarks import caveats, remarks
from safemt_api.report.study_tables import (
    burden_table,
    claimed_effects,
    effect_table,
    harmless_table,
    index_table,
    moderators_table,
    naming_of,
    rank_table,
    turn_table,
    turn_word_of,
)
from safemt_api.report.table import Table
from safemt_api.report.tables import (
    asr_table,
    by_protocol,
    confusion_table,
    correction_table,
    cost_table,
    drift_tables,
    failure_table,
    grouped_tables,
    judges_of,
    leaderboard_tables,
    outcome_table,
    rates_by,
    repeats_table,
    run_labels,
    scenario_table,
    scores_by,
)
from safemt_api.runs.record import RunData
from safemt_api.studies.record import Effect, StudyRecord

WIDE_PIXELS = 400
MANY_PIXELS = 760
FEW = 5
"""More runs than that have charts over the whole width."""
EFFECT_PIXELS = 250
MOST_CHARTS = 24
GROUPS_NOTE = "ASR where dialogues tell their method or source; twins are a harmful and a benign dialogue that differ in their goal alone."
SCORE_NOTE = (
    "The attack success rate (ASR) is the share of judged replies that were unsafe. Intervals are 95%, with dialogue ids as the unit. "
    "Missing verdicts are in neither count; the bounds are what ASR would be if all of them were safe, and if all "
    "were unsafe."
)
INDEX_NOTE = (
    "The Safety Index weighs length k by e⁻ᵏ, so lengths 6 and 8 hardly move it; read it with ASR by turn. 1 is safest. "
    "It compares only between runs over the same lengths and the same protocol. Its second factor takes complete ids alone, those with "
    "a verdict at every length; where fewer than half are complete it is not given. Its bounds take each factor at its worst and its best "
    "over all that the missing verdicts might be."
)
SCENARIO_NOTE = "ASR in each scenario; an empty cell has no verdict, any other leads to its dialogues below."
FAILURE_NOTE = (
    "Scripted: the share of ids that were unsafe at this length or a shorter one. "
    "Live: the share of dialogues unsafe at this turn or an earlier one. Kaplan–Meier estimates; bounds: whatever the missing verdicts are."
)
OUTCOME_NOTE = (
    "What the vendor did with each call to the target. Refused and blocked replies without a word count as safe without asking the judge; "
    "an error is missing, never safe."
)
CALIBRATION_NOTE = "Every judge errs. Replies labelled by hand tell how often, and what the scores would be without its errors."
RANK_NOTE = (
    "Every figure is over the dialogues that all ranked arms hold. A rank stands with the range that the data leave open: the interval of "
    "ranks over resamples of ids, the same in all arms. Arms whose ranges overlap are not told apart by their ranks."
)
EFFECT_NOTE = (
    "Each arm against its reference, dialogue by dialogue, over pairs judged in both. p values are exact and corrected (Holm) over all "
    "comparisons of the study; a star marks p < 0.05. Costs and seconds are those of target and moderator, without the judge."
)


LINES = {"run": pl.String, "turn": pl.Int64, "asr": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64}
"""What a chart of ASR by turn draws."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart as inline SVG."""

    svg: Markup
    caption: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """Charts, tables and sentences (with a name before them) that stand together; ``folded`` tables open under the words of ``fold``;
    what is ``wide`` stands over the rest, not beside it."""

    heading: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[tuple[str, str]] = ()
    folded: Sequence[Table] = ()
    fold: str = ""
    opened: bool = False
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page; ``menu`` is its name at the top."""

    key: str
    title: str
    menu: str
    blocks: Sequence[Block]
    note: str = ""


def _figure(drawing: ModuleType, chart: Any, name: str, label: str, *, caption: str = "", title: str = "") -> Figure:
    svg = drawing.page_svg(chart, name=name, label=f"{label}; the numbers stand in the table")
    return Figure(Markup(svg), caption, title)  # noqa: S704 (drawn by us; every text in it is escaped)


def _palette(drawing: ModuleType, runs: Sequence[RunData], members: Sequence[RunData]) -> Any:
    """A run has the same colour in every chart, table and list."""
    return drawing.recoloured(drawing.PAGE_PALETTE, [next(place for place, run in enumerate(runs) if run is one) for one in members])


def turn_title(protocol: str) -> str:
    """What stands below a chart's axis of turns."""
    return "length of the dialogue (user turns)" if protocol == "scripted" else "position of the turn"


def run_sections(
    runs: Sequence[RunData], drawing: ModuleType | None, corrections: Sequence[Correction], *, ranked: bool
) -> Iterator[Section]:
    """Scores, failures, corrections and effort; ``ranked`` puts a leaderboard of several runs first."""
    groups = by_protocol(runs)
    word = words.turn_word(groups[0][0]) if len(groups) == 1 else "turn"
    boards = [Block(tables=leaderboard_tables(runs))] if ranked and len(runs) > 1 else []
    scores = [block for protocol, members in groups for block in _scores(protocol, members, runs, drawing)]
    yield Section("scores", "Attack success rate by turn", "Scores", [*boards, *scores], SCORE_NOTE)
    maps = [block for protocol, members in groups for block in _scenarios(protocol, members, drawing, named=len(runs) > 1)]
    yield Section("scenarios", f"Scenario by {word}", "Scenarios", maps, SCENARIO_NOTE)
    grouped = [_named(table, label) for run, label in zip(runs, _labels(runs), strict=True) for table in grouped_tables(run)]
    if grouped:
        yield Section("groups", "Methods, sources and twins", "Methods", [Block("", tables=grouped)], GROUPS_NOTE)
    failures = []
    for protocol, members in groups:
        figures, turn, many = [], words.turn_word(protocol), len(members) > FEW
        if drawing and (frame := drawing.failure_frame(members))["share"].drop_nulls().len():
            width = MANY_PIXELS if many else WIDE_PIXELS
            chart = drawing.first_failure(frame, _palette(drawing, runs, members), width=width, turn_title=turn)
            figures.append(_figure(drawing, chart, f"failure-{protocol}", f"Share that has failed by each {turn}"))
        failures.append(Block(_heading(protocol, runs), figures, [failure_table(members)], wide=many))
    yield Section("failures", "First failure", "First failure", failures, FAILURE_NOTE)
    if corrections:
        blocks = [_corrected(place, one, drawing, named=len(corrections) > 1) for place, one in enumerate(corrections)]
        yield Section("calibration", "Corrected for the judge's errors", "Calibration", blocks, CALIBRATION_NOTE)
    yield from _effort(runs, drawing)


def _labels(runs: Sequence[RunData]) -> Sequence[str]:
    return run_labels(runs) if len(runs) > 1 else [""]


def _heading(protocol: str, runs: Sequence[RunData]) -> str:
    return f"{protocol.capitalize()} protocol" if len(by_protocol(runs)) > 1 else ""


def _scores(protocol: str, members: Sequence[RunData], runs: Sequence[RunData], drawing: ModuleType | None) -> Iterator[Block]:
    word, labels, many = words.turn_word(protocol), run_labels(members) if len(runs) > 1 else [""], len(members) > FEW
    figures, of_runs = [], list(zip(labels, members, strict=True))
    if drawing and (frame := drawing.asr_frame(members))["asr"].drop_nulls().len():
        width = MANY_PIXELS if many else WIDE_PIXELS
        chart = drawing.asr_by_turn(frame, _palette(drawing, runs, members), width=width, turn_title=turn_title(protocol))
        band = "Band: 95% interval, of the line that is looked at." if many else "Band: 95% interval."
        caption = f"Line: ASR. {band} Judge: {judges_of(members)}."
        figures.append(_figure(drawing, chart, f"asr-{protocol}", f"Attack success rate by {word}", caption=caption))
    shown = ((label, (asr_table(run), *drift_tables(run), repeats_table(run))) for label, run in of_runs)
    tables = [_named(table, label) for label, tables in shown for table in tables if table is not None]
    notes = [(label, said) for label, run in of_runs if (said := " ".join((*caveats(run), *remarks(run))))]
    notes += [("", INDEX_NOTE)] if protocol == by_protocol(runs)[0][0] else []
    if len(runs) == 1:
        yield Block("", figures, tables, notes)
        return
    if many:
        yield Block(_heading(protocol, runs), figures)
    heading = "" if many else _heading(protocol, runs)
    yield Block(heading, () if many else figures, (), notes, tables, f"Every run, {word} by {word}")


def _named(table: Table, label: str) -> Table:
    """The table under the name of its run, where there are several."""
    return replace(table, caption=f"{label}: {table.title}") if label else table


def _scenarios(protocol: str, members: Sequence[RunData], drawing: ModuleType | None, *, named: bool) -> Iterator[Block]:
    """Models × scenarios in one picture, then scenarios × turns of each; a cell leads to its dialogues."""
    figures, title, labels = [], words.turn_word(protocol), run_labels(members) if named else [""]
    if drawing and len(members) > 1:
        rows = [
            (label, scenario, asr, dialogues_link(label, scenario, None))
            for label, run in zip(labels, members, strict=True)
            for scenario, asr in rates_by(run, "scenario").items()
        ]
        schema = {"run": pl.String, "scenario": pl.String, "asr": pl.Float64, "link": pl.String}
        if (frame := pl.DataFrame(rows, schema=schema, orient="row"))["asr"].drop_nulls().len():
            said = "ASR of each run in each scenario, all lengths together"
            chart = drawing.score_map(frame, drawing.PAGE_PALETTE)
            yield Block(figures=[_figure(drawing, chart, f"scores-{protocol}", said, title=said)])
    for place, (run, label) in enumerate(zip(members, labels, strict=True)):
        frame = scores_by(run)
        if drawing and frame["asr"].drop_nulls().len():
            links = [dialogues_link(label, row["scenario"], row["turn"] if protocol == "scripted" else None) for row in frame.to_dicts()]
            linked = frame.with_columns(link=pl.Series(links, dtype=pl.String))
            chart = drawing.heat_map(linked, drawing.PAGE_PALETTE, width=44 * frame["turn"].n_unique(), turn_title=title)
            said = f"ASR by scenario and {title}{f' of {label}' if label else ''}"
            figures.append(_figure(drawing, chart, f"map-{protocol}-{place}", said, title=f"{label} ({protocol})" if label else ""))
    tables = [_named(scenario_table(run), label) for run, label in zip(members, labels, strict=True)]
    yield Block("", figures, (), (), tables, "As tables", opened=not figures) if named else Block("", figures, tables)


def dialogues_link(run: str, scenario: str, length: int | None) -> str:
    """The address on the page of the dialogues behind a figure (harmful ones), by the names of the filters there."""
    given = {"run": run, "scenario": scenario, "length": length, "kind": "harmful"}
    return urlencode({name: value for name, value in given.items() if value})


def _corrected(place: int, correction: Correction, drawing: ModuleType | None, *, named: bool) -> Block:
    figures, summary = [], correction.run.summary
    judged = {row.turn: (row.ci_low, row.ci_high) for row in summary.asr_by_turn} if summary.protocol == "scripted" else {}
    rows = corrected_rows(correction)
    raw = [("as judged", row["length"], row["raw_asr"], *judged.get(row["length"], (None, None))) for row in rows]
    better = [("corrected (Rogan–Gladen)", row["length"], row["asr"], row["ci_low"], row["ci_high"]) for row in rows]
    frame = pl.DataFrame([*raw, *better], schema=LINES, orient="row")
    if drawing and frame["asr"].drop_nulls().len():
        chart = drawing.asr_by_turn(frame, drawing.PAGE_PALETTE, width=WIDE_PIXELS, turn_title=turn_title("scripted"))
        caption = "Bands: 95% intervals; the corrected one holds the judge's own uncertainty."
        figures.append(_figure(drawing, chart, f"corrected-{place}", "ASR by length as judged and corrected", caption=caption))
    notes = [("", sentence) for sentence in correction_notes(correction)]
    tables = [correction_table(correction), confusion_table(correction.judge)]
    return Block(correction.run.name if named else "", figures, tables, notes)


def _effort(runs: Sequence[RunData], drawing: ModuleType | None) -> Iterator[Section]:
    """What the vendors did with the calls, what it cost, and how the pace was found."""
    outcomes, costs, pace = [], [], []
    width = WIDE_PIXELS - 110 if len(runs) > 1 else WIDE_PIXELS
    if drawing and (frame := drawing.outcome_frame(runs))["calls"].sum():
        outcomes.append(_figure(drawing, drawing.outcomes(frame, drawing.PAGE_PALETTE, width=width), "outcomes", "Share of each outcome"))
    if drawing and (frame := drawing.cost_frame(runs))["usd"].sum() > 0:
        costs.append(_figure(drawing, drawing.costs(frame, drawing.PAGE_PALETTE, width=width), "costs", "Cost by who asked"))
    yield Section("outcomes", "Outcomes", "Outcomes", [Block(figures=outcomes, tables=[outcome_table(runs)])], OUTCOME_NOTE)
    yield Section("cost", "Cost and calls", "Cost", [Block(figures=costs, tables=[cost_table(runs)])])
    histories = dict(zip(run_labels(runs), (run.manifest.get("limits") for run in runs), strict=True))
    if drawing and (frame := drawing.limiter_frame(histories)).group_by("run").len().filter(pl.col("len") > 1).height:
        chart = drawing.limiter(frame, drawing.PAGE_PALETTE, width=WIDE_PIXELS)
        pace.append(_figure(drawing, chart, "pace", "Calls in flight that the limiter allowed over time"))
        note = "How many calls in flight the limiter allowed, as it learned what the account can take."
        yield Section("pace", "Pace", "Pace", [Block(figures=pace)], note)


def study_sections(record: StudyRecord, arms: Sequence[str], drawing: ModuleType | None) -> Iterator[Section]:
    """Ranks and effects of the arms with these names; nothing where there are none."""
    naming = naming_of(record, {name: place for place, name in enumerate(arms)})
    claimed, word = claimed_effects(record), turn_word_of(record)
    boards = [Block(tables=[rank_table(board, naming)]) for board in record.leaderboard if board.rows]
    if boards:
        yield Section("study", "Ranks", "Ranks", boards, RANK_NOTE)
    if not claimed:
        return
    harmless = harmless_table(record.effects, naming)
    drawn = [_effect_chart(number, effect, naming.places, word, drawing) for number, effect in enumerate(claimed[:MOST_CHARTS]) if drawing]
    more = [("", f"Charts of the first {MOST_CHARTS} effects; the tables hold all.")] if drawn and len(claimed) > MOST_CHARTS else []
    blocks = [
        *([Block(tables=[moderators_table(record, naming)])] if naming.moderators else []),
        Block(tables=[effect_table(claimed, naming)]),
        Block(tables=[index_table(claimed, naming), burden_table(claimed, naming)]),
        *([Block(figures=[figure for figure in drawn if figure is not None], notes=more)] if drawn else []),
        Block(folded=[turn_table(claimed, naming, word=word)], fold=f"Every effect, {word} by {word}"),
        *([] if harmless is None else [Block(tables=[harmless])]),
    ]
    yield Section("effects", "Effects", "Effects", blocks, EFFECT_NOTE)


def _effect_chart(number: int, effect: Effect, places: Mapping[str, int], word: str, drawing: ModuleType) -> Figure | None:
    sides = ((effect.reference, "asr_before", "before"), (effect.arm, "asr_after", "after"))
    rows = [
        (words.printable(name, limit=48), turn.turn, getattr(turn, value), getattr(turn, f"{side}_low"), getattr(turn, f"{side}_high"))
        for name, value, side in sides
        for turn in effect.asr_by_turn or ()
    ]
    frame = pl.DataFrame(rows, schema=LINES, orient="row")
    if not frame["asr"].drop_nulls().len():
        return None
    palette = drawing.recoloured(drawing.PAGE_PALETTE, [places.get(name, place) for place, (name, _, _) in enumerate(sides)])
    chart = drawing.asr_by_turn(frame, palette, width=EFFECT_PIXELS, turn_title=word)
    return _figure(drawing, chart, f"effect-{number}", f"Attack success rate by {word}, {effect.reference} and {effect.arm}")
