"""Ablations: each takes away one thing, the last user message stays, and the picture's size stays where only its content goes."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import get_args

import PIL.Image
import pytest

from safemt_api.dataset.images import fitted, open_source
from safemt_api.dialogues import Target, converse
from safemt_api.errors import DialogueError, UsageError
from safemt_api.messages import Answer, Call, Dialogue, Line, Outcome, Parameters, Reply, Route
from safemt_api.profiles import find_profile, load_profiles
from safemt_api.runs.settings import EvalSettings
from safemt_api.shown import NEUTRAL_REPLY, Show, as_shown

DIALOGUE = Dialogue(
    id="a",
    scenario="Fraud",
    length=3,
    lines=(
        Line("user", "one", ("images/a.png",)),
        Line("assistant", "yes"),
        Line("user", "two"),
        Line("assistant", "yes"),
        Line("user", "three"),
    ),
    goal="three",
)
TARGET = Target(Route("p", "openai_chat", ("http://x",), "m"), Parameters())


class Recorder:
    """Answers everything, or fails, and keeps what it was asked."""

    def __init__(self, *, failing: bool = False) -> None:
        self.calls: list[Call] = []
        self.failing = failing

    async def ask(self, call: Call) -> Answer:
        self.calls.append(call)
        if self.failing:
            raise DialogueError("no")
        return Answer(Reply(Outcome.ANSWERED, text="a reply"))


def _texts(show: Show) -> list[str]:
    return [line.text for line in as_shown(DIALOGUE, show).lines]


def test_each_ablation_takes_away_one_thing() -> None:
    assert _texts("whole") == _texts("no-picture") == _texts("blank-picture") == ["one", "yes", "two", "yes", "three"]
    assert _texts("no-history") == ["three"]
    assert _texts("no-replies") == ["one", NEUTRAL_REPLY, "two", NEUTRAL_REPLY, "three"]
    assert {show: as_shown(DIALOGUE, show).image_paths for show in get_args(Show)} == {
        "whole": ("images/a.png",),
        "no-picture": (),
        "blank-picture": ("images/a.png",),
        "no-history": ("images/a.png",),
        "no-replies": ("images/a.png",),
    }


@pytest.mark.parametrize("show", get_args(Show))
def test_id_length_and_last_message_stay_so_that_arms_pair(show: Show) -> None:
    shown = as_shown(DIALOGUE, show)
    assert (shown.id, shown.length, shown.goal, shown.lines[-1].text) == (DIALOGUE.id, 3, "three", "three")


@pytest.mark.parametrize("failing", [False, True])
async def test_a_dialogue_without_history_is_one_message_at_its_own_length(*, failing: bool) -> None:
    asker = Recorder(failing=failing)
    transcript = await converse(as_shown(DIALOGUE, "no-history"), protocol="scripted", asker=asker, target=TARGET)
    assert [[message.text for message in call.messages] for call in asker.calls] == [["three"]]
    assert [(turn.turn, turn.user_text) for turn in transcript.turns] == [(3, "three")]
    assert (transcript.failure is not None) is failing


def test_a_blank_picture_has_the_size_that_would_be_sent_and_no_content(tmp_path: Path) -> None:
    PIL.Image.effect_noise((3000, 2000), 50).convert("RGB").save(tmp_path / "a.png")
    rules = find_profile(load_profiles(None), "anthropic").image_rules("claude-haiku-5-5")
    whole = fitted(open_source(tmp_path, "a.png"), "target", rules)
    source = open_source(tmp_path, "a.png", blank=True)
    blank = fitted(source, "target", rules)
    assert (blank.width_pixels, blank.height_pixels) == (whole.width_pixels, whole.height_pixels)
    assert blank.digest not in (whole.digest, source.digest)
    assert source.note == f"grey picture of {blank.width_pixels}x{blank.height_pixels} in its place"
    with PIL.Image.open(io.BytesIO(blank.data)) as picture:
        assert picture.size == (blank.width_pixels, blank.height_pixels)
        assert picture.getextrema() == (128, 128)


@pytest.mark.parametrize("show", ["no-history", "no-replies"])
def test_a_live_dialogue_has_no_scripted_history_to_take_away(show: Show) -> None:
    with pytest.raises(UsageError, match="--protocol scripted"):
        EvalSettings(show=show, protocol="live")
    assert replace(EvalSettings(show=show), seed=1).show == show
