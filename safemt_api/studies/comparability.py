"""Whether scores of several runs may be compared or ranked: what must be the same, what is not, and what would make it so.

Scores answer the same question only where dialogues, lengths, protocol, kinds, system prompt, sampling and judge are the same. Model,
moderator and picture handling are what comparisons are about, and the limit on a reply's tokens follows from the model; they may differ.
A fact that a run file does not record (it was written by an older version) is not held against the run.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import polars as pl

from safemt_api import words
from safemt_api.errors import UsageError
from safemt_api.metrics.comparison import Comparison, compare
from safemt_api.metrics.frames import score_frame
from safemt_api.runs.record import RunData
from safemt_api.specs import RULES

MARK = "†"
"""Stands beside a run whose scores do not compare with the first run's."""

TURN_KEY = ("dialogue_id", "length", "turn")
NOT_SAMPLING = "max_output_tokens"
INSTRUCTIONS = "judge's instructions"
ASKED_ABOUT = frozenset({"system prompt", "sampling", "repeats"})
"""What the arms of a study may differ in on purpose, beside target, moderator and what the target is shown: it is what the study asks.
Of repeats the first ones that all arms hold are compared."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact in which ``run`` differs from the run that it stands beside, and what would remove it."""

    run: str
    what: str
    first: str
    other: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}: {self.first}, but {self.run} has {self.other}; {self.cure}"


def comparable_groups(runs: Sequence[RunData]) -> list[list[RunData]]:
    """The runs by protocol (scripted first) and set of lengths: only within a group are scores ever ranked."""

    def question(run: RunData) -> tuple[bool, tuple[int, ...]]:
        return run.summary.protocol != "scripted", tuple(-length for length in run.summary.safety_index.lengths)

    return [list(members) for _, members in groupby(sorted(runs, key=question), key=question)]


def differences(first: RunData, other: RunData, *, paired: bool = False) -> list[Difference]:
    """What keeps the scores of ``other`` from being compared with those of ``first``; empty where they compare.

    Args:
        first: One run.
        other: Another.
        paired: Only the dialogues that both runs hold will be used, so only their words must agree, not the choice of dialogues.
    """
    facts = zip(_facts(first).items(), _facts(other).values(), strict=True)
    found = [
        Difference(other.name, what, before, now, _cure(what, first, other))
        for (what, before), now in facts
        if before is not None and now is not None and before != now and not (paired and what == "dialogues")
    ]
    if any(difference.what == "judge" for difference in found):
        # Another judge has other instructions: that is one difference, not two.
        found = [difference for difference in found if difference.what != INSTRUCTIONS]
    changed = _changed_dialogues(first, other) if paired and _facts(first)["dialogues"] != _facts(other)["dialogues"] else 0
    if changed:
        said = f"other words in {words.count(changed)} of the turns that both hold"
        found.append(Difference(other.name, "dialogues", "the data set of the first run", said, _cure("dialogues", first, other)))
    return found


def all_differences(runs: Sequence[RunData]) -> list[Difference]:
    """The differences within each comparable group, each run against the group's first."""
    return [found for members in comparable_groups(runs) for other in members[1:] for found in differences(members[0], other)]


def arm_differences(first: RunData, other: RunData) -> list[Difference]:
    """What keeps two arms of a study from being ranked together or compared."""
    return [found for found in differences(first, other) if found.what not in ASKED_ABOUT]


def arm_groups(arms: Sequence[RunData]) -> list[list[RunData]]:
    """The arms of a study in groups that may be ranked together: one protocol, one set of lengths, one judge, the same data."""
    groups: list[list[RunData]] = []
    for arm in arms:
        fitting = next((group for group in groups if not arm_differences(group[0], arm)), None)
        if fitting is None:
            groups.append([arm])
        else:
            fitting.append(arm)
    return groups


def refuse_incomparable(found: Sequence[Difference], first: str) -> None:
    """Refuse scores that do not compare.

    Raises:
        UsageError: Lists every difference with what would remove it.
    """
    if found:
        listed = "\n".join(f"  {words.printable(str(difference))}" for difference in found)
        raise UsageError(f"the scores do not compare with those of {first} (--anyway shows them all the same, marked):\n{listed}")


