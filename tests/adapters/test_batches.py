"""Batches through the real SDKs, over real sockets, in three wire formats: made, found again, read, and broken in every way."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from safemt_api.adapters.base import Timeouts, open_adapter
from safemt_api.adapters.batch import BatchAdapter, BatchIntent, RowResult, open_batch_adapter, row_id
from safemt_api.adapters.google_batch import request_body
from safemt_api.adapters.http_client import open_http_client
from safemt_api.errors import (
    CallError,
    ConnectionFailedError,
    DialogueError,
    RateLimitedError,
    ResultsGoneError,
    ServerError,
    UnansweredRowError,
    UsageError,
)
from safemt_api.messages import Call, Outcome, Parameters, Reply, Route, Schema, assistant, user
from safemt_api.profiles import Profile, WireFormat, load_profiles
from safemt_api.simulator import FaultPlan, Simulator, SimulatorSettings, run_simulator

VENDORS: dict[WireFormat, str] = {
    "openai_chat": "simulator",
    "anthropic_messages": "simulator-anthropic",
    "google_genai": "simulator-google",
}
FORMATS = tuple(VENDORS)
NOW = datetime.now(UTC)


def call(number: int, wire_format: str = "openai_chat", *, model: str = "sim-average", **more: Any) -> Call:
    return Call(Route("simulator", wire_format, ("http://x",), model), (user(f"Question {number}?"),), **more)


@dataclass
class Stage:
    """A simulator, and the batches and single calls of one of its vendors."""

    simulator: Simulator
    batches: BatchAdapter
    wire_format: WireFormat
    folder: Path
    profile: Profile
    client: httpx2.AsyncClient

    def intent(self, requests: int, nonce: str = "n0nce", *, ago_seconds: float = 0.0) -> BatchIntent:
        return BatchIntent(nonce, "sim-average", requests, datetime.now(UTC) - timedelta(seconds=ago_seconds))

    def rows(self, calls: list[Call], nonce: str = "n0nce") -> tuple[Path, list[str]]:
        file, names = self.folder / f"{nonce}.jsonl", [row_id(nonce, f"key{number:03}") for number in range(len(calls))]
        file.write_bytes(b"".join(self.batches.line(one, name) + b"\n" for one, name in zip(calls, names, strict=True)))
        return file, names

    async def create(self, count: int = 8, nonce: str = "n0nce") -> tuple[str, list[str]]:
        file, names = self.rows([call(number, self.wire_format) for number in range(count)], nonce)
        return await self.batches.create(file, self.intent(count, nonce)), names

    async def alone(self, one: Call) -> Reply:
        adapter = open_adapter(
            profile=self.profile,
            wire_format=self.wire_format,
            base_url=self.simulator.base_url(self.wire_format),
            api_key="test-key-0001",
            client=self.client,
            timeouts=Timeouts(),
        )
        return (await adapter.send(one)).reply


@asynccontextmanager
async def staged(wire_format: WireFormat, folder: Path, faults: str = "", **settings: Any) -> AsyncIterator[Stage]:
    playing = SimulatorSettings(faults=FaultPlan.parse(faults), **{"batch_seconds": 0.0, **settings})
    profile = load_profiles()[VENDORS[wire_format]]
    async with run_simulator(playing) as simulator, open_http_client(connections=8, timeouts=Timeouts()) as client:
        batches = open_batch_adapter(
            profile=profile,
            wire_format=wire_format,
            base_url=simulator.base_url(wire_format),
            api_key="test-key-0001",
            client=client,
            timeouts=Timeouts(),
        )
        yield Stage(simulator, batches, wire_format, folder, profile, client)


async def read(batches: BatchAdapter, batch_id: str) -> list[tuple[str, RowResult]]:
    return [row async for row in batches.results(batch_id)]


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_a_batch_answers_as_the_calls_alone_would_be(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path) as stage:
        batch_id, names = await stage.create(8)
        state = await stage.batches.poll(batch_id)
        assert state.phase == "ended"
        assert state.done in (8, None)
        found = dict(await read(stage.batches, batch_id))
        assert sorted(found) == sorted(names)
        for number, name in enumerate(names):
            reply, alone = found[name], await stage.alone(call(number, wire_format))
            assert isinstance(reply, Reply)
            assert (reply.outcome, reply.text, reply.usage, reply.served_model) == (
                alone.outcome,
                alone.text,
                alone.usage,
                alone.served_model,
            )
            assert (reply.served_tier, alone.served_tier) == ("batch", "standard")
        tiers = stage.simulator.statistics().tiers
        assert (tiers["batch"]["answers"], tiers["standard"]["answers"]) == (8, 8)
        assert tiers["batch"]["output_tokens"] == tiers["standard"]["output_tokens"]


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_a_batch_works_for_its_time_and_a_late_one_is_cancelled_half_way(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path, batch_seconds=3600.0) as stage:
        batch_id, names = await stage.create(8)
        assert (await stage.batches.poll(batch_id)).phase == "working"
        stage.simulator.advance(1800)
        await stage.batches.cancel(batch_id)
        state = await stage.batches.poll(batch_id)
        assert state.phase in ("cancelled", "ended")
        found = dict(await read(stage.batches, batch_id))
        assert set(found) <= set(names)
        answered = [name for name, result in found.items() if isinstance(result, Reply)]
        assert len(answered) == 4 == stage.simulator.statistics().tiers["batch"]["answers"]
        left = [result for result in found.values() if not isinstance(result, Reply)]
        assert all(isinstance(result, UnansweredRowError) and not result.maybe_billed for result in left)
        await stage.batches.cancel(batch_id)


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_rows_fail_each_for_itself_and_by_the_same_table_as_alone(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path, "too_long:0.3,refusal:0.3,error_500:0.2,reset:0.2") as stage:
        batch_id, _ = await stage.create(24)
        found = [result for _, result in await read(stage.batches, batch_id)]
        replies = [result for result in found if isinstance(result, Reply)]
        assert len(found) == 24
        assert {Outcome.REFUSED, Outcome.BLOCKED_OUTPUT} & {reply.outcome for reply in replies}
        failed = [result for result in found if not isinstance(result, Reply)]
        assert {DialogueError, ServerError} <= {type(result) for result in failed}
        assert all(result.__traceback__ is None for result in failed)
        assert not any("test-key-0001" in str(result) for result in found)


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_an_expired_batch_keeps_what_was_done(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path, "batch_expired:first=1") as stage:
        batch_id, names = await stage.create(8)
        state = await stage.batches.poll(batch_id)
        assert state.phase == ("ended" if wire_format == "anthropic_messages" else "expired")
        found = dict(await read(stage.batches, batch_id))
        answered = sum(isinstance(result, Reply) for result in found.values())
        assert answered == (0 if wire_format == "google_genai" else 4)
        assert all(isinstance(result, (Reply, UnansweredRowError)) for result in found.values())
        assert set(found) <= set(names)


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_a_stuck_batch_works_until_it_expires(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path, "batch_stuck:first=1") as stage:
        batch_id, _ = await stage.create(4)
        stage.simulator.advance(80_000)
        assert (await stage.batches.poll(batch_id)).phase == "working"
        stage.simulator.advance(100_000)
        assert (await stage.batches.poll(batch_id)).phase in ("expired", "ended")


@pytest.mark.parametrize("wire_format", ["openai_chat", "google_genai"])
async def test_a_batch_that_is_rejected_after_its_creation_says_why(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path, "batch_rejected:first=1") as stage:
        batch_id, _ = await stage.create(4)
        state = await stage.batches.poll(batch_id)
        assert state.phase == "rejected"
        assert isinstance(state.error, RateLimitedError), "too much is queued: the same batch may be taken later"
        assert "nqueued token" in str(state.error)
        assert await read(stage.batches, batch_id) == []
        assert "batch" not in stage.simulator.statistics().tiers


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_a_new_batch_may_be_unknown_for_a_moment(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path, "batch_hidden:first=1") as stage:
        batch_id, _ = await stage.create(2)
        phases = [(await stage.batches.poll(batch_id)).phase for _ in range(3)]
        assert phases == ["unknown", "unknown", "ended"]


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_rows_twice_and_unknown_rows_are_handed_on_as_they_are(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path, "rows_twice:first=1,rows_unknown:first=1") as stage:
        twice, names = await stage.create(4, "aaaa")
        assert len(await read(stage.batches, twice)) == 7
        assert {row for row, _ in await read(stage.batches, twice)} == set(names)
        unknown, _ = await stage.create(4, "bbbb")
        assert "nobody-asked-this" in {row for row, _ in await read(stage.batches, unknown)}


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_results_that_break_off_are_read_anew(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path, "results_cut:first=1") as stage:
        batch_id, names = await stage.create(8)
        with pytest.raises(ConnectionFailedError):
            await read(stage.batches, batch_id)
        assert {row for row, _ in await read(stage.batches, batch_id)} == set(names)


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_deleted_results_are_said_to_be_gone_and_paid_for(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path, "results_gone:first=1") as stage:
        batch_id, _ = await stage.create(2)
        with pytest.raises(ResultsGoneError, match=r"29 days.*paid for") as caught:
            await read(stage.batches, batch_id)
        assert caught.value.maybe_billed
        assert caught.value.__cause__ is caught.value.__context__ is None, "an SDK's exception holds the request, and with it the key"


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_a_batch_whose_creation_broke_off_is_found_by_its_nonce(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path, "create_lost:first=1", batch_seconds=60.0) as stage:
        with pytest.raises(CallError) as caught:
            await stage.create(4, "lost")
        assert caught.value.maybe_billed
        other, _ = await stage.create(4, "other")
        intent = stage.intent(4, "lost")
        if wire_format == "anthropic_messages":  # its rows show their ids only once it has ended
            assert (await stage.batches.find(intent, now_utc=datetime.now(UTC), others={other})).answer == "unclear"
            stage.simulator.advance(61)
        search = await stage.batches.find(intent, now_utc=datetime.now(UTC), others={other})
        assert search.answer == "found"
        assert search.batch_id not in (None, other)


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_a_batch_that_is_not_listed_is_absent_once_it_would_show(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path) as stage:
        await stage.create(4, "other")
        for ago_seconds, answer in ((10.0, "unclear"), (1000.0, "absent")):
            intent = stage.intent(4, "never", ago_seconds=ago_seconds)
            assert (await stage.batches.find(intent, now_utc=datetime.now(UTC))).answer == answer


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_a_search_goes_through_all_pages(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path) as stage:
        wanted, _ = await stage.create(1, "first")
        for number in range(105):
            await stage.create(1 if wire_format != "anthropic_messages" else 2, f"more{number}")
        assert (await stage.batches.find(stage.intent(1, "first"), now_utc=datetime.now(UTC))).batch_id == wanted


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_a_refused_creation_made_nothing(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path) as stage:
        file, _ = stage.rows([call(0, wire_format), call(0, wire_format)])
        file.write_bytes(file.read_bytes().replace(b"key001", b"key000"))
        with pytest.raises(DialogueError, match="id of its own") as caught:
            await stage.batches.create(file, stage.intent(2))
        assert not caught.value.maybe_billed
        assert stage.simulator.batches == []


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_where_nothing_listens_nothing_was_created(wire_format: WireFormat, tmp_path: Path) -> None:
    async with staged(wire_format, tmp_path) as stage:
        file, _ = stage.rows([call(0, wire_format)])
        gone = open_batch_adapter(
            profile=stage.profile,
            wire_format=wire_format,
            base_url="http://127.0.0.1:9",
            api_key=None,
            client=stage.client,
            timeouts=Timeouts(),
        )
        with pytest.raises(ConnectionFailedError) as caught:
            await gone.create(file, stage.intent(1))
        assert not caught.value.maybe_billed
        name = "batches/b" if wire_format == "google_genai" else "b"
        for work in (gone.poll(name), gone.cancel(name), gone.find(stage.intent(1), now_utc=NOW), read(gone, name)):
            with pytest.raises(ConnectionFailedError) as caught:
                await work
            assert caught.value.__cause__ is caught.value.__context__ is None


def camel(value: Any) -> Any:
    """The names in one spelling: Google takes both, and the SDK sends either."""
    if isinstance(value, list):
        return [camel(one) for one in value]
    if isinstance(value, dict):
        return {re.sub("_([a-z])", lambda found: found[1].upper(), name): camel(one) for name, one in value.items() if one != {}}
    return value


async def test_a_row_of_google_s_is_what_the_sdk_sends_alone(tmp_path: Path, make_call: Callable[..., Call]) -> None:
    sent: list[dict[str, Any]] = []

    def serve(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        return httpx2.Response(200, json={"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]})

    profile = load_profiles()["simulator-google"]
    parameters = Parameters(max_output_tokens=64, temperature=0.5, top_p=0.9, seed=7, effort="low", safety_threshold="block_none")
    schema = Schema("verdict", {"type": "object", "properties": {"a": {"type": "string"}}})
    calls = [make_call(model="sim-average", parameters=parameters, schema=schema, system="Be brief."), make_call(model="sim-average")]
    async with open_http_client(connections=1, timeouts=Timeouts(), transport=httpx2.MockTransport(serve)) as client:
        adapter = open_adapter(
            profile=profile, wire_format="google_genai", base_url="http://x.test", api_key="k" * 12, client=client, timeouts=Timeouts()
        )
        for one in calls:
            await adapter.send(one)
    for one, body in zip(calls, sent, strict=True):
        assert camel(json.loads(json.dumps(request_body(one, profile)))) == camel(body)


class Swallow(httpx2.AsyncBaseTransport, httpx2.AsyncByteStream):
    """A vendor that takes a file of any size and sends one of 20 MB, holding neither."""

    ROWS = 2000

    def __init__(self) -> None:
        self.received = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        if request.url.path.endswith("/content"):
            return httpx2.Response(200, stream=self, request=request)
        async for piece in request.stream:
            self.received += len(piece) if request.url.path.endswith("/files") else 0
        known = {"id": "batch_1", "object": "batch", "status": "completed", "output_file_id": "file-2"}
        return httpx2.Response(200, json=known, request=request)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body = {"choices": [{"message": {"content": "word " * 2000}, "finish_reason": "stop"}]}
        for number in range(self.ROWS):
            row = {"custom_id": f"row-{number}", "response": {"status_code": 200, "body": body}}
            yield json.dumps(row).encode() + b"\n"


async def test_rows_stream_to_the_vendor_and_results_from_it_in_bounded_memory(tmp_path: Path) -> None:
    long = "word " * 20_000
    async with staged("openai_chat", tmp_path) as stage:
        calls = [
            Call(Route("simulator", "openai_chat", ("http://x",), "sim-average"), (user(f"{number} {long}"),)) for number in range(100)
        ]
        file, _ = stage.rows(calls)
        assert file.stat().st_size > 10_000_000
        swallow = Swallow()
        async with open_http_client(connections=1, timeouts=Timeouts(), transport=swallow) as client:
            batches = open_batch_adapter(
                profile=stage.profile,
                wire_format="openai_chat",
                base_url="http://x.test/v1",
                api_key=None,
                client=client,
                timeouts=Timeouts(),
            )
            tracemalloc.start()
            assert await batches.create(file, stage.intent(100)) == "batch_1"
            _, up = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            count = 0
            async for row, result in batches.results("batch_1"):
                count += isinstance(result, Reply) and row.startswith("row-")
            _, down = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert (swallow.received > 10_000_000, count) == (True, Swallow.ROWS)
        assert up < 4_000_000
        assert down < 4_000_000


def test_a_vendor_without_batches_is_refused() -> None:
    for vendor in ("vllm", "openrouter", "azure-openai"):
        profile = load_profiles()[vendor]
        with pytest.raises(UsageError, match="takes no batches"):
            open_batch_adapter(
                profile=profile,
                wire_format="openai_chat",
                base_url="http://x",
                api_key=None,
                client=httpx2.AsyncClient(),
                timeouts=Timeouts(),
            )


def test_a_row_s_id_fits_every_vendor() -> None:
    name = row_id("abc123", "safemt2:" + "f" * 64)
    assert len(name) == 64
    assert name.startswith("abc123-")
    assert name.replace("-", "").isalnum()


def test_a_growing_conversation_pays_for_no_cache_in_a_batch(tmp_path: Path) -> None:
    profile = load_profiles()["anthropic"]
    client = httpx2.AsyncClient()
    batches = open_batch_adapter(
        profile=profile, wire_format="anthropic_messages", base_url="http://x", api_key="k" * 12, client=client, timeouts=Timeouts()
    )
    growing = Call(
        Route("anthropic", "anthropic_messages", ("http://x",), "claude-haiku-5-5"),
        (user("long " * 2000), assistant("Yes."), user("And?")),
        conversation="growing",
    )
    assert b"cache_control" not in batches.line(growing, "n-1")
    assert json.loads(batches.line(replace(growing, service_tier="batch"), "n-1"))["custom_id"] == "n-1"


async def test_the_clock_of_a_test_is_not_held_up(tmp_path: Path) -> None:
    started = anyio.current_time()
    async with staged("openai_chat", tmp_path, batch_seconds=86_000.0) as stage:
        batch_id, _ = await stage.create(2)
        stage.simulator.advance(86_000)
        assert (await stage.batches.poll(batch_id)).phase == "ended"
    assert anyio.current_time() - started < 30


SECRET = "k" * 20
HOSTILE = (
    b"not json",
    b"[]",
    b"null",
    b'{"custom_id": 5, "key": 5}',
    b'{"custom_id": "a", "response": {"status_code": "x", "body": []}, "result": {"type": []}}',
    b'{"custom_id": "b", "response": {"status_code": 200, "body": {"choices": 3}}, "result": {"type": "succeeded"}, "error": []}',
    b'{"custom_id": "c", "response": {"status_code": 99999, "body": {}}, "error": {"code": {}}, "result": {"type": "errored"}}',
    f'{{"custom_id": "d", "response": null, "error": {{"message": "Bearer {SECRET}"}}, "result": {{"error": "{SECRET}"}}}}'.encode(),
    b'{"custom_id": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"custom_id": "\\ud800"}',
    b"",
)
"""Lines of results as no vendor should send them."""


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_hostile_results_are_failures_row_by_row_and_tell_no_key(wire_format: WireFormat) -> None:
    known = {
        "openai_chat": {"id": "b", "status": "completed", "output_file_id": "f"},
        "anthropic_messages": {"id": "b", "processing_status": "ended", "results_url": "/v1/messages/batches/b/results"},
        "google_genai": {"name": "batches/b", "metadata": {"state": "BATCH_STATE_SUCCEEDED", "output": {"responsesFile": "files/f"}}},
    }[wire_format]

    def serve(request: httpx2.Request) -> httpx2.Response:
        results = request.url.path.endswith(("/content", "/results", ":download"))
        return httpx2.Response(200, content=b"\n".join(HOSTILE)) if results else httpx2.Response(200, json=known)

    async with open_http_client(connections=1, timeouts=Timeouts(), transport=httpx2.MockTransport(serve)) as client:
        batches = open_batch_adapter(
            profile=load_profiles()[VENDORS[wire_format]],
            wire_format=wire_format,
            base_url="http://x.test",
            api_key=SECRET,
            client=client,
            timeouts=Timeouts(),
        )
        found = await read(batches, "batches/b" if wire_format == "google_genai" else "b")
    assert len(found) == len(HOSTILE) - 1
    assert not any(isinstance(result, Reply) for _, result in found)
    assert SECRET not in repr([(row, str(result)) for row, result in found])


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize(
    "body", [b"not json", b"[]", b"{}", b'{"data": [{"created_at": "x"}, 5], "operations": [{"metadata": 7}]}', b'"x"']
)
async def test_a_server_that_speaks_of_no_batches_is_a_failure_and_no_defect(
    wire_format: WireFormat, body: bytes, tmp_path: Path, make_call: Callable[..., Call]
) -> None:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=body, headers={"content-type": "application/json"}))
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"{}\n")
    intent = BatchIntent("nonce", "sim-average", 1, NOW)
    async with open_http_client(connections=1, timeouts=Timeouts(), transport=transport) as client:
        batches = open_batch_adapter(
            profile=load_profiles()[VENDORS[wire_format]],
            wire_format=wire_format,
            base_url="http://x.test",
            api_key=SECRET,
            client=client,
            timeouts=Timeouts(),
        )
        name = "batches/b" if wire_format == "google_genai" else "b"
        with pytest.raises(CallError):
            await batches.create(file, intent)
        for work in (batches.poll(name), batches.find(intent, now_utc=NOW), read(batches, name), batches.cancel(name)):
            with suppress(CallError):
                await work
