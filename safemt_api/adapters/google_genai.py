"""Google generateContent, through the vendor's SDK.

The SDK is told to hand over the HTTP body (``should_return_http_response``), which is then read here: its own models lose the
vendor's field names, warn about every unknown enum value and fail on odd shapes. Everything it does on its own account is off:
retries, following continuation tokens (without end by default), calling functions, and its second HTTP stack. Reference: https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx2
from google.genai import Client, types
from google.genai.errors import APIError

from safemt_api.adapters.base import Connection, Received, sent_sampling
from safemt_api.adapters.bodies import (
    Body,
    count,
    first,
    identity,
    known_usage,
    label,
    mapping,
    names,
    one_line,
    optional_count,
    sequence,
    served_tier,
    total,
    usage_for,
    words,
)
from safemt_api.adapters.failures import MAX_VENDOR_CHARACTERS, stopped_detail
from safemt_api.adapters.translation import FLEX_SECONDS, Answer, Translator
from safemt_api.errors import UsageError
from safemt_api.messages import DECLINED, Call, Image, Message, Outcome, Part, Reply, Usage
from safemt_api.profiles import Profile

GOOGLE_FAILURES = (APIError, httpx2.HTTPError, httpx2.InvalidURL, UnicodeDecodeError, RecursionError)
NO_KEY = "none"
DEFAULT_API_VERSION = "v1"
"""The SDK's own default, fixed so that no environment variable changes it."""

BLOCKED = names("SAFETY BLOCKLIST PROHIBITED_CONTENT SPII IMAGE_SAFETY IMAGE_PROHIBITED_CONTENT ESCALATION MODEL_ARMOR")
"""Finish reasons of a filter; words that came before it are kept, and judged."""

