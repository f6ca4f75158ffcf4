"""Token counts before a call: expectations near what vendors bill, bounds that hold."""

from __future__ import annotations

from datetime import date
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.messages import Call, Image, Message, Route, Schema, Text, assistant, user
from safemt_api.profiles import ImageRules, ImageTokenRule, load_profiles
from safemt_api.tokens import image_tokens, image_tokens_most, input_tokens_estimate, input_tokens_most

FACTS: dict[str, Any] = {"source": "https://a", "checked": date(2026, 11, 21)}
ROUTE = Route("openai", "openai_chat", ("http://127.0.0.1:1/v1",), "gpt-6-luna")
FIXED = ImageRules(**FACTS)

texts = st.text(st.characters(exclude_categories=()), max_size=300)
sides = st.integers(1, 9000)
all_rules = st.builds(
    lambda rule, factor, most, fixed: ImageRules(
        token_rule=rule, token_multiplier=factor, most_tokens_per_image=most, tokens_per_image=fixed, **FACTS
    ),
    st.sampled_from(get_args(ImageTokenRule)),
    st.sampled_from([1.0, 1.2, 2.46, 33.35]),
    st.none() | st.integers(1, 20_000),
    st.integers(1, 10_000),
)
images = st.builds(
    lambda width, height: Image(b"", digest=f"sha256:{width}x{height}", media_type="image/png", width_pixels=width, height_pixels=height),
    sides,
    sides,
)
messages = st.lists(
    st.builds(
        lambda role, text, image: Message(role, (image, Text(text)) if image is not None and role == "user" else (Text(text),)),
        st.sampled_from(["user", "assistant"]),
        texts,
        st.none() | images,
    ),
    max_size=6,
)
schemas = st.none() | st.builds(lambda name, title: Schema(name, {"title": title, "type": "object"}), texts, texts)
calls = st.builds(lambda said, system, schema: Call(ROUTE, tuple(said), system=system, schema=schema), messages, st.none() | texts, schemas)


def rule(name: ImageTokenRule, **more: Any) -> ImageRules:
    return ImageRules(token_rule=name, **more, **FACTS)


# Width, height, tokens measured for the picture alone by others: https://huggingface.co/datasets/JOHNISKING/image-token-cost
# (its Claude columns include 77 tokens of prompt).
@pytest.mark.parametrize(
    ("width", "height", "gpt_6", "claude_5_5"),
    [
        (256, 256, 77, 100),
        (512, 512, 308, 361),
        (768, 768, 692, 784),
        (1024, 1024, 1229, 1369),
        (1280, 720, 1104, 1196),
        (1920, 1080, 2448, 2691),
        (2560, 1440, 4320, 2992),
        (4032, 3024, 14_364, 3928),
    ],
)
def test_rules_agree_with_measured_bills(width: int, height: int, gpt_6: int, claude_5_5: int) -> None:
    profiles = load_profiles()
    openai, anthropic = profiles["openai"].image_rules("gpt-6-luna"), profiles["anthropic"].image_rules("claude-sonnet-5-5")
    assert image_tokens(openai, width, height) == gpt_6
    assert image_tokens_most(openai, width, height) >= gpt_6
    assert claude_5_5 <= image_tokens(anthropic, width, height)
    if width * height < 3_000_000:
        assert image_tokens(anthropic, width, height) == pytest.approx(claude_5_5, rel=0.05)


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [(512, 512, 255), (1024, 1024, 765), (2048, 4096, 1105), (768, 2048, 1445), (10, 10, 255)],
)
def test_openai_tiles_follow_the_published_examples(width: int, height: int, tokens: int) -> None:
    assert image_tokens(rule("openai_tiles"), width, height) == tokens
    assert image_tokens_most(rule("openai_tiles"), width, height) >= tokens


def test_tile_bound_does_not_fall_where_the_tiles_themselves_do() -> None:
    rules = rule("openai_tiles")
    assert image_tokens(rules, 1024, 2048) < image_tokens(rules, 768, 2048)
    assert image_tokens_most(rules, 1024, 2048) >= image_tokens_most(rules, 768, 2048)


