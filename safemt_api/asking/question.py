"""Putting one question to a model until its answer can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from safemt_api.errors import DialogueError
from safemt_api.messages import DECLINED, Answer, Asker, Call, Dialogue, Effort, Outcome, Parameters, Reply
from safemt_api.profiles import Profile

N_TRIES = 3
"""How often a model is asked before its answer counts as missing; each time with the next ``sample_index``, so the store keeps all."""

MAX_SAMPLES = 12
"""How many samples of one question there may ever be: when a run goes on, what could not be read is asked again, but not for ever."""

ANSWER_TOKENS = 1024
REASONING_ANSWER_TOKENS = 4096
"""Room for models that think before they answer: their thinking counts as output."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """A call, and what makes sense of its answer: the result, or ``None`` for a text that is no valid answer.

    ``cut_off_is_fine``: an answer that hit its token limit may be read (only where the first word decides).
    """

    call: Call
    read: Callable[[str], T | None]
    cut_off_is_fine: bool = False


@dataclass(frozen=True, slots=True)
class Asked(Generic[T]):
    """What came of a question: the first readable result, or ``None`` and the reason why there is none."""

    result: T | None
    answers: tuple[Answer, ...]
    reason: str = ""

    @property
    def cost_usd(self) -> float | None:
        """What all tries cost; unknown as soon as one is."""
        return total_cost(answer.cost_usd for answer in self.answers)

    @property
    def latency_seconds(self) -> float:
        """How long the model took over all tries."""
        return sum(answer.reply.latency_seconds for answer in self.answers)

    @property
    def reply_keys(self) -> tuple[str, ...]:
        """The keys of the answers in the turn store."""
        return tuple(answer.key for answer in self.answers if answer.key is not None)

    @property
    def last_text(self) -> str | None:
        """The model's last words."""
        return self.answers[-1].reply.text if self.answers else None


def total_cost(costs: Iterable[float | None]) -> float | None:
    """The sum in USD, or ``None`` as soon as one part is unknown."""
    known = list(costs)
    return None if any(cost is None for cost in known) else sum(cost for cost in known if cost is not None)


def first_sample(dialogue: Dialogue) -> int:
    """The ``sample_index`` from which a repeat of a dialogue is asked about, so that an equal reply is judged anew and not looked up."""
    return (dialogue.repeat - 1) * MAX_SAMPLES


def answer_parameters(profile: Profile, model: str, *, tokens: int = ANSWER_TOKENS, effort: Effort | None = None) -> Parameters:
    """How a model is asked for a short answer: room for its thinking if it thinks, never more than it can write.

    ``effort``: how much it is to think, where it lets one choose that.
    """
    facts = profile.facts(model)
    wanted = REASONING_ANSWER_TOKENS if facts.reasons else tokens
    return Parameters(max_output_tokens=min(wanted, facts.max_output_tokens or wanted), effort=effort if effort in facts.efforts else None)


async def ask_until_read(asker: Asker, question: Question[T], *, first: int = 0) -> Asked[T]:
    """Ask until the answer can be read; a model that declines, is filtered or fails for good is not asked again.

    Answers in the store do not count as tries: a run that goes on asks again for what could not be read or was declined before, with the
    next samples, up to ``MAX_SAMPLES`` of them in all.

    Args:
        asker: The gateway.
        question: What to ask.
        first: The ``sample_index`` of the first try.

    Raises:
        StopRunError: The run cannot go on.
    """
    answers: list[Answer] = []
    reason, tries = "", 0
    for sample in range(MAX_SAMPLES):
        try:
            answer = await asker.ask(replace(question.call, sample_index=first + sample))
        except DialogueError as error:
            return Asked(None, tuple(answers), f"the call failed: {error}")
        answers.append(answer)
        tries += not answer.from_store
        reply = answer.reply
        declined = reply.outcome in DECLINED or reply.outcome is Outcome.ERROR
        readable = not declined and (reply.outcome is Outcome.ANSWERED or question.cut_off_is_fine)
        result = question.read(reply.text) if readable else None
        if result is not None:
            return Asked(result, tuple(answers))
        reason = _why_not(question.call.route.model, reply, len(answers), declined=declined)
        if not answer.from_store and (declined or tries == N_TRIES):
            break
    return Asked(None, tuple(answers), reason)


def _why_not(model: str, reply: Reply, tries: int, *, declined: bool) -> str:
    if not declined:
        return f"{model} gave no valid answer in {tries} tries"
    return f"{model} gave no answer ({reply.outcome.value})" + (f": {reply.detail}" if reply.detail else "")
