"""How many input tokens a call will count for: an expectation for the pace, and a bound for the money.

No vendor's tokenizer is needed. The bound rests on a property that all tokenizers of these models share: a token stands for at least
one byte of the text's UTF-8 form, so there are never more tokens than bytes. Pictures follow the vendor's published or measured rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import ceil

from safemt_api.messages import Call
from safemt_api.profiles import ImageRules, ModelFacts

BYTES_PER_TOKEN = 3.5
"""Expected UTF-8 bytes behind one token: about 4 in English, less in other languages and in newer tokenizers."""

EXPECTED_TOKENS_PER_MESSAGE = 4
EXPECTED_TOKENS_PER_CALL = 8

MOST_TOKENS_PER_MESSAGE = 16
"""Allowance for the marks around a message; the longest known chat templates spend about eight."""

MOST_TOKENS_PER_CALL = 256
"""Allowance for what a template or vendor adds to every call; a fixed 65 to 77 were measured for Claude, prompt of the test included
(https://huggingface.co/datasets/JOHNISKING/image-token-cost)."""

DEFAULT_MOST_OUTPUT_TOKENS = 8192
"""Assumed when neither the call nor the profile bounds the reply; money, pace and the size of a response use it, it is never sent."""

MOST_TOKENS_PER_SCHEMA = 512
"""Allowance for the instructions some vendors write around a JSON schema."""

MOST_TOKENS_PER_IMAGE_EXTRA = 64
"""Allowance for the marks around a picture and for rounding in the vendor's resizing."""

OPENAI_PATCH_PIXELS = 32
OPENAI_TILE_PIXELS = 512
OPENAI_TILE_BASE_TOKENS = 85
OPENAI_TILE_TOKENS = 170
OPENAI_TILES_LONG_SIDE_PIXELS = 2048
OPENAI_TILES_SHORT_SIDE_PIXELS = 768
OPENAI_MOST_TILES = 8
ANTHROPIC_PATCH_PIXELS = 28
ANTHROPIC_PIXELS_PER_TOKEN = 750
QWEN_PATCH_PIXELS = 32
QWEN_SMALLEST_PATCH_PIXELS = 28
QWEN_FEWEST_TOKENS = 256
QWEN_MOST_TOKENS = 16_384


def most_output_tokens(call: Call, facts: ModelFacts) -> int:
    """The most tokens that the reply may hold: as asked for, else what the model can write, else an assumption."""
    return call.parameters.max_output_tokens or facts.max_output_tokens or DEFAULT_MOST_OUTPUT_TOKENS


def image_tokens(rules: ImageRules, width_pixels: int, height_pixels: int) -> int:
    """The input tokens that a picture is expected to count for.

    - ``openai_patches``: one per 32 by 32 patch, times the model's factor (1.2 for GPT-5.5 and GPT-6, measured:
      https://huggingface.co/datasets/JOHNISKING/image-token-cost; 1.62 and 2.46 for the small older ones).
    - ``openai_tiles``: shrunk into 2048 by 2048, then to 768 on the short side; 85 plus 170 per 512 by 512 tile, times the model's factor
      (https://openai-hd4n6.mintlify.app/docs/guides/images, a copy of the vendor's guide).
    - ``anthropic_area``: the larger of one per 28 by 28 patch and width times height over 750, which the vendor's guide names and which
      falls short for small pictures (measured, same data set; https://platform.claude.com/docs/en/build-with-claude/vision.md).
    - ``qwen_patches``: one per 32 by 32 patch plus two marks (28 by 28 before Qwen3-VL: https://huggingface.co/Qwen/Qwen2-VL-7B-Instruct).
    - ``google_fixed`` and ``fixed``: the profile's ``tokens_per_image``, whatever the size.
    """
    width, height = max(width_pixels, 1), max(height_pixels, 1)
    match rules.token_rule:
        case "openai_patches":
            tokens = ceil(_patches(width, height, OPENAI_PATCH_PIXELS) * rules.token_multiplier)
        case "openai_tiles":
            shrink = min(1.0, OPENAI_TILES_LONG_SIDE_PIXELS / max(width, height))
            shrink = min(shrink, OPENAI_TILES_SHORT_SIDE_PIXELS / min(width, height))
            tokens = _tile_tokens(_tiles(max(round(width * shrink), 1), max(round(height * shrink), 1)), rules)
        case "anthropic_area":
            tokens = max(_patches(width, height, ANTHROPIC_PATCH_PIXELS), ceil(width * height / ANTHROPIC_PIXELS_PER_TOKEN))
        case "qwen_patches":
            tokens = min(_patches(width, height, QWEN_PATCH_PIXELS), QWEN_MOST_TOKENS) + 2
        case "google_fixed" | "fixed":
            tokens = rules.tokens_per_image
    return min(tokens, rules.most_tokens_per_image or tokens)


def image_tokens_most(rules: ImageRules, width_pixels: int, height_pixels: int) -> int:
    """A bound on the input tokens of a picture; it never falls when the picture grows."""
    width, height = max(width_pixels, 1), max(height_pixels, 1)
    match rules.token_rule:
        case "openai_tiles":
            sides = (min(width, OPENAI_TILES_LONG_SIDE_PIXELS), min(height, OPENAI_TILES_LONG_SIDE_PIXELS))
            tokens = _tile_tokens(min(_tiles(*sides), OPENAI_MOST_TILES), rules)
        case "qwen_patches":
            patches = _patches(width, height, QWEN_SMALLEST_PATCH_PIXELS)
            tokens = min(max(patches, QWEN_FEWEST_TOKENS), QWEN_MOST_TOKENS) + 2
        case _:
            tokens = image_tokens(rules, width, height)
    return min(tokens, rules.most_tokens_per_image or tokens) + MOST_TOKENS_PER_IMAGE_EXTRA


def input_tokens_estimate(call: Call, rules: ImageRules) -> int:
    """The input tokens a call is expected to count for, pictures, system prompt and schema included."""
    words = sum(_text_sizes_bytes(call)) + _schema_bytes(call)
    pictures = sum(image_tokens(rules, width, height) for width, height in _image_sizes(call))
    return ceil(words / BYTES_PER_TOKEN) + pictures + EXPECTED_TOKENS_PER_MESSAGE * len(call.messages) + EXPECTED_TOKENS_PER_CALL


def input_tokens_most(call: Call, rules: ImageRules) -> int:
    """A bound on the input tokens of a call: one per byte of text, the picture rule's bound, and allowances for templates and schema."""
    schema = _schema_bytes(call) + MOST_TOKENS_PER_SCHEMA if call.schema is not None else 0
    pictures = sum(image_tokens_most(rules, width, height) for width, height in _image_sizes(call))
    return sum(_text_sizes_bytes(call)) + schema + pictures + MOST_TOKENS_PER_MESSAGE * (len(call.messages) + 1) + MOST_TOKENS_PER_CALL


def _patches(width: int, height: int, side: int) -> int:
    return ceil(width / side) * ceil(height / side)


def _tiles(width: int, height: int) -> int:
    return _patches(width, height, OPENAI_TILE_PIXELS)


def _tile_tokens(tiles: int, rules: ImageRules) -> int:
    return ceil((OPENAI_TILE_BASE_TOKENS + OPENAI_TILE_TOKENS * tiles) * rules.token_multiplier)


def _text_sizes_bytes(call: Call) -> Iterator[int]:
    yield _bytes(call.system or "")
    for message in call.messages:
        yield _bytes(message.text)


def _bytes(text: str) -> int:
    # Half a surrogate pair cannot be encoded; it counts as what a vendor would put in its place.
    return len(text.encode("utf-8", errors="surrogatepass"))


def _schema_bytes(call: Call) -> int:
    return 0 if call.schema is None else _bytes(call.schema.name) + _bytes(json.dumps(call.schema.body))


def _image_sizes(call: Call) -> Iterator[tuple[int, int]]:
    for message in call.messages:
        for image in message.images:
            yield image.width_pixels, image.height_pixels
