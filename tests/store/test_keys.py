"""The key of a call: pinned, and changed by all that changes the answer and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from safemt_api.messages import Call, Image, Parameters, Schema, Text, assistant, user
from safemt_api.store.keys import KEY_PREFIX, call_key, canonical_request, request_key

GOLDEN = "safemt2:1a930700b6accd2f0a556f4f055cccaea445fe930da1ec98ed3c56354db1050c"

Change = Callable[[Call], Call]


def other_picture(**changes: Any) -> Image:
    values: dict[str, Any] = {"digest": "sha256:picture", "media_type": "image/png", "width_pixels": 8, "height_pixels": 6}
    return Image(b"bytes", **{**values, **changes})


def route(**changes: Any) -> Change:
    return lambda call: replace(call, route=replace(call.route, **changes))


def parameters(**changes: Any) -> Change:
    return lambda call: replace(call, parameters=replace(call.parameters, **changes))


def picture(image: Image) -> Change:
    return lambda call: replace(call, messages=(user("Hello…", image), *call.messages[1:]))


CHANGES: dict[str, Change] = {
    "wire format": route(wire_format="google_genai"),
    "endpoint": route(endpoint="https://elsewhere/v1"),
    "model": route(model="gpt-y"),
    "what the profile adds": route(extras=""),
    "output limit": parameters(max_output_tokens=65),
    "no output limit": parameters(max_output_tokens=None),
    "temperature": parameters(temperature=0.6),
    "temperature zero is not none": parameters(temperature=0.0),
    "top_p": parameters(top_p=0.9),
    "seed": parameters(seed=0),
    "thinking": parameters(effort="low"),
    "more thinking": parameters(effort="high"),
    "filters": parameters(safety_threshold="off"),
    "a schema that is sent along": route(structured_output=True),
    "system": lambda call: replace(call, system="Be long."),
    "no system": lambda call: replace(call, system=None),
    "empty system": lambda call: replace(call, system=""),
    "a word": lambda call: replace(call, messages=(*call.messages[:-1], user("And then?"))),
    "white space": lambda call: replace(call, messages=(*call.messages[:-1], user(" And \u2019then\u2019?"))),
    "a role": lambda call: replace(call, messages=(*call.messages[:-1], assistant("And \u2019then\u2019?"))),
    "fewer messages": lambda call: replace(call, messages=call.messages[:1]),
    "order": lambda call: replace(call, messages=call.messages[::-1]),
    "picture": picture(other_picture(digest="sha256:other")),
    "no picture": lambda call: replace(call, messages=(user("Hello…"), *call.messages[1:])),
    "picture after the words": lambda call: replace(
        call, messages=(replace(call.messages[0], parts=call.messages[0].parts[::-1]), *call.messages[1:])
    ),
    "a text split in two parts": lambda call: replace(
        call, messages=(*call.messages[:-1], replace(call.messages[-1], parts=(Text("And "), Text("\u2019then\u2019?"))))
    ),
    "schema": lambda call: replace(call, schema=Schema("verdict", {"type": "string"})),
    "schema name": lambda call: replace(call, schema=Schema("other", {"type": "object", "properties": {"b": {}, "a": {}}})),
    "no schema": lambda call: replace(call, schema=None),
    "sample index": lambda call: replace(call, sample_index=3),
}

SAME: dict[str, Change] = {
    "who asks": lambda call: replace(call, purpose="judge"),
    "a conversation that grows": lambda call: replace(call, conversation="growing"),
    "a conversation that ends": lambda call: replace(call, conversation="ending"),
    "the profile's name": route(profile="my-openai"),
    "addresses behind one endpoint": route(base_urls=("https://mirror/v1",), endpoint="https://api.openai.com/v1"),
    "the order of a schema's keys": lambda call: replace(
        call, schema=Schema("verdict", {"properties": {"a": {}, "b": {}}, "type": "object"})
    ),
    "a picture not yet made": picture(
        Image(
            lambda _stopped: pytest.fail("the key must not need the bytes"),
            digest="sha256:picture",
            media_type="image/png",
            width_pixels=8,
            height_pixels=6,
        )
    ),
    "how the picture is described": picture(other_picture(media_type="image/jpeg", width_pixels=9)),
}


def test_the_key_of_a_known_call_never_changes(call: Call) -> None:
    assert call_key(call) == GOLDEN


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_the_answer_changes_the_key(call: Call, change: Change) -> None:
    assert call_key(change(call)) != call_key(call)


def test_all_changes_lead_to_different_keys(call: Call) -> None:
    assert len({call_key(change(call)) for change in CHANGES.values()}) == len(CHANGES)


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_does_not_change_the_answer_keeps_the_key(call: Call, change: Change) -> None:
    assert call_key(change(call)) == call_key(call)


def test_encoding_the_picture_keeps_the_key(call: Call) -> None:
    before = call_key(call)
    assert call.messages[0].images[0].base64
    assert call_key(call) == before


def test_the_order_of_addresses_keeps_the_key(call: Call) -> None:
    urls = ("http://a/v1", "http://b/v1")
    both = [replace(call, route=replace(call.route, base_urls=order, endpoint="")) for order in (urls, urls[::-1])]
    assert call_key(both[0]) == call_key(both[1])


def test_the_request_holds_the_picture_as_a_digest_and_never_as_base64(call: Call) -> None:
    encoded = call.messages[0].images[0].base64
    request = canonical_request(call)
    assert encoded.encode() not in request
    assert orjson.loads(request)["messages"][0]["parts"][0] == {"image": "sha256:picture"}


def test_parameters_that_are_not_sent_are_not_in_the_request(call: Call) -> None:
    request = orjson.loads(canonical_request(replace(call, parameters=Parameters())))
    assert request["parameters"] == {}


def test_the_key_is_that_of_the_canonical_request(call: Call) -> None:
    assert request_key(canonical_request(call)) == call_key(call)
    assert call_key(call).startswith(KEY_PREFIX)


def test_whether_a_schema_is_sent_is_nothing_to_a_call_without_one(call: Call) -> None:
    plain = replace(call, schema=None)
    assert call_key(route(structured_output=True)(plain)) == call_key(plain)
