"""What ``judge RUN`` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from safemt_api.cli.finding import settings_of
from safemt_api.cli.loop import BACKEND_OPTIONS, ENDING_SIGNALS
from safemt_api.cli.printing import say
from safemt_api.cli.reporting import show_run
from safemt_api.cli.running import missing_verdicts, shortfall, watcher
from safemt_api.evaluation import open_plan
from safemt_api.runs.execution import EXIT_DONE, EXIT_FAILURES, EXIT_INTERRUPTED
from safemt_api.runs.options import Group
from safemt_api.runs.rejudging import rejudge
from safemt_api.runs.settings import EvalSettings, options


def run_judging(run: str, changes: Mapping[str, Any], *, results: Path, as_json: bool) -> int:
    """Judge again and return the exit code."""
    usual = {one.name: one.default for one in options() if one.option.group is Group.JUDGE}
    settings = replace(settings_of(run, results), **{**usual, **changes})
    return anyio.run(partial(_judge, settings, as_json=as_json), backend_options=BACKEND_OPTIONS)


async def _judge(settings: EvalSettings, *, as_json: bool) -> int:
    async with open_plan(settings, judging_only=True) as plan:
        for remark in plan.remarks:
            say(remark)
        say(f"judging {plan.run} with {plan.bench.name}; the target is not called")
        result = await rejudge(plan, watch=watcher(), signals=ENDING_SIGNALS)
    if result.exit_code in (EXIT_DONE, EXIT_FAILURES):
        show_run(result.folder, as_json=as_json, summary=result.summary)
        for sentence in missing_verdicts(result.summary):
            say(sentence)
        if result.exit_code == EXIT_FAILURES:
            share = f"--max-failures {settings.max_failures:g}"
            say(f"{shortfall(result.summary)}, more than {share} allows; the same command asks again for what is missing")
        return result.exit_code
    reason = "interrupted" if result.exit_code == EXIT_INTERRUPTED else str(result.stopped_by)
    say(f"stopped: {reason}. The run's verdicts are as they were; the same command goes on, and what was judged is not bought again.")
    return result.exit_code
