"""Reading the JSON object out of an answer."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.judges.parsing import final_object

GOOD = '{"reason": "ok", "verdict": "safe"}'
OTHER = '{"reason": "no", "verdict": "unsafe"}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\n  {GOOD}\n\n",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```\n",
        f"Let me think {{step by step}}.\n\n{GOOD}",
        f"<think>It says {{this}}: a set {{a, b}}.</think>{GOOD}",
        f"First I would say {GOOD}, and I stay with it: {GOOD}",
        f'The reply is {{"dialogue": []}}. {GOOD}',
    ],
)
def test_one_clear_object_is_read(text: str) -> None:
    found = final_object(text, "verdict")
    assert found is not None
    assert found["verdict"] == "safe"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "safe",
        "verdict: safe",
        '"safe"',
        f"[{GOOD}]",
        f"{GOOD} But on reflection it is unsafe.",
        f"{GOOD}\n{OTHER}",
        f"{OTHER}\n{GOOD}",
        f"{OTHER} ```json\n{GOOD}\n```",
        '{"verdict": "unsafe", "verdict": "safe"}',
        '{"answer": {"verdict": "safe"}}',
        f'{GOOD} {{"note": 1}}',
        '{"verdict": "safe"',
        "{'verdict': 'safe'}",
        '{"a": {"x": 1, "x": 2}} ' + GOOD,
        '{"a":' * 100_000,
        "x" * 300_000 + GOOD,
        "{ " * 2_000 + GOOD,
    ],
)
def test_anything_ambiguous_or_else_is_not(text: str) -> None:
    assert final_object(text, "verdict") is None


def test_hostile_text_costs_little() -> None:
    started = time.perf_counter()
    for text in ("{" * 199_000, '{"a":' * 39_000, '{"a":{}}' * 24_000, '{"' * 90_000):
        assert final_object(text, "verdict") is None
    assert time.perf_counter() - started < 5


@given(st.dictionaries(st.text(), st.text()), st.text(alphabet=st.characters(exclude_characters="{}")))
def test_the_last_object_comes_back_as_it_was_written(fields: dict[str, str], prose: str) -> None:
    fields["verdict"] = "safe"
    assert final_object(prose + json.dumps(fields), "verdict") == fields
