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
from safemt_api.judges.panel import EndsRunWhenSilent, InTurn, Panel
from safemt_api.judges.rubric import Rubrics, load_rubrics
from safemt_api.judges.rules import BASELINE
from safemt_api.messages import Asker, Escalation
from safemt_api.routes import Resolve
from safemt_api.specs import RULES, Grammar, Spec

JUDGES: Grammar[JudgeKind] = Grammar("--judge", {kind.name: kind for kind in (BASELINE, RUBRIC, GUARD, MODERATION, DECISIONS)}, RUBRIC.name)


@dataclass(frozen=True, slots=True)
class Bench:
    """Who judges, by what, and in which manner.

    Args:
        judges: One, or a panel.
        fallback: Asked where another gives no verdict.
        second: Asked after all those where they say what ``when`` names; its word holds then.
        when: See ``panel.InTurn``.
        rubrics: What those judge by that have no criteria of their own.
        manner: How all are asked, but for their own options.
    """

    judges: tuple[Spec, ...]
    fallback: Spec | None
    second: Spec | None
    when: Escalation
    rubrics: Rubrics
    manner: Manner = USUAL

    @classmethod
    def of(
        cls,
        judges: Sequence[str],
        fallback: str | None = None,
        *,
        escalate: str | None = None,
        when: Escalation = "unsafe",
        rubric: str | Path | None = None,
        manner: Manner = USUAL,
    ) -> Bench:
        """The bench that ``--judge``, ``--judge-fallback``, ``--escalate``, ``--escalate-when`` and ``--rubric`` ask for.

        Raises:
            UsageError: No judge, one of no known form, one that stands there twice or cannot be unsure; or the rubric cannot be read or is
                read by none.
        """
        if not judges:
            raise UsageError(f"no judge was given; --judge takes one of: {JUDGES.forms}")
        specs = tuple(map(JUDGES.read, judges))
        last = None if fallback is None else JUDGES.read(fallback, "--judge-fallback")
        second = None if escalate is None else JUDGES.read(escalate, "--escalate")
        bench = cls(specs, last, second, when, load_rubrics(rubric), manner)
        named = ", ".join(map(str, bench.everyone))
        if len(set(bench.everyone)) < len(bench.everyone):
            raise UsageError(f"a judge was given twice ({named}); each one of a panel, its fall-back, and its second, must be another")
        if rubric is not None and not bench.reads_rubric:
            raise UsageError(f"--rubric {rubric}: no judge here reads a rubric ({named}); give --judge PROVIDER:MODEL")
        if second is not None and when == "unsure" and not (len(specs) == 1 and JUDGES.kind(specs[0]).tells_probability):
            raise UsageError(f"--escalate-when unsure: {', '.join(map(str, specs))} tells no probability; give --judge decisions:openai")
        return bench

    @property
    def everyone(self) -> tuple[Spec, ...]:
        """All that may be asked: the judges, the fall-back, the second."""
        return (*self.judges, *filter(None, (self.fallback, self.second)))

    @property
    def name(self) -> str:
        """The judge as summaries name it."""
        names = ", ".join(map(str, self.judges))
        first = names if len(self.judges) == 1 else f"panel({names})"
        return first if self.second is None else f"{first} then {self.second}"

    @property
    def is_baseline(self) -> bool:
        """Whether nobody but the rules judges."""
        return {spec.kind for spec in self.judges} == {RULES} and self.second is None

    @property
    def reads_rubric(self) -> bool:
        """Whether anyone judges by the rubrics."""
        return any(JUDGES.kind(spec).reads_rubric for spec in self.everyone)

    def each(self, asker: Asker, resolve: Resolve, *, simulated: bool = False) -> tuple[Judge, ...]:
        """Each judge by itself, in the order of ``everyone``.

        ``simulated``: the target is the simulator, whose marks ``rules`` may then believe.

        Raises:
            UsageError: A judge's model cannot be one, or its provider does not exist.
        """
        means = Means(asker, resolve, self.rubrics, self.manner, simulated)
        return tuple(JUDGES.kind(spec).open(spec, means) for spec in self.everyone)

    def joined(self, asker: Asker, resolve: Resolve, *, simulated: bool = False) -> Judge:
        """The judges as one: one judge, or a panel; with the fall-back, and with the second.

        Whoever has the last word is watched for silence, and so is whoever goes before a second: silent, it would save nothing. What stands
        before a fall-back may be silent: that is what the fall-back is for.

        Raises:
            UsageError: See ``each``.
        """
        judges = list(self.each(asker, resolve, simulated=simulated))
        second = None if self.second is None else EndsRunWhenSilent(judges.pop())
        fallback = None if self.fallback is None else EndsRunWhenSilent(judges.pop())
        each = tuple(judges) if fallback else tuple(map(EndsRunWhenSilent, judges))
        first: Judge = Panel(each, fallback) if len(each) > 1 else each[0]
        if len(each) == 1 and fallback is not None:
            first = InTurn(first, fallback)
        return first if second is None else InTurn(first, second, self.when)
