"""The two protocols: a ``Dialogue`` in, a ``Transcript`` out, one gateway call a turn.

*Scripted* (the paper's): the whole dialogue of the data set is sent at once, and only the reply to its last user message is collected.
*Live*: only the user's turns are scripted; the model's own replies become the history, and every reply is collected.

A failed call never becomes text in a history, and nothing is dropped from a history to make it fit: a dialogue that cannot go on ends, with
every turn it did not reach recorded as an error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from safemt_api.errors import DialogueError, ModeratorError
from safemt_api.markers import GUIDANCE_HEADER
from safemt_api.messages import (
    DECLINED,
    Asker,
    Call,
    Conversation,
    Dialogue,
    Guidance,
    Line,
    Message,
    Outcome,
    Parameters,
    Protocol,
    Reply,
    Route,
    Transcript,
    Turn,
    assistant,
    said,
    user,
)
from safemt_api.moderators.base import Moderator

NOT_REACHED = "not reached: an earlier turn of this dialogue failed"


@dataclass(frozen=True, slots=True)
class Target:
    """The model under test, with what is sent beside the dialogue."""

    route: Route
    parameters: Parameters
    system: str | None = None
    sample_index: int = 0


async def converse(
    dialogue: Dialogue, *, protocol: Protocol, asker: Asker, target: Target, moderator: Moderator | None = None
) -> Transcript:
    """Play one dialogue, whose pictures were read into its lines.

    A failure of this dialogue is in the transcript (``failure``, and turns with the outcome ``error``), not raised.

    Raises:
        StopRunError: The run cannot go on.
    """
    speaker = _Speaker(asker, target, dialogue, protocol, moderator)
    positions = range(1, dialogue.length + 1) if protocol == "live" else range(dialogue.length, dialogue.length + 1)
    turns: list[Turn] = []
    for position in positions:
        history = (*said(dialogue, turns), dialogue.user_lines[len(turns)]) if protocol == "live" else dialogue.lines
        try:
            turns.append(await speaker.turn(position, history))
            reply = turns[-1].reply
            if position < dialogue.length and not reply.text and reply.outcome not in DECLINED:
                raise DialogueError(f"the reply to turn {position} was cut off before its first word; raise --max-output-tokens")
        except DialogueError as error:
            turns = [*turns, *_unreached(dialogue, error, start=len(turns), positions=positions)]
            return Transcript(dialogue, protocol, tuple(turns), failure=str(error))
    return Transcript(dialogue, protocol, tuple(turns))


@dataclass(frozen=True, slots=True)
class _Speaker:
    asker: Asker
    target: Target
    dialogue: Dialogue
    protocol: Protocol
    moderator: Moderator | None

    async def turn(self, position: int, history: tuple[Line, ...]) -> Turn:
        guidance = None
        if self.moderator is not None:
            guidance = await self.moderator.review(dialogue=self.dialogue, history=history)
            if guidance.refusal is not None:
                reply = Reply(Outcome.REFUSED, text=guidance.refusal, detail=f"refused by the moderator {guidance.moderator}")
                return Turn(position, history[-1].text, reply, guidance=guidance)
        conversation: Conversation = "growing" if position < self.dialogue.length else "ending"
        # A moderator's own words stand before the messages and differ at each turn, so nothing is repeated; policies of a library stay the
        # same while the suspicion does.
        worded_anew = guidance is not None and guidance.policy is not None and guidance.flagged is None
        if self.protocol == "scripted" or self.dialogue.length == 1 or worded_anew:
            conversation = "single"
        call = Call(
            route=self.target.route,
            messages=to_messages(history),
            purpose="target",
            system=_system(self.target.system, guidance),
            parameters=_parameters(self.target.parameters, self.dialogue),
            sample_index=self.target.sample_index + self.dialogue.repeat - 1,
            conversation=conversation,
        )
        answer = await self.asker.ask(call)
        return Turn(position, history[-1].text, answer.reply, answer.from_store, answer.cost_usd, guidance, answer.key)


def to_messages(history: tuple[Line, ...]) -> tuple[Message, ...]:
    """Lines as messages, each with its own pictures."""
    return tuple(user(line.text, *line.images) if line.role == "user" else assistant(line.text) for line in history)


def _parameters(parameters: Parameters, dialogue: Dialogue) -> Parameters:
    """With a seed of its own for each repeat: a model that keeps its seed would say the same again."""
    if parameters.seed is None or dialogue.repeat == 1:
        return parameters
    return replace(parameters, seed=parameters.seed + dialogue.repeat - 1)


def _system(own: str | None, guidance: Guidance | None) -> str | None:
    policy = None if guidance is None else guidance.policy
    if policy is None:
        return own
    headed = policy if policy.startswith(GUIDANCE_HEADER) else f"{GUIDANCE_HEADER}\n\n{policy}"
    return headed if own is None else f"{own}\n\n{headed}"


def asked_at(dialogue: Dialogue, position: int) -> str:
    """The user's words at a position; the last message where the target was not shown the others."""
    return dialogue.user_texts[min(position, len(dialogue.user_texts)) - 1]


def _unreached(dialogue: Dialogue, error: DialogueError, *, start: int, positions: range) -> list[Turn]:
    undecided = Guidance(error.moderator, None, failure=error.reason) if isinstance(error, ModeratorError) else None
    failed = Turn(0, "", Reply(Outcome.ERROR, detail=str(error)), guidance=undecided)
    later = replace(failed, guidance=None, reply=Reply(Outcome.ERROR, detail=NOT_REACHED))
    return [
        replace(failed if index == start else later, turn=position, user_text=asked_at(dialogue, position))
        for index, position in enumerate(positions)
        if index >= start
    ]
