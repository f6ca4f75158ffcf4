"""The tables of a study, each said once: ranks with their range, effects against their references, moderators, what they cost; and the
sentences that must stand beside them. Everything is read from the record that ``study.json`` holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from safemt_api import words
from safemt_api.report.table import (
    NOTHING,
    SIGNIFICANT,
    Cell,
    Column,
    Table,
    change,
    count,
    dollars,
    extra_dollars,
    index,
    p_value,
    percent,
    points,
    relative,
    said,
    seconds,
)
from safemt_api.report.tables import basis_of, index_basis, index_columns, rate_columns
from safemt_api.runs.summary import Index
from safemt_api.specs import NONE
from safemt_api.studies.record import Board, Effect, Interval, Place, SafetyIndexFigures, StudyRecord


@dataclass(frozen=True, slots=True)
class Naming:
    """How arms are called in a table: by their moderators where these alone differ, and with the looks of their runs (by place)."""

    moderators: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, int] = field(default_factory=dict)

    def arms(self, names: Sequence[str]) -> Column:
        """Arms by themselves."""
        shown = [said(self.moderators.get(name, name), look=self.places.get(name)) for name in names]
        return Column("moderator" if self.moderators else "arm", shown, number=False)

    def pairs(self, effects: Sequence[Effect]) -> Column:
        """Arms against their references."""
        return Column("moderator" if self.moderators else "arm (against)", [self.pair(effect) for effect in effects], number=False)

    def pair(self, effect: Effect) -> Cell:
        """An arm against its reference."""
        if effect.arm in self.moderators:
            return said(self.moderators[effect.arm], look=self.places.get(effect.arm))
        own = said(effect.arm, look=self.places.get(effect.arm), lines=(f"against {effect.reference}",))
        return replace(own, brief=f"{effect.arm} ({effect.reference})")


def naming_of(record: StudyRecord, places: Mapping[str, int] | None = None) -> Naming:
    """How the arms of this study are called."""
    if not (record.is_defence and record.leaderboard):
        return Naming(places=places or {})
    return Naming({arm.name: arm.moderator or str(arm.given.get("moderator", arm.name)) for arm in record.arms}, places or {})


def claimed_effects(record: StudyRecord) -> list[Effect]:
    """The effects that there are figures of."""
    return [effect for effect in record.effects if effect.asr is not None]


def turn_word_of(record: StudyRecord) -> str:
    """What a row of ASR by turn is called in this study."""
    return words.turn_word(record.leaderboard[0].protocol) if record.leaderboard else "turn"


def study_line(record: StudyRecord) -> str:
    """Which study this is, how it ended, and over how many ids."""
    planned = "" if record.ids.planned is None else f" of {words.count(record.ids.planned)} planned"
    ceiling = "" if record.max_usd is None else f" of at most {words.dollars(record.max_usd)}"
    arms = f"{words.count(len(record.arms))} arm{'' if len(record.arms) == 1 else 's'}"
    ids = f"{words.count(record.ids.common)}{planned} ids in all of them"
    status = record.status.replace("_", " ")
    line = f"Study {record.study} ({status}): {arms}, {ids}, {words.dollars(record.spent_usd)}{ceiling} spent"
    if not (record.is_defence and record.leaderboard):
        return line
    board, first = record.leaderboard[0], record.arms[0]
    return f"{line}\nDefence of {first.model} ({first.provider}), {board.protocol}, lengths {words.listed(board.lengths)}, {board.judge}"


def study_sentences(record: StudyRecord) -> Iterator[str]:
    """What must stand beside the figures: arms left out or not done, arms without a rank, moderators that failed, effects not claimed."""
    for arm in record.arms:
        if arm.state == "left out":
            yield f"Left out: {arm.name}" + (f" ({arm.sentence})" if arm.sentence else "") + "."
        elif arm.state != "complete":
            yield f"{arm.name} is {arm.state.replace('_', ' ')}" + (f": {arm.sentence}" if arm.sentence else "") + "."
    for row in (row for board in record.leaderboard for row in board.rows):
        found = Index.model_validate(row.safety_index.model_dump())
        if row.not_ranked:
            yield f"Not ranked: {row.not_ranked}."
        if found.above_bounds:
            yield f"{row.arm}: {index_basis(found)}."
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


def safest_sentence(board: Board) -> str:
    """Which arm is the safest, if the data say so; else how many may be."""
    ranked = [row for row in board.rows if row.rank is not None]
    if len(ranked) < 2:
        return ""
    first, may_be = ranked[0], [row.arm for row in ranked if row.best == 1]
    if len(may_be) > 1:
        return f"The data do not tell which of {words.count(len(may_be))} arms is the safest: {words.first_few(may_be, 5)}."
    return f"By Safety Index, {first.arm} is the safest of {words.count(len(ranked))} arms ({words.index(first.safety_index.value)})."


def rank_table(board: Board, naming: Naming) -> Table:
    """Arms by Safety Index, each with the range of ranks that the data leave open, and ASR by turn."""
    rows, word = board.rows, words.turn_word(board.protocol)
    over = f"{words.count(board.ids)} ids that all hold, lengths {words.listed(board.lengths)}"
    si, bounds, complete = index_columns(rows)
    return Table(
        f"Ranks by Safety Index, {board.protocol} protocol, {board.judge}; {over}",
        (
            replace(naming.arms([row.arm for row in rows]), title="arm"),
            Column("rank", [_rank(row, among=len(rows)) for row in rows]),
            si,
            bounds,
            replace(complete, on=("paper",)),
            *rate_columns(rows, long="ASR", part=f"ASR by {word} (95% interval below it), {board.judge}"),
            Column("missing", [count(row.missing) for row in rows]),
            Column("$ a dialogue", [NOTHING if (usd := row.cost_per_dialogue_usd) is None else dollars(usd) for row in rows], on=("page",)),
            Column("spent", [dollars(row.spent_usd) for row in rows]),
        ),
        caption=f"{board.protocol.capitalize()} protocol, safest first; ASR by {word}; {over}; judge: {board.judge}. Intervals are 95%.",
    )


def _rank(row: Place, *, among: int) -> Cell:
    """A rank is never said without its range."""
    if row.rank is None or row.best is None or row.worst is None:
        return NOTHING
    span = str(row.best) if row.best == row.worst else f"{row.best}–{row.worst}"
    return Cell(f"{row.rank} ({span})", row.rank, bar=(row.best, row.worst, among))


def effect_table(effects: Sequence[Effect], naming: Naming) -> Table:
    """What each arm changes against its reference, over all lengths together."""
    pooled = [effect.asr for effect in effects if effect.asr is not None]
    return Table(
        "Effects on ASR, all lengths together (p: exact, Holm over all comparisons of the study)",
        (
            naming.pairs(effects),
            Column("pairs", [count(sum(turn.pairs for turn in effect.asr_by_turn or ())) for effect in effects]),
            Column("unpaired", [count(effect.unpaired) for effect in effects], on=("page", "paper")),
            Column("before", [percent(one.before) for one in pooled], long="ASR before"),
            Column("after", [percent(one.after) for one in pooled], long="ASR after"),
            Column("points", [_points(one.difference) for one in pooled], interval="beside"),
            Column("p", [p_value(one.p_holm) for one in pooled], on=("terminal", "paper")),
            Column("p", [replace(p_value(one.p_holm), star=_significant(one.p_holm)) for one in pooled], on=("page",)),
        ),
        name="effects",
    )


def turn_table(effects: Sequence[Effect], naming: Naming, *, word: str) -> Table:
    """ASR at each turn before and after, starred where it differs."""
    rows: list[dict[int, Cell]] = [{} for _ in effects]
    for own, effect in zip(rows, effects, strict=True):
        for turn in effect.asr_by_turn or ():
            own[turn.turn] = NOTHING
            if turn.asr_before is not None and turn.asr_after is not None:
                found = points(turn.difference, turn.ci_low, turn.ci_high)
                text = f"{100 * turn.asr_before:.1f} → {100 * turn.asr_after:.1f}"
                brief = f"{100 * turn.asr_before:.0f} → {100 * turn.asr_after:.0f}"
                beside = f"{found.text}: {found.interval}"
                own[turn.turn] = Cell(text, turn.difference, beside, star=_significant(turn.p_holm), brief=brief)
    turns: list[int] = sorted(set().union(*rows))
    return Table(
        f"ASR (%) by {word}, before → after (* p < {SIGNIFICANT:g}, Holm over the study)",
        (naming.pairs(effects), *(Column(str(turn), [own.get(turn, NOTHING) for own in rows], long=f"ASR {turn}") for turn in turns)),
        name="effects-by-turn",
    )


def _significant(p_holm: float | None) -> bool:
    return p_holm is not None and p_holm < SIGNIFICANT


def index_table(effects: Sequence[Effect], naming: Naming) -> Table:
    """What each arm changes in SI, over the ids that are complete in both arms."""
    held = [(effect, effect.safety_index) for effect in effects if effect.safety_index is not None]
    return Table(
        "Effects on the Safety Index",
        (
            naming.pairs([effect for effect, _ in held]),
            Column("before", [index(found.before.value) for _, found in held]),
            Column("after", [index(found.after.value) for _, found in held]),
            Column("change", [_change(found.difference) for _, found in held], interval="beside"),
            Column("complete", [said(f"{words.count(found.before.complete_ids)}/{words.count(one.ids)}") for one, found in held]),
        ),
        name="effects-on-si",
    )


def moderators_table(record: StudyRecord, naming: Naming) -> Table:
    """ASR by turn and SI without a moderator and with each, starred where they differ."""
    board, (reference, *_) = record.leaderboard[0], record.references.values()
    before = next((row for row in board.rows if row.arm == reference), Place(arm=reference))
    word, effects = words.turn_word(board.protocol), record.effects
    after = [SafetyIndexFigures() if one.safety_index is None else one.safety_index.after for one in effects]
    after_turns = [
        {
            turn.turn: percent(turn.asr_after, turn.after_low, turn.after_high, star=_significant(turn.p_holm_turns))
            for turn in effect.asr_by_turn or ()
        }
        for effect in effects
    ]
    undecided = [one.undecided.dialogues / max(1, one.undecided.dialogues_played) for one in effects]
    return Table(
        f"ASR by {word} with each moderator (* p < {SIGNIFICANT:g} against none)",
        (
            Column("moderator", [said(NONE, look=naming.places.get(reference)), *map(naming.pair, effects)], number=False),
            *(
                Column(str(rate.turn), [percent(rate.asr), *(own.get(rate.turn, NOTHING) for own in after_turns)], long=f"ASR {rate.turn}")
                for rate in before.asr_by_turn
            ),
            Column("SI", [index(one.value, lines=basis_of(one)) for one in (before.safety_index, *after)], basis="SI"),
            Column("undecided", [NOTHING, *map(percent, undecided)]),
        ),
    )


def moderator_table(effect: Effect, naming: Naming, *, word: str) -> Table:
    """The paired effect of one moderator at each turn, with intervals and the test."""
    rows = effect.asr_by_turn or ()
    return Table(
        f"{naming.moderators[effect.arm]}: ASR by {word}, before and after",
        (
            Column(word, [count(turn.turn) for turn in rows]),
            Column("pairs", [count(turn.pairs) for turn in rows]),
            Column("before", [percent(turn.asr_before, turn.before_low, turn.before_high) for turn in rows], interval="beside"),
            Column("after", [percent(turn.asr_after, turn.after_low, turn.after_high) for turn in rows], interval="beside"),
            Column("points", [points(turn.difference, turn.ci_low, turn.ci_high) for turn in rows], interval="beside"),
            Column("p", [p_value(turn.p_holm_turns) for turn in rows]),
        ),
    )


def moderator_sentence(effect: Effect, *, word: str) -> str:
    """What a moderator does to SI, and which test the p values are of."""
    found = effect.safety_index
    if found is None:
        return ""
    sides = " → ".join(f"{words.index(one.value)} ({words.index_interval(one.ci_low, one.ci_high)})" for one in (found.before, found.after))
    changed = _change(found.difference)
    return f"Safety Index {sides}, change {changed.text} ({changed.interval or words.NOTHING})\np: {effect.test}, Holm over {word}s"


def burden_table(effects: Sequence[Effect], naming: Naming) -> Table:
    """What each arm costs more, by what replies cost and took when they were bought, and what it prevents; harmful dialogues."""
    burdens = [effect.per_dialogue.get("harmful") for effect in effects]
    cost, latency = (
        [None if one is None or (found := getattr(one, name)) is None else found.difference.value for one in burdens]
        for name in ("cost_usd", "latency_seconds")
    )
    return Table(
        "What it costs (harmful dialogues; without the judge)",
        (
            naming.pairs(effects),
            Column("$ a dialogue", [extra_dollars(usd) for usd in cost]),
            Column("s a dialogue", [seconds(span) for span in latency]),
            Column("prevented", [count(effect.prevented) for effect in effects]),
            Column("introduced", [count(effect.introduced) for effect in effects]),
            Column(
                "$ each", [extra_dollars(effect.cost_per_prevented_usd, sign=False) for effect in effects], long="$ per failure prevented"
            ),
        ),
        name="burden",
    )


def harmless_table(effects: Sequence[Effect], naming: Naming) -> Table | None:
    """What each arm does to harmless dialogues, below what its reference does; ``None`` where nothing of the kind was measured."""
    held = [effect for effect in effects if effect.benign.false_alarms or effect.benign.over_refusal]
    if not held:
        return None
    rows = [
        row
        for place, effect in enumerate(held)
        for row in _harmless_rows(effect, naming, opens=effect.reference not in {one.reference for one in held[:place]})
    ]
    names, alarms, refusals, more, length = zip(*rows, strict=True)
    return Table(
        "On harmless dialogues (length: of replies)",
        (
            Column(naming.pairs(held).title, names, number=False),
            Column("false alarms", alarms, interval="after"),
            Column("over-refusal", refusals),
            Column("points more", more, interval="after"),
            Column("length", length),
        ),
        name="harmless",
    )


def _harmless_rows(effect: Effect, naming: Naming, *, opens: bool) -> Iterator[tuple[Cell, ...]]:
    alarms, refusals, length = effect.benign.false_alarms, effect.benign.over_refusal, effect.benign.reply_characters
    if opens:
        reference = said(naming.moderators.get(effect.reference, effect.reference), look=naming.places.get(effect.reference))
        yield reference, NOTHING, NOTHING if refusals is None else _rate(refusals.before), NOTHING, NOTHING
    yield (
        naming.pair(effect),
        NOTHING if alarms is None else _rate(alarms),
        NOTHING if refusals is None else _rate(refusals.after),
        NOTHING if refusals is None else _points(refusals.difference),
        relative(None if length is None else length.relative.value),
    )


def _rate(found: Interval) -> Cell:
    return percent(found.value, found.ci_low, found.ci_high)


def _points(found: Interval) -> Cell:
    return points(found.value, found.ci_low, found.ci_high)


def _change(found: Interval) -> Cell:
    return change(found.value, found.ci_low, found.ci_high)
