"""Opening adapters by name: late imports, refused keys, and the pool of the shared client."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from safemt_api.adapters.base import Adapter, Timeouts, bare_environment, open_adapter
from safemt_api.adapters.http_client import open_http_client
from safemt_api.errors import UsageError
from safemt_api.messages import Call
from safemt_api.profiles import Profile, load_profiles

Connect = Callable[..., Adapter]


@pytest.mark.parametrize(("vendor", "seconds"), [("groq", 86_400.0), ("openai", 60.0)])
async def test_the_window_of_a_quota_of_requests_is_the_vendors(make_call: Callable[..., Call], vendor: str, seconds: float) -> None:
    body = {"choices": [{"message": {"content": "Words."}, "finish_reason": "stop"}]}
    headers = {"x-ratelimit-limit-requests": "1000", "x-ratelimit-limit-tokens": "6000"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, json=body))
    async with open_http_client(connections=1, timeouts=Timeouts(), transport=transport) as client:
        adapter = open_adapter(
            profile=load_profiles()[vendor],
            wire_format="openai_chat",
            base_url="https://api.example.test",
            api_key=None,
            client=client,
            timeouts=Timeouts(),
        )
        quotas = (await adapter.send(make_call())).quotas
    assert {(quota.kind, quota.limit, quota.window_seconds) for quota in quotas} == {("requests", 1000, seconds), ("tokens", 6000, 60.0)}


async def test_an_unknown_wire_format_is_refused_with_those_there_are(make_profile: Callable[..., Profile]) -> None:
    async with open_http_client(connections=1, timeouts=Timeouts()) as client:
        with pytest.raises(UsageError, match=r"'telepathy'.*openai_chat"):
            open_adapter(
                profile=make_profile("openai_chat"),
                wire_format="telepathy",
                base_url="http://x.test",
                api_key=None,
                client=client,
                timeouts=Timeouts(),
            )  # fmt: skip (one call)


@pytest.mark.parametrize(
    ("wire_format", "package", "extra"), [("anthropic_messages", "anthropic", "anthropic"), ("google_genai", "google.genai", "google")]
)
async def test_an_sdk_that_is_not_installed_is_named_with_its_extra(
    make_profile: Callable[..., Profile], monkeypatch: pytest.MonkeyPatch, wire_format: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"safemt_api.adapters.{wire_format}", raising=False)
    async with open_http_client(connections=1, timeouts=Timeouts()) as client:
        with pytest.raises(UsageError, match=rf"pip install 'safemt-api\[{extra}\]'"):
            open_adapter(
                profile=make_profile(wire_format),
                wire_format=wire_format,
                base_url="http://x.test",
                api_key=None,
                client=client,
                timeouts=Timeouts(),
            )  # fmt: skip (one call)


@pytest.mark.parametrize("bad", ["sk-with\nbreak-123", "sk with blank", "sk-schlüssel", "sk-\x00-12345"])
async def test_a_key_that_cannot_be_one_is_refused_without_being_shown(connect: Connect, bad: str) -> None:
    with pytest.raises(UsageError, match="set ACME_API_KEY again") as caught:
        connect("openai_chat", lambda _request: httpx2.Response(200), key=bad)
    assert bad not in str(caught.value)


async def test_redirects_are_not_followed() -> None:
    async with open_http_client(connections=300, timeouts=Timeouts()) as client:
        assert client.follow_redirects is False


async def test_a_placeholder_key_does_not_spoil_words(connect: Connect, make_call: Callable[..., Call]) -> None:
    def handler(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"choices": [{"message": {"content": "The glass is EMPTY"}, "finish_reason": "stop"}]})

    reply = (await connect("openai_chat", handler, key="EMPTY").send(make_call())).reply
    assert reply.text == "The glass is EMPTY"


def test_the_environment_is_whole_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    with bare_environment():
        assert "OPENAI_ORG_ID" not in os.environ
    assert os.environ["OPENAI_ORG_ID"] == "org-1"


def test_only_the_sdk_that_is_needed_is_imported() -> None:
    script = """
import sys, httpx2
from datetime import date
from safemt_api.adapters.base import Timeouts
from safemt_api.adapters.base import open_adapter
from safemt_api.adapters.http_client import open_http_client
from safemt_api.profiles import ImageRules, Limits, Profile
assert not {"openai", "anthropic", "google.genai"} & set(sys.modules)
facts = {"source": "x", "checked": date(2026, 11, 21)}
profile = Profile(name="a", title="A", wire_format="openai_chat", images=ImageRules(**facts), limits=Limits(**facts), **facts)
client = open_http_client(connections=1, timeouts=Timeouts())
open_adapter(profile=profile, wire_format="openai_chat", base_url="http://x.test", api_key=None, client=client, timeouts=Timeouts())
assert not {"openai", "anthropic", "google.genai", "httpx", "aiohttp"} & set(sys.modules)
open_adapter(profile=profile, wire_format="openai_moderation", base_url="http://x.test", api_key=None, client=client, timeouts=Timeouts())
assert "openai" in sys.modules
assert not {"anthropic", "google.genai", "httpx", "aiohttp"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).resolve().parents[2])
