"""Opens adapters by the name of their wire format, and the one HTTP client that they share.

Only the SDK that is needed is imported, and late: the three together take over two seconds to import.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module

import httpx2

from safemt_api.adapters.base import Adapter, Timeouts
from safemt_api.adapters.bounds import bind_response
from safemt_api.errors import UsageError
from safemt_api.profiles import Profile

KEEPALIVE_SECONDS = 60.0
"""Longer than a slow reply leaves a connection idle between turns; the default of 5 s would mean a TLS handshake for nearly every call."""

ADAPTERS: Mapping[str, tuple[str, str]] = {
    "openai_chat": ("safemt_api.adapters.openai_chat", "OpenAIChat"),
    "anthropic_messages": ("safemt_api.adapters.anthropic_messages", "AnthropicMessages"),
    "google_genai": ("safemt_api.adapters.google_genai", "GoogleGenAI"),
    "openai_moderation": ("safemt_api.adapters.openai_moderation", "OpenAIModeration"),
    "openai_decisions": ("safemt_api.adapters.openai_decisions", "OpenAIDecisions"),
    "google_decisions": ("safemt_api.adapters.google_decisions", "GoogleDecisions"),
}
"""Module and class by wire format."""

SDK_VARIABLES = ("OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_")


def open_http_client(*, connections: int, timeouts: Timeouts, transport: httpx2.AsyncBaseTransport | None = None) -> httpx2.AsyncClient:
    """The client that all adapters of a run share; whoever opens it closes it.

    Args:
        connections: The most calls in flight; as many connections are kept open between calls.
        transport: Stands in for the network in tests.
    """
    # No pool timeout: a call that has been let through waits for its connection as long as it may take.
    timeout = httpx2.Timeout(timeouts.idle_seconds, connect=timeouts.connect_seconds, pool=None)

    async def keep_timeouts(request: httpx2.Request) -> None:
        # SDKs put their own timeouts on each request (google-genai one number for all four, overriding the client's); ours hold.
        request.extensions["timeout"] = timeout.as_dict()

    return httpx2.AsyncClient(
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEPALIVE_SECONDS),
        timeout=timeout,
        follow_redirects=False,
        event_hooks={"request": [keep_timeouts], "response": [bind_response]},
        transport=transport,
    )


def open_adapter(
    *, profile: Profile, wire_format: str, base_url: str, api_key: str | None, client: httpx2.AsyncClient, timeouts: Timeouts
) -> Adapter:
    """An adapter bound to one address and key; it holds nothing that would need closing.

    Raises:
        UsageError: The wire format is unknown, or the key cannot be one.
    """
    if wire_format not in ADAPTERS:
        raise UsageError(f"no wire format called {wire_format!r}; there are: {', '.join(sorted(ADAPTERS))}")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        names = " or ".join(profile.key_variables) or "the variable"
        raise UsageError(f"the API key for {profile.name} holds a blank, a line break or a non-ASCII sign: set {names} again")
    module, name = ADAPTERS[wire_format]
    with bare_environment():
        adapter: Adapter = getattr(import_module(module), name)(
            profile=profile, base_url=base_url, api_key=api_key, client=client, timeouts=timeouts
        )
    return adapter


@contextmanager
def bare_environment() -> Iterator[None]:
    """Hides the SDKs' own variables while an SDK's client is made.

    Otherwise OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS, ANTHROPIC_CUSTOM_HEADERS, GOOGLE_GENAI_USE_VERTEXAI and their like would change
    what is sent, and to whom, without a trace in the run's settings. The SDKs read them only while a client is made.
    """
    hidden = {name: value for name, value in os.environ.items() if name.startswith(SDK_VARIABLES)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
