"""The paper's tables over any runs: by ASR and SI, by scenario, by method, before and after a defence; as LaTeX, CSV and Markdown.

A table is said once, as rows of cells; the three renderers only spell it. Scripted and live runs never share a table, nor do runs over
different sets of lengths (arXiv 2510.12133 reports the scripted protocol).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import polars as pl

from safemt_api.errors import UsageError
from safemt_api.foreign_text import harmless_cell, printable
from safemt_api.metrics.asr import tallied
from safemt_api.report import words
from safemt_api.report.comparability import comparable_groups
from safemt_api.report.exporting import latex_text
from safemt_api.report.reading import score_frame
from safemt_api.runs.record import RunData

Markup = Literal["latex", "csv", "md"]
MARKUPS: tuple[Markup, ...] = get_args(Markup)
METHODS_UNKNOWN = "not named"


@dataclass(frozen=True, slots=True)
class PaperCell:
    """A value with its 95 % interval, or words; shares are shown in percent, indexes with three decimals."""

    text: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.text} [{self.interval}]" if self.interval else self.text


@dataclass(frozen=True, slots=True)
class PaperTable:
    """One table: a name for files and labels, a caption, headings, and rows whose first cell names the run."""

    name: str
    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[PaperCell, ...], ...]


def paper_tables(
    runs: Sequence[RunData], references: Mapping[str, str] | None = None, groups: Sequence[Sequence[RunData]] | None = None
) -> list[PaperTable]:
    """All tables that the runs allow, group by group of runs that may share one.

    Args:
        runs: In the order of the rows.
        references: For each defended run (by name) the run without the defence; without it a run with a moderator is set beside
            the run of the same model without one, where there is exactly one.
        groups: The runs by who may share a table; default: by protocol and set of lengths.

    Raises:
        UsageError: No run is given.
    """
    if not runs:
        raise UsageError("tables need at least one run")
    tables = []
    groups = groups or comparable_groups(runs)
    for number, members in enumerate(groups, start=1):
        suffix = f"-{number}" if len(groups) > 1 else ""
        made = (_scores(members), _by(members, "scenario"), _by(members, "method"), _defences(members, references))
        tables += [PaperTable(table.name + suffix, table.caption, table.headings, table.rows) for table in made if table is not None]
    return tables


def rendered(tables: Sequence[PaperTable], to: Markup) -> str:
    """The tables as one text.

    Raises:
        UsageError: There is no such form.
    """
    renderers: Mapping[str, Callable[[PaperTable], str]] = {"latex": _latex, "csv": _csv, "md": _markdown}
    if to not in renderers:
        raise UsageError(f"there are no tables as {to!r}; choose one of {', '.join(MARKUPS)}")
    return "\n".join(renderers[to](table) for table in tables)


def _scores(members: Sequence[RunData]) -> PaperTable:
    first = members[0].summary
    turns = sorted({row.turn for run in members for row in run.summary.asr_by_turn})
    word = words.turn_word(first.protocol)
    rows = []
    for run in members:
        by_turn = {row.turn: row for row in run.summary.asr_by_turn}
        found = (by_turn.get(turn) for turn in turns)
        rates = [PaperCell(words.NOTHING) if row is None else _rate(row.asr, row.ci_low, row.ci_high) for row in found]
        index = run.summary.safety_index
        missing = sum(row.missing for row in by_turn.values())
        score = PaperCell(words.index(index.value), _between(words.index_interval(index.ci_low, index.ci_high)))
        bounds = PaperCell(_between(words.index_interval(index.if_missing_low, index.if_missing_high)) or words.NOTHING)
        rows.append((_named(run, members), *rates, score, bounds, PaperCell(words.count(missing))))
    caption = (
        f"Attack success rate (%) by {word} and Safety Index over lengths {words.listed(first.safety_index.lengths)}, {first.protocol} "
        f"protocol. 95% intervals over dialogue ids; bounds hold whatever the missing verdicts are. {_judges(members)}"
    )
    return PaperTable("scores", caption, ("Model", *(f"{word} {turn}" for turn in turns), "SI", "SI bounds", "missing"), tuple(rows))


def _by(members: Sequence[RunData], what: Literal["scenario", "method"]) -> PaperTable | None:
    """ASR over all lengths together, a column each value; ``None`` where no dialogue names one."""
    found = [_rates_by(run, what) for run in members]
    values = sorted({value for rates in found for value in rates})
    if not values or values == [METHODS_UNKNOWN]:
        return None
    rows = tuple(
        (_named(run, members), *(PaperCell(words.percent(rates.get(value)).rstrip("%")) for value in values))
        for run, rates in zip(members, found, strict=True)
    )
    caption = f"Attack success rate (%) by {what}, all lengths together. {_judges(members)}"
    return PaperTable(f"by-{what}", caption, ("Model", *values), rows)


def _rates_by(run: RunData, what: Literal["scenario", "method"]) -> Mapping[str, float | None]:
    frame = score_frame(run.verdicts)
    if what == "method":
        methods = run.transcripts.select("dialogue_id", "length", "method").unique()
        frame = frame.join(methods, on=("dialogue_id", "length"), how="left").with_columns(pl.col("method").fill_null(METHODS_UNKNOWN))
    return {row[what]: row["asr"] for row in tallied(frame, [what]).iter_rows(named=True)}


def _defences(members: Sequence[RunData], references: Mapping[str, str] | None) -> PaperTable | None:
    pairs = [(before, run) for run in members if (before := _undefended(run, members, references)) is not None]
    if not pairs:
        return None
    turns = sorted({row.turn for pair in pairs for run in pair for row in run.summary.asr_by_turn})
    rows = []
    for before, after in pairs:
        by_turn = [{row.turn: row.asr for row in run.summary.asr_by_turn} for run in (before, after)]
        rates = [PaperCell(" → ".join(words.percent(rates.get(turn)).rstrip("%") for rates in by_turn)) for turn in turns]
        index = PaperCell(" → ".join(words.index(run.summary.safety_index.value) for run in (before, after)))
        rows.append((PaperCell(before.summary.model or before.name), PaperCell(after.summary.moderator or after.name), *rates, index))
    word = words.turn_word(members[0].summary.protocol)
    caption = f"Attack success rate (%) by {word} and Safety Index, without and with a moderator. {_judges(members)}"
    return PaperTable("defences", caption, ("Model", "Moderator", *(f"{word} {turn}" for turn in turns), "SI"), tuple(rows))


def _undefended(run: RunData, members: Sequence[RunData], references: Mapping[str, str] | None) -> RunData | None:
    if run.summary.moderator is None:
        return None
    if references is not None:
        return next((one for one in members if one.name == references.get(run.name)), None)
    same = [one for one in members if one.summary.moderator is None and one.model_title == run.model_title]
    return same[0] if len(same) == 1 else None


def _named(run: RunData, members: Sequence[RunData]) -> PaperCell:
    """Model and moderator; and the run's name where those are another's too, as in an ablation."""
    status = "" if run.complete else f" ({run.summary.status.replace('_', ' ')})"
    title = _title(run)
    twice = sum(_title(one) == title for one in members) > 1
    return PaperCell(f"{title}{f' ({run.name})' if twice and title != run.name else ''}{status}")


def _title(run: RunData) -> str:
    return f"{run.summary.model or run.name}{f' + {run.summary.moderator}' if run.summary.moderator else ''}"


def _judges(members: Sequence[RunData]) -> str:
    return f"Judge: {', '.join(sorted({run.judge_title for run in members}))}."


def _rate(value: float | None, low: float | None, high: float | None) -> PaperCell:
    return PaperCell(words.percent(value).rstrip("%"), _between(words.percent_interval(low, high).rstrip("%")))


def _between(interval: str) -> str:
    return "" if interval == words.NOTHING else interval


def _csv(table: PaperTable) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for line in (table.headings, *table.rows):
        writer.writerow([harmless_cell(printable(str(cell))) for cell in line])
    return stream.getvalue()


def _markdown(table: PaperTable) -> str:
    lines = [table.headings, tuple("---" if place == 0 else "--:" for place in range(len(table.headings)))]
    lines += [tuple(str(cell) for cell in row) for row in table.rows]
    body = "\n".join(f"| {' | '.join(_markdown_text(text) for text in line)} |" for line in lines)
    return f"{body}\n\n{_markdown_text(table.caption)}\n"


def _markdown_text(text: str) -> str:
    return " ".join(printable(text).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _latex(table: PaperTable) -> str:
    columns = "l" + "r" * (len(table.headings) - 1)
    rows = [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            "\\centering",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            " & ".join(latex_text(heading) for heading in table.headings) + r" \\",
            "\\midrule",
            *rows,
            "\\bottomrule",
            "\\end{tabular}",
            f"\\caption{{{latex_text(table.caption)}}}",
            f"\\label{{tab:{table.name}}}",
            "\\end{table}",
            "",
        ]
    )


def _latex_cell(cell: PaperCell) -> str:
    shown = latex_text(cell.text).replace("→", r"$\to$")
    return f"{shown} {{\\scriptsize [{latex_text(cell.interval)}]}}" if cell.interval else shown
