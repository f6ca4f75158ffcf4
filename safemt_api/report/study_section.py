"""A study on its page: ranks with the range that the data leave open, effects against references, and what is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import polars as pl

from safemt_api.report import words
from safemt_api.report.markup import Cell, Column, block, counted, rate, safe_text, section, swatch, table
from safemt_api.report.sections import draw
from safemt_api.report.study_tables import SIGNIFICANT, study_sentences
from safemt_api.runs.record import RunData
from safemt_api.studies.record import Board, Effect, Interval, Place, SafetyIndexFigures, StudyRecord, TurnEffect

CHART_PIXELS = 250
MOST_CHARTS = 24
RANK_NOTE = (
    "Every figure is over the dialogues that all ranked arms hold. A rank stands with the range that the data leave open: the interval of "
    "ranks over resamples of ids, the same in all arms. Arms whose ranges overlap are not told apart by their ranks."
)
EFFECT_NOTE = (
    "Each arm against its reference, dialogue by dialogue, over pairs judged in both. p values are exact and corrected (Holm) over all "
    "comparisons of the study; a star marks p < 0.05. Costs and seconds are those of target and moderator, without the judge."
)


def study_heading(record: StudyRecord, runs: Sequence[RunData]) -> str:
    """The top of a study's page: what it is, who may be called the safest, and what stands in the way of its figures."""
    arms, spent = words.count(len(record.arms)), words.dollars(record.spent_usd)
    ceiling = "" if record.max_usd is None else f" of {words.dollars(record.max_usd)}"
    planned = "" if record.ids.planned is None else f" of {words.count(record.ids.planned)}"
    facts = {
        "study of": f"{arms} arms",
        "status": record.status.replace("_", " "),
        "ids in all arms": f"{words.count(record.ids.common)}{planned}",
        "spent": f"{spent}{ceiling}",
        "judge": ", ".join(sorted({run.judge_title for run in runs})),
        "started": (record.started_utc or "").partition("T")[0],
    }
    items = "".join(f"<li>{name} <b>{safe_text(value)}</b></li>" for name, value in facts.items() if value)
    lede = " ".join(map(safest_sentence, record.leaderboard))
    banners = "".join(f'<p class="banner">{safe_text(sentence)}</p>' for sentence in study_sentences(record))
    return f'<h1>{safe_text(record.study)}</h1><ul class="facts">{items}</ul><p class="lede">{safe_text(lede)}</p>{banners}'


def safest_sentence(board: Board) -> str:
    """Which arm is the safest, if the data say so; else how many may be."""
    ranked = [row for row in board.rows if row.rank is not None]
    if len(ranked) < 2:
        return ""
    first, may_be = ranked[0], [row.arm for row in ranked if row.best == 1]
    if len(may_be) > 1:
        named = ", ".join(may_be[:5]) + (f" and {len(may_be) - 5} more" if len(may_be) > 5 else "")
        return f"The data do not tell which of {words.count(len(may_be))} arms is the safest: {named}."
    return f"By Safety Index, {first.arm} is the safest of {words.count(len(ranked))} arms ({words.index(first.safety_index.value)})."


def study_sections(record: StudyRecord, runs: Sequence[RunData], drawing: ModuleType | None) -> list[str]:
    """Ranks and effects, each as a section; empty where there are none."""
    places = {run.name: place for place, run in enumerate(runs)}
    boards = [_board(board, places) for board in record.leaderboard if board.rows]
    claimed = [effect for effect in record.effects if effect.asr is not None]
    protocols = {run.name: run.summary.protocol for run in runs}
    effects = _effects(claimed, places, protocols, drawing) if claimed else ""
    return [
        section("study", "Ranks", "".join(boards), RANK_NOTE) if boards else "",
        section("effects", "Effects", effects, EFFECT_NOTE) if effects else "",
    ]


def _board(board: Board, places: Mapping[str, int]) -> str:
    turns = sorted({one.turn for row in board.rows for one in row.asr_by_turn})
    columns = [Column("Arm"), Column("Rank", number=True), Column("Safety Index", number=True)]
    columns += [Column(f"ASR {turn}", number=True) for turn in turns]
    columns += [Column(name, number=True) for name in ("Missing", "$ a dialogue", "Spent")]
    rows = [_row(row, turns, places, among=len(board.rows)) for row in board.rows]
    caption = (
        f"{board.protocol.capitalize()} protocol, safest first; ASR by {words.turn_word(board.protocol)}; {words.count(board.ids)} ids, "
        f"lengths {words.listed(board.lengths)}; judge: {words.printable(board.judge)}. Intervals are 95%; bounds and complete ids below."
    )
    return block(table(columns, rows, caption=caption))


def _row(row: Place, turns: Sequence[int], places: Mapping[str, int], *, among: int) -> list[Cell]:
    rates = {one.turn: one for one in row.asr_by_turn}
    return [
        _named(row.arm, places),
        _rank(row, among=among),
        _index(row.safety_index),
        *(rate(one.asr, one.ci_low, one.ci_high) if (one := rates.get(turn)) else Cell(words.NOTHING) for turn in turns),
        counted(row.missing),
        Cell(words.NOTHING) if row.cost_per_dialogue_usd is None else _dollars(row.cost_per_dialogue_usd),
        Cell(words.dollars(row.spent_usd), row.spent_usd),
    ]


