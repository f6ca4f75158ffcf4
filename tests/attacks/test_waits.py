"""Attacks on the pace: waits that can be none."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from safemt_api.profiles import WireFormat
from safemt_api.report.views import run_report
from safemt_api.runs.record import read_run
from tests.attacks.conftest import Attacked
from tests.attacks.hostile import answer, reply, too_many


@pytest.mark.parametrize("wait", ["999999999999999", "-1", "NaN", "[red]next year"])
def test_a_wait_that_can_be_none_is_not_held_and_said_once(attacked: Attacked, wire_format: WireFormat, wait: str) -> None:
    whole, refused = answer(reply(wire_format)), too_many(wire_format, retry_after=wait)
    with attacked(lambda asked: refused if asked.number in (2, 5) else whole) as ground:
        result = ground.run(sample=8)
    assert (result.exit_code, result.summary.status, result.summary.calls.rate_limited) == (0, "complete", 2)
    (history,) = json.loads((result.folder / "run.json").read_text())["limits"].values()
    sentence = f"the wait asked for ({wait}) is not believed"
    assert [entry["cause"] for entry in history if "believed" in entry["cause"]] == [sentence]
    shown = StringIO()
    Console(width=200, file=shown, force_terminal=False).print(run_report(read_run(result.folder)))
    assert shown.getvalue().count(sentence) == 1
