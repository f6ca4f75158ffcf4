"""A study in the terminal: ranks with their range, effects against their references, what they cost, and who was left out and why.

Everything is read from the record that ``study.json`` holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from safemt_api.report import words
from safemt_api.report.reading import index_basis
from safemt_api.runs.summary import Index
from safemt_api.specs import NONE
from safemt_api.studies.record import Board, Effect, Interval, Place, SafetyIndexFigures, StudyRecord, TurnEffect, TurnRate

SIGNIFICANT = 0.05
NOBODY: Mapping[str, str] = MappingProxyType({})


def study_report(record: StudyRecord) -> RenderableType:
    """Everything the terminal shows of a study; where arms differ in their moderator alone, moderators stand side by side."""
    claimed = [effect for effect in record.effects if effect.asr is not None]
    moderators = NOBODY
    if record.is_defence and record.leaderboard:
        moderators = {arm.name: arm.moderator or str(arm.given.get("moderator", arm.name)) for arm in record.arms}
        parts = _defence_tables(record, moderators)
    else:
        parts = [part for board in record.leaderboard for part in (rank_table(board), board_asr_table(board))]
        parts += [effect_table(claimed), turn_table(claimed, word=_word(record)), index_table(claimed)] if claimed else []
    guarded = [effect for effect in record.effects if effect.benign.false_alarms or effect.benign.over_refusal]
    parts += [harmless_table(guarded, moderators)] if guarded else []
    parts += [burden_table(claimed, moderators)] if claimed else []
    return Group(header(record), *map(plain, study_sentences(record)), *(Padding(part, (1, 0, 0, 0)) for part in parts))


def _defence_tables(record: StudyRecord, moderators: Mapping[str, str]) -> list[RenderableType]:
    """ASR and SI of all arms side by side, as the paper sets a moderator beside guards; then the effect of each, turn by turn."""
    board = record.leaderboard[0]
    parts: list[RenderableType] = [side_by_side(record, moderators)]
    for effect in record.effects:
        index = effect.safety_index
        if effect.asr_by_turn and index is not None:
            sides = " → ".join(
                f"{words.index(one.value)} ({words.index_interval(one.ci_low, one.ci_high)})" for one in (index.before, index.after)
            )
            parts += [moderator_table(effect, moderators[effect.arm], word=words.turn_word(board.protocol))]
            change = f"change {signed(index.difference.value)} ({_signed_interval(index.difference)})"
            parts += [plain(f"Safety Index {sides}, {change}\np: {effect.test}, Holm over {words.turn_word(board.protocol)}s")]
    return parts


def side_by_side(record: StudyRecord, moderators: Mapping[str, str]) -> Table:
    """ASR by turn and SI without a moderator and with each, starred where they differ."""
    board, (reference, *_) = record.leaderboard[0], record.references.values()
    before = next((row for row in board.rows if row.arm == reference), Place(arm=reference))
    turns = [rate.turn for rate in before.asr_by_turn]
    title = f"ASR by {words.turn_word(board.protocol)} with each moderator (* p < {SIGNIFICANT:g} against none)"
    table = table_of(title, "moderator", *map(str, turns), "SI", "undecided")
    rates = (words.percent(rate.asr) for rate in before.asr_by_turn)
    table.add_row(NONE, *rates, words.index(before.safety_index.value), words.NOTHING)
    _add_basis(table, before.safety_index)
    for effect in record.effects:
        rows = {turn.turn: turn for turn in effect.asr_by_turn or ()}
        after = effect.safety_index.after if effect.safety_index is not None else SafetyIndexFigures()
        undecided = effect.undecided
        share = words.percent(undecided.dialogues / max(1, undecided.dialogues_played))
        table.add_row(plain(moderators[effect.arm]), *(_starred(rows.get(turn)) for turn in turns), words.index(after.value), share)
        _add_basis(table, after)
    return table


def _add_basis(table: Table, figures: SafetyIndexFigures) -> None:
    """Below an arm's row: the complete ids and the bounds of its SI."""
    index = Index.model_validate(figures.model_dump())
    if index.ids:
        table.add_row(Text(f"  SI: {index_basis(index)}", style="dim"))


