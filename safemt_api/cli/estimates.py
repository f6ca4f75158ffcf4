"""The table that ``--dry-run`` prints."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from safemt_api.report import words
from safemt_api.runs.estimating import Estimate, Share


def estimate_table(found: Estimate) -> RenderableType:
    """Calls, tokens and dollars by model, expected and at most."""
    title = f"{found.run}: {found.dialogues:,} dialogues, nothing sent"
    table = Table(title=Text(words.printable(title)), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("who")
    table.add_column("model", overflow="fold")
    for name in ("calls", "in store", "input tokens", "output tokens", "expected", "at most"):
        table.add_column(name, justify="right")
    for share in found.shares:
        table.add_row(*map(Text, _cells(share)))
    total = Text(f"Expected cost {words.dollars(found.expected_usd)}, at most {words.dollars(found.most_usd)} without retries.")
    notes = [
        total,
        Text("What is in the store is not bought again, and not in these figures; --max-usd holds a ceiling whatever happens."),
    ]
    if found.unpriced:
        notes.insert(1, Text(words.printable(f"No price is known for {', '.join(found.unpriced)}: not in these sums.")))
    return Group(table, Text(), *notes)


def _cells(share: Share) -> tuple[str, ...]:
    return (
        share.purpose,
        words.printable(share.model),
        words.count(share.calls),
        words.count(share.paid_calls),
        words.count(share.input_tokens),
        words.count(share.output_tokens),
        words.dollars(share.expected_usd),
        words.dollars(share.most_usd),
    )
