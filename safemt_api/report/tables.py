"""The tables of runs, each said once: scores, what they rest on, what they cost, several runs side by side, and the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import polars as pl

from safemt_api import words
from safemt_api.calibration.agreement import Agreement
from safemt_api.calibration.correction import Correction, corrected_rows
from safemt_api.errors import UsageError
from safemt_api.messages import PURPOSES, Outcome
from safemt_api.metrics.asr import asr_by, live_asr_by_turn, tallied
from safemt_api.metrics.comparison import Comparison
from safemt_api.metrics.first_failure import first_failure
from safemt_api.metrics.frames import score_frame, turn_frame
from safemt_api.report.table import (
    NOTHING,
    Cell,
    Column,
    Table,
    change,
    count,
    dollars,
    index,
    indexes,
    p_value,
    percent,
    percents,
    points,
    said,
)
from safemt_api.runs.overview import RunOverview
from safemt_api.runs.record import RunData
from safemt_api.runs.summary import Costs, Drift, DriftPart, Index
from safemt_api.studies.comparability import MARK, comparable_groups, differences
from safemt_api.studies.record import SafetyIndexFigures

METHODS_UNKNOWN = "not named"
MOST_NAMED = 4
CURVE = ("share", "ci_low", "ci_high", "if_missing_safe", "if_missing_unsafe")


class Rate(Protocol):
    """ASR at one turn, as summaries and studies hold it."""

    @property
    def turn(self) -> int: ...
    @property
    def asr(self) -> float | None: ...
    @property
    def ci_low(self) -> float | None: ...
    @property
    def ci_high(self) -> float | None: ...


class Scored(Protocol):
    """Whatever has scores: a run's summary, a place in a study's ranks."""

    @property
    def asr_by_turn(self) -> Sequence[Rate]: ...
    @property
    def safety_index(self) -> Index | SafetyIndexFigures: ...


def by_protocol(runs: Sequence[RunData]) -> list[tuple[str, list[RunData]]]:
    """Scripted and live runs apart: their numbers never share a table or a chart."""
    groups = [(protocol, [run for run in runs if run.summary.protocol == protocol]) for protocol in ("scripted", "live")]
    return [(protocol, members) for protocol, members in groups if members]


def run_labels(runs: Sequence[RunData]) -> list[str]:
    """Names that are distinct even if two folders share one."""
    names = [words.printable(run.name, limit=48) for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({place + 1})" for place, name in enumerate(names)]


def judges_of(runs: Sequence[RunData]) -> str:
    """The judges of the runs, each once."""
    return ", ".join(sorted({run.judge_title for run in runs}))


def status_of(run: RunData) -> str:
    """What stands behind the name of a run that is not whole."""
    return "" if run.complete else f" ({run.summary.status.replace('_', ' ')})"


def index_basis(index: Index, *, aside: str = "") -> str:
    """Complete ids and bounds in words, an aside, and a warning where the value lies above the bounds; empty where they are unknown."""
    above = "; the value lies above them: ids that lack a verdict waver more than the complete ones" if index.above_bounds else ""
    basis = words.index_basis(index.complete_ids, index.ids, index.if_missing_low, index.if_missing_high)
    return basis and f"{basis}{aside}{above}"


Grouping = Literal["scenario", "method", "data_source"]
GROUPINGS: Mapping[Grouping, str] = {"method": "method", "data_source": "source"}
"""What else dialogues are grouped by, and what it is called in titles."""


def scores_by(run: RunData, what: Grouping = "scenario") -> pl.DataFrame:
    """ASR of each scenario, method or source at each turn: ``what``, ``turn``, ``unsafe``, ``safe``, ``missing``, ``asr`` (null if none was
    judged). Dialogues of which nobody told the method or source are left out.

    ``turn`` is the length in the scripted protocol and the position in the live one, as in ``summary.json``.
    """
    columns = (what, "turn", "unsafe", "safe", "missing", "asr")
    if run.summary.protocol == "scripted":
        frame = score_frame(run.verdicts).filter(pl.col(what).is_not_null())
        if not frame.height:
            return pl.DataFrame(schema=dict.fromkeys(columns, pl.Null))
        return asr_by(frame, what).rename({"length": "turn"}).select(columns)
    parts = turn_frame(run.verdicts).filter(pl.col(what).is_not_null()).partition_by(what, as_dict=True)
    scored = [live_asr_by_turn(part).with_columns(pl.lit(str(key[0])).alias(what)).select(columns) for key, part in sorted(parts.items())]
    return pl.concat(scored) if scored else pl.DataFrame(schema=dict.fromkeys(columns, pl.Null))


def failure_curve(run: RunData) -> pl.DataFrame:
    """Share that has failed by each turn: ``turn``, ``share``, ``ci_low``, ``ci_high``, ``if_missing_safe``, ``if_missing_unsafe``.

    Kaplan–Meier estimates. Scripted: share of ids unsafe at any length up to k. Live: share of dialogues unsafe at any turn up to t,
    which is the cumulative ASR.
    """
    if run.summary.protocol == "scripted":
        return first_failure(score_frame(run.verdicts)).select(*CURVE, turn="length")
    names = ("cumulative_asr", *(f"cumulative_{name}" for name in CURVE[1:]))
    rows = [(*(getattr(row, name) for name in names), row.turn) for row in run.summary.asr_by_turn]
    return pl.DataFrame(rows, schema={**dict.fromkeys(CURVE, pl.Float64), "turn": pl.Int64}, orient="row")


def outcome_counts(run: RunData) -> dict[str, int]:
    """Calls to the target by outcome, in the vocabulary's order, unknown ones last."""
    known = {outcome.value: run.summary.outcomes.get(outcome.value, 0) for outcome in Outcome}
    return known | {name: count for name, count in run.summary.outcomes.items() if name not in known}


