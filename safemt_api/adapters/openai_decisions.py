"""OpenAI's decisions endpoint as a wire format: one predicate about a conversation, answered with a calibrated probability.

``call.system`` is the predicate, ``call.messages`` are what it is about. The reply's text is JSON:
``{"answer": bool | null, "probability": float | null, "refused": bool}``; the shapes are those of ``openai.types.decision``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import orjson

from safemt_api.adapters.base import Received, Timeouts
from safemt_api.adapters.openai_chat import OPENAI_FAILURES, open_client
from safemt_api.adapters.reading import Body, first, label, mapping, words
from safemt_api.adapters.translation import Answer, Door
from safemt_api.adapters.usage import count, known_usage, optional_count
from safemt_api.messages import Call, Image, Message, Outcome, Part, Reply, Usage
from safemt_api.profiles import Profile


class OpenAIDecisions:
    """The decisions endpoint at one address."""

    def __init__(self, *, profile: Profile, base_url: str, api_key: str | None, client: httpx2.AsyncClient, timeouts: Timeouts) -> None:
        self._door = Door(profile, base_url, api_key)
        sdk = open_client(profile=profile, base_url=base_url, api_key=api_key, client=client, timeouts=timeouts)
        self._create: Any = sdk.decisions.with_raw_response.create  # typed for literal messages, not for built ones

    async def send(self, call: Call) -> Received:
        """Send the call once; see ``Adapter``."""
        return await self._door.exchange(call, post=self._post, read=self._read)

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
        if fields.get("error"):
            return self._door.failed_inside(body, headers, model=model)
        answer = first(fields.get("answers"))
        probability: Any = answer.get("probability")
        refused = answer.get("type") == "refusal"
        known = isinstance(probability, (int, float)) and not isinstance(probability, bool) and 0 <= probability <= 1
        if not refused and not known:
            raise self._door.unusable("it holds no answer")
        decision = {"answer": None if refused else probability >= 0.5, "probability": None if refused else probability, "refused": refused}
        return Reply(
            Outcome.REFUSED if refused else Outcome.ANSWERED,
            text=orjson.dumps(decision).decode(),
            served_model=words(fields.get("model")) or None,
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
