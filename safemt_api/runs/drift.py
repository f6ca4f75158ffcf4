"""A run whose target or judge was exchanged while it went on: its dialogues, cut where others answered (``metrics.drift`` says when).

A reply goes to the part whose model or back end it names, whatever moment it came at: calls that were under way when the change came
belong to those who answered them. One that names nobody goes by its moment. A live dialogue whose turns are of two parts is in neither.
Imports polars: import it late where a start must be quick.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import polars as pl

from safemt_api.metrics.drift import TOLD, Told, Values, parts

Party = Literal["target", "judge"]
DIALOGUE = ("dialogue_id", "length", "repeat")
TURN = (*DIALOGUE, "turn")
EVIDENCE = [*TURN, *TOLD, "received_utc"]
OF_TRANSCRIPTS = [*EVIDENCE, "model"]
OF_JUDGES = ["judge", *TOLD, "received_utc"]
"""The columns of ``transcripts.parquet`` that are needed, and those of ``verdicts.parquet`` beside what scores need."""


class Teller(NamedTuple):
    """Somebody whose replies tell who answered: the target or a judge by name, and a frame with ``EVIDENCE``."""

    party: Party
    who: str
    told: pl.DataFrame


class Piece(NamedTuple):
    """One part: what its replies told and how often, the moments of the first and the last (ISO 8601, where known), and its verdicts."""

    values: dict[str, int]
    first_utc: str | None
    last_utc: str | None
    verdicts: pl.DataFrame


class Cut(NamedTuple):
    """A run cut where somebody else answered: in ``across`` dialogues turns are of several parts, ``unplaced`` ones belong to none."""

    party: Party
    who: str
    what: Told
    pieces: list[Piece]
    across: int
    unplaced: int


def cuts(transcripts: pl.DataFrame, verdicts: pl.DataFrame) -> Iterator[Cut]:
    """Every change of the target's or a judge's served model or fingerprints, with the verdicts that count on each side.

    Args:
        transcripts: With ``OF_TRANSCRIPTS``.
        verdicts: With ``OF_JUDGES`` and all that scores need.
    """
    models = transcripts["model"].drop_nulls()
    judges = verdicts.filter(pl.any_horizontal(pl.col(what).is_not_null() for what in TOLD))
    tellers = [
        Teller("target", models[0] if len(models) else "", transcripts),
        *(Teller("judge", str(name), own) for (name,), own in sorted(judges.partition_by("judge", as_dict=True).items())),
    ]
    counting = verdicts.filter("counts")
    undated = counting.select(TURN).join(transcripts.select(*TURN, came_utc="received_utc"), on=TURN, how="left")
    for teller in tellers:
        by_name = list(_cut(teller, "served_model", undated, counting))
        by_back_end = _cut(teller, "system_fingerprint", undated, counting)
        yield from by_name
        # A model that brings back ends of its own is one change, and told once.
        yield from (one for one in by_back_end if not any(same_dialogues(one, other) for other in by_name))


def same_dialogues(one: Cut, other: Cut) -> bool:
    """Whether both cut the run at the same place."""
    dialogues = ([piece.verdicts.select(DIALOGUE).unique().sort(DIALOGUE) for piece in cut.pieces] for cut in (one, other))
    return all(mine is not None and yours is not None and mine.equals(yours) for mine, yours in zip_longest(*dialogues))


def _cut(teller: Teller, what: Told, undated: pl.DataFrame, verdicts: pl.DataFrame) -> Iterator[Cut]:
    told = teller.told.select(EVIDENCE)
    ordered = told.drop_nulls(what).sort("received_utc", maintain_order=True)
    found = parts(ordered[what].to_list(), what) if ordered[what].n_unique() > 1 else []
    if len(found) < 2:
        return
    owned = [ordered.filter(pl.col(what).is_in(values)) for values in found]
    placed = undated.join(told, on=TURN, how="left")
    by_dialogue = placed.group_by(DIALOGUE).agg(place=_place(what, found, owned).drop_nulls().unique())
    of_one = by_dialogue.filter(pl.col("place").list.len() == 1).with_columns(pl.col("place").list.first())
    pieces = [
        Piece(
            dict(Counter(own[what].to_list()).most_common()),
            own["received_utc"].min(),  # type: ignore[arg-type]  # of a column of texts
            own["received_utc"].max(),  # type: ignore[arg-type]
            verdicts.join(of_one.filter(pl.col("place") == number), on=DIALOGUE, how="semi", maintain_order="left"),
        )
        for number, own in enumerate(owned)
    ]
    across = by_dialogue.filter(pl.col("place").list.len() > 1).height
    yield Cut(teller.party, teller.who, what, pieces, across, by_dialogue.height - of_one.height - across)


def _place(what: Told, found: Sequence[Values], owned: list[pl.DataFrame]) -> pl.Expr:
    """The number of the part that a reply belongs to: by what it tells, else by when it came."""
    numbers = {value: number for number, values in enumerate(found) for value in values}
    moment = pl.coalesce("received_utc", "came_utc")
    by_moment: pl.Expr = pl.when(moment.is_not_null()).then(0)
    for number, own in enumerate(owned):
        begun: Any = own["received_utc"].min()
        if number and begun is not None:
            by_moment = pl.when(moment >= begun).then(number).otherwise(by_moment)
    return pl.col(what).replace_strict(numbers, default=None, return_dtype=pl.Int64).fill_null(by_moment)
