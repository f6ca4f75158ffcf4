"""The simulator as a process: says where it listens, plays the same, and always ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from safemt_api.errors import UsageError
from safemt_api.simulator import FaultPlan, SimulatorSettings, plays_unsafe, serve, simulator_process

PROJECT = Path(__file__).resolve().parents[2]


def start(*arguments: str, settings: str = '{"seed": 3}') -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "safemt_api.simulator", *arguments]
    process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(settings.encode() + b"\n")
    process.stdin.flush()
    return process


def port_of(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return int(json.loads(process.stdout.readline())["port"])


async def test_the_helper_passes_all_settings_and_ends_the_process() -> None:
    settings = SimulatorSettings(seed=9, faults=FaultPlan.parse("error_500:first=1"), benign_texts=frozenset({"kind – ü"}), keep_texts=True)
    async with simulator_process(settings) as address, httpx2.AsyncClient() as http:
        body = {"model": "sim-brittle", "messages": [{"role": "user", "content": "a question"}]}
        statuses = [(await http.post(f"{address.base_url()}/chat/completions", json=body)).status_code for _ in range(2)]
        assert statuses == [500, 200]
        (truth,) = (await http.get(address.url("/simulator/truth"))).json()
        assert truth["unsafe"] == plays_unsafe("sim-brittle", seed=9, user_texts=["a question"])
    async with httpx2.AsyncClient() as http:
        with pytest.raises(httpx2.ConnectError):
            await http.get(address.url("/health"))


def end_by_signal(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)


def end_by_input(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize(
    ("arguments", "end"),
    [((), end_by_signal), ((), end_by_input), (("--max-seconds", "0.1"), lambda _: None)],
    ids=["signal", "input", "time"],
)
def test_it_ends_by_itself(arguments: tuple[str, ...], end: Callable[[Any], None]) -> None:
    with start(*arguments) as process:
        try:
            assert port_of(process) > 0
            end(process)
            assert process.wait(timeout=10) == 0
        finally:
            process.kill()


def test_a_wrong_setting_is_one_sentence_and_exit_code_2() -> None:
    with start(settings='{"faults": {"faults": [{"kind": "quake", "share": 0.1}]}}') as process:
        _, said = process.communicate(timeout=20)
        assert process.returncode == 2
        assert said.decode().startswith("no fault called 'quake'")
        assert b"Traceback" not in said


async def test_serve_ends_after_its_time_and_announces_its_port() -> None:
    ports: list[int] = []
    with anyio.fail_after(5):
        await serve(SimulatorSettings(), max_seconds=0.05, announce=ports.append)
    assert len(ports) == 1


def test_settings_survive_the_way_to_another_process() -> None:
    settings = SimulatorSettings(
        seed=2, faults=FaultPlan.parse("reset:0.1", stall_seconds=1), benign_texts=frozenset({"a"}), policy_effect=0.1
    )
    assert SimulatorSettings.from_json(settings.to_json()) == settings
    assert SimulatorSettings.from_json(SimulatorSettings().to_json()) == SimulatorSettings()


@pytest.mark.parametrize("text", ["", "[]", '{"sed": 1}', '{"faults": 3}', '{"policy_effect": 2}', '{"requests_per_minute": 0}'])
def test_settings_that_make_no_sense_are_told(text: str) -> None:
    with pytest.raises(UsageError, match="simulator"):
        SimulatorSettings.from_json(text)
