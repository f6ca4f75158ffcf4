"""The list of dialogues: each order that the page offers, over runs side by side, with what is unknown last."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from safemt_api.view.holdings import Library
from safemt_api.view.shelf import SORTS, Filters, Shelf
from tests.view.conftest import finished_run

KEYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "id": lambda row: [int(part) if place % 2 else part for place, part in enumerate(re.split("([0-9]+)", row["dialogue_id"]))],
    "turns": lambda row: row["length"],
    "cost": lambda row: row["cost_usd"],
    "seconds": lambda row: row["latency_seconds"],
    "repeat": lambda row: 0,
    "verdict": lambda row: ["unsafe", "declined", "missing", "safe", "helped"].index(row["verdict"]),
}


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("down", [False, True])
def test_every_order_is_that_of_its_column_and_what_is_alike_stays_in_the_order_of_reading(tmp_path: Path, sort: str, down: bool) -> None:
    library = Library(tmp_path)
    for seed, name in enumerate(("one", "two")):
        folder = finished_run(tmp_path, name, seed=seed, ids_each=12, scenarios=("Fraud", "Animal Abuse"))
        file = folder / "transcripts.parquet"
        unknown = pl.col("dialogue_id").str.ends_with("_3")
        columns = [
            pl.when(~unknown).then(pl.col(column)).alias(column)
            for column in ("cost_usd", "input_tokens", "output_tokens", "latency_seconds")
        ]
        methods = pl.when(pl.col("length") > 1).then(pl.col("dialogue_id").str.slice(-1)).alias("method")
        pl.read_parquet(file).with_columns(*columns, methods).write_parquet(file)
        file = folder / "verdicts.parquet"
        pl.read_parquet(file).with_columns(cost_usd=pl.lit(None, dtype=pl.Float64)).write_parquet(file)
    library.overview()
    shelf = Shelf(library.entries)
    shelf.look()

    def rows(filters: Filters) -> list[dict[str, Any]]:
        return [row for offset in (0, 200) for row in shelf.page(filters, offset=offset)["rows"]]

    natural, name = rows(Filters()), f"{'-' * down}{sort}"
    key: Callable[[dict[str, Any]], Any] = KEYS.get(sort, lambda row: row[sort])
    known, unknown_rows = ([row for row in natural if (key(row) is None) == empty] for empty in (False, True))
    assert len(natural) == 240
    assert rows(Filters(sort=name)) == sorted(known, key=key, reverse=down) + unknown_rows
    assert bool(unknown_rows) == (sort in ("cost", "tokens", "seconds", "method"))
    row = rows(Filters(sort=name, verdict="unsafe"))[7]
    run = list(library.entries)[row["run"]]
    place = shelf.place(Filters(sort=name, verdict="unsafe"), dialogue_id=row["dialogue_id"], length=row["length"], repeat=1, run=run)
    assert place == 7
