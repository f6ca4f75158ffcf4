"""A run in the formats of other tools: CSV for spreadsheets, JSON lines for scripts, a LaTeX table for papers, a log for Inspect."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl

from safemt_api.errors import UsageError
from safemt_api.files import write_bytes
from safemt_api.foreign_text import FORMULA
from safemt_api.report import words
from safemt_api.report.inspect_log import inspect_name, write_inspect_log
from safemt_api.report.payload import messages_of
from safemt_api.runs.record import RunData

Format = Literal["csv", "jsonl", "latex", "inspect"]
FORMATS: tuple[Format, ...] = get_args(Format)
ENDINGS: dict[Format, str] = {"csv": ".csv", "jsonl": ".jsonl", "latex": ".tex"}
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
    writers: dict[str, Callable[[RunData], bytes]] = {"csv": _csv, "jsonl": _jsonl, "latex": _latex}
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
    safe = [_unarmed(name) for name, kind in frame.schema.items() if kind == pl.String]
    return frame.with_columns(safe).write_csv().encode("utf-8")


def _unarmed(name: str) -> pl.Expr:
    text = pl.col(name)
    return pl.when(text.str.contains(FORMULA)).then(pl.concat_str(pl.lit("'"), text)).otherwise(text).alias(name)


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


def latex_table(runs: Sequence[RunData]) -> str:
    """A booktabs table of ASR by turn and SI with intervals, one block of two lines a run.

    Raises:
        UsageError: No run is given, or scripted and live runs are mixed.
    """
    if len({run.summary.protocol for run in runs}) != 1:
        raise UsageError("a table holds runs of one protocol; scripted and live scores mean different things, so export them apart")
    protocol = runs[0].summary.protocol
    turns = sorted({row.turn for run in runs for row in run.summary.asr_by_turn})
    heads = " & ".join(f"{turn}" for turn in turns)
    judges = latex_text(", ".join(sorted({run.judge_title for run in runs})))
    lengths = latex_text("; ".join(sorted({words.listed(run.summary.safety_index.lengths) for run in runs})))
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            "\\centering",
            f"\\begin{{tabular}}{{l{'r' * len(turns)}rrr}}",
            "\\toprule",
            f" & \\multicolumn{{{max(1, len(turns))}}}{{c}}{{ASR by {words.turn_word(protocol)} (\\%)}} & & & \\\\",
            f"Model & {heads + ' & ' if turns else ''}SI & SI bounds & Complete ids \\\\",
            "\\midrule",
            *(line for run in runs for line in _latex_lines(run, turns)),
            "\\bottomrule",
            "\\end{tabular}",
            f"\\caption{{Attack success rate by {words.turn_word(protocol)} and Safety Index "
            f"({protocol} protocol; SI over lengths {lengths}; "
            f"judge: {judges}). 95\\% intervals over dialogue ids in brackets; missing verdicts are in neither count. SI takes its second "
            f"factor from complete ids; its outer bounds hold whatever the missing verdicts are.}}",
            "\\end{table}",
            "",
        ]
    )


def _latex_lines(run: RunData, turns: Sequence[int]) -> Iterator[str]:
    rows = {row.turn: row for row in run.summary.asr_by_turn}
    found = [rows.get(turn) for turn in turns]
    index = run.summary.safety_index
    values = [_hundredths(row.asr) if row else "--" for row in found]
    bounds = [_brackets(_hundredths(row.ci_low), _hundredths(row.ci_high)) if row else "" for row in found]
    partial = "" if run.complete else f" ({run.summary.status.replace('_', ' ')})"
    name = latex_text((run.summary.model or run.name) + partial)
    outer = latex_text(words.index_interval(index.if_missing_low, index.if_missing_high))
    complete = "--" if index.ids is None else f"{index.complete_ids} of {index.ids}"
    yield f"{' & '.join([name, *values, latex_text(words.index(index.value)), outer, complete])} \\\\"
    yield f"{' & '.join(['', *bounds, _brackets(words.index(index.ci_low), words.index(index.ci_high)), '', ''])} \\\\"


def _hundredths(share: float | None) -> str:
    return "--" if share is None else f"{100 * share:.1f}"


def _brackets(low: str, high: str) -> str:
    return "" if "--" in (low, high) or words.NOTHING in (low, high) else f"{{\\scriptsize [{low}, {high}]}}"


def _latex(run: RunData) -> bytes:
    return latex_table([run]).encode("utf-8")
