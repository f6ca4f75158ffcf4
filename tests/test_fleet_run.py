"""A run over two servers, one of which dies in the middle and comes back: nothing is lost, and it gets work again."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.to_thread

from safemt_api.evaluation import evaluate
from safemt_api.runs.play import Execution, RunResult, Watcher
from safemt_api.runs.settings import EvalSettings
from safemt_api.simulator.process import SimulatorAddress, simulator_process
from safemt_api.simulator.server import Simulator, run_simulator
from safemt_api.simulator.settings import SimulatorSettings

PLAYING = SimulatorSettings(latency_seconds=0.05, slots=2)
DIALOGUES = 136
AT_ONCE = 8


def answered_by(address: SimulatorAddress) -> int:
    with urllib.request.urlopen(address.url("/simulator/statistics"), timeout=10) as response:  # noqa: S310 (our own server on loopback)
        return int(json.load(response)["answered"])


async def wait_until_finished(execution: Execution, dialogues: int) -> None:
    while execution.statistics().finished < dialogues:  # noqa: ASYNC110 (statistics are read, they tell nobody)
        await anyio.sleep(0.01)


async def play(results: Path, *addresses: SimulatorAddress | Simulator, watch: Watcher) -> RunResult:
    settings = EvalSettings(
        base_urls=tuple(address.base_url() for address in addresses),
        results=results,
        run="fleet",
        lengths=(1, 2),
        concurrency=AT_ONCE,
        kinds=("harmful", "benign"),
    )
    return await evaluate(settings, watch=watch)


async def test_the_calls_of_a_dead_server_go_to_the_others(tmp_path: Path) -> None:
    async with simulator_process(PLAYING) as dying, simulator_process(PLAYING) as steady:
        failures: list[int] = []

        async def kill(execution: Execution) -> None:
            await wait_until_finished(execution, 20)
            os.kill(dying.pid, signal.SIGKILL)
            await wait_until_finished(execution, 80)
            (account,) = execution.gateway.accounts().values()
            failures.extend(one.failures for one in account.fleet.statistics())
            await anyio.sleep_forever()

        result = await play(tmp_path, dying, steady, watch=kill)
        answered = await anyio.to_thread.run_sync(answered_by, steady)
    assert result.summary.status == "complete"
    assert result.summary.json_value()["dialogues"] == {"planned": DIALOGUES, "finished": DIALOGUES, "failed": 0}
    assert result.summary.json_value()["outcomes"]["answered"] == DIALOGUES
    assert result.summary.calls.retried >= 1
    assert failures[0] >= 1
    assert failures[1] == 0
    # It died when 20 dialogues were done, and a few more replies may have been on their way: the other server answered the rest.
    assert DIALOGUES - 20 - 2 * AT_ONCE <= answered < DIALOGUES


async def test_a_server_that_comes_back_gets_work_again(tmp_path: Path) -> None:
    async with run_simulator(PLAYING) as steady:
        again: list[int] = []
        async with AsyncExitStack() as stack:
            dying = await stack.enter_async_context(run_simulator(PLAYING))

            async def stop_and_start(execution: Execution) -> None:
                await wait_until_finished(execution, 20)
                await stack.aclose()
                async with run_simulator(PLAYING, port=dying.port) as reborn:
                    while True:
                        again.append(reborn.statistics().answered)
                        await anyio.sleep(0.01)

            result = await play(tmp_path, dying, steady, watch=stop_and_start)
    assert result.summary.dialogues.failed == 0
    assert max(again) > 10