def asr_table(run: RunData) -> Table:
    """ASR by turn: interval, counts, and what the missing verdicts leave open."""
    word, rows = words.turn_word(run.summary.protocol), run.summary.asr_by_turn
    so_far = [percent(row.cumulative_asr, row.cumulative_ci_low, row.cumulative_ci_high) for row in rows]
    return Table(
        f"ASR by {word}, {run.judge_title}",
        (
            Column(word, [count(row.turn) for row in rows]),
            Column("ASR", [percent(row.asr, row.ci_low, row.ci_high) for row in rows], interval="beside"),
            *([Column("so far", so_far, on=("page",))] if run.summary.protocol == "live" else []),
            Column("unsafe", [count(row.unsafe) for row in rows]),
            Column("safe", [count(row.safe) for row in rows]),
            Column("missing", [count(row.missing) for row in rows]),
            Column("bounds", [percents(row.if_missing_safe, row.if_missing_unsafe) for row in rows]),
        ),
    )


def repeats_table(run: RunData) -> Table | None:
    """The share of dialogues with any unsafe reply among their repeats; ``None`` where each was asked once."""
    found = run.summary.repeats
    if found is None:
        return None
    word, rows = words.turn_word(run.summary.protocol), found.any_unsafe_by_turn
    return Table(
        f"Dialogues with any unsafe reply in {found.n}, {run.judge_title}",
        (
            Column(word, [count(row.turn) for row in rows]),
            Column("share", [percent(row.share, row.ci_low, row.ci_high) for row in rows], interval="beside"),
            Column("any unsafe", [count(row.any_unsafe) for row in rows]),
            Column("all safe", [count(row.all_safe) for row in rows]),
            Column("incomplete", [count(row.incomplete) for row in rows]),
            Column("bounds", [percents(row.if_missing_safe, row.if_missing_unsafe) for row in rows]),
        ),
    )


def failure_table(runs: Sequence[RunData]) -> Table:
    """The share that has failed by each turn, a column each run, with its interval and what the missing verdicts leave open."""
    word, alone = words.turn_word(runs[0].summary.protocol), len(runs) == 1
    curves = [{row["turn"]: row for row in failure_curve(run).iter_rows(named=True)} for run in runs]
    turns = sorted(set().union(*curves))
    failed = [[_failed(curve.get(turn), alone=alone) for turn in turns] for curve in curves]
    return Table(
        f"Failed at this {word} or before, {judges_of(runs)}",
        (
            Column(word, [count(turn) for turn in turns]),
            *(
                Column("share" if alone else label, cells, named=not alone, interval="beside")
                for label, cells in zip(run_labels(runs), failed, strict=True)
            ),
            *(
                [Column("bounds", [percents(row["if_missing_safe"], row["if_missing_unsafe"]) for row in curves[0].values()])]
                if alone
                else []
            ),
        ),
    )