def _starred(turn: TurnEffect | None) -> str:
    if turn is None:
        return words.NOTHING
    return words.percent(turn.asr_after) + ("*" if turn.p_holm_turns is not None and turn.p_holm_turns < SIGNIFICANT else " ")


def moderator_table(effect: Effect, moderator: str, *, word: str) -> Table:
    """The paired effect of one moderator at each turn, with intervals and the test."""
    sides = ("before", "95% interval", "after", "95% interval", "points", "95% interval", "p")
    table = table_of(f"{moderator}: ASR by {word}, before and after", word, "pairs", *sides, left=0)
    for turn in effect.asr_by_turn or ():
        table.add_row(
            str(turn.turn),
            words.count(turn.pairs),
            words.percent(turn.asr_before),
            words.percent_interval(turn.before_low, turn.before_high),
            words.percent(turn.asr_after),
            words.percent_interval(turn.after_low, turn.after_high),
            points(turn.difference),
            points_interval(turn.ci_low, turn.ci_high),
            p_value(turn.p_holm_turns),
        )
    return table


def header(record: StudyRecord) -> Text:
    """Which study this is, how it ended, and over how many ids."""
    planned = "" if record.ids.planned is None else f" of {words.count(record.ids.planned)} planned"
    ceiling = "" if record.max_usd is None else f" of at most {words.dollars(record.max_usd)}"
    arms = f"{words.count(len(record.arms))} arm{'' if len(record.arms) == 1 else 's'}"
    ids = f"{words.count(record.ids.common)}{planned} ids in all of them"
    status = record.status.replace("_", " ")
    lines = [f"Study {record.study} ({status}): {arms}, {ids}, {words.dollars(record.spent_usd)}{ceiling} spent"]
    if record.is_defence and record.leaderboard:
        board, first = record.leaderboard[0], record.arms[0]
        asked = f"{board.protocol}, lengths {words.listed(board.lengths)}, {board.judge}"
        lines.append(f"Defence of {first.model} ({first.provider}), {asked}")
    return plain("\n".join(lines))


def study_sentences(record: StudyRecord) -> Iterator[str]:
    """What must stand beside the figures: arms left out or not done, arms without a rank, moderators that failed, effects not claimed."""
    for arm in record.arms:
        if arm.state == "left out":
            yield f"Left out: {arm.name}" + (f" ({arm.sentence})" if arm.sentence else "") + "."
        elif arm.state != "complete":
            yield f"{arm.name} is {arm.state.replace('_', ' ')}" + (f": {arm.sentence}" if arm.sentence else "") + "."
    for row in (row for board in record.leaderboard for row in board.rows):
        index = Index.model_validate(row.safety_index.model_dump())
        if row.not_ranked:
            yield f"Not ranked: {row.not_ranked}."
        if index.above_bounds:
            yield f"{row.arm}: {index_basis(index)}."
    if len(record.leaderboard) > 1:
        yield "Arms that do not compare (another judge, protocol, lengths or data) are ranked apart."
    yield from _effect_sentences(record)


def _effect_sentences(record: StudyRecord) -> Iterator[str]:
    left_out = {arm.name for arm in record.arms if arm.state == "left out"}
    for effect in record.effects:
        if effect.not_claimed and effect.arm not in left_out:
            yield f"{effect.arm} against {effect.reference}: effect {effect.not_claimed}."
        if effect.undecided.failed:
            yield f"{undecided_sentence(effect)}."
    burdens = [effect.per_dialogue.get("benign") for effect in record.effects]
    if record.is_defence and not any(burden is not None and burden.latency_seconds for burden in burdens):
        yield 'No dialogue marked "kind": "benign" was played, so false alarms and over-refusal were not measured.'


def undecided_sentence(effect: Effect) -> str:
    """How often the arm's moderator came to no decision, and what that leaves open."""
    found, bounds = effect.undecided, effect.bounds
    where = f"{found.dialogues:,} of {found.dialogues_played:,} dialogues"
    sentence = f"The moderator of {effect.arm} came to no decision in {found.failed:,} of {found.reviews:,} reviews ({where})"
    if bounds is None:
        return sentence
    low, high = bounds.without_failures, bounds.with_failures
    return (
        f"{sentence}; replies that only this stopped are in no figure: with them it would be {high.prevented:,} prevented instead of "
        f"{low.prevented:,}, and a Safety Index of {words.index(high.safety_index_after)} instead of {words.index(low.safety_index_after)}"
    )


