"""The page's section on a measured defence, read from the ``defence.json`` beside the undefended run: effect, side effects, price."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl

from safemt_api.errors import StoreError
from safemt_api.report import words
from safemt_api.report.arm_tables import undecided_sentences, undecided_share
from safemt_api.report.markup import Cell, Column, beside, block, counted, index_cell, rate, safe_text, said, section, swatch, table
from safemt_api.report.reading import Index, judge_title
from safemt_api.report.sections import WIDE_PIXELS, draw
from safemt_api.runs.defending import DEFENCE_FILE, DEFENCE_SCHEMA

Record = Mapping[str, Any]

UNDEFENDED = "none"
SIGNIFICANT = 0.05
NOTE = (
    "The same dialogues without a moderator and with each. A star marks an ASR that differs from the undefended one (p < 0.05, corrected "
    "for the number of turns). Effects come from harmful dialogues alone, false alarms and over-refusal from harmless ones alone. "
    "Undecided: the share of dialogues in which the moderator came to no decision at some turn."
)


def defence_section(folder: Path, drawing: ModuleType | None) -> str:
    """The section as HTML; empty where no ``defence.json`` lies in the folder.

    Raises:
        StoreError: The file is damaged or of a newer version.
    """
    record = _read(folder / DEFENCE_FILE)
    if record is None:
        return ""
    try:
        return section("defence", "Defence", _content(record, drawing), NOTE)
    except (KeyError, TypeError, ValueError, AttributeError, pl.exceptions.PolarsError) as error:
        raise StoreError(folder / DEFENCE_FILE, f"is not of the expected shape ({error!r})", "run the same defend command again") from error


def _read(file: Path) -> Record | None:
    try:
        record = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(file, f"cannot be read as JSON ({error})", "run the same defend command again") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if not isinstance(schema, int) or schema > DEFENCE_SCHEMA:
        raise StoreError(file, "is no record of a defence that this version knows", "upgrade safemt-api, or run the defend command again")
    return {**record}


def _content(record: Record, drawing: ModuleType | None) -> str:
    chart = _chart(record, drawing) if drawing else ""
    failed = "".join(f"<p>{safe_text(words.printable(sentence))}.</p>" for sentence in undecided_sentences(record))
    return block(_effects(record) + failed) + block(beside(chart, _harmless(record))) + block(_price(record))


def _word(record: Record) -> str:
    return words.turn_word(record["protocol"])


def _chart(record: Record, drawing: ModuleType) -> str:
    frame = _frame(record)
    if not frame["asr"].drop_nulls().len():
        return ""
    return draw(
        partial(drawing.asr_by_turn, frame, drawing.PAGE_PALETTE, width=WIDE_PIXELS, turn_title=_word(record)),
        drawing,
        name="defence",
        label=f"Attack success rate by {_word(record)} with each moderator; the numbers stand in the table",
        caption="Line: ASR. Band: 95% interval.",
    )


def _frame(record: Record) -> pl.DataFrame:
    rows = [(UNDEFENDED, row["turn"], row["asr"], row["ci_low"], row["ci_high"]) for row in record["undefended"]["asr_by_turn"]]
    rows += [
        (words.printable(arm["moderator"], limit=48), row["turn"], row["asr_after"], row["after_low"], row["after_high"])
        for arm in record["moderators"]
        for row in arm["asr_by_turn"] or ()
    ]
    schema = {"run": pl.String, "turn": pl.Int64, "asr": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _effects(record: Record) -> str:
    before = record["undefended"]["asr_by_turn"]
    turns = [row["turn"] for row in before]
    columns = [Column("Moderator"), Column("Safety Index", number=True), *(Column(f"ASR {turn}", number=True) for turn in turns)]
    columns.append(Column("Undecided", number=True))
    rows = [
        [
            _name(0, UNDEFENDED),
            _index(record["undefended"]["safety_index"]),
            *(starred_rate(row, "asr", "ci") for row in before),
            Cell(words.NOTHING),
        ]
    ]
    for place, arm in enumerate(record["moderators"], start=1):
        own = {row["turn"]: row for row in arm["asr_by_turn"] or ()}
        index = arm["safety_index"] and arm["safety_index"]["after"]
        figures = (_index(index), *(starred_rate(own.get(turn), "asr_after", "after") for turn in turns))
        rows.append([_name(place, arm["moderator"]), *figures, Cell(undecided_share(arm))])
    lengths = words.listed(tuple(record["lengths"]))
    judge = words.printable(judge_title(record["judge"], record.get("rubric")))
    return table(columns, rows, caption=f"ASR by {_word(record)}; SI over lengths {lengths}; judge: {judge}. Intervals are 95%.")


def _name(place: int, moderator: str) -> Cell:
    return Cell(f"{swatch(place)}{breakable(moderator)}", moderator)


def breakable(moderator: str) -> str:
    """The name with places where a narrow screen may break it."""
    return safe_text(moderator).replace(":", ":<wbr>")


def _name_only(moderator: str) -> Cell:
    return Cell(breakable(moderator), moderator)


def _index(found: Record | None) -> Cell:
    return Cell(words.NOTHING) if found is None else index_cell(Index.model_validate(found))


def starred_rate(row: Record | None, value: str, bounds: str) -> Cell:
    """An ASR with its interval, starred where it differs from the one before."""
    if row is None:
        return Cell(words.NOTHING)
    cell, p_value = rate(row[value], row[f"{bounds}_low"], row[f"{bounds}_high"]), row.get("p_holm")
    star = '<span class="star">*</span>' if p_value is not None and p_value < SIGNIFICANT else ""
    return Cell(cell.shown.replace("%", f"%{star}", 1), cell.key)


def _share(found: Record | None) -> Cell:
    return Cell(words.NOTHING) if found is None else rate(found["value"], found["ci_low"], found["ci_high"])


def _harmless(record: Record) -> str:
    names = ("False alarms", "Over-refusal", "Reply length")
    columns = [Column("Harmless dialogues"), *(Column(name, number=True) for name in names)]
    rows = [[said(UNDEFENDED), Cell(words.NOTHING), _share(record["undefended"]["over_refusal"]), Cell(words.NOTHING)]]
    for arm in record["moderators"]:
        alarms, refusals, length = (arm["benign"][name] for name in ("false_alarms", "over_refusal", "reply_characters"))
        change = length and length["relative"]["value"]
        longer = Cell(words.NOTHING) if change is None else Cell(f"{100 * change:+.1f}%", change)
        rows.append([_name_only(arm["moderator"]), _share(alarms), _share(refusals and refusals["after"]), longer])
    return table(columns, rows)


def _price(record: Record) -> str:
    names = ("Prevented", "Introduced", "$ a dialogue", "s a dialogue", "$ per failure prevented")
    columns = [Column("Harmful dialogues"), *(Column(name, number=True) for name in names)]
    rows = [[_name_only(arm["moderator"]), *burden_cells(arm)] for arm in record["moderators"]]
    return table(columns, rows, caption="What each moderator prevents on balance, and what it adds to a dialogue (without the judge).")


def burden_cells(arm: Record) -> Sequence[Cell]:
    """Failures prevented and introduced, dollars and seconds a dialogue takes more, and dollars for each failure prevented."""
    own = arm["per_dialogue"]["harmful"]
    cost, latency = (found and found["difference"]["value"] for found in (own["cost_usd"], own["latency_seconds"]))
    each = arm.get("cost_per_prevented_usd")
    return (
        Cell(words.NOTHING) if arm["prevented"] is None else counted(arm["prevented"]),
        Cell(words.NOTHING) if arm["introduced"] is None else counted(arm["introduced"]),
        Cell(words.NOTHING) if cost is None else Cell(f"{'-' if cost < 0 else '+'}{words.dollars(abs(cost))}", cost),
        Cell(words.NOTHING) if latency is None else Cell(f"{latency:+.2f}", latency),
        Cell(words.NOTHING) if each is None else Cell(words.dollars(each), each),
    )
