"""The identity of a call: the same key if and only if the same answer may be handed out again."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import orjson

from safemt_api.messages import Call, Image, Message, Schema

KEY_PREFIX = "safemt2:"
"""Names the algorithm; a change of what enters the key takes a new prefix, so that old replies are never handed out by mistake."""


def canonical_request(call: Call) -> bytes:
    """Everything that changes the answer, as canonical JSON: sorted keys, no blanks, pictures as digests.

    In it: wire format, endpoint, what the profile adds to each request, model, parameters that are sent (thinking and filters among them),
    system text, messages, picture digests, schema and whether it is sent along, sample index. Not in it: who asks (purpose), the profile's
    name, the API key, pace, deadlines, the time.
    """
    return orjson.dumps(_request(call), option=orjson.OPT_SORT_KEYS)


def request_key(canonical: bytes) -> str:
    """The key of a canonical request: prefixed SHA-256."""
    return KEY_PREFIX + sha256(canonical).hexdigest()


def call_key(call: Call) -> str:
    """The key of a call."""
    return request_key(canonical_request(call))


def _request(call: Call) -> dict[str, Any]:
    route, parameters = call.route, call.parameters
    sent = {
        "max_output_tokens": parameters.max_output_tokens,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "seed": parameters.seed,
        "effort": parameters.effort,
        "safety_threshold": parameters.safety_threshold,
    }
    return {
        "wire_format": route.wire_format,
        "endpoint": route.endpoint,
        "extras": route.extras,
        "model": route.model,
        "parameters": {name: value for name, value in sent.items() if value is not None},
        "system": call.system,
        "messages": [_message(message) for message in call.messages],
        "schema": None if call.schema is None else _schema(call.schema, sent=route.structured_output),
        "sample_index": call.sample_index,
    }


def _schema(schema: Schema, *, sent: bool) -> dict[str, Any]:
    return {"name": schema.name, "body": dict(schema.body), "sent": sent}


def _message(message: Message) -> dict[str, Any]:
    parts = [{"image": part.digest} if isinstance(part, Image) else {"text": part.text} for part in message.parts]
    return {"role": message.role, "parts": parts}
