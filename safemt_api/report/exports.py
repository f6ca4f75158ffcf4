"""Runs in the forms of others: CSV, JSON lines, Inspect's log; the paper's tables as LaTeX, CSV, Markdown; charts as SVG and PDF files."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import polars as pl

from safemt_api import words
from safemt_api.errors import StoreError, UsageError
from safemt_api.files import private_folder, write_bytes
from safemt_api.foreign_text import FORMULA, harmless_cell
from safemt_api.report.inspect_log import inspect_name, write_inspect_log
from safemt_api.report.payload import messages_of
from safemt_api.report.sections import turn_title
from safemt_api.report.table import Table, rows_of
from safemt_api.report.tables import by_protocol, scores_by, scores_table
from safemt_api.runs.record import RunData

Format = Literal["csv", "jsonl", "latex", "inspect"]
FORMATS: tuple[Format, ...] = get_args(Format)
ENDINGS: dict[Format, str] = {"csv": ".csv", "jsonl": ".jsonl", "latex": ".tex"}
Markup = Literal["latex", "csv", "md"]
MARKUPS: tuple[Markup, ...] = get_args(Markup)
FIGURE_PIXELS = 440
CELL_PIXELS = 46
NEEDS_CHARTS = "figures come with an extra: run pip install 'safemt-api[charts]' and try again"
TURN_KEY = ("dialogue_id", "length", "repeat", "turn")

Row = Mapping[str, Any]


def export_run(run: RunData, to: Format, target: Path) -> Path:
    """Write the run as ``to`` into the file ``target``, whole or not at all, and return it.

    Args:
        run: What ``read_run`` returned.
        to: ``csv`` and ``jsonl``: one row a turn with its verdict; ``latex``: a booktabs table; ``inspect``: a log for ``inspect view``.
        target: The file to write.

    Raises:
        UsageError: There is no such format.
        StoreError: The file cannot be written.
    """
    writers: dict[str, Callable[[RunData], bytes]] = {
        "csv": _csv,
        "jsonl": _jsonl,
        "latex": lambda one: rendered([scores_table([one])], "latex").encode("utf-8"),
    }
    if to == "inspect":
        write_inspect_log(run, target)
    elif to in writers:
        write_bytes(target, writers[to](run))
    else:
        raise UsageError(f"there is no export format {to!r}; there are: {', '.join(FORMATS)}")
    return target


def export_name(run: RunData, to: Format) -> str:
    """The file name that an export gets where none is given."""
    return inspect_name(run) if to == "inspect" else f"{run.name}{ENDINGS[to]}"


def _judged(run: RunData) -> pl.DataFrame:
    """Transcript rows with the verdict that counts beside each."""
    counting = run.verdicts.filter(pl.col("counts")).unique(TURN_KEY, keep="first", maintain_order=True)
    verdicts = counting.select(*TURN_KEY, "judge", verdict="label", verdict_source="source", verdict_reason="reason")
    return run.transcripts.join(verdicts, on=TURN_KEY, how="left", maintain_order="left")


def _csv(run: RunData) -> bytes:
    frame = _judged(run).drop("messages")
    texts = [pl.col(name) for name, kind in frame.schema.items() if kind == pl.String]
    safe = [pl.when(text.str.contains(FORMULA)).then(pl.concat_str(pl.lit("'"), text)).otherwise(text).name.keep() for text in texts]
    return frame.with_columns(safe).write_csv().encode("utf-8")


def _jsonl(run: RunData) -> bytes:
    members: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in run.verdicts.drop("run", "scenario", "kind").iter_rows(named=True):
        members[tuple(row[name] for name in TURN_KEY)].append({name: value for name, value in row.items() if name not in TURN_KEY})
    lines = []
    for row in _judged(run).iter_rows(named=True):
        said = [{"role": role, "content": content} for role, content in messages_of(row)]
        lines.append(row | {"messages": said, "verdicts": members[tuple(row[name] for name in TURN_KEY)]})
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode("utf-8")


_LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
}


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it stands, on one line."""
    return "".join(_LATEX_SIGNS.get(sign, sign) for sign in " ".join(words.printable(text).split()))


def rendered(tables: Sequence[Table], to: Markup) -> str:
    """The tables as one text.

    Raises:
        UsageError: There is no such form.
    """
    renderers: Mapping[str, Callable[[Table], str]] = {"latex": _latex_table, "csv": _csv_table, "md": _markdown_table}
    if to not in renderers:
        raise UsageError(f"there are no tables as {to!r}; choose one of {', '.join(MARKUPS)}")
    return "\n".join(renderers[to](table) for table in tables)


