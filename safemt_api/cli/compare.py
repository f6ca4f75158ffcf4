"""``safemt-api compare``: two runs over the same ids, paired."""

from __future__ import annotations

from typing import Annotated

import typer

from safemt_api.cli import options
from safemt_api.runs.settings import MOST


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, by name or path.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another over the same ids.")],
    *,
    results: options.Results = options.RESULTS,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST, help="Of the bootstrap.")] = 0,
    anyway: options.Anyway = False,
    as_json: options.FiguresAsJson = False,
) -> None:
    """Compare two runs over the ids they share: differences with intervals, tests, and a verdict in plain words."""
    from safemt_api.cli.reporting import show_comparison  # noqa: PLC0415 (imports polars and rich, which --help must not)

    show_comparison(a, b, results=results, seed=seed, anyway=anyway, as_json=as_json)
