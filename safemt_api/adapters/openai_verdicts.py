"""OpenAI's endpoints that classify instead of talking, as wire formats. The reply's text is JSON.

Decisions: one predicate (``call.system``) about a conversation (``call.messages``), answered with a calibrated probability:
``{"answer": bool | null, "probability": float | null, "refused": bool}``; the shapes are those of ``openai.types.decision``.

Moderation: words and pictures in, flags and scores out: ``{"flagged": bool, "categories": {name: bool}, "scores": {name: float}}``. Not
every category looks at pictures: https://platform.openai.com/docs/guides/moderation
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import orjson
from openai import AsyncOpenAI, OpenAIError

from safemt_api.adapters.base import Connection, Received
from safemt_api.adapters.bodies import Body, count, first, identity, is_probability, known_usage, label, mapping, optional_count
from safemt_api.adapters.openai_chat import NO_KEY, content_part
from safemt_api.adapters.translation import Answer, Translator
from safemt_api.messages import Call, Image, Message, Outcome, Part, Reply, Usage

OPENAI_FAILURES = (OpenAIError, httpx2.HTTPError, httpx2.InvalidURL)


def open_client(connection: Connection) -> AsyncOpenAI:
    """The SDK's client with its retries off, over the shared HTTP client; batches are made with it too."""
    return AsyncOpenAI(
        api_key=connection.api_key or NO_KEY,
        base_url=connection.base_url,
        max_retries=0,
        timeout=connection.http_timeout,
        http_client=connection.client,
        default_headers=connection.profile.extra_headers,
        default_query=connection.profile.extra_query,
    )


class OpenAIDecisions:
    """The decisions endpoint at one address."""

    def __init__(self, connection: Connection) -> None:
        self._translator = Translator(connection)
        self._create: Any = open_client(connection).decisions.with_raw_response.create  # typed for literal messages, not for built ones

    async def send(self, call: Call) -> Received:
        """Send the call once; see ``Adapter``."""
        return await self._translator.exchange(call, post=self._post, read=self._read)

    async def _post(self, call: Call) -> Answer:
        question = {"type": "predicate", "instructions": call.system or ""}
        messages = [_message(message) for message in call.messages]
        try:
            answer = await self._create(model=call.route.model, input=messages, questions=[question])
        except OPENAI_FAILURES as error:
            return error
        response: httpx2.Response = answer.http_response
        return response.content, response.headers

    def _read(self, body: Body, headers: Mapping[str, str], model: str) -> Reply:
        fields = body.fields
        answer = first(fields.get("answers"))
        probability: Any = answer.get("probability")
        refused = answer.get("type") == "refusal"
        if not refused and not is_probability(probability):
            raise self._translator.unusable("it holds no answer")
        decision = {"answer": None if refused else probability >= 0.5, "probability": None if refused else probability, "refused": refused}
        return Reply(
            Outcome.REFUSED if refused else Outcome.ANSWERED,
            text=orjson.dumps(decision).decode(),
            served_model=identity(fields.get("model")),
            usage=read_usage(fields.get("usage")),
            request_id=label(fields.get("id")) or None,
            raw=body.text,
        )


def _message(message: Message) -> dict[str, Any]:
    if message.role == "assistant":
        return {"type": "message", "role": "assistant", "content": message.text}
    return {"type": "message", "role": "user", "content": [_part(part) for part in message.parts]}


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Image):
        return {"type": "input_image", "image_url": part.data_url}
    return {"type": "input_text", "text": part.text}


def read_usage(value: object) -> Usage | None:
    """Token counts; ``None`` where the server reports none that can be read."""
    usage = mapping(value)
    details = mapping(usage.get("input_tokens_details"))
    return known_usage(
        input_tokens=count(usage.get("input_tokens")),
        cached=optional_count(details.get("cached_tokens")),
        written=optional_count(details.get("cache_write_tokens")),
        output_tokens=optional_count(usage.get("output_tokens")),
        reasoning=optional_count(mapping(usage.get("output_tokens_details")).get("reasoning_tokens")),
    )


class OpenAIModeration:
    """The moderation endpoint at one address."""

    def __init__(self, connection: Connection) -> None:
        self._translator = Translator(connection)
        self._create: Any = open_client(connection).moderations.with_raw_response.create  # typed for one literal shape at a time

    async def send(self, call: Call) -> Received:
        """Send the call once; see ``Adapter``. All parts of all messages are classified together."""
        return await self._translator.exchange(call, post=self._post, read=self._read)

    async def _post(self, call: Call) -> Answer:
        parts = [content_part(part) for message in call.messages for part in message.parts]
        try:
            response: httpx2.Response = (await self._create(model=call.route.model, input=parts)).http_response
        except OPENAI_FAILURES as error:
            return error
        return response.content, response.headers

    def _read(self, body: Body, headers: Mapping[str, str], model: str) -> Reply:
        fields = body.fields
        result = first(fields.get("results"))
        if not isinstance(result.get("flagged"), bool):
            raise self._translator.unusable("it holds no verdict")
        verdict = {
            "flagged": result["flagged"],
            "categories": {name: value for name, value in mapping(result.get("categories")).items() if isinstance(value, bool)},
            "scores": {name: value for name, value in mapping(result.get("category_scores")).items() if isinstance(value, (int, float))},
        }
        return Reply(
            Outcome.ANSWERED,
            text=orjson.dumps(verdict).decode(),
            served_model=identity(fields.get("model")),
            request_id=label(fields.get("id")) or None,
            raw=body.text,
        )
