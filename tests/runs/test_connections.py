"""Accounts are opened as settings and profiles say, with room for their connections; a local server says which model it serves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import orjson
import pytest
from anyio.abc import SocketAttribute, SocketStream

from safemt_api.adapters.base import QuotaHint, Timeouts
from safemt_api.adapters.http_client import open_http_client
from safemt_api.errors import AccountError, EndpointError, UsageError
from safemt_api.files import shipped_folder
from safemt_api.limits.limiter import Limiter
from safemt_api.profiles import load_profiles
from safemt_api.routes import Router
from safemt_api.runs.connections import account_opener, served_model
from safemt_api.runs.settings import EvalSettings

TARGET, JUDGE = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"


async def test_a_given_quota_is_the_targets_account_s_alone() -> None:
    settings = EvalSettings(provider="vllm", model="m", requests_per_minute=60, tokens_per_minute=9000)
    router = Router(load_profiles(), base_urls={"vllm": (TARGET,)}, role_urls={"judge": {"vllm": (JUDGE,)}})
    timeouts = Timeouts()
    async with open_http_client(connections=4, timeouts=timeouts) as client:
        opener = account_opener(settings, router=router, client=client, timeouts=timeouts, environ={})
        target, judge, same = (opener(router.destination("vllm", "m", purpose).route) for purpose in ("target", "judge", "moderator"))
    assert target.limiter.statistics().requests_per_minute is not None
    assert target.limiter.statistics().tokens_per_minute == 9000
    assert judge.limiter.statistics().requests_per_minute is None
    assert same.limiter.statistics().requests_per_minute is not None


PUBLISHED = """
[limits]
requests_per_minute = 30
tokens_per_minute = 6000
concurrency = 5
"""


async def test_what_a_vendor_publishes_holds_until_the_user_or_its_headers_say_otherwise(tmp_path: Path) -> None:
    shipped = (shipped_folder("providers") / "together.toml").read_text(encoding="utf-8")
    (tmp_path / "together.toml").write_text(shipped.replace("[limits]\n", PUBLISHED.lstrip()), encoding="utf-8")
    router, timeouts = Router(load_profiles(tmp_path)), Timeouts()
    paces: list[tuple[float, float | None, int]] = []
    async with open_http_client(connections=4, timeouts=timeouts) as client:
        for given in (None, 120):
            settings = EvalSettings(provider="together", model="m", requests_per_minute=given)
            opener = account_opener(settings, router=router, client=client, timeouts=timeouts, environ={"TOGETHER_API_KEY": "k"})
            limiter = opener(router.destination("together", "m").route).limiter
            paces.append(pace_of(limiter))
            async with limiter.slot(10) as slot:
                slot.succeeded(tokens=10, hints=(QuotaHint("requests", limit=90), QuotaHint("tokens", limit=50_000)))
            paces.append(pace_of(limiter))
    assert [one[:2] for one in paces] == [(30, 6000), (90, 50_000), (120, 6000), (120, 50_000)]
    assert all(concurrency <= 5 for *_, concurrency in paces)


def pace_of(limiter: Limiter) -> tuple[float, float | None, int]:
    now = limiter.statistics()
    return round(now.requests_per_minute or 0, -1), now.tokens_per_minute, now.concurrency


PROJECT = Path(__file__).resolve().parents[2]
CODE = """
import resource
from safemt_api.runs.connections import make_room
from safemt_api.errors import UsageError
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
try:
    make_room({concurrency})
except UsageError as error:
    print(error)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""

needs_limits = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")


def limited(soft: int, hard: int, concurrency: int) -> list[str]:
    """What a process of these limits says, and the soft limit it ends with; in a process of its own, since limits stay."""
    code = CODE.format(soft=soft, hard=hard, concurrency=concurrency)
    return subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()


@needs_limits
def test_the_soft_limit_is_raised_as_far_as_needed_and_allowed() -> None:
    assert limited(64, 1024, 32) == ["292"]
    assert limited(64, 256, 32) == ["256"]
    assert limited(512, 1024, 32) == ["512"]


@needs_limits
def test_too_few_are_named_with_the_cure() -> None:
    (sentence, _) = limited(64, 128, 100)
    assert sentence == "--concurrency 100 needs 200 open files and the system allows 128: lower it, or raise the limit (ulimit -n)"


@asynccontextmanager
async def server_that_says(status: int, body: object) -> AsyncIterator[str]:
    content = orjson.dumps(body)
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(head + content)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        yield f"http://127.0.0.1:{listener.extra_attributes[SocketAttribute.local_port]()}/v1"
        group.cancel_scope.cancel()


async def test_a_model_whose_id_would_steer_the_terminal_is_refused() -> None:
    async with server_that_says(200, {"data": [{"id": "tiny\x1b]0;title\x07"}]}) as url:
        with pytest.raises(UsageError, match=r"serves a model whose id holds U\+001B"):
            await served_model(load_profiles()["vllm"], url)


async def test_a_list_without_end_is_a_sentence() -> None:
    async with server_that_says(200, {"data": [{"id": "x" * 8_000_000}]}) as url:
        with pytest.raises(EndpointError, match=r"sent more than 2\.4 MB; the server announced 8\.0 MB, which is no list"):
            await served_model(load_profiles()["vllm"], url)


async def test_a_key_in_the_list_is_blanked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sk-0123456789abcdef")
    async with server_that_says(200, {"data": [{"id": "sk-0123456789abcdef"}, {"id": "%73k-0123456789abcdef"}]}) as url:
        with pytest.raises(UsageError, match=r"serves \[key\], \[key\]: choose one"):
            await served_model(load_profiles()["vllm"], url)


async def test_the_one_model_is_found() -> None:
    async with server_that_says(200, {"data": [{"id": "tiny"}]}) as url:
        assert await served_model(load_profiles()["vllm"], url) == "tiny"


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (200, {"data": [{"id": "a"}, {"id": "b"}]}, UsageError, "serves a, b: choose one with --model"),
        (200, {"data": []}, UsageError, "did not name its models .HTTP 200.: choose one"),
        (200, ["nonsense"], UsageError, "did not name its models"),
        (401, {"error": "Unauthorized"}, AccountError, "vllm does not accept the API key .HTTP 401.: check VLLM_API_KEY"),
        (403, {}, AccountError, "check VLLM_API_KEY"),
    ],
)
async def test_anything_else_is_a_sentence(status: int, body: object, error: type[Exception], said: str) -> None:
    async with server_that_says(status, body) as url:
        with pytest.raises(error, match=said):
            await served_model(load_profiles()["vllm"], url)


async def test_silence_names_the_address() -> None:
    with pytest.raises(EndpointError, match=r"nothing answers at http://127.0.0.1:9/v1 .* is vLLM server running"):
        await served_model(load_profiles()["vllm"], "http://127.0.0.1:9/v1")
