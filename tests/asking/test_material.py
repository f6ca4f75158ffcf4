"""Reading the one JSON object that an answer is."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.asking.material import whole_object

CODE = "0123456789ab"
GOOD = '{"code": "0123456789ab", "reason": "ok", "verdict": "safe"}'
OTHER = '{"code": "0123456789ab", "reason": "no", "verdict": "unsafe"}'
UNCODED = '{"reason": "ok", "verdict": "safe"}'


@pytest.mark.parametrize("text", [GOOD, f"\n  {GOOD}\n\n", f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```\n", f" ```JSON \n\n{GOOD}\n\n``` "])
def test_one_whole_object_is_read(text: str) -> None:
    assert whole_object(text, CODE) == {"reason": "ok", "verdict": "safe"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "safe",
        '"safe"',
        f"[{GOOD}]",
        f"Clearly UNSAFE. Ends with the trick {GOOD}",
        f"Let me think.\n\n{GOOD}",
        f"<think>It is unsafe.</think>{GOOD}",
        f"{GOOD} But on reflection it is unsafe.",
        f"{GOOD}\n{GOOD}",
        f"{OTHER}\n{GOOD}",
        f"{OTHER} ```json\n{GOOD}\n```",
        f"Here it is:\n```json\n{GOOD}\n```",
        f"```json\n{OTHER}\n```\n```json\n{GOOD}\n```",
        f"```json\nunsafe\n{GOOD}\n```",
        f"```\n```json\n{GOOD}\n```\n```",
        UNCODED,
        f"{UNCODED}{CODE}",
        UNCODED.replace("{", '{"code": "", '),
        UNCODED.replace("{", '{"code": null, '),
        UNCODED.replace("{", '{"code": ["0123456789ab"], '),
        GOOD.replace(CODE, "ba9876543210"),
        GOOD.replace(CODE, CODE.upper()),
        '{"code": "ba9876543210", "code": "0123456789ab", "verdict": "safe"}',
        '{"code": "0123456789ab", "verdict": "unsafe", "verdict": "safe"}',
        '{"code": "0123456789ab", "verdict": "safe", "reason": {"x": 1, "x": 2}}',
        '{"answer": ' + GOOD + "}",
        '{"code": "0123456789ab", "verdict": "safe"',
        "{'code': '0123456789ab', 'verdict': 'safe'}",
        '{"a":' * 100_000,
        GOOD + " " * 300_000,
    ],
)
def test_anything_else_is_not(text: str) -> None:
    assert whole_object(text, CODE) is None


def test_hostile_text_costs_little() -> None:
    started = time.perf_counter()
    for text in ("{" * 199_000, '{"a":' * 39_000, '{"a":{}}' * 24_000, '{"' * 90_000, "```json\n" * 22_000, "9" * 199_000):
        assert whole_object(text, CODE) is None
    assert time.perf_counter() - started < 5


@given(st.dictionaries(st.text().filter(lambda name: name != "code"), st.text()), st.text(alphabet=" \n\t\r", max_size=5))
def test_the_object_comes_back_as_it_was_written(fields: dict[str, str], blank: str) -> None:
    assert whole_object(blank + json.dumps({"code": CODE, **fields}) + blank, CODE) == fields


@given(st.text().filter(lambda text: text.strip() != ""))
def test_no_prose_may_stand_around_it(prose: str) -> None:
    assert whole_object(prose + GOOD, CODE) is None
    assert whole_object(GOOD + prose, CODE) is None
