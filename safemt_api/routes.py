"""From ``PROVIDER:MODEL`` on the command line to a ``Route`` that a call can take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import orjson

from safemt_api.errors import UsageError
from safemt_api.messages import Purpose, Route
from safemt_api.profiles import Profile, find_profile


class Destination(NamedTuple):
    """A route with the profile behind it."""

    route: Route
    profile: Profile


def split_spec(spec: str) -> tuple[str, str]:
    """``PROVIDER:MODEL`` as its two halves; the model may hold further colons (``ollama:llava:13b``).

    Raises:
        UsageError: It is not of that form.
    """
    provider, colon, model = spec.partition(":")
    if not (provider and colon and model):
        raise UsageError(f"{spec!r} is not PROVIDER:MODEL (for example openai:gpt-6-luna)")
    return provider, model


def request_extras(profile: Profile, model: str) -> str:
    """What the profile adds to each request of the model, as canonical JSON; empty when it adds nothing that changes an answer."""
    facts = profile.facts(model)
    extras = {
        "body": facts.extra_body,
        "headers": {**profile.extra_headers, **facts.extra_headers},
        "query": profile.extra_query,
        "system_role": profile.system_role if profile.system_role != "system" else None,
    }
    present = {name: value for name, value in extras.items() if value}
    return orjson.dumps(present, option=orjson.OPT_SORT_KEYS).decode() if present else ""


class Router:
    """Resolves specs against the profiles; the addresses given with ``--base-url`` belong to one provider.

    ``role_urls`` holds the addresses that only judges or moderators use (``--judge-base-url``, ``--moderator-base-url``): target, guard and
    moderator may all be served by vLLM, each at its own address.
    ``endpoints`` names addresses that change from run to run (a simulator on a free port) by something that does not.
    """

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        *,
        base_urls: Mapping[str, tuple[str, ...]] | None = None,
        role_urls: Mapping[Purpose, Mapping[str, tuple[str, ...]]] | None = None,
        endpoints: Mapping[str, str] | None = None,
    ) -> None:
        self._profiles, self._base_urls = profiles, base_urls or {}
        self._role_urls, self._endpoints = role_urls or {}, endpoints or {}

    def destination(self, provider: str, model: str, purpose: Purpose = "target") -> Destination:
        """Where calls to that model go.

        Raises:
            UsageError: No such provider, or no address for it.
        """
        profile = find_profile(self._profiles, provider)
        own = self._role_urls.get(purpose, {}).get(provider, ())
        urls = profile.addresses(own or self._base_urls.get(provider, ()))
        route = Route(
            profile=provider,
            wire_format=profile.wire_format,
            base_urls=urls,
            model=model,
            endpoint="" if own else self._endpoints.get(provider, ""),
            extras=request_extras(profile, model),
            structured_output=profile.takes_structured_output(model),
        )
        return Destination(route, profile)

    def resolve(self, spec: str, purpose: Purpose = "target") -> tuple[Route, Profile]:
        """The same for ``PROVIDER:MODEL``."""
        return self.destination(*split_spec(spec), purpose)

    def resolver(self, purpose: Purpose) -> Callable[[str], tuple[Route, Profile]]:
        """``resolve`` for one purpose."""
        return partial(self.resolve, purpose=purpose)

    def profile(self, name: str) -> Profile:
        """The profile of that name.

        Raises:
            UsageError: There is none.
        """
        return find_profile(self._profiles, name)
