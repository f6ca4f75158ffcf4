"""Replies as JSON text and back."""

from __future__ import annotations

from dataclasses import fields, replace
from hashlib import sha256
from typing import Any

import orjson

from safemt_api.messages import Outcome, Reply, Usage

REPLY_TEXTS = ("text", "detail", "finish_reason", "served_model", "request_id", "raw")
REPLY_FIELDS = tuple(field.name for field in fields(Reply) if field.name not in ("raw", "outcome", "usage"))
USAGE_FIELDS = tuple(field.name for field in fields(Usage))


def reply_to_json(reply: Reply) -> str:
    """The reply without its raw body, which has a column of its own."""
    values: dict[str, Any] = {name: getattr(reply, name) for name in REPLY_FIELDS}
    values["outcome"] = reply.outcome.value
    values["usage"] = None if reply.usage is None else {name: getattr(reply.usage, name) for name in USAGE_FIELDS}
    return orjson.dumps(values).decode()


def reply_from_json(text: str, raw: str | None) -> Reply:
    """The stored reply.

    Raises:
        ValueError: The text is no stored reply.
    """
    values = orjson.loads(text)
    try:
        usage = None if values["usage"] is None else Usage(**values.pop("usage"))
        values.pop("usage", None)
        reply = Reply(outcome=Outcome(values.pop("outcome")), usage=usage, **values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a stored reply: {error}") from error
    return replace(reply, raw=raw)


def checksum(key: str, reply: bytes, raw: bytes | None, cost_usd: float | None) -> str:
    """What a row's reply, raw body and cost must add up to; SQLite itself does not notice a flipped bit in a text."""
    parts = (key.encode(), reply, b"" if raw is None else b"\x01" + raw, repr(cost_usd).encode())
    return sha256(b"".join(len(part).to_bytes(8) + part for part in parts)).hexdigest()


def sendable_reply(reply: Reply) -> Reply:
    """The reply with halves of surrogate pairs replaced (two side by side by their character, a lone one by U+FFFD): JSON can carry them,
    but no file, request or database can.

    Done here, before the reply is stored or used, so that a reply from the store is the same as the one that was bought.
    """
    try:
        "".join(getattr(reply, name) or "" for name in REPLY_TEXTS).encode()
    except UnicodeEncodeError:
        texts: dict[str, Any] = {name: getattr(reply, name) for name in REPLY_TEXTS}
        whole = {name: text and text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for name, text in texts.items()}
        return replace(reply, **whole)
    return reply