def _lines(table: Table) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """The headings, and each row's cells as value and interval; numbers without the sign where the title says it."""
    columns, sign = table.shown("paper"), "%" if "(%)" in table.title else ""
    rows = [
        [(cell.text if isinstance(cell.value, str) else cell.text.removesuffix(sign), cell.interval.removesuffix(sign)) for cell in row]
        for row in rows_of(columns)
    ]
    return [column.heading("paper") for column in columns], rows


def _with_interval(text: str, interval: str) -> str:
    return f"{text} [{interval}]" if interval else text


def _csv_table(table: Table) -> str:
    headings, rows = _lines(table)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows(
        [harmless_cell(words.printable(text)) for text in line]
        for line in (headings, *([_with_interval(*cell) for cell in row] for row in rows))
    )
    return stream.getvalue()


def _markdown_table(table: Table) -> str:
    headings, rows = _lines(table)
    lines = [headings, ["---", *("--:" for _ in headings[1:])], *([_with_interval(*cell) for cell in row] for row in rows)]
    body = "\n".join(f"| {' | '.join(map(_markdown_text, line))} |" for line in lines)
    return f"{body}\n\n{_markdown_text(table.title)}\n"


def _markdown_text(text: str) -> str:
    return " ".join(words.printable(text).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _latex_table(table: Table) -> str:
    headings, rows = _lines(table)
    cells = [
        [
            latex_text(text).replace("→", r"$\to$") + (f" {{\\scriptsize [{latex_text(interval)}]}}" if interval else "")
            for text, interval in row
        ]
        for row in rows
    ]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            "\\centering",
            f"\\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
            "\\toprule",
            f"{' & '.join(map(latex_text, headings))} \\\\",
            "\\midrule",
            *(f"{' & '.join(row)} \\\\" for row in cells),
            "\\bottomrule",
            "\\end{tabular}",
            f"\\caption{{{latex_text(table.title)}}}",
            f"\\label{{tab:{table.name}}}",
            "\\end{table}",
            "",
        ]
    )


def write_figures(runs: Sequence[RunData], folder: Path) -> list[Path]:
    """Write ASR by turn and first failure (one a protocol) and a heat map (one a run), each as SVG and as PDF; return the files.

    Raises:
        UsageError: No run is given, or the extra ``charts`` is not installed.
        StoreError: A file cannot be written.
    """
    if not runs:
        raise UsageError("figures need at least one run")
    drawing = charts_module()
    try:
        private_folder(folder)
    except OSError as error:
        raise StoreError(folder, f"cannot be made ({error.strerror or error})", "name a folder that you may write to") from error
    return [file for name, chart in _figures(runs, drawing) for file in _written(folder, name, chart, drawing)]


def charts_module() -> ModuleType:
    """``report.charts``.

    Raises:
        UsageError: The extra that it needs is not installed.
    """
    try:
        from safemt_api.report import charts  # noqa: PLC0415 (altair and vl-convert are an optional extra)
    except ImportError as error:
        raise UsageError(NEEDS_CHARTS) from error
    return charts


def _written(folder: Path, name: str, chart: Any, drawing: ModuleType) -> list[Path]:
    svg, pdf = folder / f"{name}.svg", folder / f"{name}.pdf"
    write_bytes(svg, drawing.figure_svg(chart).encode("utf-8"))
    write_bytes(pdf, drawing.figure_pdf(chart))
    return [svg, pdf]


def _figures(runs: Sequence[RunData], drawing: ModuleType) -> Iterator[tuple[str, Any]]:
    palette, number = drawing.PRINT_PALETTE, 0
    for protocol, members in by_protocol(runs):
        title = turn_title(protocol)
        draw = partial(drawing.asr_by_turn, palette=palette, width=FIGURE_PIXELS, turn_title=title)
        yield f"asr-by-turn-{protocol}", draw(drawing.asr_frame(members))
        yield (
            f"first-failure-{protocol}",
            drawing.first_failure(drawing.failure_frame(members), palette, width=FIGURE_PIXELS, turn_title=title),
        )
        for run in members:
            number += 1
            scores = scores_by(run)
            width = CELL_PIXELS * max(1, scores["turn"].n_unique())
            # A run's name may hold what leads out of the folder.
            name = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in run.name)[:60] or "run"
            yield f"heat-map-{number}-{name}", drawing.heat_map(scores, palette, width=width, turn_title=title)