def _bounds(row: Mapping[str, float | None]) -> Cell:
    return percents(row["if_missing_safe"], row["if_missing_unsafe"])


def _failed(row: Mapping[str, float | None] | None, *, alone: bool) -> Cell:
    if row is None:
        return NOTHING
    shown = percent(row["share"], row["ci_low"], row["ci_high"])
    return shown if alone else replace(shown, lines=(f"bounds {_bounds(row).text}",))


def scenario_table(run: RunData) -> Table:
    """ASR of each scenario at each turn."""
    return _rates_table(run, "scenario", scores_by(run))


def grouped_tables(run: RunData) -> list[Table]:
    """ASR by method and by source at each turn, each where there is more than one; then how twins were told apart, where there are any."""
    found = ((what, scores_by(run, what)) for what in GROUPINGS)
    tables = [_rates_table(run, what, scores) for what, scores in found if scores[what].n_unique() > 1]
    twins = run.summary.twins
    if twins is not None:
        counts = {name: getattr(twins, name) for name in ("told_apart", "failed", "over_refused", "neither", "missing")}
        names, numbers = [name.replace("_", " ") for name in counts], list(counts.values())
        share = [percent(twins.share, twins.ci_low, twins.ci_high), *(NOTHING for _ in numbers[1:])]
        pairs = Column("pairs", [count(number) for number in numbers])
        columns = (Column("twins", [said(name) for name in names], number=False), pairs, Column("share", share))
        tables.append(Table(f"Harmful dialogues and their benign twins, {run.judge_title}", columns))
    return tables


def drift_tables(run: RunData) -> list[Table]:
    """What the run scored before and after somebody else answered under the target's or a judge's name, beside the whole of it."""
    return [_drift_table(run, drift) for drift in run.summary.drift]


def _drift_table(run: RunData, drift: Drift) -> Table:
    scored: list[Scored] = [run.summary, *drift.parts]
    word = words.turn_word(run.summary.protocol)
    verdicts = run.verdicts.filter("counts")
    whole = (verdicts.select("dialogue_id", "length", "repeat").n_unique(), verdicts["dialogue_id"].n_unique())
    sizes = [(*whole, None), *((part.dialogues, part.ids, part.ids_elsewhere) for part in drift.parts)]
    dialogues, ids, elsewhere = ([NOTHING if size is None else count(size) for size in column] for column in zip(*sizes, strict=True))
    names = ["the whole run", *(answerers(part) for part in drift.parts)]
    what = "served model" if drift.what == "served_model" else "system fingerprint"
    return Table(
        f"Scores by who answered ({drift.party}, {what}), {run.judge_title}",
        (
            Column("answered", [said(name) for name in names], number=False, named=True),
            Column("dialogues", dialogues),
            Column("ids", ids),
            Column("shared", elsewhere, long="ids shared"),
            *index_columns(scored),
            *rate_columns(scored, long=word, part=f"ASR by {word} (95% interval below it), {run.judge_title}"),
        ),
        name=f"drift-{drift.party}",
    )


def answerers(part: DriftPart) -> str:
    """The names or fingerprints of a part, the commonest first."""
    more = f" and {words.count(len(part.values) - MOST_NAMED)} more" if len(part.values) > MOST_NAMED else ""
    return ", ".join(words.printable(value, limit=60) for value in list(part.values)[:MOST_NAMED]) + more


def _rates_table(run: RunData, what: Grouping, scores: pl.DataFrame) -> Table:
    cells = {(row[what], row["turn"]): row for row in scores.iter_rows(named=True)}
    values, turns = (sorted(scores[name].unique().to_list()) for name in (what, "turn"))
    missing = [sum(cells[value, turn]["missing"] for turn in turns if (value, turn) in cells) for value in values]
    name = GROUPINGS.get(what, what)
    return Table(
        f"ASR by {name} and {words.turn_word(run.summary.protocol)}, {run.judge_title}",
        (
            Column(name, [said(value) for value in values], number=False),
            *(Column(str(turn), [percent(cells.get((one, turn), {}).get("asr")) for one in values]) for turn in turns),
            Column("missing", [count(number) for number in missing], on=("page",)),
        ),
    )


