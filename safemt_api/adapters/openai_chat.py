"""OpenAI chat completions: OpenAI itself and every compatible server.

Requests go out as the vendor's SDK would send them, but not through it: a call through the SDK costs four times the CPU, all of it for
conveniences (typed replies, retries) that are ours here or of no use.

Pictures go out without ``detail``: OpenAI's default, ``auto``, lets the server choose how finely it looks, and compatible servers do not
all know the field; what the server then scales down it does not tell. Replies are read from the raw body: compatible servers leave out,
rename and add fields, and the SDK's own models neither check nor need to be built. Reference: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx2
import orjson

from safemt_api.adapters.base import (
    CACHE_MARKS,
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
    first,
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
from safemt_api.adapters.failures import MAX_VENDOR_CHARACTERS, filtered_categories, stopped_detail
from safemt_api.adapters.translation import Answer, Translator
from safemt_api.messages import DECLINED, Call, Image, Outcome, Part, Reply, Usage
from safemt_api.profiles import Profile

COMPLETIONS = "/chat/completions"

NO_KEY = "none"
"""Sent where there is none, as the SDK insists on it; servers without keys ignore it."""

USER_AGENT = "safemt-api"

BROKEN_FINISHES = frozenset({"error", "abort", "insufficient_system_resource"})
"""Finish reasons of replies that broke off: OpenRouter, vLLM, DeepSeek."""

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"

MAX_COST_USD = 1000.0
"""No one call costs this much; a larger figure is no cost."""


class OpenAIChat:
    """Chat completions at one address."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._profile = connection, connection.profile
        self._translator = Translator(connection)
        self._url = httpx2.URL(f"{connection.base_url.rstrip('/')}{COMPLETIONS}", params=self._profile.extra_query or None)
        self._headers = httpx2.Headers(
            {
                "accept": "application/json",
                "accept-encoding": connection.client.headers["accept-encoding"],
                "authorization": f"Bearer {connection.api_key or NO_KEY}",
                "content-type": "application/json",
                "user-agent": USER_AGENT,
            }
        )
        self._headers.update(self._profile.extra_headers)

    async def send(self, call: Call) -> Received:
        """Send the call once; see ``Adapter``."""
        return await self._translator.exchange(call, post=self._post, read=self._read)

    async def _post(self, call: Call) -> Answer:
        facts = self._profile.facts(call.route.model)
        body = orjson.dumps({**build_request(call, self._profile), **facts.extra_body})
        headers = self._headers | facts.extra_headers if facts.extra_headers else self._headers
        try:
            # A request made by hand: the client's own way to one merges address, headers and cookies anew for each.
            response = await self._connection.client.send(httpx2.Request("POST", self._url, headers=headers, content=body))
            response.raise_for_status()
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return error
        return response.content, response.headers

    def _read(self, body: Body, headers: Mapping[str, str], model: str) -> Reply:
        choice = first(body.fields.get("choices"))
        if choice.get("error") or words(choice.get("finish_reason")) in BROKEN_FINISHES:
            inside = replace(body, value={"error": choice["error"]}) if choice.get("error") else body
            return self._translator.failed_inside(inside, headers, model=model)
        if not choice:
            raise self._translator.unusable("it holds no choices")
        return self._answer(body.fields, choice, body.text)

    def _answer(self, body: Mapping[str, Any], choice: Mapping[str, Any], raw: str) -> Reply:
        message = mapping(choice.get("message"))
        refusal, text = words(message.get("refusal")), spoken_text(message.get("content"))
        finish_reason = words(choice.get("finish_reason"))
        outcome = outcome_of(finish_reason, words(choice.get("native_finish_reason")), refusal)
        stopped = bool(text.strip()) and outcome in DECLINED
        text = text if text.strip() else refusal or text
        if outcome is Outcome.ANSWERED and not text:
            raise self._translator.unusable("it is empty")
        # What the vendor says it charged, where its profile says that this is what the field means.
        cost = mapping(body.get("usage")).get("cost")
        if not self._profile.reports_cost or isinstance(cost, bool) or not isinstance(cost, (int, float)) or not 0 <= cost <= MAX_COST_USD:
            cost = None
        return Reply(
            outcome,
            text=text,
            detail=stopped_detail(filtered_categories(choice) or one_line(refusal, MAX_VENDOR_CHARACTERS) or None, words_before=stopped),
            finish_reason=finish_reason or None,
            served_model=identity(body.get("model")),
            usage=usage_for(text, read_usage(body.get("usage"))),
            cost_usd=None if cost is None else float(cost),
            request_id=label(body.get("id")) or None,
            raw=raw,
            served_tier=served_tier(body.get("service_tier")),
            system_fingerprint=identity(body.get("system_fingerprint")),
        )


