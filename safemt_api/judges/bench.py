"""Who judges: from what ``--judge`` and its companions were given to judges.

A new kind of judge is a file of its own that ends in a ``JudgeKind``, and a word in ``JUDGES``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safemt_api.errors import UsageError
from safemt_api.judges.base import USUAL, Judge, JudgeKind, Manner, Means
from safemt_api.judges.chat import RUBRIC
from safemt_api.judges.endpoints import DECISIONS, MODERATION
from safemt_api.judges.guards import GUARD
from safemt_api.judges.panel import EndsRunWhenSilent, Panel, WithFallback
from safemt_api.judges.rubric import Rubrics, load_rubrics
from safemt_api.judges.rules import BASELINE
from safemt_api.messages import Asker
from safemt_api.routes import Resolve
from safemt_api.specs import RULES, Grammar, Spec

JUDGES: Grammar[JudgeKind] = Grammar("--judge", {kind.name: kind for kind in (BASELINE, RUBRIC, GUARD, MODERATION, DECISIONS)}, RUBRIC.name)


def read_judges(judges: Sequence[str], fallback: str | None = None) -> tuple[Spec, ...]:
    """The specs of what ``--judge`` was given, and of ``--judge-fallback`` behind them.

    Raises:
        UsageError: No judge, one of no known form, or one that stands there twice.
    """
    if not judges:
        raise UsageError(f"no judge was given; --judge takes one of: {JUDGES.forms}")
    specs = tuple(map(JUDGES.read, judges)) + (() if fallback is None else (JUDGES.read(fallback, "--judge-fallback"),))
    if len(set(specs)) < len(specs):
        raise UsageError(f"a judge was given twice ({', '.join(map(str, specs))}); each one of a panel, and its fall-back, must be another")
    return specs


@dataclass(frozen=True, slots=True)
class Bench:
    """Who judges, by what, and in which manner; the fall-back is asked where another gives no verdict."""

    judges: tuple[Spec, ...]
    fallback: Spec | None
    rubrics: Rubrics
    manner: Manner = USUAL

    @classmethod
    def of(cls, judges: Sequence[str], fallback: str | None = None, *, rubric: str | Path | None = None, manner: Manner = USUAL) -> Bench:
        """The bench that was asked for with ``--judge``, ``--judge-fallback``, ``--rubric``, and how judges are asked.

        Raises:
            UsageError: A judge is of no known form or stands there twice, or the rubric cannot be read or is read by none.
        """
        specs = read_judges(judges, fallback)
        bench = cls(specs[: len(judges)], None if fallback is None else specs[-1], load_rubrics(rubric), manner)
        if rubric is not None and not bench.reads_rubric:
            raise UsageError(f"--rubric {rubric}: no judge here reads a rubric ({', '.join(map(str, specs))}); give --judge PROVIDER:MODEL")
        return bench

    @property
    def everyone(self) -> tuple[Spec, ...]:
        """All that may be asked, the fall-back last."""
        return self.judges if self.fallback is None else (*self.judges, self.fallback)

    @property
    def name(self) -> str:
        """The judge as summaries name it."""
        names = ", ".join(map(str, self.judges))
        return names if len(self.judges) == 1 else f"panel({names})"

    @property
    def is_baseline(self) -> bool:
        """Whether nobody but the rules judges."""
        return {spec.kind for spec in self.judges} == {RULES}

    @property
    def reads_rubric(self) -> bool:
        """Whether anyone judges by the rubrics."""
        return any(JUDGES.kind(spec).reads_rubric for spec in self.everyone)

    def each(self, asker: Asker, resolve: Resolve, *, simulated: bool = False) -> tuple[Judge, ...]:
        """Each judge by itself, the fall-back last. ``simulated``: the target is the simulator, whose marks ``rules`` may then believe.

        Raises:
            UsageError: A judge's model cannot be one, or its provider does not exist.
        """
        means = Means(asker, resolve, self.rubrics, self.manner, simulated)
        return tuple(JUDGES.kind(spec).open(spec, means) for spec in self.everyone)

    def joined(self, asker: Asker, resolve: Resolve, *, simulated: bool = False) -> Judge:
        """The judges as one: one judge, or a panel; with the fall-back.

        Whoever has the last word is watched for silence. What stands before a fall-back may be silent: that is what the fall-back is for.

        Raises:
            UsageError: See ``each``.
        """
        each = self.each(asker, resolve, simulated=simulated)
        judges, last = (tuple(map(EndsRunWhenSilent, each)), None) if self.fallback is None else (each[:-1], EndsRunWhenSilent(each[-1]))
        if len(judges) > 1:
            return Panel(judges, last)
        return judges[0] if last is None else WithFallback(judges[0], last)