def outcome_table(runs: Sequence[RunData]) -> Table:
    """What the vendor did with the calls, a column each run; of several runs only the outcomes that occurred."""
    alone, counts = len(runs) == 1, [outcome_counts(run) for run in runs]
    names = [name for name in dict.fromkeys(name for own in counts for name in own) if alone or any(own.get(name) for own in counts)]
    totals = [sum(own.values()) for own in counts]
    return Table(
        "Outcomes",
        (
            Column("outcome", [said(name.replace("_", " ")) for name in names], number=False),
            *(
                Column(
                    "replies" if alone else label, [_tally(own.get(name, 0), total) for name in names], interval="beside", beside="share"
                )
                for label, own, total in zip(run_labels(runs), counts, totals, strict=True)
            ),
        ),
    )


def _tally(number: int, total: int) -> Cell:
    return Cell(words.count(number), number, words.percent(number / total if total else None))


def cost_table(runs: Sequence[RunData]) -> Table:
    """Money, calls, tokens and time, a column each run."""
    columns = [_costs(run) for run in runs]
    titles = ["this run"] if len(runs) == 1 else run_labels(runs)
    return Table(
        "Cost and calls",
        (
            Column("", [said(name) for name in columns[0]], number=False),
            *(Column(title, list(cells.values()), named=len(runs) > 1) for title, cells in zip(titles, columns, strict=True)),
        ),
    )


def below_list_price(money: Costs) -> list[str]:
    """What the replies would have cost at list price, and what made the difference; nothing where there is none."""
    parts = [
        f"{words.dollars(abs(usd))} {'less' if usd > 0 else 'more'} for {what}"
        for what, usd in (("the tier", money.saved_usd), ("caches", money.saved_by_caches_usd))
        if usd
    ]
    return [f"{words.dollars(money.list_usd)} at list price, {' and '.join(parts)}"] if parts else []


def _costs(run: RunData) -> dict[str, Cell]:
    money, calls, tokens = run.summary.cost_usd, run.summary.calls, run.summary.usage
    return {
        "total cost": dollars(money.total),
        **{name: dollars(getattr(money, name)) for name in PURPOSES},
        "less for the tier": dollars(money.saved_usd),
        "less for caches": dollars(money.saved_by_caches_usd),
        "at list price": dollars(money.list_usd),
        "may also have been billed": dollars(money.maybe_usd),
        "calls sent": count(calls.sent),
        "from the store": count(calls.from_store),
        "retried": count(calls.retried),
        "rate limited": count(calls.rate_limited),
        "input tokens": count(tokens.input_tokens),
        "of which cached": count(tokens.cached_input_tokens),
        "replies of unreadable usage": count(tokens.unreadable),
        "output tokens": count(tokens.output_tokens),
        "wall time": Cell(words.duration(run.summary.wall_seconds), run.summary.wall_seconds),
    }


def rate_columns(scored: Sequence[Scored], *, long: str, part: str = "") -> list[Column]:
    """ASR of several at each turn that any of them has, a column each; ``long`` and the turn make its heading where there is room."""
    own = [{rate.turn: rate for rate in one.asr_by_turn} for one in scored]
    return [
        Column(
            str(turn),
            [percent(rate.asr, rate.ci_low, rate.ci_high) if (rate := rates.get(turn)) else NOTHING for rates in own],
            long=f"{long} {turn}",
            part=part,
            interval="below",
        )
        for turn in sorted(set().union(*own))
    ]


def index_columns(scored: Sequence[Scored]) -> tuple[Column, Column, Column]:
    """The Safety Index with its interval, its outer bounds and the complete ids it rests on; the page says these below it."""
    found = [one.safety_index for one in scored]
    bounds = [indexes(one.if_missing_low, one.if_missing_high) for one in found]
    return (
        Column("SI", [index(one.value, one.ci_low, one.ci_high, lines=basis_of(one)) for one in found], interval="beside"),
        Column("bounds", bounds, long="SI bounds", on=("terminal", "paper")),
        Column(
            "complete",
            [NOTHING if one.ids is None else said(f"{one.complete_ids}/{one.ids}") for one in found],
            long="complete ids",
            on=("terminal", "paper"),
        ),
    )


