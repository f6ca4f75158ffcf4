"""Anthropic messages, through the vendor's SDK.

Today's API version takes no sampling parameters and the SDK has no arguments for them: where a profile's facts say that an older
model takes them, they go out in ``extra_body``, and the facts' ``extra_headers`` set the older ``anthropic-version``. Pictures ask the
server to refuse rather than to scale down in silence. Reference: https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
from anthropic import AnthropicError, AsyncAnthropic

from safemt_api.adapters.base import (
    CACHE_MARKS,
    DEFAULT_MAX_OUTPUT_TOKENS,
    GROWING,
    Connection,
    Received,
    cacheable_message,
    cacheable_pictures,
    cacheable_system,
    sent_sampling,
)
from safemt_api.adapters.bodies import (
    Body,
    count,
    identity,
    known_usage,
    label,
    mapping,
    one_line,
    optional_count,
    sequence,
    served_tier,
    total,
    usage_for,
    words,
)
from safemt_api.adapters.failures import MAX_VENDOR_CHARACTERS, stopped_detail
from safemt_api.adapters.translation import Answer, Translator
from safemt_api.messages import DECLINED, Call, Image, Outcome, Part, Reply, Usage
from safemt_api.profiles import Profile

NO_KEY = "none"
"""Keeps the SDK from searching the machine for credentials; servers without keys ignore it."""

MARK = CACHE_MARKS["cache_control"]

ANTHROPIC_FAILURES = (AnthropicError, httpx2.HTTPError, httpx2.InvalidURL)

OUTCOMES: Mapping[str, Outcome] = {
    "refusal": Outcome.REFUSED,
    "max_tokens": Outcome.TRUNCATED,
    "model_context_window_exceeded": Outcome.TRUNCATED,
}
"""By ``stop_reason``; every other one, unknown ones too, is an answer."""


def open_client(connection: Connection) -> AsyncAnthropic:
    """The SDK's client with its retries off, over the shared HTTP client."""
    return AsyncAnthropic(
        api_key=connection.api_key or NO_KEY,
        base_url=connection.base_url.removesuffix("/v1"),  # the SDK's paths begin with /v1
        max_retries=0,
        timeout=connection.http_timeout,  # without an explicit one the SDK refuses calls that it thinks too long for one response
        http_client=connection.client,
        default_headers=connection.profile.extra_headers,
        default_query=connection.profile.extra_query,
        open_telemetry=False,
    )


class AnthropicMessages:
    """Messages at one address."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._profile = connection, connection.profile
        self._translator = Translator(connection)
        self._sdk = open_client(connection)
        self._create: Any = self._sdk.messages.with_raw_response.create  # typed by overloads that no built request matches

    async def send(self, call: Call) -> Received:
        """Send the call once; see ``Adapter``."""
        return await self._translator.exchange(call, post=self._post, read=self._read)

    async def _post(self, call: Call) -> Answer:
        try:
            response: httpx2.Response = (await self._create(**build_request(call, self._profile))).http_response
        except ANTHROPIC_FAILURES as error:
            return error
        return response.content, response.headers

    def _read(self, body: Body, headers: Mapping[str, str], model: str) -> Reply:
        fields = body.fields
        if fields.get("type") == "error":
            return self._translator.failed_inside(body, headers, model=model)
        if not isinstance(fields.get("content"), list):
            raise self._translator.unusable("it holds no content")
        return self._answer(fields, body.text)

    def _answer(self, body: Mapping[str, Any], raw: str) -> Reply:
        stop_reason = words(body.get("stop_reason"))
        outcome = OUTCOMES.get(stop_reason, Outcome.ANSWERED)
        blocks = (mapping(block) for block in sequence(body.get("content")))
        text = "".join(words(block.get("text")) for block in blocks if block.get("type") == "text")
        if outcome is Outcome.ANSWERED and not text:
            raise self._translator.unusable("it is empty")
        details = mapping(body.get("stop_details"))
        told = ": ".join(part for part in (words(details.get("category")), words(details.get("explanation"))) if part)
        return Reply(
            outcome,
            text=text,
            detail=stopped_detail(one_line(told, MAX_VENDOR_CHARACTERS) or None, words_before=bool(text.strip()) and outcome in DECLINED),
            finish_reason=stop_reason or None,
            served_model=identity(body.get("model")),
            usage=usage_for(text, read_usage(body.get("usage"))),
            request_id=label(body.get("id")) or None,
            raw=raw,
            served_tier=served_tier(mapping(body.get("usage")).get("service_tier")),
        )


def build_request(call: Call, profile: Profile) -> dict[str, Any]:
    """The arguments of ``messages.create``."""
    model, facts = call.route.model, profile.facts(call.route.model)
    limit = call.parameters.max_output_tokens
    request: dict[str, Any] = {
        "model": model,
        "max_tokens": DEFAULT_MAX_OUTPUT_TOKENS if limit is None else limit,
        "messages": _messages(call, profile),
    }
    if call.system is not None:
        marked = cacheable_system(call, profile)
        request["system"] = [{"type": "text", "text": call.system, **MARK}] if marked else call.system
    output: dict[str, Any] = {}
    if call.schema is not None and profile.takes_structured_output(model):
        output["format"] = {"type": "json_schema", "schema": dict(call.schema.body)}
    if call.parameters.effort is not None:
        output["effort"] = call.parameters.effort
    if output:
        request["output_config"] = output
    extra_body = {**facts.extra_body, **sent_sampling(profile, model, call.parameters)}
    if extra_body:
        request["extra_body"] = extra_body
    if facts.extra_headers:
        request["extra_headers"] = facts.extra_headers
    return request


def _messages(call: Call, profile: Profile) -> list[dict[str, Any]]:
    marked, marked_picture = cacheable_message(call, profile), cacheable_pictures(call, profile)
    messages: list[dict[str, Any]] = []
    for at, message in enumerate(call.messages):
        # In a conversation that is sent again and again every message is a list of blocks, so that a mark changes nothing but itself.
        in_blocks = message.images or call.conversation in GROWING
        said = (part for part in message.parts if isinstance(part, Image) or part.text or not message.images)
        blocks = [_part(part) for part in said] if in_blocks else None
        if blocks and at == marked:
            blocks[-1] |= MARK
        if blocks and at == 0 and marked_picture is not None:
            blocks[marked_picture] |= MARK
        messages.append({"role": message.role, "content": message.text if blocks is None else blocks})
    return messages


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Image):
        source = {"type": "base64", "media_type": part.media_type, "data": part.base64}
        return {"type": "image", "source": source, "transformations": {"oversized_image": "error"}}
    return {"type": "text", "text": part.text}


def read_usage(value: object) -> Usage | None:
    """Token counts; ``None`` where the server reports none that can be read.

    Anthropic's ``input_tokens`` leave cached ones out, ours do not.
    """
    usage = mapping(value)
    cached, written = optional_count(usage.get("cache_read_input_tokens")), optional_count(usage.get("cache_creation_input_tokens"))
    return known_usage(
        input_tokens=total(count(usage.get("input_tokens")), cached, written),
        cached=cached,
        written=written,
        output_tokens=count(usage.get("output_tokens")),
        reasoning=optional_count(mapping(usage.get("output_tokens_details")).get("thinking_tokens")),
    )
