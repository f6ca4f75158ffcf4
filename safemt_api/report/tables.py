"""Tables for the terminal, by rich. Readable at 80 columns, without colour, and whatever a model put into a name.

Scripted and live runs never share a table; the rule-based judge is called a baseline wherever a score shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from safemt_api.errors import UsageError
from safemt_api.metrics.comparison import Comparison, compare
from safemt_api.report import words
from safemt_api.report.caveats import caveats
from safemt_api.report.comparability import MARK, comparable_groups, differences, refuse_incomparable
from safemt_api.report.correction import Correction, corrected_rows, correction_notes
from safemt_api.report.reading import failure_curve, index_basis, outcome_counts, remarks, scenario_scores, score_frame
from safemt_api.runs.record import RunData
from safemt_api.runs.summary import RepeatFigures
from safemt_api.specs import NONE


def run_report(run: RunData) -> RenderableType:
    """Everything the terminal shows of one run."""
    said = [_plain(sentence) for sentence in (*caveats(run), *remarks(run))]
    failures = [failure_table(run)] if run.summary.protocol == "live" else []
    repeated = [] if run.summary.repeats is None else [repeats_table(run, run.summary.repeats)]
    below: list[RenderableType] = [*said, *repeated, *failures, scenario_table(run), outcome_table(run), effort_table(run)]
    return Group(header(run), asr_table(run), safety_index_line(run), *(Padding(part, (1, 0, 0, 0)) for part in below))


def _plain(text: object) -> Text:
    """Text as it stands: no markup is read, and no control character is left."""
    return Text(words.printable(str(text)))


def _table(title: str, *columns: str, left: int = 1) -> Table:
    """An unboxed table; the first ``left`` columns hold words, the others numbers."""
    table = Table(title=_plain(title), title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(_plain(name), justify="left" if place < left else "right", header_style="dim", overflow="fold")
    return table


def header(run: RunData) -> Table:
    """What was run, by whom it was judged, and how far it came."""
    summary, done = run.summary, run.summary.dialogues
    rows = {
        "Run": f"{run.name} ({summary.status.replace('_', ' ')})",
        "Model": run.model_title,
        "Protocol": f"{summary.protocol}, lengths {words.listed(summary.lengths)}",
        "Judge": run.judge_title,
        "Moderator": summary.moderator or NONE,
        "Dialogues": f"{words.count(done.finished)} of {words.count(done.planned)} finished, {words.count(done.failed)} failed",
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        grid.add_row(Text(name, style="dim"), _plain(value))
    return grid


def asr_table(run: RunData) -> Table:
    """ASR by turn: interval, counts, and what the missing verdicts leave open."""
    word = words.turn_word(run.summary.protocol)
    table = _table(f"\nASR by {word}, {run.judge_title}", word, "ASR", "95% interval", "unsafe", "safe", "missing", "bounds", left=0)
    for row in run.summary.asr_by_turn:
        table.add_row(
            str(row.turn),
            words.percent(row.asr),
            words.percent_interval(row.ci_low, row.ci_high),
            words.count(row.unsafe),
            words.count(row.safe),
            words.count(row.missing),
            words.percent_interval(row.if_missing_safe, row.if_missing_unsafe),
        )
    return table


def safety_index_line(run: RunData) -> Text:
    """SI with its interval, the lengths it was computed over, the judge, and what missing verdicts leave open."""
    found = run.summary.safety_index
    interval = words.index_interval(found.ci_low, found.ci_high)
    what = "lengths" if run.summary.protocol == "scripted" else "the last turns of lengths"
    value = f"{words.index(found.value)} (95% interval {interval})"
    if found.withheld:
        value = "not given (fewer than half of the ids have a verdict at every length)"
    line, basis = f"{words.listed(found.lengths)}, {run.judge_title}", index_basis(found, aside=" whatever the missing verdicts are")
    return _plain(f"\nSafety Index {value} over {what} {line}" + (f"\n{basis}" if basis else ""))


def repeats_table(run: RunData, found: RepeatFigures) -> Table:
    """The share of dialogues with any unsafe reply among their repeats, with its interval and what the missing verdicts leave open."""
    word = words.turn_word(run.summary.protocol)
    columns = (word, "share", "95% interval", "any unsafe", "all safe", "incomplete", "bounds")
    table = _table(f"Dialogues with any unsafe reply in {found.n}, {run.judge_title}", *columns, left=0)
    for row in found.any_unsafe_by_turn:
        table.add_row(
            str(row.turn),
            words.percent(row.share),
            words.percent_interval(row.ci_low, row.ci_high),
            words.count(row.any_unsafe),
            words.count(row.all_safe),
            words.count(row.incomplete),
            words.percent_interval(row.if_missing_safe, row.if_missing_unsafe),
        )
    return table


def failure_table(run: RunData) -> Table:
    """The share that has failed by each turn, with its interval and what the missing verdicts leave open."""
    word = words.turn_word(run.summary.protocol)
    table = _table(f"Failed at this {word} or before, {run.judge_title}", word, "share", "95% interval", "bounds", left=0)
    for row in failure_curve(run).iter_rows(named=True):
        bounds = words.percent_interval(row["if_missing_safe"], row["if_missing_unsafe"])
        table.add_row(str(row["turn"]), words.percent(row["share"]), words.percent_interval(row["ci_low"], row["ci_high"]), bounds)
    return table


def scenario_table(run: RunData) -> Table:
    """ASR of each scenario at each turn."""
    scores = scenario_scores(run)
    turns = sorted(scores["turn"].unique().to_list())
    cells = {(row["scenario"], row["turn"]): row["asr"] for row in scores.iter_rows(named=True)}
    title = f"ASR by scenario and {words.turn_word(run.summary.protocol)}, {run.judge_title}"
    table = _table(title, "scenario", *(str(turn) for turn in turns))
    for scenario in sorted(scores["scenario"].unique().to_list()):
        table.add_row(_plain(scenario), *(words.percent(cells.get((scenario, turn))) for turn in turns))
    return table


def outcome_table(run: RunData) -> Table:
    """What the vendor did with the calls."""
    counts = outcome_counts(run)
    total = sum(counts.values())
    table = _table("Outcomes", "outcome", "replies", "share")
    for name, number in counts.items():
        table.add_row(_plain(name.replace("_", " ")), words.count(number), words.percent(number / total if total else None))
    return table


def effort_table(run: RunData) -> Table:
    """Tokens, money, calls and time."""
    money, calls, tokens = run.summary.cost_usd, run.summary.calls, run.summary.usage
    ceiling = "" if money.ceiling is None else f" of at most {words.dollars(money.ceiling)}"
    maybe = f"; {words.dollars(money.maybe_usd)} more may have been billed for calls that were cut off" if money.maybe_usd else ""
    saved = f"; {words.dollars(money.saved_usd)} less than in the usual tier" if money.saved_usd else ""
    above = "".join(f"; {model} billed above the most that was asked for" for model in money.above_reservation)
    unread = f"; {words.count(tokens.unreadable)} replies told no usage that can be read: booked at their most" if tokens.unreadable else ""
    parts = ", ".join(f"{name} {words.dollars(getattr(money, name))}" for name in ("target", "judge", "moderator"))
    grid = Table.grid(padding=(0, 2))
    rows = {
        "Tokens": f"{words.count(tokens.input_tokens)} in ({words.count(tokens.cached_input_tokens)} cached), "
        f"{words.count(tokens.output_tokens)} out{unread}",
        "Cost": f"{words.dollars(money.total)}{ceiling} ({parts}){saved}{maybe}{above}",
        "Calls": f"{words.count(calls.sent)} sent, {words.count(calls.from_store)} from the store, {words.count(calls.retried)} retried, "
        f"{words.count(calls.rate_limited)} rate limited",
        "Time": words.duration(run.summary.wall_seconds),
    }
    for name, value in rows.items():
        grid.add_row(Text(name, style="dim"), _plain(value))
    return grid


def leaderboard(runs: Sequence[RunData]) -> RenderableType:
    """Several runs side by side, one table a protocol and set of lengths, safest first by SI; what does not compare is marked.

    Raises:
        UsageError: No run is given.
    """
    if not runs:
        raise UsageError("a leaderboard needs at least one run")
    parts: list[RenderableType] = []
    for members in comparable_groups(runs):
        parts += [_board(members), *_marks(members), _asr_side_by_side(members)]
    return Group(*parts)


def _marks(members: Sequence[RunData]) -> list[Text]:
    """What the marked runs of a leaderboard differ in."""
    return [_plain(f"{MARK} {found}") for other in members[1:] for found in differences(members[0], other)]


def _board(members: Sequence[RunData]) -> Table:
    """What is the same in all runs stands in the title, what differs in a column, so that the table stays narrow."""
    judges = {run.judge_title for run in members}
    shared = [f"{members[0].summary.protocol.capitalize()} protocol"]
    shared += [*judges] if len(judges) == 1 else []
    shared += [f"SI over lengths {words.listed(members[0].summary.safety_index.lengths)}"]
    extra = ["judge"] if len(judges) > 1 else []
    table = _table(", ".join(shared), "run", *extra, "SI", "95% interval", "bounds", "complete", "missing", "cost", left=1 + len(extra))
    for run in sorted(members, key=_index_or_worst, reverse=True):
        table.add_row(*_board_row(run, extra, mark=f" {MARK}" if differences(members[0], run) else ""))
    return table


def _index_or_worst(run: RunData) -> float:
    value = run.summary.safety_index.value
    return -1.0 if value is None else value


def _board_row(run: RunData, extra: Sequence[str], *, mark: str) -> list[Text]:
    found = run.summary.safety_index
    status = "" if run.complete else f" ({run.summary.status.replace('_', ' ')})"
    cells = [
        run.name + mark + status,
        *(run.judge_title for _ in extra),
        words.index(found.value),
        words.index_interval(found.ci_low, found.ci_high),
        words.index_interval(found.if_missing_low, found.if_missing_high),
        words.NOTHING if found.ids is None else f"{found.complete_ids}/{found.ids}",
        words.count(sum(row.missing for row in run.summary.asr_by_turn)),
        words.dollars(run.summary.cost_usd.total),
    ]
    return [_plain(cell) for cell in cells]


def _asr_side_by_side(members: Sequence[RunData]) -> Padding:
    word = words.turn_word(members[0].summary.protocol)
    turns = _turns(members)
    judges = ", ".join(sorted({run.judge_title for run in members}))
    table = _table(f"ASR by {word} (95% interval below it), {judges}", "run", *(str(turn) for turn in turns))
    for run in members:
        rows = {row.turn: row for row in run.summary.asr_by_turn}
        found = [rows.get(turn) for turn in turns]
        table.add_row(_plain(run.name), *(words.percent(row.asr) if row else words.NOTHING for row in found))
        bounds = [
            f"{100 * row.ci_low:.0f}–{100 * row.ci_high:.0f}" if row and row.ci_low is not None and row.ci_high is not None else ""
            for row in found
        ]
        table.add_row("", *(Text(bound, style="dim") for bound in bounds))
    return Padding(table, (1, 0, 1, 0))


def _turns(members: Sequence[RunData]) -> list[int]:
    return sorted({row.turn for run in members for row in run.summary.asr_by_turn})


def correction_report(correction: Correction) -> RenderableType:
    """A run's scores corrected for its judge's errors beside the raw ones."""
    run, scores = correction.run, correction.scores
    what = "length" if run.summary.protocol == "scripted" else "length (final turns)"
    extra = () if correction.powered is None else ("powered", "95% interval")
    table = _table(f"{run.name}, corrected for the judge's errors", what, "as judged", "Rogan–Gladen", "95% interval", "this run's", *extra)
    for row in corrected_rows(correction):
        intervals = (words.percent_interval(row[f"{which}_low"], row[f"{which}_high"]) for which in ("ci", "run"))
        corrected = (words.percent(row["asr"]), *intervals)
        own = (words.percent(row["powered"]), words.percent_interval(row["powered_low"], row["powered_high"])) if extra else ()
        table.add_row(f"ASR {row['length']}", words.percent(row["raw_asr"]), *corrected, *own)
    index = scores.safety_index
    interval = words.index_interval(index.ci_low, index.ci_high)
    table.add_row("SI", words.index(scores.raw_safety_index), words.index(index.value), interval, "", *("",) * len(extra))
    return Group(Padding(table, (1, 0, 1, 0)), *(_plain(sentence) for sentence in correction_notes(correction)))


def compare_runs(a: RunData, b: RunData, *, seed: int = 0, anyway: bool = False) -> Comparison:
    """The paired comparison of two runs of the same protocol, over harmful dialogues and, if live, their final turns.

    Raises:
        UsageError: The scores do not compare and ``anyway`` is not set, the protocols differ, or the runs share no dialogue.
    """
    found = differences(a, b, paired=True)
    if a.summary.protocol != b.summary.protocol:
        raise UsageError(
            f"{a.name} is {a.summary.protocol} and {b.name} is {b.summary.protocol}; scripted and live scores mean different things, "
            "so compare runs of one protocol"
        )
    if not anyway:
        refuse_incomparable(found, a.name)
    return compare(score_frame(a.verdicts), score_frame(b.verdicts), name_a=a.name, name_b=b.name, seed=seed)


def comparison_report(a: RunData, b: RunData, comparison: Comparison) -> RenderableType:
    """What changes from A to B: the sentence, both scores, then length by length and scenario by scenario."""
    judges = a.judge_title if a.judge_title == b.judge_title else f"A: {a.judge_title}; B: {b.judge_title}"
    opening = [
        _plain(comparison.sentence),
        _plain(f"Judge: {judges}. {comparison.ids} ids in both; {comparison.unpaired_cells} pairs lack a verdict and are left out."),
        _plain(f"SI over the {comparison.complete_ids} ids complete in both; bounds hold whatever the missing verdicts of each run are."),
    ]
    opening += [_plain(f"{MARK} Not comparable: {found}") for found in differences(a, b, paired=True)]
    tables = [_both_scores(a, b, comparison), _differences(comparison.by_length, "length", f"ASR by {_final(a)}, A against B")]
    if comparison.by_scenario is not None:
        tables.append(_differences(comparison.by_scenario, "scenario", "ASR by scenario, all lengths together"))
    return Group(*opening, *(Padding(table, (1, 0, 0, 0)) for table in tables))


def _final(run: RunData) -> str:
    return "length" if run.summary.protocol == "scripted" else "length (final turns)"


def _both_scores(a: RunData, b: RunData, comparison: Comparison) -> Table:
    table = _table(f"A = {a.name}, B = {b.name}; judged in both", "score", "A", "B", "B - A", "95% interval")
    asr, index = comparison.asr_difference, comparison.safety_index_difference
    table.add_row(
        "ASR, all lengths", _share(comparison.asr_a), _share(comparison.asr_b), _points(asr.value), _span(asr.ci_low, asr.ci_high)
    )
    table.add_row(
        f"SI, lengths {words.listed(comparison.lengths)}",
        _number(comparison.safety_index_a),
        _number(comparison.safety_index_b),
        _number(index.value, sign=True),
        f"{_number(index.ci_low, sign=True)} to {_number(index.ci_high, sign=True)}",
    )
    rates = (comparison.asr_bounds_a, comparison.asr_bounds_b)
    table.add_row("ASR bounds", *(words.percent_interval(*own) for own in rates), "", "")
    bounds = (comparison.safety_index_bounds_a, comparison.safety_index_bounds_b)
    table.add_row("SI bounds", *(words.index_interval(*own) for own in bounds), "", "")
    return table


def _differences(frame: pl.DataFrame, what: str, title: str) -> Table:
    table = _table(title, what, "pairs", "A", "B", "B - A", "95% interval", "p (Holm)", left=int(what == "scenario"))
    for row in frame.iter_rows(named=True):
        table.add_row(
            _plain(row[what]),
            words.count(row["pairs"]),
            _share(row["asr_a"]),
            _share(row["asr_b"]),
            _points(row["difference"]),
            _span(row["ci_low"], row["ci_high"]),
            _p_value(row["p_holm"]),
        )
    return table


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _share(value: float | None) -> str:
    return words.percent(_known(value))


def _points(value: float | None) -> str:
    return words.NOTHING if _known(value) is None or value is None else f"{100 * value:+.1f}"


def _span(low: float | None, high: float | None) -> str:
    return words.NOTHING if _known(low) is None or _known(high) is None else f"{_points(low)} to {_points(high)}"


def _number(value: float | None, *, sign: bool = False) -> str:
    if _known(value) is None:
        return words.NOTHING
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def _p_value(value: float | None) -> str:
    if (known := _known(value)) is None:
        return words.NOTHING
    return "<0.001" if known < 0.001 else f"{known:.3f}"