def basis_of(found: Index | SafetyIndexFigures) -> tuple[str, ...]:
    """What must stand below a Safety Index: complete ids, bounds, and a warning where it lies above them."""
    whole = Index.model_validate(found.model_dump())
    return (index_basis(whole),) if whole.ids else ()


def leaderboard_tables(runs: Sequence[RunData]) -> list[Table]:
    """Several runs side by side, one table a protocol and set of lengths, safest first by SI; what does not compare is marked.

    Raises:
        UsageError: No run is given.
    """
    if not runs:
        raise UsageError("a leaderboard needs at least one run")
    return [_board(members, runs) for members in comparable_groups(runs)]


def _board(members: Sequence[RunData], runs: Sequence[RunData]) -> Table:
    """What is the same in all runs stands in the title, what differs in a column, so that the table stays narrow."""
    first, labels = members[0].summary, run_labels(runs)
    ranked = sorted(
        members, key=lambda run: -1.0 if run.summary.safety_index.value is None else run.summary.safety_index.value, reverse=True
    )
    apart = {id(run): differences(members[0], run) for run in members}
    judges, word, summaries = {run.judge_title for run in members}, words.turn_word(first.protocol), [run.summary for run in ranked]
    places = [next(place for place, run in enumerate(runs) if run is member) for member in ranked]
    names = [f"{labels[place]}{f' {MARK}' if apart[id(run)] else ''}{status_of(run)}" for place, run in zip(places, ranked, strict=True)]
    lengths, protocol = words.listed(first.safety_index.lengths), f"{first.protocol.capitalize()} protocol"
    of = "lengths" if first.protocol == "scripted" else "the last turns of lengths"
    judge = [*judges] if len(judges) == 1 else []
    return Table(
        ", ".join([protocol, *judge, f"SI over lengths {lengths}"]),
        (
            Column("run", [said(name, look=place) for name, place in zip(names, places, strict=True)], number=False),
            Column("model", [said(one.model or words.NOTHING) for one in summaries], number=False, on=("page",)),
            *([] if judge else [Column("judge", [said(run.judge_title) for run in ranked], number=False)]),
            *index_columns(summaries),
            *rate_columns(summaries, long="ASR", part=f"ASR by {word} (95% interval below it), {judges_of(members)}"),
            Column("missing", [count(sum(row.missing for row in one.asr_by_turn)) for one in summaries]),
            Column("cost", [dollars(one.cost_usd.total) for one in summaries]),
        ),
        caption="; ".join(
            [f"{protocol}, by Safety Index", f"ASR by {word}", f"SI over {of} {lengths}", *(f"judge: {name}" for name in judge)]
        )
        + ". Intervals are 95%.",
        notes=tuple(f"{MARK} {found}" for all_found in apart.values() for found in all_found),
    )


def comparison_tables(a: RunData, b: RunData, comparison: Comparison) -> list[Table]:
    """What changes from A to B: both scores, then length by length and scenario by scenario."""
    final = "length" if a.summary.protocol == "scripted" else "length (final turns)"
    parts = [_both_scores(a, b, comparison), _differences(comparison.by_length, "length", f"ASR by {final}, A against B")]
    if comparison.by_scenario is not None:
        parts.append(_differences(comparison.by_scenario, "scenario", "ASR by scenario, all lengths together"))
    return parts


def _both_scores(a: RunData, b: RunData, found: Comparison) -> Table:
    asr, si, blank = found.asr_difference, found.safety_index_difference, said("")
    names = ("ASR, all lengths", f"SI, lengths {words.listed(found.lengths)}", "ASR bounds", "SI bounds")
    one = [percent(found.asr_a), index(found.safety_index_a), percents(*found.asr_bounds_a), indexes(*found.safety_index_bounds_a)]
    other = [percent(found.asr_b), index(found.safety_index_b), percents(*found.asr_bounds_b), indexes(*found.safety_index_bounds_b)]
    changes = [points(asr.value, asr.ci_low, asr.ci_high), change(si.value, si.ci_low, si.ci_high), blank, blank]
    return Table(
        f"A = {a.name}, B = {b.name}; judged in both",
        (
            Column("score", [said(name) for name in names], number=False),
            Column("A", one),
            Column("B", other),
            Column("B - A", changes, interval="beside"),
        ),
    )


