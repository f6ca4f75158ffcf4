"""A results folder and the real viewer over it: ``safemt-api view`` as a process of its own, asked over its socket."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from tests.report.conftest import build_run


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Viewer:
    """A viewer under way."""

    address: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        """Where it listens."""
        port = urlsplit(self.address).port
        assert port is not None
        return port

    def ask(
        self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, token: str | None = None, **values: Any
    ) -> Answer:
        """Ask for a path below the token; ``path`` goes out as it stands."""
        prefix = urlsplit(self.address).path if token is None else f"/{token}/"
        query = f"?{urlencode(values)}" if values else ""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, prefix + path + query, headers=headers or {})
            response = connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()


Start = Callable[[Path], Viewer]


@pytest.fixture
def start_viewer() -> Iterator[Start]:
    """Starts viewers, and ends them after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(results: Path) -> Viewer:
        command = [sys.executable, "-m", "safemt_api", "view", str(results), "--no-browser"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, line
        return Viewer(line.split()[-1], process)

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            with suppress(OSError):
                process.stdout.close()


def rows_of(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of a finished run, as they waited beside it while it was played."""
    import polars as pl

    return tuple(pl.read_parquet(folder / f"{name}.parquet").to_dicts() for name in ("transcripts", "verdicts"))  # type: ignore[return-value]


def as_under_way(folder: Path, *, dialogues: int | None = None) -> Path:
    """Turn a finished run into one that was killed: its rows wait beside it, and it has no other files."""
    turns, verdicts = rows_of(folder)
    keys = list(dict.fromkeys((row["dialogue_id"], row["length"]) for row in turns))[:dialogues]
    for name, rows in (("transcripts", turns), ("verdicts", verdicts)):
        kept = [row for row in rows if (row["dialogue_id"], row["length"]) in keys]
        (folder / f".{name}.parquet.rows").write_text("".join(json.dumps(row) + "\n" for row in kept))
        (folder / f"{name}.parquet").unlink()
    summary = json.loads((folder / "summary.json").read_text())
    manifest = json.loads((folder / "run.json").read_text())
    names = ("schema", "run", "provider", "model", "protocol", "judge", "moderator", "lengths", "seed", "dialogues")
    manifest |= {"identity": {}, "outline": {name: summary[name] for name in names}}
    del manifest["ended_utc"]
    (folder / "run.json").write_text(json.dumps(manifest))
    (folder / "summary.json").unlink()
    return folder


def finished_run(results: Path, name: str, **settings: Any) -> Path:
    """A run folder made by hand (``tests.report``), with a run file that the list can read."""
    folder = build_run(results / name, **settings)
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**manifest, "identity": {}}))
    return folder
