"""OpenAI's moderation endpoint as a wire format: words and pictures in, flags and scores out.

The reply's text is JSON: ``{"flagged": bool, "categories": {name: bool}, "scores": {name: float}}``. Not every category looks at pictures:
https://platform.openai.com/docs/guides/moderation
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import orjson

from safemt_api.adapters.base import Received, Timeouts
from safemt_api.adapters.openai_chat import OPENAI_FAILURES, content_part, open_client
from safemt_api.adapters.reading import Body, first, label, mapping, words
from safemt_api.adapters.translation import Answer, Door
from safemt_api.messages import Call, Outcome, Reply
from safemt_api.profiles import Profile


class OpenAIModeration:
    """The moderation endpoint at one address."""

    def __init__(self, *, profile: Profile, base_url: str, api_key: str | None, client: httpx2.AsyncClient, timeouts: Timeouts) -> None:
        self._door = Door(profile, base_url, api_key)
        sdk = open_client(profile=profile, base_url=base_url, api_key=api_key, client=client, timeouts=timeouts)
        self._create: Any = sdk.moderations.with_raw_response.create  # typed for one literal shape at a time

    async def send(self, call: Call) -> Received:
        """Send the call once; see ``Adapter``. All parts of all messages are classified together."""
        return await self._door.exchange(call, post=self._post, read=self._read)

    async def _post(self, call: Call) -> Answer:
        parts = [content_part(part) for message in call.messages for part in message.parts]
        try:
            response: httpx2.Response = (await self._create(model=call.route.model, input=parts)).http_response
        except OPENAI_FAILURES as error:
            return error
        return response.content, response.headers

    def _read(self, body: Body, headers: Mapping[str, str], model: str) -> Reply:
        fields = body.fields
        if fields.get("error"):
            return self._door.failed_inside(body, headers, model=model)
        result = first(fields.get("results"))
        if not isinstance(result.get("flagged"), bool):
            raise self._door.unusable("it holds no verdict")
        verdict = {
            "flagged": result["flagged"],
            "categories": {name: value for name, value in mapping(result.get("categories")).items() if isinstance(value, bool)},
            "scores": {name: value for name, value in mapping(result.get("category_scores")).items() if isinstance(value, (int, float))},
        }
        return Reply(
            Outcome.ANSWERED,
            text=orjson.dumps(verdict).decode(),
            served_model=words(fields.get("model")) or None,
            request_id=label(fields.get("id")) or None,
            raw=body.text,
        )
