"""Whole runs over a store on a real PostgreSQL: killed and gone on with, its server restarted under them, and no password anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from benchmarks.many import Command, ended, vendor, verdicts
from safemt_api.simulator.settings import SimulatorSettings
from tests.server import PASSWORD, Server, running_server

WORKING = SimulatorSettings(seed=3, latency_seconds=0.2)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@pytest.fixture
def command(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A run on a database of its own, whose password is in the environment alone."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return Command(base_url="", results=tmp_path / "results", store=str(server.new_database()), run="run", sample=6, concurrency=4)


async def answered(count: Callable[[], dict[str, Any]], wanted: int) -> None:
    """Until the vendor has answered so many calls."""
    for _ in range(600):
        if (await anyio.to_thread.run_sync(count))["answered"] >= wanted:
            return
        await anyio.sleep(0.1)
    raise AssertionError(f"fewer than {wanted} answers in a minute")


@pytest.mark.parametrize("provider", ["simulator", "simulator-anthropic"])
async def test_a_run_that_is_killed_goes_on_and_ends_with_the_verdicts_of_one_on_sqlite(command: Command, provider: str) -> None:
    async with vendor(WORKING) as (address, count):
        command = replace(
            command, provider=provider, base_url=address.base_url("anthropic_messages" if "anth" in provider else "openai_chat")
        )
        process = command.start()
        await answered(count, 30)
        process.kill()
        process.communicate()
        again = await anyio.to_thread.run_sync(lambda: ended(command.start()))
        bought = count()
        calm = replace(command, store=None, run="calm")
        assert (await anyio.to_thread.run_sync(lambda: ended(calm.start()))).code == 0
    assert again.code == 0, again.said
    assert again.summary["status"] == "complete"
    assert again.summary["calls"]["from_store"] > 0
    assert bought["repeated"] <= command.concurrency
    assert verdicts(command.folder) == verdicts(calm.folder)


async def test_a_run_waits_for_a_server_that_is_restarted_under_it_and_buys_nothing_twice(command: Command, server: Server) -> None:
    async with vendor(WORKING) as (address, count):
        command = replace(command, base_url=address.base_url())
        process = command.start()
        await answered(count, 30)
        await anyio.to_thread.run_sync(partial(server.stop, "immediate"))
        time.sleep(2.0)  # noqa: ASYNC251 (nothing else is to happen here)
        await anyio.to_thread.run_sync(server.start)
        found = await anyio.to_thread.run_sync(ended, process)
        bought = count()
    assert found.code == 0, found.said
    assert found.summary["dialogues"] == {"planned": 30, "finished": 30, "failed": 0}
    assert bought["repeated"] == 0


async def test_a_password_in_the_address_is_in_no_file_and_no_sentence(
    command: Command, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD")
    place = server.new_database()
    assert place.password == PASSWORD
    async with vendor(replace(WORKING, latency_seconds=0.0)) as (address, _):
        typed = str(place).replace("@", f":{PASSWORD}@", 1)
        found = await anyio.to_thread.run_sync(lambda: ended(replace(command, base_url=address.base_url(), store=typed).start()))
        without = await anyio.to_thread.run_sync(lambda: ended(replace(command, base_url=address.base_url(), store=str(place)).start()))
    assert found.code == 0, found.said
    files = [file for file in command.results.rglob("*") if file.is_file()]
    assert files
    assert not [file.name for file in files if PASSWORD.encode() in file.read_bytes()]
    assert PASSWORD not in found.said
    assert without.code == 2
    assert "wants a password; set PGPASSWORD" in without.said
