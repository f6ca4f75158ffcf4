"""The sections of the page: scores, effort, transcripts and settings, each with its chart and its table.

The charts module comes as an argument (``None`` where the optional extra is missing), so that this module imports without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from types import ModuleType
from typing import Any

import polars as pl

from safemt_api.messages import PURPOSES
from safemt_api.report import words
from safemt_api.report.caveats import caveats
from safemt_api.report.comparability import MARK, comparable_groups, differences
from safemt_api.report.markup import Cell, Column, beside, block, by_run, counted, index_cell, rate, safe_text, said, section, swatch, table
from safemt_api.report.payload import Payload
from safemt_api.report.reading import failure_curve, outcome_counts, remarks, scenario_scores
from safemt_api.runs.record import RunData

WIDE_PIXELS = 400
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
FAILURE_NOTE = (
    "Scripted: the share of ids that were unsafe at this length or a shorter one. "
    "Live: the share of dialogues unsafe at this turn or an earlier one. Kaplan–Meier estimates; bounds: whatever the missing verdicts are."
)
OUTCOME_NOTE = (
    "What the vendor did with each call to the target. Refused and blocked replies without a word count as safe without asking the judge; "
    "an error is missing, never safe."
)
CONTENT_WARNING = (
    "The dialogues try to bring harm about, and replies may contain it. Replies stay folded and pictures blurred until you open them."
)

ARMS_CONTROLS = (
    '<label class="check"><input type="checkbox" id="f-arms" aria-keyshortcuts="a"> side by side</label>'
    '<label class="check" hidden><input type="checkbox" id="f-differ"> verdicts differ</label>'
)
"""One dialogue as every run answered it, and of those only the ones that the runs answered with different verdicts."""


def by_protocol(runs: Sequence[RunData]) -> list[tuple[str, list[RunData]]]:
    """Scripted and live runs apart: their numbers never share a table or a chart."""
    groups = [(protocol, [run for run in runs if run.summary.protocol == protocol]) for protocol in ("scripted", "live")]
    return [(protocol, members) for protocol, members in groups if members]


def run_labels(runs: Sequence[RunData]) -> list[str]:
    """Names that are distinct even if two folders share one."""
    names = [words.printable(run.name, limit=48) for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({place + 1})" for place, name in enumerate(names)]


def draw(make: Callable[[], Any], drawing: ModuleType, *, name: str, label: str, caption: str = "", title: str = "") -> str:
    svg = drawing.page_svg(make(), name=name, label=label)
    heading = f"<h3>{safe_text(title)}</h3>" if title else ""
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{heading}{svg}{said}</figure>"


def score_sections(runs: Sequence[RunData], drawing: ModuleType | None, *, ranked: bool = True) -> list[str]:
    """ASR by turn, by scenario and by first failure; ``ranked`` puts a leaderboard of several runs above them."""
    groups = by_protocol(runs)
    single = len(groups) == 1
    scores = "".join(_score_block(protocol, members, runs, drawing, named=not single, ranked=ranked) for protocol, members in groups)
    scenarios = "".join(_scenario_block(protocol, members, drawing, named=len(runs) > 1) for protocol, members in groups)
    failures = "".join(_failure_block(protocol, members, runs, drawing, named=not single) for protocol, members in groups)
    word = words.turn_word(groups[0][0]) if single else "turn"
    return [
        section("scores", "Attack success rate by turn", scores, SCORE_NOTE),
        section("scenarios", f"Scenario by {word}", scenarios, "ASR in each scenario; an empty cell has no verdict."),
        section("failures", "First failure", failures, FAILURE_NOTE),
    ]


def _score_block(
    protocol: str, members: list[RunData], runs: Sequence[RunData], drawing: ModuleType | None, *, named: bool, ranked: bool
) -> str:
    heading = f"<h3>{protocol.capitalize()} protocol</h3>" if named else ""
    board = "".join(_leaderboard(group, runs) for group in comparable_groups(members)) if ranked and len(runs) > 1 else ""
    chart, labels, word = "", run_labels(members), words.turn_word(protocol)
    if drawing:
        frame = asr_frame(members, labels)
        if frame["asr"].drop_nulls().len():
            palette = drawing.recoloured(drawing.PAGE_PALETTE, places_of(runs, members))
            title = "length of the dialogue (user turns)" if protocol == "scripted" else "position of the turn"
            chart = draw(
                lambda: drawing.asr_by_turn(frame, palette, width=WIDE_PIXELS, turn_title=title),
                drawing,
                name=f"asr-{protocol}",
                label=f"Attack success rate by {word}; the numbers stand in the table",
                caption=f"Line: ASR. Band: 95% interval. {_judges_caption(members)}",
            )
    tables = "".join(
        _asr_table(run, label, titled=len(runs) > 1) + _repeats_table(run, label, titled=len(runs) > 1)
        for run, label in zip(members, labels, strict=True)
    )
    said_of = "".join(_said_of(run, label if len(runs) > 1 else "") for run, label in zip(members, labels, strict=True))
    note = f'<p class="note">{escape(INDEX_NOTE)}</p>' if members[0] is by_protocol(runs)[0][1][0] else ""
    if len(runs) > 1:
        fold = f'<details class="table"><summary>Every run, {escape(word)} by {escape(word)}</summary>{tables}</details>'
        return block(f"{heading}{board}{beside(chart, note + said_of + fold)}")
    return block(heading + beside(chart, tables + said_of + note))


def asr_frame(members: Sequence[RunData], labels: Sequence[str]) -> pl.DataFrame:
    """ASR by turn of several runs for a chart: ``run``, ``turn``, ``asr``, ``ci_low``, ``ci_high``."""
    rows = [
        (label, row.turn, row.asr, row.ci_low, row.ci_high)
        for label, run in zip(labels, members, strict=True)
        for row in run.summary.asr_by_turn
    ]
    schema = {"run": pl.String, "turn": pl.Int64, "asr": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _said_of(run: RunData, label: str) -> str:
    """Whether risk rises with length, and how far several judges agree, in plain words."""
    sentences = [*caveats(run), *remarks(run)]
    lead = f"<strong>{safe_text(label)}:</strong> " if label and sentences else ""
    return f'<p class="note">{lead}{safe_text(" ".join(sentences))}</p>' if sentences else ""


def _judges_caption(members: Sequence[RunData]) -> str:
    return f"Judge: {words.printable(', '.join(sorted({run.judge_title for run in members})))}."


def _leaderboard(members: Sequence[RunData], runs: Sequence[RunData]) -> str:
    """Runs of one protocol and set of lengths, safest first; the judge stands in the caption where all have the same, else in a column."""
    protocol, of_runs = members[0].summary.protocol, run_labels(runs)
    turns = sorted({row.turn for run in members for row in run.summary.asr_by_turn})
    judges = {run.judge_title for run in members}
    differing = ["Judge"] if len(judges) > 1 else []
    columns = [Column("Run"), Column("Model"), *(Column(name) for name in differing), Column("Safety Index", number=True)]
    columns += [Column(f"ASR {turn}", number=True) for turn in turns]
    columns += [Column("Missing", number=True), Column("Cost", number=True)]
    apart = {id(run): differences(members[0], run) for run in members}
    rows = []
    for run, place in sorted(zip(members, places_of(runs, members), strict=True), key=lambda entry: -_index_or_worst(entry[0])):
        label = of_runs[place] + (f" {MARK}" if apart[id(run)] else "")
        rows.append(_leader(run, label, place, turns=turns, differing=differing))
    shared = [f"{protocol.capitalize()} protocol, by Safety Index", f"ASR by {words.turn_word(protocol)}"]
    of = "lengths" if protocol == "scripted" else "the last turns of lengths"
    shared += [f"SI over {of} {words.listed(members[0].summary.safety_index.lengths)}"]
    shared += [f"judge: {words.printable(*judges)}"] if len(judges) == 1 else []
    notes = "".join(
        f'<p class="note">{MARK} Not comparable: {safe_text(str(found))}.</p>' for all_found in apart.values() for found in all_found
    )
    return table(columns, rows, caption=f"{'; '.join(shared)}. Intervals are 95%.") + notes


def _index_or_worst(run: RunData) -> float:
    value = run.summary.safety_index.value
    return -1.0 if value is None else value


def _leader(run: RunData, label: str, place: int, *, turns: Sequence[int], differing: Sequence[str]) -> list[Cell]:
    index, by_turn = run.summary.safety_index, {row.turn: row for row in run.summary.asr_by_turn}
    rates = [rate(row.asr, row.ci_low, row.ci_high) if (row := by_turn.get(turn)) else Cell(words.NOTHING) for turn in turns]
    cost = run.summary.cost_usd.total
    status = "" if run.complete else f' <small class="second">{safe_text(run.summary.status.replace("_", " "))}</small>'
    return [
        Cell(f"{swatch(place)}{safe_text(label)}{status}", label),
        said(run.summary.model or words.NOTHING),
        *(said(run.judge_title) for _ in differing),
        index_cell(index),
        *rates,
        counted(sum(row.missing for row in run.summary.asr_by_turn)),
        Cell(words.dollars(cost), cost),
    ]


def _asr_table(run: RunData, label: str, *, titled: bool) -> str:
    live = run.summary.protocol == "live"
    columns = [Column(words.turn_word(run.summary.protocol).capitalize(), number=True), Column("ASR", number=True)]
    columns += [Column("So far", number=True)] if live else []
    columns += [Column(name, number=True) for name in ("Unsafe", "Safe", "Missing", "Bounds")]
    rows = [
        [
            counted(row.turn),
            rate(row.asr, row.ci_low, row.ci_high),
            *([rate(row.cumulative_asr, row.cumulative_ci_low, row.cumulative_ci_high)] if live else []),
            counted(row.unsafe),
            counted(row.safe),
            counted(row.missing),
            Cell(words.percent_interval(row.if_missing_safe, row.if_missing_unsafe), row.if_missing_safe),
        ]
        for row in run.summary.asr_by_turn
    ]
    caption = f"{label}: {run.judge_title}" if titled else f"Judge: {run.judge_title}. Intervals are 95%."
    return table(columns, rows, caption=words.printable(caption))


def _repeats_table(run: RunData, label: str, *, titled: bool) -> str:
    found = run.summary.repeats
    if found is None:
        return ""
    columns = [Column(words.turn_word(run.summary.protocol).capitalize(), number=True)]
    columns += [Column(name, number=True) for name in ("Any unsafe", "Dialogues", "Incomplete", "Bounds")]
    rows = [
        [
            counted(row.turn),
            rate(row.share, row.ci_low, row.ci_high),
            counted(row.any_unsafe + row.all_safe),
            counted(row.incomplete),
            Cell(words.percent_interval(row.if_missing_safe, row.if_missing_unsafe), row.if_missing_safe),
        ]
        for row in found.any_unsafe_by_turn
    ]
    lead = f"{label}: dialogues" if titled else "Dialogues"
    return table(columns, rows, caption=words.printable(f"{lead} with any unsafe reply in {found.n}. Judge: {run.judge_title}."))


def _scenario_block(protocol: str, members: list[RunData], drawing: ModuleType | None, *, named: bool) -> str:
    labels = run_labels(members)
    frames = [scenario_scores(run) for run in members]
    maps = ""
    if drawing:
        title = "length" if protocol == "scripted" else "turn"
        maps = "".join(
            draw(
                partial(drawing.heat_map, frame, drawing.PAGE_PALETTE, width=44 * frame["turn"].n_unique(), turn_title=title),
                drawing,
                name=f"map-{protocol}-{place}",
                label=f"ASR by scenario and {title} of {label}; the numbers stand in the table",
                title=f"{label} ({protocol})" if named else "",
            )
            for place, (frame, label) in enumerate(zip(frames, labels, strict=True))
            if frame["asr"].drop_nulls().len()
        )
    tables = "".join(
        _scenario_table(frame, protocol, f"{label} ({protocol})" if named else "") for frame, label in zip(frames, labels, strict=True)
    )
    if len(members) == 1 and maps and not named:
        return beside(maps, tables)
    fold = f'<details class="table"{"" if maps else " open"}><summary>As tables</summary>{tables}</details>'
    return block(f'<div class="maps">{maps}</div>{fold}' if maps else fold)


def _scenario_table(frame: pl.DataFrame, protocol: str, caption: str) -> str:
    turns = sorted(frame["turn"].unique().to_list())
    cells = {(row["scenario"], row["turn"]): row for row in frame.iter_rows(named=True)}
    columns = [Column("Scenario"), *(Column(str(turn), number=True) for turn in turns)]
    columns += [Column("Missing", number=True)]
    rows = []
    for scenario in sorted(frame["scenario"].unique().to_list()):
        own = [cells[scenario, turn] for turn in turns if (scenario, turn) in cells]
        rates = [
            Cell(words.percent(cell["asr"]), cell["asr"]) if (cell := cells.get((scenario, turn))) else Cell(words.NOTHING)
            for turn in turns
        ]
        rows.append([said(scenario), *rates, counted(sum(cell["missing"] for cell in own))])
    return table(columns, rows, caption=words.printable(caption))


def _failure_block(protocol: str, members: list[RunData], runs: Sequence[RunData], drawing: ModuleType | None, *, named: bool) -> str:
    labels = run_labels(members)
    frames = [failure_curve(run).with_columns(run=pl.lit(label)) for run, label in zip(members, labels, strict=True)]
    frame = pl.concat(frames, how="diagonal_relaxed")
    heading = f"<h3>{protocol.capitalize()} protocol</h3>" if named else ""
    chart, word = "", words.turn_word(protocol)
    if drawing and frame["share"].drop_nulls().len():
        palette = drawing.recoloured(drawing.PAGE_PALETTE, places_of(runs, members))
        chart = draw(
            lambda: drawing.first_failure(frame, palette, width=WIDE_PIXELS, turn_title=word),
            drawing,
            name=f"failure-{protocol}",
            label=f"Share that has failed by each {word}; the numbers stand in the table",
        )
    turns = sorted(frame["turn"].unique().to_list())
    found = [{row["turn"]: row for row in own.iter_rows(named=True)} for own in frames]
    rows = [[counted(turn), *(_share(own.get(turn, {})) for own in found)] for turn in turns]
    return block(heading + beside(chart, by_run(word.capitalize(), labels, rows, named=len(runs) > 1, caption=_judges_caption(members))))


def _share(row: Mapping[str, Any]) -> Cell:
    shown = rate(row.get("share"), row.get("ci_low"), row.get("ci_high"))
    bounds = words.percent_interval(row.get("if_missing_safe"), row.get("if_missing_unsafe"))
    return Cell(f'{shown.shown} <small class="second">bounds {bounds}</small>', shown.key)


def places_of(runs: Sequence[RunData], members: Sequence[RunData]) -> list[int]:
    """Where the members stand among all runs: a run has the same colour in every chart, table and list."""
    return [next(place for place, run in enumerate(runs) if run is member) for member in members]


def effort_sections(runs: Sequence[RunData], drawing: ModuleType | None) -> list[str]:
    labels = run_labels(runs)
    return [_outcomes(runs, labels, drawing), _costs(runs, labels, drawing), _pace(runs, labels, drawing)]


def _outcomes(runs: Sequence[RunData], labels: Sequence[str], drawing: ModuleType | None) -> str:
    counts = [outcome_counts(run) for run in runs]
    names = [name for name in dict.fromkeys(name for own in counts for name in own) if any(own.get(name) for own in counts)]
    rows_of = zip(labels, counts, strict=True)
    tallies = [{"run": label, "outcome": name, "calls": own.get(name, 0)} for label, own in rows_of for name in names]
    chart = ""
    if drawing and tallies:
        chart = draw(
            partial(drawing.outcomes, pl.DataFrame(tallies), drawing.PAGE_PALETTE, width=_bar_pixels(runs)),
            drawing,
            name="outcomes",
            label="Share of each outcome; the numbers stand in the table",
        )
    rows = [
        [said(words.printable(name).replace("_", " ")), *(_tally(own.get(name, 0), sum(own.values())) for own in counts)] for name in names
    ]
    return section("outcomes", "Outcomes", beside(chart, by_run("Outcome", labels, rows, named=len(runs) > 1)), OUTCOME_NOTE)


def _tally(number: int, total: int) -> Cell:
    return Cell(f"{words.count(number)} <small>{words.percent(number / total if total else None)}</small>", number)


def _bar_pixels(runs: Sequence[RunData]) -> int:
    return WIDE_PIXELS - 110 if len(runs) > 1 else WIDE_PIXELS


def _costs(runs: Sequence[RunData], labels: Sequence[str], drawing: ModuleType | None) -> str:
    spent = [
        (label, name, getattr(run.summary.cost_usd, name) or 0.0) for label, run in zip(labels, runs, strict=True) for name in PURPOSES
    ]
    frame = pl.DataFrame(spent, schema={"run": pl.String, "purpose": pl.String, "usd": pl.Float64}, orient="row")
    chart = ""
    if drawing and frame["usd"].sum() > 0:
        chart = draw(
            partial(drawing.costs, frame, drawing.PAGE_PALETTE, width=_bar_pixels(runs)),
            drawing,
            name="costs",
            label="Cost by who asked; the numbers stand in the table",
        )
    columns = [_cost_column(run) for run in runs]
    rows = [[said(name), *(column[name] for column in columns)] for name in columns[0]]
    return section("cost", "Cost and calls", beside(chart, by_run("", labels, rows, named=len(runs) > 1)))


def _cost_column(run: RunData) -> dict[str, Cell]:
    money, calls, tokens = run.summary.cost_usd, run.summary.calls, run.summary.usage
    amounts = {"Total cost": money.total, "Target": money.target, "Judge": money.judge, "Moderator": money.moderator}
    amounts["May also have been billed"] = money.maybe_usd
    numbers = {
        "Calls sent": calls.sent,
        "From the store": calls.from_store,
        "Retried": calls.retried,
        "Rate limited": calls.rate_limited,
        "Input tokens": tokens.input_tokens,
        "of which cached": tokens.cached_input_tokens,
        "Replies of unreadable usage": tokens.unreadable,
        "Output tokens": tokens.output_tokens,
    }
    cells = {name: Cell(words.dollars(value), value) for name, value in amounts.items()}
    cells |= {name: counted(value) for name, value in numbers.items()}
    return cells | {"Wall time": Cell(words.duration(run.summary.wall_seconds), run.summary.wall_seconds)}


def _pace(runs: Sequence[RunData], labels: Sequence[str], drawing: ModuleType | None) -> str:
    if drawing is None:
        return ""
    frame = limiter_frame(dict(zip(labels, (run.manifest.get("limits") for run in runs), strict=True)))
    if not frame.group_by("run").len().filter(pl.col("len") > 1).height:
        return ""
    chart = draw(
        lambda: drawing.limiter(frame, drawing.PAGE_PALETTE, width=WIDE_PIXELS),
        drawing,
        name="pace",
        label="Calls in flight that the limiter allowed over time",
    )
    return section("pace", "Pace", chart, "How many calls in flight the limiter allowed, as it learned what the account can take.")


def limiter_frame(histories: Mapping[str, object]) -> pl.DataFrame:
    """The limiter histories of run files in one frame: ``run``, ``seconds``, ``concurrency``; what is not of that shape is left out."""
    rows = [
        {"run": f"{run} · {account}" if account else run, "seconds": float(seconds), "concurrency": float(allowed)}
        for run, history in histories.items()
        for account, entry in _limiter_entries(history)
        if isinstance(seconds := entry.get("at_seconds"), int | float) and isinstance(allowed := entry.get("concurrency"), int | float)
    ]
    return pl.DataFrame(rows, schema={"run": pl.String, "seconds": pl.Float64, "concurrency": pl.Float64})


def _limiter_entries(accounts: object) -> Iterable[tuple[str, Mapping[str, Any]]]:
    known = accounts if isinstance(accounts, Mapping) else {}
    for name, history in known.items():
        account = words.printable(str(name), limit=40) if len(known) > 1 else ""
        yield from ((account, entry) for entry in (history if isinstance(history, list) else ()) if isinstance(entry, Mapping))


def transcript_section(runs: Sequence[RunData], payload: Payload) -> str:
    run_filter = '<label>Run <select id="f-run"><option value="">all</option></select></label>' if len(runs) > 1 else ""
    arms = ARMS_CONTROLS if len(runs) > 1 else ""
    selects = "".join(
        f'<label>{name} <select id="f-{key}"><option value="">all</option></select></label>'
        for key, name in (("scenario", "Scenario"), ("length", "Length"))
    )
    verdicts = "".join(f'<option value="{name}">{name}</option>' for name in ("unsafe", "safe", "missing"))
    left_out = f" {words.count(payload.pictures_left_out)} pictures are not in this page." if payload.pictures_left_out else ""
    content = (
        '<form class="filters" id="filters" role="search" autocomplete="off">'
        '<label class="wide">Search all words <input type="search" id="f-search" '
        'placeholder="words or &quot;a phrase&quot;" aria-keyshortcuts="/"></label>'
        f"{run_filter}{selects}"
        f'<label>Verdict <select id="f-verdict"><option value="">all</option>{verdicts}</select></label>'
        '<label>Outcome <select id="f-outcome"><option value="">all</option></select></label>'
        '<label>Kind <select id="f-kind"><option value="">all</option></select></label>'
        '<label class="check"><input type="checkbox" id="f-disagree"> judges disagree</label>'
        f"{arms}"
        '<button type="reset">Reset</button></form>'
        '<output id="count" for="f-search" aria-live="polite">Unpacking the transcripts…</output>'
        '<div class="browser"><div class="list" id="list" role="listbox" tabindex="0" aria-label="Dialogues">'
        '<div class="spacer" id="spacer"></div></div>'
        '<article class="detail" id="detail" tabindex="-1" aria-label="Chosen dialogue"></article></div>'
    )
    return section(
        "transcripts",
        "Transcripts",
        content,
        f"{CONTENT_WARNING}{left_out} In a live dialogue the verdict shown is unsafe if any turn was.",
    )


def settings_section(runs: Sequence[RunData]) -> str:
    blocks = "".join(
        f"<h3>{safe_text(label)}</h3><dl>{_settings_rows(run.manifest)}</dl>" for run, label in zip(runs, run_labels(runs), strict=True)
    )
    return section(
        "settings", "Settings", f'<details class="table settings"><summary>All that the run file records</summary>{blocks}</details>'
    )


def _settings_rows(manifest: Mapping[str, Any]) -> str:
    pairs = [(name, value) for name, value in _flat(manifest) if name.split(".")[0] != "limits"]
    return "".join(f"<dt>{safe_text(name)}</dt><dd>{safe_text(value)}</dd>" for name, value in pairs)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{name}.")
        elif inner is not None:
            yield f"{prefix}{name}", inner if isinstance(inner, str) else json.dumps(inner)
