"""Helpers of the attacks: a hostile vendor in a thread of its own, and runs against it as a user starts them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.from_thread
import pytest

from safemt_api.cli import main
from safemt_api.evaluation import evaluate
from safemt_api.profiles import WIRE_FORMATS, WireFormat
from safemt_api.runs.play import RunResult
from tests.attacks.hostile import Attack, Hostile, serve_hostile

PROJECT = Path(__file__).resolve().parents[2]


class Said(NamedTuple):
    """What a command ended with and wrote."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What it says of its failure, which is no traceback and no defect of ours."""
        assert "Traceback" not in self.out + self.err, self.err
        assert "defect of ours" not in self.out + self.err, self.err
        assert self.code >= 0, f"ended by signal {-self.code}: {self.err}"
        return self.err.strip()


@dataclass(frozen=True)
class Ground:
    """A hostile vendor and a place for runs against it."""

    server: Hostile
    folder: Path

    @property
    def results(self) -> Path:
        """Where the runs are."""
        return self.folder / "results"

    def run(self, **options: Any) -> RunResult:
        """A whole run from Python."""
        usual: dict[str, Any] = {"lengths": (1, 2, 4), "sample": 40, "run": "r", "concurrency": 8, "results": self.results}
        where: dict[str, Any] = {"provider": "hostile", "providers": self.folder / "providers", "model": "m-1", "judges": ("rules",)}
        return anyio.run(partial(evaluate, **{**where, **usual, **options}))

    def words(self, *words: object, run: str = "r") -> tuple[str, ...]:
        """The same as a command line."""
        target = ("--provider", "hostile", "--providers", self.folder / "providers", "--model", "m-1", "--judge", "rules")
        return tuple(str(word) for word in ("eval", *target, "--results", self.results, "--run", run, *words))

    def evaluated(self, *words: object, run: str = "r") -> Said:
        """A whole run from the command line."""
        return safemt(*self.words(*words, run=run))


def safemt(*words: object) -> Said:
    """``safemt-api`` with these words, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return Said(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def begun(*words: object, **more: Any) -> subprocess.Popen[str]:
    """The same as a process of its own; to be waited for."""
    return python("-m", "safemt_api", *words, **more)


def python(*words: object, **more: Any) -> subprocess.Popen[str]:
    """Python as a process of its own, with what it writes kept."""
    command = [sys.executable, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "100"}
    usual: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **{**usual, **more})


def ended(process: subprocess.Popen[str], *, within_seconds: float = 120.0) -> Said:
    """What came of a process."""
    try:
        out, err = process.communicate(timeout=within_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Said(process.returncode, out, err)


Attacked = Callable[[Attack], AbstractContextManager[Ground]]


@pytest.fixture(params=WIRE_FORMATS)
def wire_format(request: pytest.FixtureRequest) -> WireFormat:
    """Each of the three ways to ask a model."""
    found: WireFormat = request.param
    return found


@pytest.fixture
def attacked(tmp_path: Path, wire_format: WireFormat, monkeypatch: pytest.MonkeyPatch) -> Attacked:
    """``with attacked(attack) as ground:`` a hostile vendor, its file, and a place for runs."""
    monkeypatch.setenv("COLUMNS", "100")

    @contextmanager
    def opened(attack: Attack) -> Iterator[Ground]:
        with anyio.from_thread.start_blocking_portal() as portal:
            serving, server = portal.start_task(serve_hostile, wire_format, attack)
            (tmp_path / "providers").mkdir(exist_ok=True)
            (tmp_path / "providers" / "hostile.toml").write_text(server.profile(), encoding="utf-8")
            try:
                yield Ground(server, tmp_path)
            finally:
                serving.cancel()

    return opened
