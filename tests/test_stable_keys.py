"""Replies that users have paid for stay theirs: keys over data of today are those of the first release, but for judges that read a rubric.

What those are asked has changed since (label first, a short reason), so their verdicts are bought anew once.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from safemt_api.dataset.images import fitted
from safemt_api.dataset.layouts import demonstration_folder
from safemt_api.dialogues import converse
from safemt_api.messages import Answer, Call, Image, Message, Outcome, Reply
from safemt_api.moderators.opening import open_moderator
from safemt_api.profiles import load_profiles
from safemt_api.routes import Router
from safemt_api.runs.connections import judges_of
from safemt_api.runs.plan import make_plan
from safemt_api.runs.play import judge_transcript, with_pictures
from safemt_api.runs.settings import EvalSettings
from safemt_api.store.keys import call_key

ROUTER = Router(load_profiles(), base_urls={"simulator": ("http://127.0.0.1:1/v1",)})
PINNED = {
    "scripted": "aced6f215f5b54bfd63002ed5a7d0cb2ddd758b632ae86f70c866fb3b40e0d4b",
    "live": "04d78fc1a95c87aa4b039a7f500b2e85804b50910981d4b281d618cfcaf5c327",
    "no-history": "ba9c682cbadc704073cc4b9d2836ac153d1872b2cef543234483588489eecb7b",
    "guard": "7e4b00fbc84a366dd7ef4d4ed1927ee5ca21bdcbe6c748d73acc9de1151d7c0f",
    "benign": "9020ddc02a867c2ac30bde41aee261c2a1fb60b485794cb376f2572024af13fc",
}
FINGERPRINT = "sha256:31c34e3d744bc1fb5242b32d61b1fd50548700f285b950f6ae2b1ea959b8a9f4"


class Recorder:
    """Answers every call with the same words and keeps its key, the pictures fitted as at the door."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def ask(self, call: Call) -> Answer:
        rules = ROUTER.profile(call.route.profile).image_rules(call.route.model)

        def at_the_door(message: Message) -> Message:
            parts = tuple(fitted(part, call.purpose, rules) if isinstance(part, Image) else part for part in message.parts)
            return replace(message, parts=parts)

        self.keys.append(call_key(replace(call, messages=tuple(map(at_the_door, call.messages)))))
        return Answer(Reply(Outcome.ANSWERED, "As you wish."))


async def keys_of(tmp_path: Path, **options: Any) -> list[str]:
    usual: dict[str, Any] = {"judges": ("simulator:sim-judge",), "moderator": "policy:simulator:sim-moderator", "sample": 3, "seed": 5}
    settings = EvalSettings(data=demonstration_folder(), results=tmp_path, moderator_failure="open", **{**usual, **options})
    plan = make_plan(settings, router=ROUTER, environ={})
    recorder = Recorder()
    (judge,) = judges_of(plan, recorder)
    moderator = open_moderator(
        plan.moderator, asker=recorder, resolve=ROUTER.resolver("moderator"), policies=None, failure=settings.moderator_failure
    )
    for entry in plan.entries:
        dialogue = with_pictures(plan.dialogue(entry), plan)
        transcript = await converse(dialogue, protocol=settings.protocol, asker=recorder, target=plan.target, moderator=moderator)
        await judge_transcript(transcript, judge)
    return recorder.keys


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("scripted", {}),
        ("live", {"protocol": "live", "repeats": 2, "lengths": (1, 4)}),
        ("no-history", {"show": "no-history"}),
        ("guard", {"judges": ("guard:simulator:sim-guard",), "moderator": "guard:simulator:sim-guard"}),
        ("benign", {"kinds": ("benign",), "moderator": "raw:simulator:sim-raw-moderator", "show": "blank-picture"}),
    ],
)
async def test_keys_of_targets_judges_and_moderators_stay(tmp_path: Path, what: str, options: dict[str, Any]) -> None:
    keys = await keys_of(tmp_path, **options)
    assert len(keys) > 20
    assert all(key.startswith("safemt2:") for key in keys)
    assert sha256("\n".join(sorted(keys)).encode()).hexdigest() == PINNED[what]


def test_the_fingerprint_of_the_demonstration_set_stays(tmp_path: Path) -> None:
    plan = make_plan(EvalSettings(data=demonstration_folder(), results=tmp_path), router=ROUTER, environ={})
    assert plan.dataset.fingerprint == FINGERPRINT