def compare_runs(a: RunData, b: RunData, *, seed: int = 0, anyway: bool = False) -> Comparison:
    """The paired comparison of two runs of the same protocol, over harmful dialogues and, if live, their final turns.

    Raises:
        UsageError: The scores do not compare and ``anyway`` is not set, the protocols differ, or the runs share no dialogue.
    """
    found = differences(a, b, paired=True)
    if a.summary.protocol != b.summary.protocol:
        raise UsageError(
            f"{a.name} is {a.summary.protocol} and {b.name} is {b.summary.protocol}; scripted and live scores mean different things, "
            "so compare runs of one protocol"
        )
    if not anyway:
        refuse_incomparable(found, a.name)
    return compare(score_frame(a.verdicts), score_frame(b.verdicts), name_a=a.name, name_b=b.name, seed=seed)


def _facts(run: RunData) -> dict[str, str | None]:
    identity = _mapping(run.manifest.get("identity"))
    parameters = _mapping(identity.get("parameters"))
    sampling = {name: value for name, value in parameters.items() if name != NOT_SAMPLING}
    recorded, kinds = bool(identity), identity.get("kinds")
    data = _mapping(run.manifest.get("data"))
    return {
        "protocol": run.summary.protocol,
        "repeats": str(identity.get("repeats", 1)) if recorded else None,
        "lengths": words.listed(run.summary.lengths) if run.summary.lengths else None,
        "kinds": "benign dialogues alone" if kinds == ["benign"] else "harmful dialogues",
        "dialogues": _text(identity.get("dataset") or data.get("fingerprint")),
        "system prompt": (_text(identity.get("system")) or "none") if recorded else None,
        "sampling": (json.dumps(sampling, sort_keys=True) if sampling else "the vendor's defaults") if recorded else None,
        "judged turns": str(identity.get("judge_turns", "all")) if recorded else None,
        "judge": run.summary.judge,
        INSTRUCTIONS: digest[:12] if isinstance(digest := run.manifest.get("judge_digest"), str) else None,
    }


def _changed_dialogues(first: RunData, other: RunData) -> int:
    """How many turns that both runs hold were asked in other words; live histories differ by nature, so there the user's words count."""
    said = "messages" if first.summary.protocol == other.summary.protocol == "scripted" else "user_text"
    mine, theirs = (run.transcripts.filter(pl.col("kind") == "harmful").unique(TURN_KEY).select(*TURN_KEY, said) for run in (first, other))
    both = mine.join(theirs, on=TURN_KEY, suffix="_other")
    return both.filter(pl.col(said) != pl.col(f"{said}_other")).height


def _cure(what: str, first: RunData, other: RunData) -> str:
    if what == "judged turns":
        return f"`{judge_command(other, as_in=first)} --judge-turns all` judges it alike"
    if what.startswith("judge"):
        return f"`{judge_command(other, as_in=first)}` judges it alike"
    if what == "lengths":
        return "play it again with the same --lengths"
    if what == "repeats":
        return "play it again with the same --repeats"
    if what == "protocol":
        return "play it again with the same --protocol"
    options = {"kinds": "--kinds", "system prompt": "--system", "sampling": "sampling options"}
    return f"play it again with the same {options.get(what, '--data, --sample and --seed')}"


def judge_command(run: RunData, *, as_in: RunData) -> str:
    """The command that judges ``run`` as ``as_in`` was judged."""
    settings = _mapping(as_in.manifest.get("settings"))
    judges = settings.get("judges")
    specs = [str(spec) for spec in judges] if isinstance(judges, list) and judges else [as_in.summary.judge or RULES]
    more = [("--judge", spec) for spec in specs]
    beside = ("judge_fallback", "escalate", "rubric", *(["escalate_when"] if settings.get("escalate") else []))
    more += [(f"--{name.replace('_', '-')}", str(settings[name])) for name in beside if settings.get(name)]
    return shlex.join(["safemt-api", "judge", run.name, *(word for pair in more for word in pair)])


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
