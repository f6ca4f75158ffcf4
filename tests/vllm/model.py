"""Makes a tiny vision model with random weights, from a config alone: ``python model.py FOLDER``, inside the server's environment.

A Qwen2.5-VL in miniature: half a million weights, whose words mean nothing. What is real is everything around them: the tokenizer knows
every byte, pictures grow into tokens with their size, replies end by themselves now and then, and a JSON schema is held to.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]  # lives in the server's environment alone
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-not-found]  # the same
from transformers import (  # type: ignore[import-not-found]  # the same
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

SEED = 7
PAD, OPEN, CLOSE = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SEE, SEEN, PICTURE, FILM, SIGHT = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|vision_pad|>"
MARKS = [PAD, OPEN, CLOSE, SEE, SEEN, PICTURE, FILM, SIGHT]

HIDDEN = 128
CONTEXT_TOKENS = 32768
WORDS = 512
CHANCES = {CLOSE: 0.04, '"': 0.1, "]": 0.1}
"""How likely the end of a reply is at any place, and the ends of JSON's strings and lists, which else would go on and on."""
BIAS = 0
"""The one number of every word's embedding that is not random but 1: the output layer, which has no bias, gets one out of it."""

CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content %}
{%- if part.type == "text" %}{{ part.text }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}
{%- endfor %}{% endif %}<|im_end|>
{% endfor -%}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

STRICT = """\
{%- set turns = messages[1:] if messages[0].role == "system" else messages -%}
{%- for message in turns -%}
{%- if message.role == "system" %}{{ raise_exception("A system message may only stand at the beginning.") }}{% endif -%}
{%- if (message.role == "user") != (loop.index0 is even) %}{{ raise_exception("User and assistant must take turns.") }}{% endif -%}
{%- endfor -%}
"""

PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "min_pixels": 56 * 56,
    "max_pixels": 1280 * 28 * 28,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def make_tokenizer() -> Any:
    """A byte-level tokenizer, trained on this file: nothing is unknown to it, and plain English takes about two letters a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=WORDS, special_tokens=MARKS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(Path(__file__).read_text(encoding="utf-8").splitlines(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=CLOSE,
        pad_token=PAD,
        additional_special_tokens=MARKS[1:],
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHATML
    return fast


def make_config(tokenizer: Any) -> Any:
    """Two thin layers to read with and two to see with."""
    number = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": HIDDEN,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT_TOKENS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": number(CLOSE),
        "pad_token_id": number(PAD),
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=number(PICTURE),
        video_token_id=number(FILM),
        vision_start_token_id=number(SEE),
        vision_end_token_id=number(SEEN),
        vision_token_id=number(SIGHT),
        tie_word_embeddings=False,
    )


def make_weights(model: Any, tokenizer: Any) -> None:
    """Random weights whose words are printable, and whose sentences, strings and lists come to an end."""
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.normal_(0.0, 0.08)
        model.get_input_embeddings().weight[:, BIAS] = 1.0
        head = model.get_output_embeddings().weight
        head.normal_(0.0, 0.15)
        head[:, BIAS] = 0.0
        for token in range(head.shape[0]):
            if not _is_printable(tokenizer, token):
                head[token] = 0.0
        states = _some_states(model, len(tokenizer))
        others = torch.logsumexp(states @ head.T, dim=1).mean() - torch.log(torch.tensor(1.0 - sum(CHANCES.values())))
        for text, chance in CHANCES.items():
            token = tokenizer.convert_tokens_to_ids(text)
            head[token] = 0.0
            head[token, BIAS] = (others + torch.log(torch.tensor(chance))) / states[:, BIAS].mean()


def _is_printable(tokenizer: Any, token: int) -> bool:
    if token >= len(tokenizer) or token in tokenizer.all_special_ids:
        return False
    text = str(tokenizer.decode([token]))
    return text.isascii() and text.isprintable()


def _some_states(model: Any, words: int) -> Any:
    tokens = torch.randint(len(MARKS), words, (8, 64))
    return model(input_ids=tokens, output_hidden_states=True).hidden_states[-1].reshape(-1, HIDDEN)


def make(folder: Path) -> None:
    """Write the model, its tokenizer with the chat template, its picture processor, and the strict template beside them."""
    torch.manual_seed(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    model = Qwen2_5_VLForConditionalGeneration(make_config(tokenizer))
    make_weights(model, tokenizer)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(CLOSE)
    model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids(PAD)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=1), encoding="utf-8")
    (folder / "strict.jinja").write_text(STRICT + CHATML, encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
