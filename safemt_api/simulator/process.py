"""The simulator as a process of its own: ``python -m safemt_api.simulator``, and a helper that starts and ends one."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import PIPE

import anyio
from anyio.abc import Process, TaskGroup, TaskStatus
from anyio.streams.text import TextReceiveStream

from safemt_api.errors import SafeMTError, UsageError
from safemt_api.profiles import WireFormat
from safemt_api.simulator.server import base_url, run_simulator
from safemt_api.simulator.settings import SimulatorSettings

START_SECONDS = 30.0
_PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class SimulatorAddress:
    """Where a simulator in another process listens."""

    port: int
    pid: int

    def base_url(self, wire_format: WireFormat = "openai_chat") -> str:
        """The address to give to a client of the wire format."""
        return base_url(self.port, wire_format)

    def url(self, path: str) -> str:
        """The address of one of its own pages, for instance ``/simulator/statistics``."""
        return base_url(self.port, "anthropic_messages") + path


async def serve(
    settings: SimulatorSettings,
    *,
    port: int = 0,
    max_seconds: float | None = None,
    with_parent: bool = False,
    announce: Callable[[int], None],
) -> None:
    """Run a simulator until SIGINT, SIGTERM, ``max_seconds``, or (``with_parent``) until standard input closes.

    Args:
        settings: What it plays.
        port: 0 takes a free one.
        max_seconds: Ends by itself after so long; ``None`` means no limit.
        with_parent: End when standard input closes, as it does when the starting process ends.
        announce: Called with the port once it listens.

    Raises:
        UsageError: The port is taken.
    """
    async with run_simulator(settings, port=port) as simulator, anyio.create_task_group() as tasks:
        await tasks.start(_end_on_signal, tasks)
        if with_parent:
            tasks.start_soon(_end_with_input, tasks)
        announce(simulator.port)
        with anyio.move_on_after(max_seconds):
            await anyio.sleep_forever()
        tasks.cancel_scope.cancel()


async def _end_on_signal(tasks: TaskGroup, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            tasks.cancel_scope.cancel()
            return


async def _end_with_input(tasks: TaskGroup) -> None:
    file = sys.stdin.fileno()
    while True:
        try:
            await anyio.wait_readable(file)
        except PermissionError:
            # a plain file or /dev/null as standard input cannot be waited for and is never closed by a parent's end
            return
        if not os.read(file, 4096):
            tasks.cancel_scope.cancel()
            return


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m safemt_api.simulator``: reads its settings as one line of JSON from standard input, and prints ``{"port": P}`` once it
    listens; returns the exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m safemt_api.simulator", description="A simulated model vendor on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--max-seconds", type=float, help="end by itself after so long")
    given = parser.parse_args(arguments)
    try:
        options = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
        # Read unbuffered, so that waiting for the end of the input sees what follows the first line.
        line = bytearray()
        while not line.endswith(b"\n") and (got := os.read(sys.stdin.fileno(), 1)):
            line += got
        settings = SimulatorSettings.from_json(line.decode("utf-8"))
        play = partial(serve, settings, port=given.port, max_seconds=given.max_seconds, with_parent=True, announce=_print_port)
        anyio.run(play, backend="asyncio", backend_options=options)
    except SafeMTError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _print_port(port: int) -> None:
    sys.stdout.write(json.dumps({"port": port}) + "\n")
    sys.stdout.flush()


@asynccontextmanager
async def simulator_process(
    settings: SimulatorSettings | None = None, *, port: int = 0, max_seconds: float = 3600.0
) -> AsyncIterator[SimulatorAddress]:
    """A simulator in a process of its own for as long as the block lasts; it also ends when this process dies.

    Raises:
        UsageError: It did not start; what it said stands on standard error.
    """
    command = [sys.executable, "-m", "safemt_api.simulator", "--port", str(port), "--max-seconds", str(max_seconds)]
    path = os.pathsep.join(filter(None, (str(_PROJECT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    async with await anyio.open_process(command, stdin=PIPE, stdout=PIPE, stderr=None, env=environment) as process:
        try:
            yield SimulatorAddress(await _started(process, settings or SimulatorSettings()), process.pid)
        finally:
            if process.stdin is not None:
                await process.stdin.aclose()


async def _started(process: Process, settings: SimulatorSettings) -> int:
    assert process.stdin is not None  # noqa: S101 (pipes were asked for; tells the type checker)
    assert process.stdout is not None  # noqa: S101 (the same)
    line = ""
    try:
        with anyio.fail_after(START_SECONDS):
            await process.stdin.send(settings.to_json().encode() + b"\n")
            async for piece in TextReceiveStream(process.stdout):
                line += piece
                if line.endswith("\n"):
                    return int(json.loads(line)["port"])
    except (TimeoutError, anyio.BrokenResourceError) as error:
        raise UsageError(f"the simulator's process did not start within {START_SECONDS:.0f} s; see what it said above") from error
    raise UsageError("the simulator's process did not start; see what it said above")
