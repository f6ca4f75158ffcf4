"""One call as it went out and came back: the request, the vendor's body, attempts and waits; from the turn store, read only."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from safemt_api.errors import StoreError
from safemt_api.runs.folder import place_in, read_manifest
from safemt_api.store.books import BoughtReply, bought_reply

MOST_RAW_CHARACTERS = 400_000


def call_of(folder: Path, key: str) -> dict[str, Any] | None:
    """The call behind a row of the run in ``folder``; ``None`` where its store is not here, or does not hold it."""
    try:
        manifest = read_manifest(folder) or {}
    except StoreError:
        return None
    place = place_in(folder, manifest)
    found = None if place is None else bought_reply(place, key, str(manifest.get("id")))
    return None if found is None else _told(found)


def _told(found: BoughtReply) -> dict[str, Any]:
    request, reply = _object(found.request), _object(found.reply)
    raw = found.raw if found.raw is None or len(found.raw) <= MOST_RAW_CHARACTERS else found.raw[:MOST_RAW_CHARACTERS] + "…"
    if raw is not None:
        with suppress(orjson.JSONDecodeError):
            raw = orjson.dumps(orjson.loads(raw), option=orjson.OPT_INDENT_2).decode()
    return {
        "key": found.key,
        "created_utc": found.created_utc,
        "cost_usd": found.cost_usd,
        "request": request,
        "reply": {name: value for name, value in reply.items() if name != "text"},
        "attempts": reply.get("attempts"),
        "waited_seconds": reply.get("waited_seconds"),
        "charges": [dict(zip(("at_utc", "state", "usd"), charge, strict=True)) for charge in found.charges],
        "system": request.get("system"),
        "messages": [_message(message) for message in request.get("messages") or [] if isinstance(message, Mapping)],
        "raw": raw,
    }


def _message(message: Mapping[str, Any]) -> dict[str, str]:
    """A message as it went out; a picture stands as its digest."""
    parts = [part for part in message.get("parts") or [] if isinstance(part, Mapping)]
    words = [str(part["text"]) if "text" in part else f"[picture {part.get('image')}]" for part in parts]
    return {"role": str(message.get("role")), "text": "\n".join(words)}


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