def build_request(call: Call, profile: Profile) -> dict[str, Any]:
    """The body of the request, but for what the profile adds to it."""
    model, facts = call.route.model, profile.facts(call.route.model)
    request: dict[str, Any] = {"model": model, "messages": _messages(call, profile), **sent_sampling(profile, model, call.parameters)}
    if call.parameters.max_output_tokens is not None:
        request[facts.max_output_parameter or profile.max_output_parameter] = call.parameters.max_output_tokens
    if facts.cache_marks == "breakpoint":
        # Otherwise every prompt of 1,024 tokens is written to the cache to its end, for a quarter more, and nobody reads that.
        request["prompt_cache_options"] = {"mode": "explicit"}
    if call.service_tier == "flex":
        request["service_tier"] = call.service_tier
    if call.parameters.effort is not None:
        request["reasoning_effort"] = call.parameters.effort
    if call.schema is not None and profile.takes_structured_output(model):
        schema = {"name": call.schema.name, "schema": dict(call.schema.body), "strict": True}
        request["response_format"] = {"type": "json_schema", "json_schema": schema}
    return request


def _messages(call: Call, profile: Profile) -> list[dict[str, Any]]:
    facts = profile.facts(call.route.model)
    mark, marked, marked_picture = CACHE_MARKS[facts.cache_marks], cacheable_message(call, profile), cacheable_pictures(call, profile)
    in_parts = facts.cache_minimum_tokens is not None and call.conversation in GROWING
    messages: list[dict[str, Any]] = []
    if call.system is not None:
        in_system = [{"type": "text", "text": call.system, **mark}] if cacheable_system(call, profile) else call.system
        messages.append({"role": profile.system_role, "content": in_system})
    for at, message in enumerate(call.messages):
        parts = [content_part(part) for part in message.parts] if message.images or in_parts else None
        if parts and marked is not None and at in (marked, marked - 2 if facts.cache_marks == "breakpoint" else marked):
            parts[-1] |= mark  # OpenAI finds nothing but what is marked again
        if parts and at == 0 and marked_picture is not None:
            parts[marked_picture] |= mark
        messages.append({"role": message.role, "content": message.text if parts is None else parts})
    return messages


def content_part(part: Part) -> dict[str, Any]:
    """A part of a message; the moderation endpoint takes the same shape."""
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": part.data_url}}
    return {"type": "text", "text": part.text}


def spoken_text(content: object) -> str:
    """The words of a message's content: a string, or parts of which only those of type ``text`` are spoken."""
    if isinstance(content, str):
        return without_thinking(content)
    parts = (mapping(part) for part in sequence(content))
    return "".join(words(part.get("text")) for part in parts if part.get("type") in ("text", "output_text"))


def without_thinking(text: str) -> str:
    """The text without a leading ``<think>`` section (servers without a reasoning parser leave it in); unclosed, all is thinking."""
    if not text.lstrip().startswith(THINK_OPEN):
        return text
    return text.partition(THINK_CLOSE)[2].lstrip()


def outcome_of(finish_reason: str, native_finish_reason: str, refusal: str) -> Outcome:
    """The outcome by the vendor's own signals; an unknown finish reason is an answer like any other."""
    if refusal or "refusal" in (finish_reason, native_finish_reason):
        return Outcome.REFUSED
    if finish_reason.startswith("content_filter") or finish_reason == "sensitive":
        return Outcome.BLOCKED_OUTPUT
    return Outcome.TRUNCATED if finish_reason == "length" else Outcome.ANSWERED


def read_usage(value: object) -> Usage | None:
    """Token counts; ``None`` where the server reports none that can be read.

    xAI leaves reasoning out of ``completion_tokens``, which shows in its total; DeepSeek names cached tokens its own way, and
    DashScope those that were written.
    """
    usage = mapping(value)
    input_details, output_details = mapping(usage.get("prompt_tokens_details")), mapping(usage.get("completion_tokens_details"))
    input_tokens, output_tokens = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    reasoning = optional_count(output_details.get("reasoning_tokens"))
    with_reasoning = total(input_tokens, output_tokens, reasoning)
    if reasoning and with_reasoning == count(usage.get("total_tokens")):
        output_tokens = total(output_tokens, reasoning)
    cached = input_details.get("cached_tokens")
    return known_usage(
        input_tokens=input_tokens,
        cached=optional_count(usage.get("prompt_cache_hit_tokens") if cached is None else cached),
        written=optional_count(input_details.get("cache_write_tokens", input_details.get("cache_creation_input_tokens"))),
        output_tokens=output_tokens,
        reasoning=reasoning,
    )