def _index(index: SafetyIndexFigures) -> Cell:
    """In short lines, for a table of many columns: the interval, the bounds and the complete ids."""
    lines = [words.index_interval(index.ci_low, index.ci_high)]
    lines += [f"bounds {words.index_interval(index.if_missing_low, index.if_missing_high)}"]
    lines += [f"{words.count(index.complete_ids)} of {words.count(index.ids)} ids"]
    return Cell(words.index(index.value) + "".join(f' <small class="second">{line}</small>' for line in lines), index.value)


def _rank(row: Place, *, among: int) -> Cell:
    """The rank, its range in words and as a bar over all ranks there are."""
    if row.rank is None or row.best is None or row.worst is None:
        return Cell(words.NOTHING)
    span = str(row.best) if row.best == row.worst else f"{row.best}–{row.worst}"
    each = 100 / max(1, among)
    start, width = each * (row.best - 1), each * (row.worst - row.best + 1)
    bar = (
        f'<svg class="ranks" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<line x1="0" x2="100" y1="4" y2="4" stroke="var(--line)"/>'
        f'<rect x="{start:.1f}" y="1" width="{width:.1f}" height="6" fill="var(--accent)"/></svg>'
    )
    return Cell(f'{row.rank} <small class="second">range {span}</small>{bar}', row.rank)


def _effects(claimed: Sequence[Effect], places: Mapping[str, int], protocols: Mapping[str, str], drawing: ModuleType | None) -> str:
    columns = [Column("Arm"), Column("Against")]
    columns += [Column(name, number=True) for name in ("ASR before", "ASR after", "Points", "p", "Safety Index", "Unpaired")]
    rows = [_effect(effect, places) for effect in claimed]
    caption = "All lengths together; the change in points and in SI with its 95% interval."
    parts = [block(table(columns, rows, caption=caption)), block(_price(claimed, places)), _charts(claimed, places, protocols, drawing)]
    return "".join([*parts, _by_turn(claimed, places, protocols), _harmless(claimed, places)])


def _effect(effect: Effect, places: Mapping[str, int]) -> list[Cell]:
    pooled, index = effect.asr, effect.safety_index
    if pooled is None:
        return []
    star = '<span class="star">*</span>' if pooled.p_holm is not None and pooled.p_holm < SIGNIFICANT else ""
    p_value = Cell(words.NOTHING) if pooled.p_holm is None else Cell(_p_words(pooled.p_holm) + star, pooled.p_holm)
    return [
        _named(effect.arm, places),
        Cell(breakable(effect.reference), effect.reference),
        Cell(words.percent(pooled.before), pooled.before),
        Cell(words.percent(pooled.after), pooled.after),
        _points(pooled.difference),
        p_value,
        Cell(words.NOTHING) if index is None else _change(index.difference),
        Cell(words.count(effect.unpaired), effect.unpaired),
    ]


def _p_words(value: float) -> str:
    return "&lt;0.001" if value < 0.001 else f"{value:.3f}"


def _points(found: Interval) -> Cell:
    if found.value is None:
        return Cell(words.NOTHING)
    low, high = found.ci_low, found.ci_high
    below = "" if low is None or high is None else f' <small class="second">{100 * low:+.1f} to {100 * high:+.1f}</small>'
    return Cell(f"{100 * found.value:+.1f}{below}", found.value)


def _change(found: Interval) -> Cell:
    if found.value is None:
        return Cell(words.NOTHING)
    low, high = found.ci_low, found.ci_high
    below = "" if low is None or high is None else f' <small class="second">{low:+.3f} to {high:+.3f}</small>'
    return Cell(f"{found.value:+.3f}{below}", found.value)


def _dollars(usd: float) -> Cell:
    return Cell(words.dollars(usd), usd)


def _price(claimed: Sequence[Effect], places: Mapping[str, int]) -> str:
    names = ("Prevented", "Introduced", "$ a dialogue", "s a dialogue", "$ per failure prevented")
    columns = [Column("Harmful dialogues"), *(Column(name, number=True) for name in names)]
    rows = [[_named(effect.arm, places), *_burden(effect)] for effect in claimed if "harmful" in effect.per_dialogue]
    return table(
        columns, rows, caption="Failures prevented and introduced, and what a dialogue costs and takes more than in the reference."
    )


def _burden(effect: Effect) -> list[Cell]:
    """Failures prevented and introduced, dollars and seconds a dialogue takes more, and dollars for each failure prevented."""
    own, each = effect.per_dialogue["harmful"], effect.cost_per_prevented_usd
    cost, latency = (None if found is None else found.difference.value for found in (own.cost_usd, own.latency_seconds))
    return [
        Cell(words.NOTHING) if effect.prevented is None else counted(effect.prevented),
        Cell(words.NOTHING) if effect.introduced is None else counted(effect.introduced),
        Cell(words.NOTHING) if cost is None else Cell(f"{'-' if cost < 0 else '+'}{words.dollars(abs(cost))}", cost),
        Cell(words.NOTHING) if latency is None else Cell(f"{latency:+.2f}", latency),
        Cell(words.NOTHING) if each is None else _dollars(each),
    ]


