"""An echoed key is blanked however it is spelt, in what is read and in the raw text alike."""

from __future__ import annotations

import json
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.adapters.base import Adapter
from safemt_api.adapters.bodies import SECRET_STAND_IN, read_body, scrub
from safemt_api.errors import SafeMTError
from safemt_api.messages import Call

Connect = Callable[..., Adapter]
Serve = Callable[..., Any]
MakeCall = Callable[..., Call]

KEY = "sk-live/0123456789+abcdef_ABCDEF=="
SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda key: key,
    "slashes escaped": lambda key: key.replace("/", "\\/"),
    "unicode escapes": lambda key: "".join(f"\\u{ord(sign):04x}" for sign in key),
    "unicode escapes in capitals": lambda key: "".join(f"\\u{ord(sign):04X}" for sign in key),
    "one sign escaped": lambda key: "\\u0073" + key[1:],
    "escaped twice": lambda key: "\\\\u0073" + key[1:].replace("/", "\\\\/"),
    "percent-encoded": lambda key: quote(key, safe=""),
    "all percent-encoded": lambda key: "".join(f"%{ord(sign):02x}" for sign in key),
    "percent-encoded twice": lambda key: quote(quote(key, safe=""), safe=""),
    "entities": lambda key: "".join(f"&#{ord(sign)};" for sign in key),
    "hexadecimal entities": lambda key: "".join(f"&#x{ord(sign):X};" for sign in key),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_blanked(name: str) -> None:
    for secret in (KEY, "sk-live-0123456789abcdef"):
        assert scrub(f"before {SPELLINGS[name](secret)} after", secret) == f"before {SECRET_STAND_IN} after"


@pytest.mark.parametrize("before", ["", "Bearer ", "x", "user:"])
def test_base64_of_the_header_gives_nothing_away(before: str) -> None:
    for encode in (b64encode, urlsafe_b64encode):
        told = encode(f"{before}{KEY} and more".encode()).decode()
        clean = scrub(told, KEY)
        assert SECRET_STAND_IN in clean
        assert len(clean) < len(told) - len(KEY)


@given(before=st.text(max_size=20), behind=st.text(max_size=20), picks=st.lists(st.integers(0, 3), min_size=len(KEY), max_size=len(KEY)))
def test_any_mixture_of_spellings_is_blanked_and_all_around_it_stays(before: str, behind: str, picks: list[int]) -> None:
    ways = (str, lambda sign: f"\\u{ord(sign):04x}", lambda sign: f"%{ord(sign):02X}", lambda sign: f"&#{ord(sign)};")
    mixed = "".join(ways[pick](sign) for pick, sign in zip(picks, KEY, strict=True))
    assert scrub(before + mixed + behind, KEY).count(SECRET_STAND_IN) >= 1
    assert scrub(f"{before}\n{behind}", KEY) == f"{before}\n{behind}"


def test_placeholders_and_parts_of_a_key_are_left_alone() -> None:
    assert scrub("none of this is EMPTY", "none") == "none of this is EMPTY"
    assert scrub("none of this", None) == "none of this"
    assert scrub("the key begins with sk-live, 50%", KEY) == "the key begins with sk-live, 50%"


@pytest.mark.parametrize("text", ["\\" * 200_000, "%25" * 100_000, "&#" + "0" * 200_000, "\\u0073" * 50_000, (KEY[:-1] + "%") * 5_000])
def test_no_text_makes_the_search_slow(text: str) -> None:
    started = time.process_time()
    scrub(text, KEY)
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_body_is_clean_in_its_text_and_in_its_value(name: str) -> None:
    spelt = SPELLINGS[name](KEY)
    raw = f'{{"a": ["{spelt}", {{"{spelt}": 1}}], "b": "{spelt}"}}'
    body = read_body(raw.encode(), KEY)
    assert KEY not in body.text
    assert KEY not in json.dumps(body.value, ensure_ascii=False)
    assert body.value == {"a": [SECRET_STAND_IN, {SECRET_STAND_IN: 1}], "b": SECRET_STAND_IN}
    assert json.loads(body.text) == body.value


def test_escapes_within_escapes_are_found_in_the_value_and_the_text_follows() -> None:
    nested = "".join(f"\\u0025{ord(sign):02x}" for sign in KEY)  # in JSON the percent signs are escaped as well
    body = read_body(f'{{"a": "{nested}"}}'.encode(), KEY)
    assert body.value == {"a": SECRET_STAND_IN}
    assert json.loads(body.text) == body.value


def test_a_field_given_twice_hides_no_key() -> None:
    escaped = SPELLINGS["unicode escapes"](KEY)
    assert escaped not in read_body(f'{{"a": "{escaped}", "a": "x"}}'.encode(), KEY).text


def test_a_body_that_is_nested_too_deeply_is_no_value() -> None:
    # Far beyond any limit that other libraries set for themselves: hypothesis raises the interpreter's.
    deep = "[" * 100_000 + '"100 %"' + "]" * 100_000
    assert read_body(deep.encode(), KEY).value is None


ANSWERS: dict[str, str] = {
    "openai_chat": '{"choices": [{"message": {"content": "Your key is KEY"}, "finish_reason": "stop"}], "model": "KEY", "id": "KEY"}',
    "anthropic_messages": '{"content": [{"type": "text", "text": "Your key is KEY"}], "stop_reason": "KEY", "model": "KEY", "id": "KEY"}',
    "google_genai": '{"candidates": [{"content": {"parts": [{"text": "Your key is KEY"}]}, "finishReason": "KEY"}], "modelVersion": "KEY"}',
}


@pytest.mark.parametrize("wire_format", ANSWERS)
@pytest.mark.parametrize("name", SPELLINGS)
async def test_a_reply_holds_no_key_in_any_field(
    *, connect: Connect, serve: Serve, make_call: MakeCall, wire_format: str, name: str
) -> None:
    spelt = SPELLINGS[name](KEY)
    server = serve(ANSWERS[wire_format].replace("KEY", spelt), headers={"x-request-id": quote(KEY, safe="")})
    reply = (await connect(wire_format, server, key=KEY).send(make_call())).reply
    assert reply.text == f"Your key is {SECRET_STAND_IN}"
    told = repr(reply)
    assert KEY not in told
    assert spelt not in told
    assert KEY not in json.dumps(json.loads(reply.raw or ""))


@pytest.mark.parametrize("wire_format", ANSWERS)
@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("status", [200, 400, 403, 500])
async def test_an_error_holds_no_key(
    *, connect: Connect, serve: Serve, make_call: MakeCall, wire_format: str, name: str, status: int
) -> None:
    spelt = SPELLINGS[name](KEY)
    with pytest.raises(SafeMTError) as caught:
        await connect(wire_format, serve(f'{{"error": {{"message": "no {spelt}", "code": "{spelt}"}}}}', status), key=KEY).send(make_call())
    told = str(caught.value) + repr(vars(caught.value))
    assert KEY not in told
    assert spelt not in told
