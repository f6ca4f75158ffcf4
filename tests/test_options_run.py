"""What is asked of models beside the words reaches them over real sockets, and stands in the run file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import SettingsChangedError, UsageError
from safemt_api.evaluation import evaluate

GIVEN: dict[str, Any] = {
    "effort": "low",
    "safety_threshold": "block_none",
    "seed_sampling": 3,
    "judge_temperature": 0.5,
    "judge_sees": "words",
}


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Any]:
    """A run of one id, judged by a model."""
    options = {"sample": 1, "lengths": (1,), "results": tmp_path / "results", "run": "r"}
    return {"provider": "simulator-google", "judges": ("simulator:sim-judge",), **options}


async def test_options_are_taken_recorded_and_part_of_what_makes_the_run(small: dict[str, Any]) -> None:
    result = await evaluate(**small, **GIVEN)
    assert result.exit_code == 0
    written = json.loads((result.folder / "run.json").read_text())
    assert {name: written["settings"][name] for name in GIVEN} == GIVEN
    parameters = written["identity"]["parameters"]
    assert (parameters["effort"], parameters["safety_threshold"], parameters["seed"]) == ("low", "block_none", 3)
    again = await evaluate(**small, **GIVEN)
    assert again.summary.calls.sent == 0
    with pytest.raises(SettingsChangedError, match="judge_sees"):
        await evaluate(**small, **{**GIVEN, "judge_sees": None})
    other = await evaluate(**{**small, "run": "other"}, **{**GIVEN, "effort": "high"})
    assert other.summary.calls.sent > 0


@pytest.mark.parametrize("option", [{"judge_temperature": 0.5}, {"judge_sees": "words"}])
async def test_options_for_judges_are_refused_where_nobody_is_asked(small: dict[str, Any], option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="has no effect here: rules is no model that is shown a conversation"):
        await evaluate(**{**small, "judges": ("rules",)}, **option)
