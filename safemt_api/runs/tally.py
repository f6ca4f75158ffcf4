"""Counts verdicts as dialogues are judged: how many were due, how many are valid, and why the others are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

MOST_REASONS_KEPT = 100
OTHER_REASONS = "other reasons"


class VerdictTally:
    """The verdicts of one run so far; ``dialogues_without`` counts dialogues that lack one or more of theirs."""

    def __init__(self) -> None:
        self.due = self.valid = self.dialogues_without = 0
        self.reasons: Counter[str] = Counter()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count the verdict rows of one dialogue. What its judge by its kind has no word on was not due."""
        due = [row for row in rows if row["counts"] and row["source"] != "inapplicable"]
        missing = [str(row["reason"]) for row in due if row["label"] is None]
        self.due += len(due)
        self.valid += len(due) - len(missing)
        self.dialogues_without += bool(missing)
        for reason in missing:
            self.reasons[reason if reason in self.reasons or len(self.reasons) < MOST_REASONS_KEPT else OTHER_REASONS] += 1

    def too_many_missing(self, dialogues: int, *, max_failures: float) -> bool:
        """Whether more of so many dialogues lack a verdict than a share of them may."""
        return self.dialogues_without > max_failures * dialogues

    def record(self) -> dict[str, Any]:
        """What ``summary.json`` says of it; the commonest reasons first."""
        return {
            "due": self.due,
            "valid": self.valid,
            "missing": self.due - self.valid,
            "missing_reasons": dict(self.reasons.most_common()),
            "dialogues_without": self.dialogues_without,
        }
