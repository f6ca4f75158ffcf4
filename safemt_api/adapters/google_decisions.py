"""Google's decisions endpoint as a wire format: one yes-or-no question (type ``noul``), answered with a calibrated probability.

``call.system`` is the question, ``call.messages`` are what it is about. The reply's text is JSON:
``{"answer": bool | null, "probability": float | null, "refused": bool}``; the shapes are those of google-genai 3.4,
``_gaos/types/decisions``. That part of the SDK is a second client inside the first, with exceptions of its own. It takes our HTTP client,
key, headers and "no retries" from the first one; its answer is taken as the HTTP body and read here, since its own models are not checked.
Google has no answer by which the model refuses: input that a filter stops comes back with ``prompt_feedback`` and no answers.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx2
import orjson
from google.genai._interactions import GeminiNextGenAPIClientError  # the only place from which the SDK hands out this tree's base

from safemt_api.adapters.base import Connection, Received
from safemt_api.adapters.bodies import Body, count, is_probability, known_usage, mapping, one_line, optional_count, total, words
from safemt_api.adapters.failures import MAX_VENDOR_CHARACTERS
from safemt_api.adapters.google_genai import ON_HOLD, open_client, split_version
from safemt_api.adapters.translation import Answer, Translator
from safemt_api.messages import Call, Image, Message, Outcome, Part, Reply, Usage

DECISIONS_API_VERSION = "v1beta"
"""The endpoint is in no other version yet, https://codelabs.developers.google.com/getting-started-with-gemini-decisions-api"""

QUESTION = "verdict"
"""Name of the one question, under which its answer comes back."""

FAILURES = (GeminiNextGenAPIClientError, httpx2.HTTPError, httpx2.InvalidURL, UnicodeDecodeError, RecursionError)


class GoogleDecisions:
    """The decisions endpoint at one address."""

    def __init__(self, connection: Connection) -> None:
        self._translator = Translator(connection)
        self._sdk = open_client(connection, with_version(connection.base_url)).aio
        # The inner client is made, and reads the environment, when it is first asked for: so it is asked for here.
        self._create: Any = self._sdk.decisions.with_raw_response.create

    async def send(self, call: Call) -> Received:
        """Send the call once; see ``Adapter``."""
        return await self._translator.exchange(call, post=self._post, read=self._read)

    async def _post(self, call: Call) -> Answer:
        questions = {QUESTION: {"type": "noul", "instructions": call.system or ""}}
        try:
            answer = await self._create(model=call.route.model, input=build_input(call.messages), questions=questions)
            response: httpx2.Response = answer.http_response
            response.raise_for_status()  # the SDK lets a redirect through as if it were an answer
        except FAILURES as error:
            return error
        return response.content, response.headers

    def _read(self, body: Body, headers: Mapping[str, str], model: str) -> Reply:
        feedback = mapping(body.fields.get("prompt_feedback"))
        block_reason = words(feedback.get("block_reason"))
        if block_reason.upper() == ON_HOLD:
            held = replace(body, value={"error": {"message": ON_HOLD, "status": ON_HOLD}})
            return self._translator.failed_inside(held, headers, model=model)
        if block_reason:
            detail = one_line(words(feedback.get("block_reason_message")) or block_reason, MAX_VENDOR_CHARACTERS)
            return _reply(Outcome.BLOCKED_INPUT, None, body, detail=detail, finish_reason=block_reason)
        answer = mapping(mapping(body.fields.get("answers")).get(QUESTION))
        if answer.get("type") == "refusal":  # not Google's, but that of gateways which put one shape over both vendors
            return _reply(Outcome.REFUSED, None, body)
        if answer.get("type") != "noul" or not is_probability(answer.get("noul")):
            raise self._translator.unusable("it holds no answer")
        return _reply(Outcome.ANSWERED, answer["noul"], body)


def with_version(base_url: str) -> str:
    """The address with the API version that has decisions, where it names none itself."""
    return base_url if split_version(base_url)[0] != base_url else f"{base_url.rstrip('/')}/{DECISIONS_API_VERSION}"


def build_input(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as the endpoint's one list of contents. It knows no roles, so several messages are each headed by theirs."""
    if len(messages) == 1:
        return [_part(part) for part in messages[0].parts]
    return [item for message in messages for item in (_text(f"{message.role}:"), *map(_part, message.parts))]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Image):
        return {"type": "image", "data": b64encode(part.data).decode(), "mime_type": part.media_type}
    return _text(part.text)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _reply(outcome: Outcome, probability: float | None, body: Body, **known: Any) -> Reply:
    """The reply; without a probability the question was refused."""
    answer = None if probability is None else probability >= 0.5
    decision = {"answer": answer, "probability": probability, "refused": probability is None}
    return Reply(outcome, text=orjson.dumps(decision).decode(), usage=read_usage(body.fields.get("usage")), raw=body.text, **known)


def read_usage(value: object) -> Usage | None:
    """Token counts; ``None`` where the server reports none that can be read. Only input is billed: the endpoint writes no tokens."""
    usage = mapping(value)
    thoughts = optional_count(usage.get("total_thought_tokens"))
    return known_usage(
        input_tokens=total(count(usage.get("total_input_tokens")), optional_count(usage.get("total_tool_use_tokens"))),
        cached=optional_count(usage.get("total_cached_tokens")),
        output_tokens=total(optional_count(usage.get("total_output_tokens")), thoughts),
        reasoning=thoughts,
    )
