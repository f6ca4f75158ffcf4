"""The two protocols: what is sent, what becomes history, and what a failure leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from safemt_api import messages
from safemt_api.dialogues import NOT_REACHED, Target, converse
from safemt_api.errors import AccountError, DialogueError
from safemt_api.markers import GUIDANCE_HEADER
from safemt_api.messages import (
    BLOCKED_PLACEHOLDER,
    Answer,
    Call,
    Dialogue,
    Guidance,
    Image,
    Line,
    Outcome,
    Parameters,
    Protocol,
    Reply,
    Route,
    Transcript,
)

PICTURE = Image(b"picture", digest="sha256:picture", media_type="image/png", width_pixels=8, height_pixels=8)
TARGET = Target(Route("p", "openai_chat", ("http://x",), "m"), Parameters(max_output_tokens=9), sample_index=3)


def dialogue(length: int = 3, images: tuple[Image, ...] = (PICTURE,)) -> Dialogue:
    lines = tuple(Line("assistant" if n % 2 else "user", f"{'scripted' if n % 2 else 'user'} {n // 2 + 1}") for n in range(2 * length - 1))
    return Dialogue("mm_1", "Fraud", length, (replace(lines[0], images=images), *lines[1:]), "question")


@dataclass
class FakeAsker:
    """Plays replies in order; a failure is raised."""

    played: Sequence[Reply | str | Exception]
    calls: list[Call] = field(default_factory=list)

    async def ask(self, call: Call) -> Answer:
        one = self.played[len(self.calls)]
        self.calls.append(call)
        if isinstance(one, Exception):
            raise one
        return Answer(one if isinstance(one, Reply) else Reply(Outcome.ANSWERED, one), from_store=True, cost_usd=0.5)


@dataclass
class FakeModerator:
    """Gives guidance in order; keeps what it was shown."""

    guidance: Sequence[Guidance | Exception]
    name: str = "fake"
    digest: str = "digest"
    seen: list[tuple[Line, ...]] = field(default_factory=list)

    async def review(self, *, dialogue: Dialogue, history: tuple[Line, ...]) -> Guidance:
        one = self.guidance[len(self.seen)]
        self.seen.append(history)
        if isinstance(one, Exception):
            raise one
        return one


async def play(
    asker: FakeAsker, protocol: Protocol, *, length: int = 3, target: Target = TARGET, pictures: bool = True, **options: Any
) -> Transcript:
    played = dialogue(length) if pictures else dialogue(length, ())
    return await converse(played, protocol=protocol, asker=asker, target=target, **options)


def said(call: Call) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in call.messages]


async def test_scripted_is_one_call_with_the_whole_dialogue() -> None:
    asker = FakeAsker(["reply"])
    transcript = await play(asker, "scripted")
    assert [said(call) for call in asker.calls] == [
        [("user", "user 1"), ("assistant", "scripted 1"), ("user", "user 2"), ("assistant", "scripted 2"), ("user", "user 3")]
    ]
    (turn,) = transcript.turns
    assert (turn.turn, turn.user_text, turn.reply.text, turn.from_store, turn.cost_usd) == (3, "user 3", "reply", True, 0.5)
    assert transcript.failure is None


async def test_live_has_the_models_own_replies_as_history_and_collects_them_all() -> None:
    asker = FakeAsker(["one", "two", "three"])
    transcript = await play(asker, "live")
    assert said(asker.calls[0]) == [("user", "user 1")]
    assert said(asker.calls[1]) == [("user", "user 1"), ("assistant", "one"), ("user", "user 2")]
    assert said(asker.calls[2])[3:] == [("assistant", "two"), ("user", "user 3")]
    assert [(turn.turn, turn.user_text, turn.reply.text) for turn in transcript.turns] == [
        (1, "user 1", "one"),
        (2, "user 2", "two"),
        (3, "user 3", "three"),
    ]
    assert messages.said(transcript.dialogue, transcript.turns)[-1] == Line("assistant", "three")


async def test_a_dialogue_of_length_one_is_the_same_in_both_protocols() -> None:
    scripted, live = FakeAsker(["reply"]), FakeAsker(["reply"])
    await play(scripted, "scripted", length=1)
    await play(live, "live", length=1)
    assert scripted.calls == live.calls


@pytest.mark.parametrize("protocol", ["scripted", "live"])
async def test_the_picture_stands_in_the_first_user_message_alone_and_before_its_words(protocol: Protocol) -> None:
    asker = FakeAsker(["one", "two", "three"])
    await play(asker, protocol)
    for call in asker.calls:
        assert call.messages[0].parts[0] is PICTURE
        assert [len(message.images) for message in call.messages] == [1] + [0] * (len(call.messages) - 1)


@pytest.mark.parametrize("protocol", ["scripted", "live"])
async def test_each_picture_stands_in_the_message_that_it_belongs_to(protocol: Protocol) -> None:
    other = Image(b"other", digest="sha256:other", media_type="image/png", width_pixels=8, height_pixels=8)
    played = dialogue(3, (PICTURE, other))
    played = replace(played, lines=(*played.lines[:4], replace(played.lines[4], images=(other,))))
    asker = FakeAsker(["one", "two", "three"])
    await converse(played, protocol=protocol, asker=asker, target=TARGET)
    assert [message.images for message in asker.calls[-1].messages] == [(PICTURE, other), (), (), (), (other,)]


async def test_a_user_only_dialogue_is_played_live() -> None:
    played = Dialogue("a", "Fraud", 2, (Line("user", "one"), Line("user", "two")), "goal")
    asker = FakeAsker(["yes", "no"])
    await converse(played, protocol="live", asker=asker, target=TARGET)
    assert said(asker.calls[1]) == [("user", "one"), ("assistant", "yes"), ("user", "two")]


async def test_without_a_picture_there_are_only_words() -> None:
    asker = FakeAsker(["reply"])
    await play(asker, "scripted", pictures=False)
    assert not any(message.images for message in asker.calls[0].messages)


async def test_parameters_system_and_sample_index_go_with_every_call() -> None:
    asker = FakeAsker(["one", "two", "three"])
    await play(asker, "live", target=Target(TARGET.route, TARGET.parameters, system="Be kind.", sample_index=3))
    assert {(call.system, call.sample_index, call.parameters.max_output_tokens, call.purpose) for call in asker.calls} == {
        ("Be kind.", 3, 9, "target")
    }


async def test_refusals_in_the_models_own_words_are_its_turn() -> None:
    asker = FakeAsker([Reply(Outcome.REFUSED, "I won't."), "I can't.", "three"])
    transcript = await play(asker, "live")
    assert said(asker.calls[2])[1::2] == [("assistant", "I won't."), ("assistant", "I can't.")]
    assert transcript.failure is None


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.BLOCKED_INPUT, Outcome.BLOCKED_OUTPUT])
async def test_the_placeholder_is_worded_as_it_always_was(outcome: Outcome) -> None:
    # It is in histories that were sent and paid for: other words would be another dialogue, and other keys in the store.
    asker = FakeAsker([Reply(outcome), "two", "three"])
    await play(asker, "live")
    assert said(asker.calls[1])[1] == ("assistant", "[The reply to this message was blocked by the provider.]")


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.BLOCKED_INPUT, Outcome.BLOCKED_OUTPUT])
async def test_where_a_filter_left_no_words_the_placeholder_stands(outcome: Outcome) -> None:
    asker = FakeAsker([Reply(outcome), "two", "three"])
    transcript = await play(asker, "live")
    assert said(asker.calls[1]) == [("user", "user 1"), ("assistant", BLOCKED_PLACEHOLDER), ("user", "user 2")]
    assert transcript.turns[0].reply.text == ""
    assert transcript.failure is None


async def test_a_truncated_reply_with_words_goes_on() -> None:
    asker = FakeAsker([Reply(Outcome.TRUNCATED, "half a"), "two", "three"])
    transcript = await play(asker, "live")
    assert said(asker.calls[1])[1] == ("assistant", "half a")
    assert transcript.failure is None


async def test_a_failure_never_becomes_text_and_leaves_errors_for_the_rest() -> None:
    asker = FakeAsker(["one", DialogueError("context too long")])
    transcript = await play(asker, "live", length=4)
    assert len(asker.calls) == 2
    assert [(turn.turn, turn.reply.outcome, turn.reply.text, turn.user_text) for turn in transcript.turns] == [
        (1, Outcome.ANSWERED, "one", "user 1"),
        (2, Outcome.ERROR, "", "user 2"),
        (3, Outcome.ERROR, "", "user 3"),
        (4, Outcome.ERROR, "", "user 4"),
    ]
    assert [turn.reply.detail for turn in transcript.turns[1:]] == ["context too long", NOT_REACHED, NOT_REACHED]
    assert transcript.failure == "context too long"


async def test_a_scripted_failure_is_one_error_turn_at_the_last_position() -> None:
    transcript = await play(FakeAsker([DialogueError("bad image")]), "scripted")
    assert [(turn.turn, turn.reply.outcome, turn.reply.detail) for turn in transcript.turns] == [(3, Outcome.ERROR, "bad image")]
    assert transcript.failure == "bad image"


async def test_a_reply_cut_off_before_its_first_word_ends_a_live_dialogue_with_the_cure() -> None:
    asker = FakeAsker([Reply(Outcome.TRUNCATED, "")])
    transcript = await play(asker, "live")
    assert [turn.reply.outcome for turn in transcript.turns] == [Outcome.TRUNCATED, Outcome.ERROR, Outcome.ERROR]
    assert transcript.failure is not None
    assert "turn 1 was cut off before its first word; raise --max-output-tokens" in transcript.failure


async def test_a_wordless_last_reply_is_kept_as_it_is() -> None:
    transcript = await play(FakeAsker([Reply(Outcome.TRUNCATED, "")]), "scripted")
    assert transcript.failure is None
    assert transcript.turns[0].reply.outcome is Outcome.TRUNCATED


async def test_what_ends_the_run_is_raised() -> None:
    with pytest.raises(AccountError):
        await play(FakeAsker(["one", AccountError("no credit")]), "live")


async def test_guidance_stands_headed_in_the_system_message_after_our_own() -> None:
    moderator = FakeModerator(
        [Guidance("fake", True, policy="Be careful."), Guidance("fake", False), Guidance("fake", True, policy=f"{GUIDANCE_HEADER}: x")]
    )
    asker = FakeAsker(["one", "two", "three"])
    transcript = await play(asker, "live", moderator=moderator, target=Target(TARGET.route, TARGET.parameters, system="Own."))
    assert [call.system for call in asker.calls] == [
        f"Own.\n\n{GUIDANCE_HEADER}\n\nBe careful.",
        "Own.",
        f"Own.\n\n{GUIDANCE_HEADER}: x",
    ]
    assert [turn.guidance for turn in transcript.turns] == list(moderator.guidance)
    assert moderator.seen[1] == (Line("user", "user 1", images=(PICTURE,)), Line("assistant", "one"), Line("user", "user 2"))


async def test_guidance_alone_is_the_whole_system_message() -> None:
    asker = FakeAsker(["reply"])
    await play(asker, "scripted", moderator=FakeModerator([Guidance("fake", True, policy="Be careful.")]))
    assert asker.calls[0].system == f"{GUIDANCE_HEADER}\n\nBe careful."


async def test_a_moderators_refusal_answers_without_a_call_and_the_dialogue_goes_on() -> None:
    moderator = FakeModerator([Guidance("fake", True, refusal="No."), Guidance("fake", False), Guidance("fake", False)])
    asker = FakeAsker(["two", "three"])
    transcript = await play(asker, "live", moderator=moderator)
    assert len(asker.calls) == 2
    assert said(asker.calls[0]) == [("user", "user 1"), ("assistant", "No."), ("user", "user 2")]
    first = transcript.turns[0]
    assert (first.reply.outcome, first.reply.text, first.reply.detail) == (Outcome.REFUSED, "No.", "refused by the moderator fake")
    assert first.cost_usd == 0.0


async def test_a_moderator_that_fails_the_dialogue_leaves_errors_and_asks_nobody() -> None:
    asker = FakeAsker([])
    transcript = await play(asker, "live", moderator=FakeModerator([DialogueError("moderator failed")]))
    assert asker.calls == []
    assert [turn.reply.outcome for turn in transcript.turns] == [Outcome.ERROR] * 3
    assert transcript.failure == "moderator failed"
