"""The tables in the terminal, by rich: readable at 80 columns, without colour, and whatever a model put into a name.

Scripted and live runs never share a table; the rule-based judge is called a baseline wherever a score shows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import rich.table
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from safemt_api import words
from safemt_api.calibration.correction import Correction, correction_notes
from safemt_api.metrics.comparison import Comparison
from safemt_api.report.remarks import caveats, remarks
from safemt_api.report.study_tables import (
    burden_table,
    claimed_effects,
    effect_table,
    harmless_table,
    index_table,
    moderator_sentence,
    moderator_table,
    moderators_table,
    naming_of,
    rank_table,
    study_line,
    study_sentences,
    turn_table,
    turn_word_of,
)
from safemt_api.report.table import Cell, Column, Table, rows_of
from safemt_api.report.tables import (
    asr_table,
    below_list_price,
    comparison_tables,
    correction_table,
    drift_tables,
    failure_table,
    grouped_tables,
    index_basis,
    leaderboard_tables,
    outcome_table,
    overview_table,
    repeats_table,
    scenario_table,
)
from safemt_api.runs.overview import RunOverview, overview
from safemt_api.runs.record import RunData
from safemt_api.specs import NONE
from safemt_api.studies.comparability import MARK, differences
from safemt_api.studies.record import StudyRecord

BELOW = (1, 0, 0, 0)
"""An empty line above, nothing else around."""
EVERY_SECONDS = 2.0


def plain(text: object) -> Text:
    """Text as it stands: no markup is read, and no control character is left."""
    return Text(words.printable(str(text)))


def drawn(table: Table) -> RenderableType:
    """The table, unboxed; columns that belong to a part follow as a table of their own, what must be said of it stands between."""
    columns = table.shown("terminal")
    parts = dict.fromkeys(column.part for column in columns if column.part)
    main = _drawn(table.title, [column for column in columns if not column.part])
    notes = [plain(note) for note in table.notes]
    cut = [_drawn(part, [columns[0], *(column for column in columns if column.part == part)]) for part in parts]
    return Group(main, *notes, *(Padding(one, BELOW) for one in cut))


def _drawn(title: str, columns: Sequence[Column]) -> rich.table.Table:
    made = rich.table.Table(
        title=plain(title) if title else None, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in columns:
        for heading in (column.title, *([column.beside] if column.interval == "beside" else [])):
            made.add_column(plain(heading), justify="right" if column.number else "left", header_style="dim", overflow="fold")
    for row in rows_of(columns):
        cells = list(zip(columns, row, strict=True))
        made.add_row(*(text for column, cell in cells for text in _spelt(column, cell)))
        if any(column.interval == "below" and cell.interval for column, cell in cells):
            below = (
                "" if column.interval != "below" or cell.low is None or cell.high is None else f"{100 * cell.low:.0f}–{100 * cell.high:.0f}"
                for column, cell in cells
            )
            made.add_row(*(Text(text, style="dim") for text in below))
        for line in (f"  {column.basis}: {line}" for column, cell in cells if column.basis for line in cell.lines):
            made.add_row(Text(line, style="dim"))
    return made


def _spelt(column: Column, cell: Cell) -> Iterator[Text]:
    after = f" ({cell.interval})" if column.interval == "after" and cell.interval else ""
    starred = any(one.star for one in column.cells)
    yield plain(f"{cell.brief or cell.text}{after}{'*' if cell.star else ' ' if starred else ''}")
    if column.interval == "beside":
        yield plain(cell.interval or (words.NOTHING if cell.text else ""))


def grid(facts: Mapping[str, object]) -> rich.table.Table:
    """Facts by their names."""
    made = rich.table.Table.grid(padding=(0, 2))
    for name, value in facts.items():
        made.add_row(Text(name, style="dim"), plain(value))
    return made


def run_report(run: RunData) -> RenderableType:
    """Everything the terminal shows of one run."""
    repeated = repeats_table(run)
    tables = [
        *drift_tables(run),
        *([] if repeated is None else [repeated]),
        *([failure_table([run])] if run.summary.protocol == "live" else []),
        scenario_table(run),
        *grouped_tables(run),
        outcome_table([run]),
    ]
    said = (*caveats(run), *remarks(run))
    # SI with its interval, the lengths it was computed over, the judge, and what missing verdicts leave open.
    found = run.summary.safety_index
    what = "lengths" if run.summary.protocol == "scripted" else "the last turns of lengths"
    value = f"{words.index(found.value)} (95% interval {words.index_interval(found.ci_low, found.ci_high)})"
    if found.withheld:
        value = "not given (fewer than half of the ids have a verdict at every length)"
    index_line = f"Safety Index {value} over {what} {words.listed(found.lengths)}, {run.judge_title}"
    if basis := index_basis(found, aside=" whatever the missing verdicts are"):
        index_line += f"\n{basis}"
    below = [drawn(asr_table(run)), plain(index_line), *map(plain, said), *map(drawn, tables), grid(_effort(run))]
    return Group(grid(_facts(run)), *(Padding(part, BELOW) for part in below))


def _facts(run: RunData) -> dict[str, str]:
    """What was run, by whom it was judged, and how far it came."""
    summary, done = run.summary, run.summary.dialogues
    return {
        "Run": f"{run.name} ({summary.status.replace('_', ' ')})",
        "Model": run.model_title,
        "Protocol": f"{summary.protocol}, lengths {words.listed(summary.lengths)}",
        "Judge": run.judge_title,
        "Moderator": summary.moderator or NONE,
        "Dialogues": f"{words.count(done.finished)} of {words.count(done.planned)} finished, {words.count(done.failed)} failed",
    }


def _effort(run: RunData) -> dict[str, str]:
    """Tokens, money, calls and time."""
    money, calls, tokens = run.summary.cost_usd, run.summary.calls, run.summary.usage
    ceiling = "" if money.ceiling is None else f" of at most {words.dollars(money.ceiling)}"
    maybe = f"; {words.dollars(money.maybe_usd)} more may have been billed for calls that were cut off" if money.maybe_usd else ""
    listed = "".join(f"; {said}" for said in below_list_price(money))
    above = "".join(f"; {model} billed above the most that was asked for" for model in money.above_reservation)
    unread = f"; {words.count(tokens.unreadable)} replies told no usage that can be read: booked at their most" if tokens.unreadable else ""
    parts = ", ".join(f"{name} {words.dollars(getattr(money, name))}" for name in ("target", "judge", "moderator"))
    return {
        "Tokens": f"{words.count(tokens.input_tokens)} in ({words.count(tokens.cached_input_tokens)} cached), "
        f"{words.count(tokens.output_tokens)} out{unread}",
        "Cost": f"{words.dollars(money.total)}{ceiling} ({parts}){listed}{maybe}{above}",
        "Calls": f"{words.count(calls.sent)} sent, {words.count(calls.from_store)} from the store, {words.count(calls.retried)} retried, "
        f"{words.count(calls.rate_limited)} rate limited",
        "Time": words.duration(run.summary.wall_seconds),
    }


def leaderboard(runs: Sequence[RunData]) -> RenderableType:
    """Several runs side by side.

    Raises:
        UsageError: No run is given.
    """
    return Group(*(Padding(drawn(table), (0, 0, 1, 0)) for table in leaderboard_tables(runs)))


def comparison_report(a: RunData, b: RunData, comparison: Comparison) -> RenderableType:
    """What changes from A to B: the sentence, what does not compare, then the tables."""
    judges = a.judge_title if a.judge_title == b.judge_title else f"A: {a.judge_title}; B: {b.judge_title}"
    opening = [
        comparison.sentence,
        f"Judge: {judges}. {comparison.ids} ids in both; {comparison.unpaired_cells} pairs lack a verdict and are left out.",
        f"SI over the {comparison.complete_ids} ids complete in both; bounds hold whatever the missing verdicts of each run are.",
        *(f"{MARK} Not comparable: {found}" for found in differences(a, b, paired=True)),
    ]
    return Group(*map(plain, opening), *(Padding(drawn(table), BELOW) for table in comparison_tables(a, b, comparison)))


def correction_report(correction: Correction) -> RenderableType:
    """A run's scores corrected for its judge's errors beside the raw ones, and what they rest on."""
    return Group(Padding(drawn(correction_table(correction)), (1, 0, 1, 0)), *map(plain, correction_notes(correction)))


def study_report(record: StudyRecord) -> RenderableType:
    """Everything the terminal shows of a study; where arms differ in their moderator alone, moderators stand side by side."""
    claimed, naming, word = claimed_effects(record), naming_of(record), turn_word_of(record)
    parts: list[RenderableType] = []
    if naming.moderators:
        parts.append(drawn(moderators_table(record, naming)))
        for effect in (one for one in record.effects if one.asr_by_turn and one.safety_index is not None):
            parts += [drawn(moderator_table(effect, naming, word=word)), plain(moderator_sentence(effect, word=word))]
    else:
        parts += [drawn(rank_table(board, naming)) for board in record.leaderboard]
        made = (effect_table(claimed, naming), turn_table(claimed, naming, word=word), index_table(claimed, naming)) if claimed else ()
        parts += map(drawn, made)
    harmless = harmless_table(record.effects, naming)
    parts += [] if harmless is None else [drawn(harmless)]
    parts += [drawn(burden_table(claimed, naming))] if claimed else []
    return Group(plain(study_line(record)), *map(plain, study_sentences(record)), *(Padding(part, BELOW) for part in parts))


def run_list(found: Sequence[RunOverview], results: Path) -> RenderableType:
    """The runs and studies of a results folder."""
    return drawn(overview_table(found)) if found else plain(f"no runs in {results}")


def watch_runs(results: Path, console: Console) -> None:
    """Keep the list of runs fresh until Ctrl-C."""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            started = time.monotonic()
            live.update(run_list(overview(results), results), refresh=True)
            # A folder that takes long to look through is looked at less often.
            time.sleep(max(EVERY_SECONDS, 4 * (time.monotonic() - started)))