def _differences(frame: pl.DataFrame, what: str, title: str) -> Table:
    rows = frame.to_dicts()
    return Table(
        title,
        (
            Column(what, [said(row[what]) for row in rows], number=what != "scenario"),
            Column("pairs", [count(row["pairs"]) for row in rows]),
            Column("A", [percent(row["asr_a"]) for row in rows]),
            Column("B", [percent(row["asr_b"]) for row in rows]),
            Column("B - A", [points(row["difference"], row["ci_low"], row["ci_high"]) for row in rows], interval="beside"),
            Column("p (Holm)", [p_value(row["p_holm"]) for row in rows]),
        ),
    )


def correction_table(correction: Correction) -> Table:
    """A run's scores corrected for its judge's errors beside the raw ones."""
    run, scores, rows = correction.run, correction.scores, corrected_rows(correction)
    found, powered = scores.safety_index, correction.powered is not None
    own = [percent(row["powered"], row["powered_low"], row["powered_high"]) for row in rows]
    corrected = [percent(row["asr"], row["ci_low"], row["ci_high"]) for row in rows]
    return Table(
        f"{run.name}, corrected for the judge's errors",
        (
            Column(
                "length" if run.summary.protocol == "scripted" else "length (final turns)",
                [*(said(f"ASR {row['length']}") for row in rows), said("SI")],
                number=False,
            ),
            Column("as judged", [*(percent(row["raw_asr"]) for row in rows), index(scores.raw_safety_index)]),
            Column("Rogan–Gladen", [*corrected, index(found.value, found.ci_low, found.ci_high)], interval="beside"),
            Column("this run's", [*(percents(row["run_low"], row["run_high"]) for row in rows), said("")]),
            *([Column("powered", [*own, said("")], long="prediction-powered", interval="beside")] if powered else []),
        ),
    )


def confusion_table(found: Agreement) -> Table:
    """The judge against labels made by hand."""
    return Table(
        "",
        (
            Column("labelled by hand", [said("unsafe"), said("safe")], number=False),
            Column("judged unsafe", [count(found.true_unsafe), count(found.false_unsafe)]),
            Column("judged safe", [count(found.false_safe), count(found.true_safe)]),
        ),
    )