def _charts(claimed: Sequence[Effect], places: Mapping[str, int], protocols: Mapping[str, str], drawing: ModuleType | None) -> str:
    if drawing is None:
        return ""
    drawn = "".join(
        _chart(number, effect, places, protocols.get(effect.arm, "scripted"), drawing)
        for number, effect in enumerate(claimed[:MOST_CHARTS])
    )
    more = f'<p class="note">Charts of the first {MOST_CHARTS} effects; the table holds all.</p>' if len(claimed) > MOST_CHARTS else ""
    return block(f'<div class="maps">{drawn}</div>{more}')


def _chart(number: int, effect: Effect, places: Mapping[str, int], protocol: str, drawing: ModuleType) -> str:
    sides = ((effect.reference, "asr_before", "before"), (effect.arm, "asr_after", "after"))
    rows = [
        (words.printable(name, limit=48), turn.turn, getattr(turn, value), getattr(turn, f"{side}_low"), getattr(turn, f"{side}_high"))
        for name, value, side in sides
        for turn in effect.asr_by_turn or ()
    ]
    schema = {"run": pl.String, "turn": pl.Int64, "asr": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    if not frame["asr"].drop_nulls().len():
        return ""
    palette = drawing.recoloured(drawing.PAGE_PALETTE, [places.get(name, place) for place, (name, _, _) in enumerate(sides)])
    word = words.turn_word(protocol)
    return draw(
        lambda: drawing.asr_by_turn(frame, palette, width=CHART_PIXELS, turn_title=word),
        drawing,
        name=f"effect-{number}",
        label=f"Attack success rate by {word}, {effect.reference} and {effect.arm}; the numbers stand in the table",
    )


def _by_turn(claimed: Sequence[Effect], places: Mapping[str, int], protocols: Mapping[str, str]) -> str:
    turns = sorted({turn.turn for effect in claimed for turn in effect.asr_by_turn or ()})
    word = words.turn_word(protocols.get(claimed[0].arm, "scripted"))
    columns = [Column("Arm"), *(Column(f"ASR {turn} {side}", number=True) for turn in turns for side in ("before", "after"))]
    rows = []
    for effect in claimed:
        own = {turn.turn: turn for turn in effect.asr_by_turn or ()}
        cells = [cell for turn in turns for cell in _before_and_after(own.get(turn))]
        rows.append([_named(effect.arm, places), *cells])
    shown = table(columns, rows, caption=f"ASR by {word} in the reference and in the arm, over pairs judged in both.")
    return block(f'<details class="table"><summary>Every effect, {word} by {word}</summary>{shown}</details>')


def _before_and_after(turn: TurnEffect | None) -> tuple[Cell, Cell]:
    """Both rates of a turn with their intervals, the later one starred where they differ."""
    if turn is None:
        return Cell(words.NOTHING), Cell(words.NOTHING)
    after = rate(turn.asr_after, turn.after_low, turn.after_high)
    star = '<span class="star">*</span>' if turn.p_holm is not None and turn.p_holm < SIGNIFICANT else ""
    starred = Cell(after.shown.replace("%", f"%{star}", 1), after.key)
    return rate(turn.asr_before, turn.before_low, turn.before_high), starred


def _harmless(claimed: Sequence[Effect], places: Mapping[str, int]) -> str:
    found = [effect for effect in claimed if effect.benign.false_alarms or effect.benign.over_refusal]
    if not found:
        return ""
    names = ("False alarms", "Over-refusal before", "Over-refusal after", "Points", "Reply length")
    columns = [Column("Harmless dialogues"), *(Column(name, number=True) for name in names)]
    rows = []
    for effect in found:
        alarms, refusals, length = effect.benign.false_alarms, effect.benign.over_refusal, effect.benign.reply_characters
        longer = None if length is None else length.relative.value
        rows.append(
            [
                _named(effect.arm, places),
                _share(alarms),
                _share(None if refusals is None else refusals.before),
                _share(None if refusals is None else refusals.after),
                Cell(words.NOTHING) if refusals is None else _points(refusals.difference),
                Cell(words.NOTHING) if longer is None else Cell(f"{100 * longer:+.1f}%", longer),
            ]
        )
    return block(table(columns, rows))


def _share(found: Interval | None) -> Cell:
    return Cell(words.NOTHING) if found is None else rate(found.value, found.ci_low, found.ci_high)


def _named(arm: str, places: Mapping[str, int]) -> Cell:
    key = swatch(places[arm]) if arm in places else ""
    return Cell(f"{key}{breakable(arm)}", arm)


def breakable(name: str) -> str:
    """The name with places where a narrow screen may break it."""
    return safe_text(name).replace(":", ":<wbr>")
