"""From PROVIDER:MODEL to a route."""

from __future__ import annotations

from datetime import date
from typing import Any

import orjson
import pytest

from safemt_api.errors import UsageError
from safemt_api.messages import PURPOSES, Purpose
from safemt_api.profiles import ImageRules, Limits, ModelFacts, Profile
from safemt_api.routes import Router, request_extras
from safemt_api.specs import TARGETS

SOURCE: dict[str, Any] = {"source": "test", "checked": date(2026, 11, 21)}


def make_profile(name: str = "vendor", **changes: Any) -> Profile:
    values: dict[str, Any] = {"title": name, "wire_format": "openai_chat", "base_url": "https://v/v1"}
    return Profile(name=name, images=ImageRules(**SOURCE), limits=Limits(**SOURCE), **SOURCE, **{**values, **changes})


def test_a_destination_carries_the_profiles_facts() -> None:
    route, profile = Router({"vendor": make_profile()}).destination("vendor", "m")
    assert (route.profile, route.wire_format, route.base_urls, route.model) == ("vendor", "openai_chat", ("https://v/v1",), "m")
    assert (route.endpoint, route.extras) == ("https://v/v1", "")
    assert profile.name == "vendor"


def test_given_addresses_belong_to_their_provider_alone() -> None:
    router = Router({"a": make_profile("a"), "b": make_profile("b")}, base_urls={"a": ("http://x/v1/", "http://y/v1")})
    assert router.destination("a", "m").route.base_urls == ("http://x/v1", "http://y/v1")
    assert router.destination("b", "m").route.base_urls == ("https://v/v1",)


def test_one_provider_may_have_an_address_for_each_purpose() -> None:
    profiles = {"a": make_profile("a"), "b": make_profile("b")}
    alone: dict[Purpose, dict[str, tuple[str, ...]]] = {"judge": {"a": ("http://judge/v1",)}, "moderator": {"b": ("http://mod/v1",)}}
    router = Router(profiles, base_urls={"a": ("http://target/v1",)}, role_urls=alone, endpoints={"a": "built-in"})
    routes = {purpose: router.destination("a", "m", purpose).route for purpose in PURPOSES}
    assert {purpose: route.base_urls[0] for purpose, route in routes.items()} == {
        "target": "http://target/v1",
        "judge": "http://judge/v1",
        "moderator": "http://target/v1",
    }
    assert [route.endpoint for route in routes.values()] == ["built-in", "http://judge/v1", "built-in"]
    assert router.resolver("moderator")(TARGETS.read("b:m")).route.base_urls == ("http://mod/v1",)


def test_a_named_endpoint_stands_in_place_of_an_address_that_changes() -> None:
    routes = [
        Router({"a": make_profile("a")}, base_urls={"a": (f"http://127.0.0.1:{port}",)}, endpoints={"a": "built-in"})
        .destination("a", "m")
        .route
        for port in (1, 2)
    ]
    assert routes[0].endpoint == routes[1].endpoint == "built-in"


def test_an_unknown_provider_is_told_which_there_are() -> None:
    with pytest.raises(UsageError, match="no provider called 'nobody'; there are: vendor"):
        Router({"vendor": make_profile()}).destination("nobody", "m")


def test_a_provider_without_an_address_asks_for_one() -> None:
    with pytest.raises(UsageError, match="give --base-url"):
        Router({"vendor": make_profile(base_url="")}).destination("vendor", "m")


def test_extras_hold_all_that_changes_answers_in_one_order() -> None:
    models = (ModelFacts(match="m", extra_body={"b": 1, "a": [2]}, extra_headers={"x-own": "1"}, **SOURCE),)
    profile = make_profile(models=models, extra_headers={"x-all": "2"}, extra_query={"api-version": "3"}, system_role="developer")
    extras = request_extras(profile, "m")
    assert orjson.loads(extras) == {
        "body": {"a": [2], "b": 1},
        "headers": {"x-own": "1", "x-all": "2"},
        "query": {"api-version": "3"},
        "system_role": "developer",
    }
    assert extras.index('"a"') < extras.index('"b"')
    assert request_extras(make_profile(), "m") == ""