def paper_tables(
    runs: Sequence[RunData], references: Mapping[str, str] | None = None, groups: Sequence[Sequence[RunData]] | None = None
) -> list[Table]:
    """The paper's tables (arXiv 2510.12133), group by group of runs that may share one: scores, by scenario, by method, before and after
    a defence.

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
    groups, made = groups or comparable_groups(runs), []
    for number, members in enumerate(groups, start=1):
        suffix = f"-{number}" if len(groups) > 1 else ""
        grouped = []
        for what in ("scenario", *GROUPINGS):
            found = [rates_by(run, what) for run in members]
            values = sorted(set().union(*found))
            if values and values != [METHODS_UNKNOWN]:  # some dialogue names one
                name = GROUPINGS.get(what, what)
                columns = [Column(value, [percent(rates.get(value)) for rates in found]) for value in values]
                title = f"Attack success rate (%) by {name}, all lengths together. Judge: {judges_of(members)}."
                grouped.append(Table(title, (_models(members), *columns), name=f"by-{name}"))
        own = (scores_table(members), *grouped, _defences(members, references))
        made += [Table(one.title, one.columns, one.caption, one.name + suffix) for one in own if one is not None]
    cut = [(run, table) for run in runs for table in drift_tables(run)]
    return made + [
        replace(table, title=f"{run.name}: {table.title}.", name=f"{table.name}-{number}")
        for number, (run, table) in enumerate(cut, start=1)
    ]


def scores_table(members: Sequence[RunData]) -> Table:
    """ASR by turn and SI, a row each run."""
    first, summaries = members[0].summary, [run.summary for run in members]
    word = words.turn_word(first.protocol)
    title = (
        f"Attack success rate (%) by {word} and Safety Index over lengths {words.listed(first.safety_index.lengths)}, {first.protocol} "
        f"protocol. 95% intervals over dialogue ids; bounds hold whatever the missing verdicts are. Judge: {judges_of(members)}."
    )
    missing = Column("missing", [count(sum(row.missing for row in one.asr_by_turn)) for one in summaries])
    return Table(title, (_models(members), *rate_columns(summaries, long=word), *index_columns(summaries), missing), name="scores")


def rates_by(run: RunData, what: Grouping) -> dict[str, float | None]:
    """ASR over all lengths together by each value of a column."""
    frame = score_frame(run.verdicts)
    if what != "scenario":
        # Verdicts of earlier versions do not tell it; transcripts do.
        told = run.transcripts.select("dialogue_id", "length", what).unique()
        frame = frame.drop(what, strict=False).join(told, on=("dialogue_id", "length"), how="left")
        frame = frame.with_columns(pl.col(what).fill_null(METHODS_UNKNOWN))
    return {row[what]: row["asr"] for row in tallied(frame, [what]).iter_rows(named=True)}


def _defences(members: Sequence[RunData], references: Mapping[str, str] | None) -> Table | None:
    pairs = []
    for run in (one for one in members if one.summary.moderator is not None):
        if references is not None:
            before = [one for one in members if one.name == references.get(run.name)][:1]
        else:
            before = [one for one in members if one.summary.moderator is None and one.model_title == run.model_title]
        if len(before) == 1:
            pairs.append((before[0], run))
    if not pairs:
        return None
    word = words.turn_word(members[0].summary.protocol)
    rates = [[{row.turn: row.asr for row in run.summary.asr_by_turn} for run in pair] for pair in pairs]
    turns = sorted(set().union(*(own for both in rates for own in both)))
    indexes_of = [[words.index(run.summary.safety_index.value) for run in pair] for pair in pairs]
    return Table(
        f"Attack success rate (%) by {word} and Safety Index, without and with a moderator. Judge: {judges_of(members)}.",
        (
            Column("Model", [said(without.summary.model or without.name) for without, _ in pairs], number=False),
            Column("Moderator", [said(after.summary.moderator or after.name) for _, after in pairs]),
            *(
                Column(f"{word} {turn}", [said(" → ".join(words.percent(own.get(turn)).rstrip("%") for own in both)) for both in rates])
                for turn in turns
            ),
            Column("SI", [said(" → ".join(both)) for both in indexes_of]),
        ),
        name="defences",
    )


def _models(members: Sequence[RunData]) -> Column:
    """Model and moderator; and the run's name where those are another's too, as in an ablation."""
    titles = [f"{run.summary.model or run.name}{f' + {run.summary.moderator}' if run.summary.moderator else ''}" for run in members]
    names = [
        f"{title}{f' ({run.name})' if titles.count(title) > 1 and title != run.name else ''}{status_of(run)}"
        for title, run in zip(titles, members, strict=True)
    ]
    return Column("Model", [said(name) for name in names], number=False)


def overview_table(found: Sequence[RunOverview]) -> Table:
    """The runs and studies of a results folder, a row each."""
    return Table(
        "",
        (
            Column("run", [said(one.run if one.arms is None else f"{one.run} ({one.arms} arms)") for one in found], number=False),
            Column("state", [said(_state(one)) for one in found], number=False),
            Column("done", [NOTHING if one.planned is None else said(f"{_tried(one):,} of {one.planned:,}") for one in found]),
            Column("missing", [count(one.missing) for one in found]),
            Column("ASR", [percent(one.asr) for one in found]),
            Column("cost", [NOTHING if one.spent_usd is None else dollars(one.spent_usd) for one in found]),
            Column("age", [NOTHING if one.age_seconds is None else said(brief_age(one.age_seconds)) for one in found]),
        ),
    )


def _tried(one: RunOverview) -> int:
    return (one.finished or 0) + (one.failed or 0)


def _state(one: RunOverview) -> str:
    state: str = one.state
    if one.state == "running":
        state = f"running ({(one.player or '').partition(' since ')[0]})"
    elif one.state == "damaged":
        state = f"damaged: {one.problem}"
    if one.shards is not None:
        state += f", {one.shards_over} of {one.shards} shards over"
    return state if one.in_batches is None else f"{state}; {one.in_batches}"


def brief_age(seconds: float) -> str:
    """An age in its largest unit: 40 s, 12 min, 3 h, 9 d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
