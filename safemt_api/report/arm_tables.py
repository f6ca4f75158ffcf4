"""The tables of a measured defence: moderators side by side, then each one's effect, what it does to harmless dialogues, what it costs.

Everything is read from the record that ``defence.json`` holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from safemt_api.report import words
from safemt_api.report.reading import Index, judge_title

Record = Mapping[str, Any]

SIGNIFICANT = 0.05
UNDEFENDED = "none"


def defence_report(record: Record) -> RenderableType:
    """Everything the terminal shows of a defence."""
    measured = [arm for arm in record["moderators"] if arm["asr_by_turn"]]
    tables = [side_by_side(record), *(table for arm in measured for table in _effect_of(record, arm))]
    below = [*map(plain, undecided_sentences(record)), *tables, harmless_table(record), cost_table(record)]
    return Group(header(record), *(Padding(part, (1, 0, 0, 0)) for part in below))


def header(record: Record) -> Text:
    """What was measured."""
    counts = record["dialogues"]
    lengths, judge = words.listed(tuple(record["lengths"])), judge_title(record["judge"], record.get("rubric"))
    return plain(
        f"Defence of {record['model']} ({record['provider']}), {record['protocol']}, lengths {lengths}, {judge}: "
        f"{counts['harmful']:,} harmful and {counts['benign']:,} benign dialogues"
    )


def side_by_side(record: Record) -> Table:
    """ASR and SI of all arms: the paper's comparison of a moderator with guards."""
    word = words.turn_word(record["protocol"])
    before = {row["turn"]: row["asr"] for row in record["undefended"]["asr_by_turn"]}
    table = table_of(
        f"ASR by {word} with each moderator (* p < {SIGNIFICANT:g} against none)", "moderator", *map(str, before), "SI", "undecided"
    )
    index = record["undefended"]["safety_index"]
    table.add_row(UNDEFENDED, *map(words.percent, before.values()), words.index(index and index["value"]), words.NOTHING)
    _add_basis(table, index)
    for arm in record["moderators"]:
        rows = {row["turn"]: row for row in arm["asr_by_turn"] or ()}
        after = arm["safety_index"] and arm["safety_index"]["after"]
        figures = (*(_starred(rows.get(turn)) for turn in before), words.index(after and after["value"]))
        table.add_row(plain(arm["moderator"]), *figures, undecided_share(arm))
        _add_basis(table, after)
    return table


def undecided_share(arm: Record) -> str:
    """Of how many dialogues the moderator came to no decision at some turn, as a share."""
    found = arm.get("undecided")
    return words.NOTHING if not found else words.percent(found["dialogues"] / max(1, found["dialogues_played"]))


def undecided_sentences(record: Record) -> Iterator[str]:
    """For each moderator that failed: how often, what that leaves open, and whether its effect is claimed at all."""
    for arm in record["moderators"]:
        found, bounds = arm.get("undecided"), arm.get("bounds")
        if arm.get("not_claimed"):
            yield f"{arm['moderator']}: effect {arm['not_claimed']}"
        if not found or not found["failed"]:
            continue
        where = f"{found['dialogues']:,} of {found['dialogues_played']:,} dialogues"
        sentence = f"{arm['moderator']} came to no decision in {found['failed']:,} of {found['reviews']:,} reviews ({where})"
        if bounds:
            low, high = bounds["without_failures"], bounds["with_failures"]
            sentence += (
                f"; replies that only this stopped are in no figure: with them it would be {high['prevented']:,} prevented instead of "
                f"{low['prevented']:,}, and a Safety Index of {words.index(high['safety_index_after'])} instead of "
                f"{words.index(low['safety_index_after'])}"
            )
        yield sentence


def _add_basis(table: Table, index: Record | None) -> None:
    """Below an arm's row: the complete ids and the bounds of its SI."""
    found = Index.model_validate(index or {})
    if found.basis:
        table.add_row(Text(f"  SI: {found.basis}{found.warning}", style="dim"))


def _starred(row: Record | None) -> str:
    if row is None:
        return words.NOTHING
    p_holm = row["p_holm"]
    return words.percent(row["asr_after"]) + ("*" if p_holm is not None and p_holm < SIGNIFICANT else " ")


