"""A study in the terminal: ranks with their range, effects against their references, what they cost, and who was left out and why.

Everything is read from the record that ``study.json`` holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from safemt_api.report import words
from safemt_api.report.arm_tables import (
    extra_dollars,
    p_value,
    percent_change,
    plain,
    points,
    points_interval,
    signed,
    table_of,
    undecided_sentences,
)
from safemt_api.report.reading import Index
from safemt_api.studies.record import Board, Effect, Interval, Place, StudyRecord, TurnEffect, TurnRate

SIGNIFICANT = 0.05


def study_report(record: StudyRecord) -> RenderableType:
    """Everything the terminal shows of a study."""
    parts: list[RenderableType] = [part for board in record.leaderboard for part in (rank_table(board), board_asr_table(board))]
    claimed = [effect for effect in record.effects if effect.asr is not None]
    if claimed:
        parts += [effect_table(claimed), turn_table(claimed, word=_word(record)), index_table(claimed), burden_table(claimed)]
    guarded = [effect for effect in claimed if effect.benign.false_alarms or effect.benign.over_refusal]
    parts += [harmless_table(guarded)] if guarded else []
    return Group(header(record), *map(plain, study_sentences(record)), *(Padding(part, (1, 0, 0, 0)) for part in parts))


def header(record: StudyRecord) -> Text:
    """Which study this is, how it ended, and over how many ids."""
    planned = "" if record.ids.planned is None else f" of {words.count(record.ids.planned)} planned"
    ceiling = "" if record.max_usd is None else f" of at most {words.dollars(record.max_usd)}"
    arms = f"{words.count(len(record.arms))} arm{'' if len(record.arms) == 1 else 's'}"
    ids = f"{words.count(record.ids.common)}{planned} ids in all of them"
    status = record.status.replace("_", " ")
    return plain(f"Study {record.study} ({status}): {arms}, {ids}, {words.dollars(record.spent_usd)}{ceiling} spent")


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
        if index.warning:
            yield f"{row.arm}: {index.basis}{index.warning}."
    if len(record.leaderboard) > 1:
        yield "Arms that do not compare (another judge, protocol, lengths or data) are ranked apart."
    left_out = {arm.name for arm in record.arms if arm.state == "left out"}
    for effect in record.effects:
        named = {**effect.model_dump(exclude={"not_claimed"}), "moderator": effect.arm}
        if effect.not_claimed and effect.arm not in left_out:
            yield f"{effect.arm} against {effect.reference}: effect {effect.not_claimed}."
        yield from (f"{sentence}." for sentence in undecided_sentences({"moderators": [named]}))


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
                points_interval(pooled.difference.model_dump()),
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


def burden_table(effects: Sequence[Effect]) -> Table:
    """What each arm prevents and what it costs more, by what replies cost and took when they were bought; harmful dialogues."""
    title = "Failures prevented and introduced, and what a dialogue costs and takes more (without the judge)"
    table = table_of(title, "arm (against)", "prevented", "introduced", "$ more", "s more", "$ each")
    for effect in effects:
        burden = effect.per_dialogue.get("harmful")
        cost, latency = (burden.cost_usd, burden.latency_seconds) if burden is not None else (None, None)
        table.add_row(
            _pair(effect),
            words.count(effect.prevented),
            words.count(effect.introduced),
            extra_dollars(None if cost is None else cost.difference.value),
            words.NOTHING if latency is None or latency.difference.value is None else f"{latency.difference.value:+.2f}",
            words.NOTHING if effect.cost_per_prevented_usd is None else extra_dollars(effect.cost_per_prevented_usd, sign=False),
        )
    return table


def harmless_table(effects: Sequence[Effect]) -> Table:
    """What each arm does to harmless dialogues."""
    table = table_of("On harmless dialogues (length: of replies)", "arm (against)", "false alarms", "over-refusal", "points more", "length")
    for effect in effects:
        alarms, refusals, length = effect.benign.false_alarms, effect.benign.over_refusal, effect.benign.reply_characters
        table.add_row(
            _pair(effect),
            words.percent(None if alarms is None else alarms.value),
            words.NOTHING if refusals is None else f"{words.percent(refusals.before.value)} → {words.percent(refusals.after.value)}",
            words.NOTHING if refusals is None else points(refusals.difference.value),
            percent_change(None if length is None else length.relative.value),
        )
    return table


def _pair(effect: Effect) -> Text:
    return plain(f"{effect.arm} ({effect.reference})")


def _signed_interval(found: Interval) -> str:
    known = found.ci_low is not None and found.ci_high is not None
    return f"{signed(found.ci_low)} to {signed(found.ci_high)}" if known else words.NOTHING


def _word(record: StudyRecord) -> str:
    return words.turn_word(record.leaderboard[0].protocol) if record.leaderboard else "turn"
