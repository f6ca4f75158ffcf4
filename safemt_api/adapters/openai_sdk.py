"""OpenAI's SDK, opened our way, for what is more than one request: batches, and the endpoints that classify."""

from __future__ import annotations

import httpx2
from openai import AsyncOpenAI, OpenAIError

from safemt_api.adapters.base import Connection
from safemt_api.adapters.openai_chat import NO_KEY

OPENAI_FAILURES = (OpenAIError, httpx2.HTTPError, httpx2.InvalidURL)


def open_client(connection: Connection) -> AsyncOpenAI:
    """The SDK's client with its retries off, over the shared HTTP client."""
    return AsyncOpenAI(
        api_key=connection.api_key or NO_KEY,
        base_url=connection.base_url,
        max_retries=0,
        timeout=connection.http_timeout,
        http_client=connection.client,
        default_headers=connection.profile.extra_headers,
        default_query=connection.profile.extra_query,
    )
