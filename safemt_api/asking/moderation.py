"""Moderation endpoints: no chat models, asked with a text and answering with flags.

The adapter hands their answer over as JSON text, ``{"flagged", "categories", "scores"}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from safemt_api.errors import UsageError
from safemt_api.messages import Route

ENDPOINTS_VERSION = "1"
"""Enters the digest of whoever asks an endpoint; raise it when the same answer would be read differently."""

MODERATION_MODELS: Mapping[str, str] = MappingProxyType({"openai": "omni-moderation-latest"})
"""Multimodal moderation, https://platform.openai.com/docs/guides/moderation (checked 2026-11-21)."""


def moderation_route(route: Route) -> Route:
    """The vendor's route turned to its moderation endpoint.

    Raises:
        UsageError: The vendor has none that is known here.
    """
    if route.wire_format != "openai_chat":
        raise UsageError(f"moderation:{route.profile}: this provider has no moderation endpoint; there is moderation:openai")
    return replace(route, wire_format="openai_moderation")


def fields_of(text: str) -> Mapping[str, Any] | None:
    """The JSON object an endpoint's answer holds, or ``None``."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@dataclass(frozen=True, slots=True)
class Flag:
    """A moderation endpoint's word, with the names of the categories it flagged."""

    flagged: bool
    categories: str


def read_flag(text: str) -> Flag | None:
    """The moderation endpoint's word, or ``None`` if the answer is not of its form."""
    fields = fields_of(text)
    if fields is None or not isinstance(fields.get("flagged"), bool):
        return None
    categories = fields.get("categories")
    named = sorted(str(name) for name, hit in categories.items() if hit is True) if isinstance(categories, dict) else []
    return Flag(fields["flagged"], ", ".join(named))
