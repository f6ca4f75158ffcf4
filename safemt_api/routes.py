"""From a spec to a ``Route`` that a call can take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import orjson

from safemt_api.messages import Purpose, Route
from safemt_api.profiles import Profile, find_profile
from safemt_api.specs import Spec


class Destination(NamedTuple):
    """A route with the profile behind it."""

    route: Route
    profile: Profile


Resolve = Callable[[Spec], Destination]
"""Finds the way to a spec's model and the vendor's facts; raises ``UsageError`` for an unknown provider."""


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

    def resolver(self, purpose: Purpose) -> Resolve:
        """``destination`` for the specs of one purpose."""
        return lambda spec: self.destination(spec.provider, spec.model, purpose)

    def profile(self, name: str) -> Profile:
        """The profile of that name.

        Raises:
            UsageError: There is none.
        """
        return find_profile(self._profiles, name)
