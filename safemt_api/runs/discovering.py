"""Asks a local server which model it serves, so that nobody has to type its path."""

from __future__ import annotations

import httpx2

from safemt_api.adapters.base import Timeouts
from safemt_api.adapters.bodies import Body, label, mapping, read_body, sequence
from safemt_api.adapters.http_client import OversizeError, open_http_client
from safemt_api.errors import AccountError, EndpointError, UsageError
from safemt_api.foreign_text import unfit_in_name
from safemt_api.profiles import Profile

ASK_TIMEOUTS = Timeouts(connect_seconds=10.0, idle_seconds=10.0)


async def served_model(profile: Profile, base_url: str) -> str:
    """The id of the one model served at the address (``GET /models`` of the OpenAI-compatible servers).

    Raises:
        EndpointError: Nothing answers there.
        AccountError: It does not accept the key, or wants one.
        UsageError: It serves none or several, or does not say.
    """
    key = profile.api_key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with open_http_client(connections=1, timeouts=ASK_TIMEOUTS) as client:
            answer = await client.get(f"{base_url}/models", headers=headers)
    except OversizeError as error:
        raise EndpointError(f"{base_url}/models sent {error.size}, which is no list of models: check --base-url") from error
    except httpx2.HTTPError as error:
        raise EndpointError(f"nothing answers at {base_url} ({type(error).__name__}); is {profile.title} running?") from error
    if answer.status_code in (401, 403):
        named = " or ".join(profile.key_variables)
        cure = f"check {named}" if named else "its profile names no variable for one (key_variables)"
        raise AccountError(f"{profile.name} does not accept the API key (HTTP {answer.status_code}): {cure}")
    models = _ids(read_body(answer.content, key))
    if len(models) != 1:
        found = f"serves {', '.join(models)}" if models else f"did not name its models (HTTP {answer.status_code})"
        raise UsageError(f"{base_url} {found}: choose one with --model")
    why = unfit_in_name(models[0])
    if why is not None:
        raise UsageError(f"{base_url} serves a model whose id {why}: choose one with --model")
    return models[0]


def _ids(body: Body) -> list[str]:
    named = (label(mapping(card).get("id")) for card in sequence(body.fields.get("data")))
    return [name for name in named if name]