def rank_table(board: Board) -> Table:
    """Arms by Safety Index, each with the range of ranks that the data leave open."""
    over = f"{words.count(board.ids)} ids that all hold, lengths {words.listed(board.lengths)}"
    title = f"Ranks by Safety Index, {board.protocol} protocol, {board.judge}; {over}"
    table = table_of(title, "arm", "rank", "SI", "95% interval", "bounds", "missing", "spent")
    for row in board.rows:
        index = row.safety_index
        table.add_row(
            plain(row.arm),
            rank_words(row),
            words.index(index.value),
            words.index_interval(index.ci_low, index.ci_high),
            words.index_interval(index.if_missing_low, index.if_missing_high),
            words.count(row.missing),
            words.dollars(row.spent_usd),
        )
    return table


def rank_words(row: Place) -> str:
    """A rank is never said without its range."""
    if row.rank is None or row.best is None or row.worst is None:
        return words.NOTHING
    return f"{row.rank} ({row.best})" if row.best == row.worst else f"{row.rank} ({row.best}–{row.worst})"


def board_asr_table(board: Board) -> Table:
    """ASR by turn of the arms of a board, the interval below each."""
    turns = sorted({rate.turn for row in board.rows for rate in row.asr_by_turn})
    table = table_of(f"ASR by {words.turn_word(board.protocol)} (95% interval below it), {board.judge}", "arm", *map(str, turns))
    for row in board.rows:
        rates = {rate.turn: rate for rate in row.asr_by_turn}
        found = [rates.get(turn) for turn in turns]
        table.add_row(plain(row.arm), *(words.percent(rate.asr) if rate else words.NOTHING for rate in found))
        table.add_row("", *(Text(_whole_percents(rate), style="dim") for rate in found))
    return table


def _whole_percents(rate: TurnRate | None) -> str:
    return "" if rate is None or rate.ci_low is None or rate.ci_high is None else f"{100 * rate.ci_low:.0f}–{100 * rate.ci_high:.0f}"


def effect_table(effects: Sequence[Effect]) -> Table:
    """What each arm changes against its reference, over all lengths together."""
    title = "Effects on ASR, all lengths together (p: exact, Holm over all comparisons of the study)"
    table = table_of(title, "arm (against)", "pairs", "before", "after", "points", "95% interval", "p")
    for effect in effects:
        pooled, turns = effect.asr, effect.asr_by_turn or ()
        if pooled is not None:
            table.add_row(
                _pair(effect),
                words.count(sum(turn.pairs for turn in turns)),
                words.percent(pooled.before),
                words.percent(pooled.after),
                points(pooled.difference.value),
                points_interval(pooled.difference.ci_low, pooled.difference.ci_high),
                p_value(pooled.p_holm),
            )
    return table


def turn_table(effects: Sequence[Effect], *, word: str) -> Table:
    """ASR at each turn before and after, starred where it differs."""
    turns = sorted({turn.turn for effect in effects for turn in effect.asr_by_turn or ()})
    table = table_of(f"ASR (%) by {word}, before → after (* p < {SIGNIFICANT:g}, Holm over the study)", "arm (against)", *map(str, turns))
    for effect in effects:
        rows = {turn.turn: turn for turn in effect.asr_by_turn or ()}
        table.add_row(_pair(effect), *(_change(rows.get(turn)) for turn in turns))
    return table


def _change(turn: TurnEffect | None) -> str:
    if turn is None or turn.asr_before is None or turn.asr_after is None:
        return words.NOTHING
    star = "*" if turn.p_holm is not None and turn.p_holm < SIGNIFICANT else " "
    return f"{100 * turn.asr_before:.0f} → {100 * turn.asr_after:.0f}{star}"


def index_table(effects: Sequence[Effect]) -> Table:
    """What each arm changes in SI, and in how many replies."""
    table = table_of("Effects on the Safety Index", "arm (against)", "before", "after", "change", "95% interval", "complete")
    for effect in effects:
        index = effect.safety_index
        if index is not None:
            table.add_row(
                _pair(effect),
                words.index(index.before.value),
                words.index(index.after.value),
                signed(index.difference.value),
                _signed_interval(index.difference),
                f"{words.count(index.before.complete_ids)}/{words.count(effect.ids)}",
            )
    return table