def _effect_of(record: Record, arm: Record) -> Iterator[RenderableType]:
    yield effect_table(record, arm)
    index = arm["safety_index"]
    sides = " → ".join(_index(index[side]) for side in ("before", "after"))
    change = index["difference"]
    line = f"Safety Index {sides}, change {signed(change['value'])} ({signed(change['ci_low'])} to {signed(change['ci_high'])})"
    yield plain(f"{line}\np: {arm['test']}")


def effect_table(record: Record, arm: Record) -> Table:
    """The paired effect of one moderator, with intervals and the test."""
    word = words.turn_word(record["protocol"])
    table = table_of(
        f"{arm['moderator']}: ASR by {word}, before and after",
        word,
        "pairs",
        "before",
        "95% interval",
        "after",
        "95% interval",
        "points",
        "95% interval",
        "p",
        left=0,
    )
    for row in arm["asr_by_turn"]:
        table.add_row(
            str(row["turn"]),
            words.count(row["pairs"]),
            words.percent(row["asr_before"]),
            words.percent_interval(row["before_low"], row["before_high"]),
            words.percent(row["asr_after"]),
            words.percent_interval(row["after_low"], row["after_high"]),
            points(row["difference"]),
            points_interval(row),
            p_value(row["p_holm"]),
        )
    return table


def harmless_table(record: Record) -> Table:
    """What each moderator does to benign dialogues."""
    table = table_of("On harmless dialogues (length: of replies)", "moderator", "false alarms", "over-refusal", "points more", "length")
    before = record["undefended"]["over_refusal"]
    table.add_row(UNDEFENDED, words.NOTHING, words.percent(before and before["value"]), words.NOTHING, words.NOTHING)
    for arm in record["moderators"]:
        alarms, refusals, length = (arm["benign"][name] for name in ("false_alarms", "over_refusal", "reply_characters"))
        change = refusals and refusals["difference"]
        table.add_row(
            plain(arm["moderator"]),
            f"{words.percent(alarms['value'])} ({words.percent_interval(alarms['ci_low'], alarms['ci_high'])})"
            if alarms
            else words.NOTHING,
            words.percent(refusals and refusals["after"]["value"]),
            f"{points(change['value'])} ({points_interval(change)})" if change else words.NOTHING,
            percent_change(length and length["relative"]["value"]),
        )
    return table


def cost_table(record: Record) -> Table:
    """What each moderator costs, by what replies cost and took when they were bought; over harmful dialogues, as the effect."""
    title = "What it costs (harmful dialogues; without the judge)"
    table = table_of(title, "moderator", "$ a dialogue", "s a dialogue", "prevented", "introduced", "$ each")
    for arm in record["moderators"]:
        burden = arm["per_dialogue"]["harmful"]
        cost, latency = burden["cost_usd"], burden["latency_seconds"]
        table.add_row(
            plain(arm["moderator"]),
            extra_dollars(cost and cost["difference"]["value"]),
            words.NOTHING if latency is None else f"{latency['difference']['value']:+.2f}",
            words.count(arm["prevented"]),
            words.count(arm["introduced"]),
            extra_dollars(arm.get("cost_per_prevented_usd"), sign=False),
        )
    return table


def plain(text: object) -> Text:
    """Text as it stands: no markup is read, and no control character is left."""
    return Text(words.printable(str(text)))


def table_of(title: str, *columns: str, left: int = 1) -> Table:
    """An unboxed table; the first ``left`` columns hold words, the others numbers."""
    table = Table(title=plain(title), title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(plain(name), justify="left" if place < left else "right", header_style="dim", overflow="fold")
    return table


def _index(found: Record) -> str:
    return f"{words.index(found['value'])} ({words.index_interval(found['ci_low'], found['ci_high'])})"


def signed(value: float | None) -> str:
    """A change of the Safety Index."""
    return words.NOTHING if value is None else f"{value:+.3f}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points."""
    return words.NOTHING if value is None else f"{100 * value:+.1f}"


def points_interval(row: Record) -> str:
    """Its interval, from ``ci_low`` and ``ci_high``."""
    low, high = row["ci_low"], row["ci_high"]
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
