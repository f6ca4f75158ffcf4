"""A judge that falls silent ends the run: replies go on being bought, and nothing is learnt from them."""

from __future__ import annotations

from dataclasses import dataclass

from safemt_api.errors import JudgeSilentError
from safemt_api.judges.base import Judge
from safemt_api.messages import Exhibit, Verdict

MOST_SILENT = 10
"""Missing verdicts in a row from one judge that end a run. A judge that misses one in ten by chance does so once in 10^10 times."""


@dataclass(slots=True)
class EndsRunWhenSilent:
    """A judge, watched: what it is asked counts, what needs no judge or lies outside its subject does not."""

    judge_watched: Judge
    silent: int = 0

    @property
    def name(self) -> str:
        """The judge's."""
        return self.judge_watched.name

    @property
    def digest(self) -> str:
        """The judge's: watching changes no verdict."""
        return self.judge_watched.digest

    @property
    def baseline(self) -> bool:
        """The judge's."""
        return self.judge_watched.baseline

    @property
    def knows_examples(self) -> bool:
        """The judge's."""
        return self.judge_watched.knows_examples

    async def judge(self, exhibit: Exhibit) -> Verdict:
        """Ask the judge.

        Raises:
            JudgeSilentError: It has given no verdict for the tenth time in a row.
            StopRunError: The run cannot go on for another reason.
        """
        verdict = await self.judge_watched.judge(exhibit)
        if verdict.source == "judge":
            self.silent = self.silent + 1 if verdict.label is None else 0
        if self.silent >= MOST_SILENT:
            raise JudgeSilentError(self.name, self.silent, reason=verdict.reason, said=verdict.raw)
        return verdict