FILTERS = tuple(f"HARM_CATEGORY_{name}" for name in ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT"))
"""The categories that a caller may adjust (https://ai.google.dev/gemini-api/docs/safety-settings); others always block."""

CUT_SHORT = frozenset({"RECITATION", "LANGUAGE", "OTHER", "IMAGE_RECITATION", "IMAGE_OTHER"})
"""Stopped for reasons that are no word on safety: what came is judged like a truncated reply, and without words the verdict is missing."""

SERVED_TIER_HEADER = "x-gemini-service-tier"
"""Which tier served a call (https://discuss.ai.google.dev/t/141671 and https://asadani.github.io/gemini-flex-inference, 2nd-hand)."""

TRUNCATED = frozenset({"MAX_TOKENS", "CONTINUATION"})
ON_HOLD = "PUP_LIMITED_DISABLED"
"""The account is limited for violations of the use policy: nothing more may be sent."""


def open_client(connection: Connection, base_url: str) -> Client:
    """The SDK's client over the shared HTTP client, with a synchronous one that never sends."""
    profile = connection.profile
    if profile.extra_query:
        raise UsageError(f"{profile.name}: extra_query cannot be sent with the wire format google_genai; leave it out of the profile")
    address, version = split_version(base_url)
    options = types.HttpOptions(
        base_url=address,
        api_version=version,
        timeout=round(connection.timeouts.total_seconds * 1000),  # milliseconds; unset it would mean: none at all
        headers=dict(profile.extra_headers),
        retry_options=types.HttpRetryOptions(attempts=1),
        httpx_async_client=connection.client,  # an explicit one also keeps the SDK from using aiohttp where that is installed
        httpx_client=httpx2.Client(transport=httpx2.MockTransport(_never)),  # spares the SDK's TLS set-up for a client that is not used
    )
    return Client(vertexai=False, api_key=connection.api_key or NO_KEY, http_options=options)


def _never(_request: httpx2.Request) -> httpx2.Response:
    raise httpx2.UnsupportedProtocol("no call is synchronous")


def split_version(base_url: str) -> tuple[str, str]:
    """An address and the API version at its end, where it names one."""
    match = re.fullmatch(r"(.+?)/(v[0-9]+(?:(?:alpha|beta)[0-9]*)?)/?", base_url)
    return (match[1], match[2]) if match else (base_url, DEFAULT_API_VERSION)


class GoogleGenAI:
    """generateContent at one address."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._profile = connection, connection.profile
        self._translator = Translator(connection)
        self._sdk = open_client(connection, connection.base_url).aio

    async def send(self, call: Call) -> Received:
        """Send the call once; see ``Adapter``."""
        return await self._translator.exchange(call, post=self._post, read=self._read)

    async def _post(self, call: Call) -> Answer:
        contents: Any = [_content(message) for message in call.messages]
        config = build_config(call, self._profile)
        try:
            response = await self._sdk.models.generate_content(model=call.route.model, contents=contents, config=config)
        except GOOGLE_FAILURES as error:
            return error
        answer = response.sdk_http_response or types.HttpResponse()
        return (answer.body or "").encode(), answer.headers or {}

    def _read(self, body: Body, headers: Mapping[str, str], model: str) -> Reply:
        fields = body.fields
        candidate = first(fields.get("candidates"))
        block_reason = words(mapping(fields.get("promptFeedback")).get("blockReason"))
        if candidate.get("finishReason") == ON_HOLD or block_reason == ON_HOLD:
            held = replace(body, value={"error": {"message": ON_HOLD, "status": ON_HOLD}})
            return self._translator.failed_inside(held, headers, model=model)
        if block_reason and not candidate:
            feedback = mapping(fields.get("promptFeedback"))
            detail = one_line(
                words(feedback.get("blockReasonMessage")) or _blocked_ratings(feedback) or block_reason, MAX_VENDOR_CHARACTERS
            )
            return Reply(Outcome.BLOCKED_INPUT, detail=detail, finish_reason=block_reason, **_about(fields, body.text))
        tier = served_tier(headers.get(SERVED_TIER_HEADER) or mapping(fields.get("usageMetadata")).get("serviceTier"))
        return replace(self._answer(fields, candidate, body.text), served_tier=tier)

    def _answer(self, body: Mapping[str, Any], candidate: Mapping[str, Any], raw: str) -> Reply:
        parts = [mapping(part) for part in sequence(mapping(candidate.get("content")).get("parts"))]
        text = "".join(words(part.get("text")) for part in parts if part.get("thought") is not True)
        finish_reason = words(candidate.get("finishReason"))
        outcome = outcome_of(finish_reason)
        if outcome is Outcome.ANSWERED and not text:
            raise self._translator.unusable(f"it is empty ({one_line(finish_reason, 40) or 'no finish reason'})")
        detail = one_line(words(candidate.get("finishMessage")) or _blocked_ratings(candidate), MAX_VENDOR_CHARACTERS) or None
        detail = stopped_detail(detail, words_before=bool(text.strip()) and outcome in DECLINED)
        return Reply(outcome, text=text, detail=detail, finish_reason=finish_reason or None, **_about(body, raw, text))


def _content(message: Message) -> types.Content:
    return types.Content(role="model" if message.role == "assistant" else "user", parts=[_part(part) for part in message.parts])


def _part(part: Part) -> types.Part:
    if isinstance(part, Image):
        return types.Part(inline_data=types.Blob(data=part.data, mime_type=part.media_type))
    return types.Part(text=part.text)


def build_config(call: Call, profile: Profile) -> types.GenerateContentConfig:
    """The ``config`` of ``generate_content``: only what was asked for, and everything automatic switched off."""
    model, facts = call.route.model, profile.facts(call.route.model)
    asked: dict[str, Any] = {**sent_sampling(profile, model, call.parameters)}
    if call.system is not None:
        asked["system_instruction"] = call.system
    if call.parameters.max_output_tokens is not None:
        asked["max_output_tokens"] = call.parameters.max_output_tokens
    if call.schema is not None and profile.takes_structured_output(model):
        asked |= {"response_mime_type": "application/json", "response_json_schema": dict(call.schema.body)}
    if call.service_tier == "flex":
        asked["service_tier"] = types.ServiceTier.FLEX
    if call.parameters.effort is not None:
        asked["thinking_config"] = types.ThinkingConfig(thinking_level=types.ThinkingLevel(call.parameters.effort.upper()))
    if call.parameters.safety_threshold is not None:
        threshold = types.HarmBlockThreshold(call.parameters.safety_threshold.upper())
        asked["safety_settings"] = [types.SafetySetting(category=types.HarmCategory(name), threshold=threshold) for name in FILTERS]
    flex_milliseconds = round(FLEX_SECONDS * 1000) if call.service_tier == "flex" else None
    if facts.extra_body or facts.extra_headers or flex_milliseconds:
        asked["http_options"] = types.HttpOptions(
            headers=dict(facts.extra_headers), extra_body=facts.extra_body or None, timeout=flex_milliseconds
        )
    return types.GenerateContentConfig(
        automatic_continuation=False,
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        should_return_http_response=True,
        **asked,
    )


def outcome_of(finish_reason: str) -> Outcome:
    """The outcome by finish reason; an unknown one is an answer like any other."""
    if finish_reason in BLOCKED:
        return Outcome.BLOCKED_OUTPUT
    return Outcome.TRUNCATED if finish_reason in TRUNCATED | CUT_SHORT else Outcome.ANSWERED


def _blocked_ratings(holder: Mapping[str, Any]) -> str:
    ratings = (mapping(rating) for rating in sequence(holder.get("safetyRatings")))
    return ", ".join(words(rating.get("category")) for rating in ratings if rating.get("blocked") is True)


def _about(body: Mapping[str, Any], raw: str, text: str = "") -> dict[str, Any]:
    return {
        "served_model": identity(body.get("modelVersion")),
        "usage": usage_for(text, read_usage(body.get("usageMetadata"))),
        "request_id": label(body.get("responseId")) or None,
        "raw": raw,
    }


def read_usage(value: object) -> Usage | None:
    """Token counts; ``None`` where the server reports none that can be read.

    Google's candidates leave thoughts out, which are billed as output; the count of candidates is left out where there are none.
    """
    usage = mapping(value)
    thoughts = optional_count(usage.get("thoughtsTokenCount"))
    return known_usage(
        input_tokens=total(count(usage.get("promptTokenCount")), optional_count(usage.get("toolUsePromptTokenCount"))),
        cached=optional_count(usage.get("cachedContentTokenCount")),
        output_tokens=total(optional_count(usage.get("candidatesTokenCount")), thoughts),
        reasoning=thoughts,
    )
