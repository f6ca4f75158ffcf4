"""``runs`` lists what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Cli = Callable[..., Any]


def test_runs_lists_a_finished_run(cli: Cli) -> None:
    assert cli("runs").out.startswith("no runs in results")
    assert cli("eval", "--sample", "3", "--lengths", "1", "--run", "a").code == 0
    assert "finished" in cli("runs").out
    (found,) = json.loads(cli("runs", "--json").out)
    assert (found["run"], found["state"], found["planned"], found["finished"]) == ("a", "finished", 3, 3)
