"""What every wire format offers: one call in, one reply out, with the vendor's pace hints beside it; and how one is opened by its name.

Only the SDK that is needed is imported, and late: the three together take over two seconds to import.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import takewhile
from typing import Any, Literal, Protocol

import httpx2

from safemt_api.errors import UsageError
from safemt_api.messages import Call, Conversation, Image, Message, Parameters, Reply
from safemt_api.profiles import ParameterName, Profile
from safemt_api.tokens import input_tokens_estimate

DEFAULT_MAX_OUTPUT_TOKENS = 1024
"""Sent where a wire format insists on a limit (anthropic_messages) and the call names none."""

CACHE_MARKS: Mapping[str, Mapping[str, Any]] = {
    "cache_control": {"cache_control": {"type": "ephemeral"}},
    "breakpoint": {"prompt_cache_breakpoint": {"mode": "explicit"}},
}
"""What ends a beginning that a vendor is to cache: Anthropic's mark, which OpenRouter and DashScope take too; OpenAI's since GPT-5.6."""

GROWING: frozenset[Conversation] = frozenset({"growing", "ending"})
"""Conversations whose messages are sent again and again."""

SAMPLING: tuple[ParameterName, ...] = ("temperature", "top_p", "seed")

QuotaKind = Literal["requests", "tokens", "input_tokens", "output_tokens"]

ADAPTERS: Mapping[str, tuple[str, str]] = {
    "openai_chat": ("safemt_api.adapters.openai_chat", "OpenAIChat"),
    "anthropic_messages": ("safemt_api.adapters.anthropic_messages", "AnthropicMessages"),
    "google_genai": ("safemt_api.adapters.google_genai", "GoogleGenAI"),
    "openai_moderation": ("safemt_api.adapters.openai_verdicts", "OpenAIModeration"),
    "openai_decisions": ("safemt_api.adapters.openai_verdicts", "OpenAIDecisions"),
    "google_decisions": ("safemt_api.adapters.google_decisions", "GoogleDecisions"),
}
"""Module and class by wire format."""

SDK_EXTRAS = ("anthropic", "google")
"""Packages that a plain install leaves out, and the extras that bring them: 472 MB with both, 392 MB without (CPython 3.11)."""

SDK_VARIABLES = ("OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one call may take. Connect and idle belong to the HTTP layer; ``total_seconds`` is a scope of the gateway's.

    No wire format here streams, so ``idle_seconds`` bounds the wait for the whole reply, a reasoning model's thinking included.
    """

    connect_seconds: float = 10.0
    idle_seconds: float = 120.0
    total_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class QuotaHint:
    """One quota as a vendor's response header told it.

    ``window_seconds`` is the period that ``limit`` counts over (60 for a minute's quota, 86400 for a day's);
    ``reset_seconds`` is relative to now. Fields the vendor did not send are ``None``.
    """

    kind: QuotaKind
    limit: int | None = None
    remaining: int | None = None
    reset_seconds: float | None = None
    window_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Received:
    """A reply with the quota hints of its headers (hints steer the pace; they are never stored)."""

    reply: Reply
    quotas: tuple[QuotaHint, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Connection:
    """One address of one vendor with the key for it, over the shared HTTP client."""

    profile: Profile
    base_url: str
    api_key: str | None = field(repr=False)
    client: httpx2.AsyncClient
    timeouts: Timeouts

    @property
    def http_timeout(self) -> httpx2.Timeout:
        """The timeouts as SDKs take them."""
        return httpx2.Timeout(self.timeouts.idle_seconds, connect=self.timeouts.connect_seconds, pool=None)


class Adapter(Protocol):
    """One wire format bound to one address and key. Pure translation: no retry, no sleep, no cache."""

    async def send(self, call: Call) -> Received:
        """Send the call once.

        Raises:
            CallError: A ``TransientError`` or ``DialogueError``, translated from the SDK's exception.
            StopRunError: The account or the address as a whole is unusable.
        """
        ...


def requested_sampling(parameters: Parameters) -> dict[str, float]:
    """The sampling parameters that were asked for, by name (``None`` means: not asked for)."""
    return {name: value for name in SAMPLING if (value := getattr(parameters, name)) is not None}


def sent_sampling(profile: Profile, model: str, parameters: Parameters) -> dict[str, float]:
    """The sampling parameters that go out: asked for, and known to be taken by the model."""
    takes = profile.facts(model).takes
    return {name: value for name, value in requested_sampling(parameters).items() if name in takes}


def unsupported_parameters(profile: Profile, model: str, parameters: Parameters) -> tuple[str, ...]:
    """The parameters that were asked for and would not be sent; whoever starts a run refuses or announces them."""
    takes = profile.facts(model).takes
    return tuple(name for name in requested_sampling(parameters) if name not in takes)


def open_adapter(
    *, profile: Profile, wire_format: str, base_url: str, api_key: str | None, client: httpx2.AsyncClient, timeouts: Timeouts
) -> Adapter:
    """An adapter bound to one address and key; it holds nothing that would need closing.

    Raises:
        UsageError: The wire format is unknown, its SDK is not installed, or the key cannot be one.
    """
    if wire_format not in ADAPTERS:
        raise UsageError(f"no wire format called {wire_format!r}; there are: {', '.join(sorted(ADAPTERS))}")
    check_key(profile, api_key)
    module, name = ADAPTERS[wire_format]
    with bare_environment():
        try:
            found = import_module(module)
        except ModuleNotFoundError as missing:
            extra = (missing.name or "").split(".")[0]
            if extra not in SDK_EXTRAS:
                raise
            raise UsageError(f"{profile.name} needs the SDK of {extra}: pip install 'safemt-api[{extra}]'") from missing
        adapter: Adapter = getattr(found, name)(Connection(profile, base_url, api_key, client, timeouts))
    return adapter


def check_key(profile: Profile, api_key: str | None) -> None:
    """Refuse a key that no HTTP header could hold; the sentence does not show it.

    Raises:
        UsageError: It is none.
    """
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        names = " or ".join(profile.key_variables) or "the variable"
        raise UsageError(f"the API key for {profile.name} holds a blank, a line break or a non-ASCII sign: set {names} again")


def cacheable_message(call: Call, profile: Profile) -> int | None:
    """The message at whose end the cache is to be written, or read for the last time; ``None`` where a mark cannot pay.

    For vendors that cache what they are told to. Writing costs a quarter more than plain input and reading a tenth of it, so only what will
    be sent again is worth a mark. The last call of a conversation marks the end of what the call before it wrote: that reads the cache, and
    writes nothing. Sources: https://platform.claude.com/docs/en/build-with-claude/prompt-caching,
    https://www.alibabacloud.com/help/en/model-studio/context-cache, https://developers.openai.com/api/docs/guides/prompt-caching.
    """
    end = {"growing": len(call.messages) - 1, "ending": len(call.messages) - 3}.get(call.conversation, -1)
    return end if end >= 0 and _is_cached(replace(call, messages=call.messages[: end + 1]), profile) else None


def cacheable_pictures(call: Call, profile: Profile) -> int | None:
    """The last of the pictures that a question begins with, where others begin with the same ones; ``None`` where a mark cannot pay.

    Every turn of a dialogue is judged after the same instructions and pictures: written once, they are read at each turn but the first.
    """
    parts = call.messages[0].parts if call.messages else ()
    pictures = tuple(takewhile(lambda part: isinstance(part, Image), parts))
    if call.conversation != "repeated" or not pictures:
        return None
    beginning = replace(call, messages=(Message("user", pictures),), schema=None)
    return len(pictures) - 1 if _is_cached(beginning, profile) else None


def cacheable_system(call: Call, profile: Profile) -> bool:
    """Whether the system text is to be cached: a judge's or a moderator's instructions are the same in call after call."""
    return call.purpose != "target" and bool(call.system) and _is_cached(replace(call, messages=(), schema=None), profile)


def marked_beginnings(call: Call, profile: Profile) -> list[Call]:
    """The beginnings of a call that are marked for a cache, each as a call, the shortest first."""
    ends = [] if not cacheable_system(call, profile) else [replace(call, messages=(), schema=None)]
    picture, message = cacheable_pictures(call, profile), cacheable_message(call, profile)
    if picture is not None:
        ends.append(replace(call, messages=(Message("user", call.messages[0].parts[: picture + 1]),), schema=None))
    if message is not None:
        # Where the turn before wrote, and what is written now.
        ends += [replace(call, messages=call.messages[: end + 1], schema=None) for end in (message - 2, message) if end >= 0]
    return ends


def _is_cached(prefix: Call, profile: Profile) -> bool:
    """Whether the vendor caches so short a beginning, and only what is marked."""
    model = prefix.route.model
    minimum = profile.facts(model).cache_minimum_tokens
    return minimum is not None and input_tokens_estimate(prefix, profile.image_rules(model)) >= minimum


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
