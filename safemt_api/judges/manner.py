"""How judges are asked, whichever they are: at what temperature, and whether they see the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

from safemt_api.judges.base import Judge, digest_of
from safemt_api.messages import Answer, Asker, Call, Exhibit, Image, Message, Sees, Verdict


@dataclass(frozen=True, slots=True)
class Manner:
    """What ``--judge-temperature`` and ``--judge-sees`` were given; ``None`` leaves it to the vendor, and to each judge."""

    temperature: float | None = None
    sees: Sees | None = None

    @property
    def is_usual(self) -> bool:
        """Whether nothing was given."""
        return self == Manner()

    def applied(self, call: Call) -> Call:
        """The call in this manner."""
        messages = tuple(map(_words_of, call.messages)) if self.sees == "words" else call.messages
        if self.temperature is None:
            return replace(call, messages=messages)
        return replace(call, messages=messages, parameters=replace(call.parameters, temperature=self.temperature))


def _words_of(message: Message) -> Message:
    return replace(message, parts=tuple(part for part in message.parts if not isinstance(part, Image)))


@dataclass(frozen=True, slots=True)
class MannerAsker:
    """Puts calls in a manner."""

    asker: Asker
    manner: Manner

    async def ask(self, call: Call) -> Answer:
        """See ``Asker.ask``."""
        return await self.asker.ask(self.manner.applied(call))


@dataclass(frozen=True, slots=True)
class InManner:
    """A judge whose calls are put in a manner (by the asker it was opened with), which its digest tells."""

    judge_asked: Judge
    manner: Manner

    @property
    def name(self) -> str:
        """The judge's."""
        return self.judge_asked.name

    @property
    def digest(self) -> str:
        """Over the judge's and the manner."""
        return digest_of("manner", self.judge_asked.digest, str(self.manner.temperature), str(self.manner.sees))

    @property
    def baseline(self) -> bool:
        """The judge's."""
        return self.judge_asked.baseline

    @property
    def knows_examples(self) -> bool:
        """The judge's."""
        return self.judge_asked.knows_examples

    async def judge(self, exhibit: Exhibit) -> Verdict:
        """See ``Judge.judge``."""
        return await self.judge_asked.judge(exhibit)
