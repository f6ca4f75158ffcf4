"""Another model behind the same name from a given call on, over real sockets in three wire formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from safemt_api.errors import UsageError
from safemt_api.markers import SIMULATED_UNSAFE
from safemt_api.profiles import WIRE_FORMATS, WireFormat
from safemt_api.simulator import Change, SimulatorSettings, plays_unsafe

Stage = Callable[..., Any]
SAID = [[("user", f"question {place}")] for place in range(40)]


def test_a_change_is_read_from_text_and_survives_the_way_to_another_process() -> None:
    change = Change.parse("200@sim-average:served=sim-average-2,fingerprint=fp_a/fp_b,persona=sim-brittle")
    assert change == Change(200, "sim-average", "sim-average-2", ("fp_a", "fp_b"), "sim-brittle")
    settings = SimulatorSettings(changes=(change, Change(3)))
    assert SimulatorSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("served=a", "cannot read the change"),
        ("x:served=a", "cannot read the change"),
        ("3:name=a", "cannot read the change"),
        ("3:served=", "cannot read the change"),
        ("0:served=a", "from 1 on, not at 0"),
        ("3:persona=sim-brittel", "did you mean 'sim-brittle'"),
    ],
)
def test_a_wrong_change_is_told_plainly(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Change.parse(text)


@pytest.mark.parametrize("wire", WIRE_FORMATS)
async def test_from_its_call_on_another_model_answers_under_the_name(wire: WireFormat, stage: Stage) -> None:
    changes = (
        Change(1, fingerprints=("fp_a", "fp_b")),
        Change(21, "sim-safe", served_model="sim-safe-2", fingerprints=("fp_c",), persona="sim-brittle"),
    )
    async with stage(SimulatorSettings(seed=5, changes=changes)) as playing:
        client, told = playing.client(wire), []
        for at, lines in enumerate(SAID):
            answer = await client.ask("sim-safe", lines)
            told.append(getattr(answer, "model", None) or answer.model_version)
            player = "sim-safe" if at < 20 else "sim-brittle"
            text = await client.text("sim-average", lines)
            assert (SIMULATED_UNSAFE in text) == plays_unsafe("sim-average", seed=5, user_texts=[lines[0][1]])
            truth = [one for one in playing.simulator.truth if one.model == "sim-safe"][-1]
            assert truth.unsafe == plays_unsafe(player, seed=5, user_texts=[lines[0][1]])
            assert truth.served_model == told[-1]
            assert truth.fingerprint in ({"fp_a", "fp_b"} if at < 20 else {"fp_c"})
            if wire == "openai_chat":
                assert answer.system_fingerprint == truth.fingerprint
    assert told == ["sim-safe"] * 20 + ["sim-safe-2"] * 20