def test_small_openai_models_reach_their_cap() -> None:
    mini = load_profiles()["openai"].image_rules("gpt-4.1-mini")
    assert image_tokens(mini, 1800, 2400) == 2489
    assert image_tokens(mini, 1024, 1024) == 1659


def test_qwen_bound_holds_for_both_patch_sizes_and_for_tiny_pictures() -> None:
    rules = rule("qwen_patches")
    assert image_tokens(rules, 1024, 1024) == 1026
    assert image_tokens_most(rules, 224, 112) >= 32 + 2
    assert image_tokens_most(rules, 1024, 1024) >= 37 * 37 + 2
    assert image_tokens_most(rules, 1, 1) >= 64
    assert image_tokens(rules, 9000, 9000) <= 16_386


@pytest.mark.parametrize("name", ["fixed", "google_fixed"])
def test_fixed_rules_do_not_look_at_the_size(name: ImageTokenRule) -> None:
    rules = rule(name, tokens_per_image=1120)
    assert image_tokens(rules, 1, 1) == image_tokens(rules, 9000, 9000) == 1120


def test_sizes_that_make_no_sense_still_count() -> None:
    for name in get_args(ImageTokenRule):
        assert image_tokens(rule(name), 0, -3) >= 1


@given(all_rules, sides, sides)
def test_picture_bound_is_never_below_the_expectation(rules: ImageRules, width: int, height: int) -> None:
    assert image_tokens_most(rules, width, height) >= image_tokens(rules, width, height) >= 1


@given(all_rules, sides, sides, st.integers(0, 3000), st.integers(0, 3000))
def test_picture_bound_never_falls_when_the_picture_grows(rules: ImageRules, width: int, height: int, wider: int, higher: int) -> None:
    assert image_tokens_most(rules, width + wider, height + higher) >= image_tokens_most(rules, width, height)


@given(all_rules, sides, sides)
def test_cap_is_kept(rules: ImageRules, width: int, height: int) -> None:
    if rules.most_tokens_per_image is not None:
        assert image_tokens(rules, width, height) <= rules.most_tokens_per_image


@given(calls, all_rules)
def test_call_bound_is_never_below_the_expectation(call: Call, rules: ImageRules) -> None:
    assert input_tokens_most(call, rules) >= input_tokens_estimate(call, rules) > 0


@given(calls, all_rules, texts, images)
def test_saying_more_never_counts_less(call: Call, rules: ImageRules, text: str, image: Image) -> None:
    longer = Call(call.route, (*call.messages, user(text, image)), system=call.system, schema=call.schema)
    assert input_tokens_most(longer, rules) > input_tokens_most(call, rules)
    assert input_tokens_estimate(longer, rules) > input_tokens_estimate(call, rules)


@given(calls, all_rules)
def test_bound_covers_one_token_a_byte(call: Call, rules: ImageRules) -> None:
    words = sum(len(message.text.encode("utf-8", "surrogatepass")) for message in call.messages)
    assert input_tokens_most(call, rules) >= words + len((call.system or "").encode("utf-8", "surrogatepass"))


def test_expectation_counts_bytes_so_that_other_scripts_are_not_underrated() -> None:
    english, chinese = Call(ROUTE, (user("a" * 350),)), Call(ROUTE, (user("安" * 350),))
    assert input_tokens_estimate(english, FIXED) == 100 + 4 + 8
    assert input_tokens_estimate(chinese, FIXED) == 300 + 4 + 8


def test_system_prompt_schema_history_and_picture_all_count() -> None:
    picture = Image(b"", digest="sha256:a", media_type="image/png", width_pixels=8, height_pixels=8)
    bare = Call(ROUTE, (user("hello"),))
    richer = [
        Call(ROUTE, bare.messages, system="be kind, always"),
        Call(ROUTE, bare.messages, schema=Schema("verdict", {"type": "object"})),
        Call(ROUTE, (*bare.messages, assistant("good day to you"), user("and now?"))),
        Call(ROUTE, (user("hello", picture),)),
    ]
    for call in richer:
        assert input_tokens_estimate(call, FIXED) > input_tokens_estimate(bare, FIXED)
        assert input_tokens_most(call, FIXED) > input_tokens_most(bare, FIXED)
    assert input_tokens_estimate(richer[3], FIXED) == input_tokens_estimate(bare, FIXED) + 1500
