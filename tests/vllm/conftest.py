"""Real servers for the tests of this folder: one that answers all the time, and one that tests may overload, end and start again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from safemt_api.dataset.layouts import demonstration_folder
from safemt_api.evaluation import evaluate
from safemt_api.runs.play import RunResult
from tests.vllm.environment import Environment, open_environment
from tests.vllm.serving import Server

KEY = "a-key-of-the-test-server"
MODEL = "tiny"
GUARD = "llama-guard-4-tiny"
"""A second name of the same model, by which the evaluator knows how to read it."""

ENDLESS = "endless"
"""A vendor of our own whose replies always use all the tokens they may: never empty, and long enough for something to happen meanwhile."""

STARTS = pytest.StashKey[list[str]]()

Play = Callable[..., Awaitable[RunResult]]
WriteData = Callable[..., Path]
WriteProfile = Callable[..., Path]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without being asked for, these tests do not install gigabytes."""
    expression = str(config.getoption("markexpr"))
    reason = None
    if sys.platform != "linux":
        reason = "the servers are watched through /proc, which only Linux has"
    elif "vllm" not in expression.replace("not vllm", ""):
        reason = "these need a real vLLM server (2.5 GB, minutes): make test-vllm"
    for item in items:
        if item.get_closest_marker("vllm") is not None and reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Which servers were used and how long they took to come up."""
    for line in config.stash.get(STARTS, []):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def environment() -> Environment:
    """An installed vLLM with a tiny model."""
    return open_environment()


def _serve(server: Server, config: pytest.Config, *, name: str) -> Iterator[Server]:
    version = "?"
    try:
        server.ensure_up()
        version = server.version()
        yield server
    finally:
        server.end()
        config.stash.setdefault(STARTS, []).append(f"vLLM {version}, {name} server: up after {server.start_seconds} s")


@pytest.fixture(scope="session")
def _steady(environment: Environment, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("steady") / "server.log"
    flags = ["--api-key", KEY, "--chat-template", str(environment.strict_template)]
    yield from _serve(Server(environment, [MODEL], flags, log), pytestconfig, name="steady")


@pytest.fixture(scope="session")
def _shaky(environment: Environment, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("shaky") / "server.log"
    flags = ["--max-num-seqs", "2", "--max-num-queued-reqs", "4"]
    yield from _serve(Server(environment, [MODEL, GUARD], flags, log), pytestconfig, name="shaky")


@pytest.fixture
def steady(_steady: Server) -> Server:
    """A server that stays up: one model, an API key, a chat template that refuses any odd order of roles."""
    _steady.ensure_up()
    return _steady


@pytest.fixture
def shaky(_shaky: Server) -> Server:
    """A server that may be ended: two names for its model, no key, room for two replies at once and four more calls in its queue."""
    _shaky.ensure_up()
    return _shaky


@pytest.fixture(autouse=True)
def api_key(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The key of the steady server, where the evaluator looks for it."""
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    return KEY


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Where the runs of this test go."""
    return tmp_path / "results"


@pytest.fixture
def play(results: Path) -> Play:
    """Runs an evaluation against the servers given: short replies, judged by rules, unless told otherwise."""

    async def run(*servers: Server, **options: Any) -> RunResult:
        usual: dict[str, Any] = {
            "provider": "vllm",
            "model": MODEL,
            "base_urls": tuple(server.base_url for server in servers),
            "judges": ("rules",),
            "results": results,
            "run": "tried",
            "sample": 2,
            "lengths": (1, 2),
            "max_output_tokens": 24,
        }
        return await evaluate(**{**usual, **options})

    return run


@pytest.fixture
def write_data(tmp_path: Path) -> WriteData:
    """Writes a data set in the official layout; each dialogue is the list of what the user and the assistant say in turn."""

    def write(dialogues: dict[str, Sequence[str]]) -> Path:
        folder = tmp_path / "data"
        shutil.copytree(demonstration_folder() / "images" / "satire", folder / "images" / "satire")
        picture = next(iter(sorted((folder / "images" / "satire").iterdir())))
        by_length: dict[int, list[dict[str, Any]]] = {}
        for name, texts in dialogues.items():
            spoken = [{"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate(texts)]
            entry = {"id": name, "scenario": "General", "dialogue": spoken, "question": texts[-1]}
            entry["image_path"] = f"images/satire/{picture.name}"
            by_length.setdefault((len(texts) + 1) // 2, []).append(entry)
        for length, entries in by_length.items():
            (folder / f"{length}_turn.json").write_text(json.dumps(entries), encoding="utf-8")
        return folder

    return write


PROFILE = """\
name = "{name}"
title = "{name}"
wire_format = "openai_chat"
base_url = "{base_url}"
key_variables = ["VLLM_API_KEY"]
key_required = false
structured_output = true
local = true
source = "made by a test"
checked = 2026-11-21

[images]
token_rule = "qwen_patches"
source = "made by a test"
checked = 2026-11-21

[limits]
source = "made by a test"
checked = 2026-11-21

[[models]]
match = "*"
takes = ["temperature"]
source = "made by a test"
checked = 2026-11-21

[models.extra_body]
{extra_body}
"""


@pytest.fixture
def write_profile(tmp_path: Path) -> WriteProfile:
    """Writes a vendor file of the user's own, whose ``extra_body`` goes along with every request."""

    def write(name: str, extra_body: str, *, base_url: str = "http://127.0.0.1:9/v1") -> Path:
        folder = tmp_path / "own-providers"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.toml").write_text(PROFILE.format(name=name, extra_body=extra_body, base_url=base_url), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def endless(write_profile: WriteProfile) -> Path:
    """The folder with the file of the vendor of that name."""
    return write_profile(ENDLESS, "ignore_eos = true")
