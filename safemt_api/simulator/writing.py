"""Answers in the three wire formats: words, how the model stopped, and the tokens used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from safemt_api.profiles import WireFormat

Stop = Literal["end", "length", "content_filter", "prompt_blocked", "refusal", "filtered_reply", "refusal_beside_words", "account_hold"]

CREATED = 1_767_225_600
CHARACTERS_A_TOKEN = 4
TOKENS_A_MESSAGE = 4
VENDOR_REFUSAL = "I'm sorry, but I can't help with that. (The simulated vendor declined.)"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one call; ``input`` includes cached and picture tokens, ``output`` includes reasoning."""

    input: int
    output: int
    reasoning: int = 0
    cached: int = 0
    written: int = 0
    picture: int = 0


@dataclass(frozen=True, slots=True)
class Words:
    """One answer, free of any wire format."""

    model: str
    text: str
    stop: Stop
    tokens: Tokens
    call_id: str
    usage_readable: bool = True


def count_tokens(text: str) -> int:
    """Tokens of a text: a quarter of its characters, rounded up."""
    return -(-len(text) // CHARACTERS_A_TOKEN)


def cut_to(text: str, tokens: int) -> str:
    """The beginning of the text that fits into so many tokens."""
    return text[: tokens * CHARACTERS_A_TOKEN]


def answer_body(wire_format: WireFormat, words: Words) -> bytes:
    """The JSON body of an answer."""
    writers = {"openai_chat": _openai, "anthropic_messages": _anthropic, "google_genai": _google}
    body = writers[wire_format](words)
    if not words.usage_readable:
        used = words.tokens.input + words.tokens.output
        body = {**body, "usageMetadata" if wire_format == "google_genai" else "usage": {"total_tokens": str(used)}}
    return orjson.dumps(body)


def _openai(words: Words) -> Mapping[str, Any]:
    tokens = words.tokens
    finish = {"length": "length", "content_filter": "content_filter", "filtered_reply": "content_filter"}.get(words.stop, "stop")
    refused = words.stop in {"refusal", "refusal_beside_words"}
    content = None if words.stop == "refusal" else words.text
    message = {"role": "assistant", "content": content, "refusal": VENDOR_REFUSAL if refused else None}
    return {
        "id": f"chatcmpl-{words.call_id}",
        "object": "chat.completion",
        "created": CREATED,
        "model": words.model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
            "prompt_tokens_details": {"cached_tokens": tokens.cached, "image_tokens": tokens.picture},
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
        },
    }


def _anthropic(words: Words) -> Mapping[str, Any]:
    tokens = words.tokens
    refused = words.stop in {"refusal", "content_filter", "filtered_reply", "refusal_beside_words"}
    return {
        "id": f"msg_{words.call_id}",
        "type": "message",
        "role": "assistant",
        "model": words.model,
        "content": [{"type": "text", "text": words.text}] if words.text else [],
        "stop_reason": "refusal" if refused else "max_tokens" if words.stop == "length" else "end_turn",
        "stop_sequence": None,
        "stop_details": {"type": "refusal", "category": "general_harms", "explanation": VENDOR_REFUSAL} if refused else None,
        "usage": {
            "input_tokens": tokens.input - tokens.cached - tokens.written,
            "cache_read_input_tokens": tokens.cached,
            "cache_creation_input_tokens": tokens.written,
            "output_tokens": tokens.output,
            "output_tokens_details": {"thinking_tokens": tokens.reasoning},
            "service_tier": "standard",
        },
    }


_GOOGLE_FINISH = {
    "end": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "filtered_reply": "SAFETY",
    "refusal": "PROHIBITED_CONTENT",
    "refusal_beside_words": "PROHIBITED_CONTENT",
    "account_hold": "PUP_LIMITED_DISABLED",
}


def _google(words: Words) -> Mapping[str, Any]:
    usage = _google_usage(words.tokens)
    about = {"usageMetadata": usage, "modelVersion": words.model, "responseId": words.call_id}
    if words.stop == "prompt_blocked":
        return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, **about}
    candidate: dict[str, Any] = {"index": 0, "finishReason": _GOOGLE_FINISH[words.stop]}
    if words.stop not in {"content_filter", "refusal"}:
        candidate["content"] = {"role": "model", "parts": [{"text": words.text}] if words.text else []}
    if words.stop in {"content_filter", "filtered_reply"}:
        candidate["safetyRatings"] = [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}]
    return {"candidates": [candidate], **about}


def _google_usage(tokens: Tokens) -> Mapping[str, Any]:
    usage: dict[str, Any] = {
        "promptTokenCount": tokens.input,
        "candidatesTokenCount": tokens.output - tokens.reasoning,
        "totalTokenCount": tokens.input + tokens.output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens.input - tokens.picture}],
    }
    if tokens.picture:
        usage["promptTokensDetails"].append({"modality": "IMAGE", "tokenCount": tokens.picture})
    if tokens.reasoning:
        usage["thoughtsTokenCount"] = tokens.reasoning
    if tokens.cached:
        usage["cachedContentTokenCount"] = tokens.cached
    return usage


def models_body(wire_format: WireFormat, models: tuple[str, ...]) -> bytes:
    """The list of models."""
    if wire_format == "google_genai":
        return orjson.dumps({"models": [_google_model(model) for model in models]})
    if wire_format == "anthropic_messages":
        entries = [anthropic_model(model) for model in models]
        return orjson.dumps({"data": entries, "has_more": False, "first_id": models[0], "last_id": models[-1]})
    return orjson.dumps({"object": "list", "data": [openai_model(model) for model in models]})


def model_body(wire_format: WireFormat, model: str) -> bytes:
    """The card of one model."""
    cards = {"openai_chat": openai_model, "anthropic_messages": anthropic_model, "google_genai": _google_model}
    return orjson.dumps(cards[wire_format](model))


def openai_model(model: str) -> Mapping[str, Any]:
    """One model in OpenAI's list."""
    return {"id": model, "object": "model", "created": CREATED, "owned_by": "simulator"}


def anthropic_model(model: str) -> Mapping[str, Any]:
    """One model in Anthropic's list."""
    return {"id": model, "type": "model", "display_name": model, "created_at": "2026-01-01T00:00:00Z", "lifecycle": "active"}


def _google_model(model: str) -> Mapping[str, Any]:
    return {"name": f"models/{model}", "displayName": model, "supportedActions": ["generateContent"]}