def burden_table(effects: Sequence[Effect], moderators: Mapping[str, str] = NOBODY) -> Table:
    """What each arm costs more, by what replies cost and took when they were bought, and what it prevents; harmful dialogues."""
    title = "What it costs (harmful dialogues; without the judge)"
    table = table_of(title, _first_column(moderators), "$ a dialogue", "s a dialogue", "prevented", "introduced", "$ each")
    for effect in effects:
        burden = effect.per_dialogue.get("harmful")
        cost, latency = (burden.cost_usd, burden.latency_seconds) if burden is not None else (None, None)
        table.add_row(
            _pair(effect, moderators),
            extra_dollars(None if cost is None else cost.difference.value),
            words.NOTHING if latency is None or latency.difference.value is None else f"{latency.difference.value:+.2f}",
            words.count(effect.prevented),
            words.count(effect.introduced),
            extra_dollars(effect.cost_per_prevented_usd, sign=False),
        )
    return table


def harmless_table(effects: Sequence[Effect], moderators: Mapping[str, str] = NOBODY) -> Table:
    """What each arm does to harmless dialogues, below what its reference does."""
    title = "On harmless dialogues (length: of replies)"
    table = table_of(title, _first_column(moderators), "false alarms", "over-refusal", "points more", "length")
    above = None
    for effect in effects:
        alarms, refusals, length = effect.benign.false_alarms, effect.benign.over_refusal, effect.benign.reply_characters
        if effect.reference != above:
            above = effect.reference
            before = words.percent(None if refusals is None else refusals.before.value)
            table.add_row(plain(moderators.get(above, above)), words.NOTHING, before, words.NOTHING, words.NOTHING)
        change = None if refusals is None else refusals.difference
        table.add_row(
            _pair(effect, moderators),
            words.NOTHING if alarms is None else f"{words.percent(alarms.value)} ({words.percent_interval(alarms.ci_low, alarms.ci_high)})",
            words.percent(None if refusals is None else refusals.after.value),
            words.NOTHING if change is None else f"{points(change.value)} ({points_interval(change.ci_low, change.ci_high)})",
            percent_change(None if length is None else length.relative.value),
        )
    return table


def _first_column(moderators: Mapping[str, str]) -> str:
    return "moderator" if moderators else "arm (against)"


def _pair(effect: Effect, moderators: Mapping[str, str] = NOBODY) -> Text:
    return plain(moderators.get(effect.arm) or f"{effect.arm} ({effect.reference})")


def _signed_interval(found: Interval) -> str:
    known = found.ci_low is not None and found.ci_high is not None
    return f"{signed(found.ci_low)} to {signed(found.ci_high)}" if known else words.NOTHING


def _word(record: StudyRecord) -> str:
    return words.turn_word(record.leaderboard[0].protocol) if record.leaderboard else "turn"


def plain(text: object) -> Text:
    """Text as it stands: no markup is read, and no control character is left."""
    return Text(words.printable(str(text)))


def table_of(title: str, *columns: str, left: int = 1) -> Table:
    """An unboxed table; the first ``left`` columns hold words, the others numbers."""
    table = Table(title=plain(title), title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(plain(name), justify="left" if place < left else "right", header_style="dim", overflow="fold")
    return table


def signed(value: float | None) -> str:
    """A change of the Safety Index."""
    return words.NOTHING if value is None else f"{value:+.3f}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points."""
    return words.NOTHING if value is None else f"{100 * value:+.1f}"


def points_interval(low: float | None, high: float | None) -> str:
    """An interval of such a difference."""
    return words.NOTHING if low is None or high is None else f"{points(low)} to {points(high)}"


def percent_change(value: float | None) -> str:
    """A relative change in percent."""
    return words.NOTHING if value is None else f"{100 * value:+.1f}%"


def p_value(value: float | None) -> str:
    """A p value with three decimals."""
    if value is None:
        return words.NOTHING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def extra_dollars(usd: float | None, *, sign: bool = True) -> str:
    """An amount that is more or less than another."""
    if usd is None:
        return words.NOTHING
    return f"{'-' if usd < 0 else '+' if sign else ''}{words.dollars(abs(usd))}"
