"""Counts verdicts and moderators' decisions as dialogues come in: how many were due, and why some are missing."""

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

    def add(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Count the verdict rows of one dialogue; whether one is missing. What its judge by its kind has no word on was not due."""
        due = [row for row in rows if row["counts"] and row["source"] != "inapplicable"]
        missing = [str(row["reason"]) for row in due if row["label"] is None]
        self.due += len(due)
        self.valid += len(due) - len(missing)
        self.dialogues_without += bool(missing)
        _count(self.reasons, missing)
        return bool(missing)

    @property
    def nothing_valid(self) -> bool:
        """Whether verdicts were due and none came: nothing was measured, whatever share may be missing."""
        return self.due > 0 and self.valid == 0

    def too_many_missing(self, dialogues: int, *, max_failures: float) -> bool:
        """Whether more of so many dialogues lack a verdict than a share of them may, or all do."""
        return self.nothing_valid or self.dialogues_without > max_failures * dialogues

    def record(self) -> dict[str, Any]:
        """What ``summary.json`` says of it; the commonest reasons first."""
        return {
            "due": self.due,
            "valid": self.valid,
            "missing": self.due - self.valid,
            "missing_reasons": dict(self.reasons.most_common()),
            "dialogues_without": self.dialogues_without,
        }


class ModerationTally:
    """What the moderator of a run decided so far; ``dialogues_without`` counts dialogues that went without a decision at some turn."""

    def __init__(self) -> None:
        self.reviews = self.flagged = self.failed = self.dialogues_without = 0
        self.reasons: Counter[str] = Counter()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Count the transcript rows of one dialogue; whether the moderator failed on it."""
        reviewed = [row for row in rows if row["moderator"] is not None]
        failures = [str(row["moderator_failure"]) for row in reviewed if row["moderator_failure"] is not None]
        self.reviews += len(reviewed)
        self.flagged += sum(row["moderator_flagged"] is True for row in reviewed)
        self.failed += len(failures)
        self.dialogues_without += bool(failures)
        _count(self.reasons, failures)
        return bool(failures)

    def record(self) -> dict[str, Any]:
        """What ``summary.json`` says of it; the commonest reasons first."""
        return {
            "reviews": self.reviews,
            "flagged": self.flagged,
            "failed": self.failed,
            "failure_reasons": dict(self.reasons.most_common()),
            "dialogues_without": self.dialogues_without,
        }


def _count(reasons: Counter[str], found: Iterable[str]) -> None:
    for reason in found:
        reasons[reason if reason in reasons or len(reasons) < MOST_REASONS_KEPT else OTHER_REASONS] += 1
