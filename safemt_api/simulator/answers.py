"""Answers and errors in the three wire formats: words, how the model stopped, the tokens used; one table of what can go wrong.

Errors have the shapes that the vendors' SDKs read (openai ``_exceptions.py``, anthropic ``_error_classes.py``, google-genai ``errors.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    tier: str = "standard"
    fingerprint: str | None = None
    beginnings: tuple[bytes, ...] = ()


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
        "service_tier": "default" if words.tier == "standard" else words.tier,
        **({} if words.fingerprint is None else {"system_fingerprint": words.fingerprint}),
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
            "prompt_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.written, "image_tokens": tokens.picture},
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
            "service_tier": words.tier,
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
    tokens = words.tokens
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
    usage["serviceTier"] = words.tier
    about = {"usageMetadata": usage, "modelVersion": words.model, "responseId": words.call_id}
    if words.stop == "prompt_blocked":
        return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, **about}
    candidate: dict[str, Any] = {"index": 0, "finishReason": _GOOGLE_FINISH[words.stop]}
    if words.stop not in {"content_filter", "refusal"}:
        candidate["content"] = {"role": "model", "parts": [{"text": words.text}] if words.text else []}
    if words.stop in {"content_filter", "filtered_reply"}:
        candidate["safetyRatings"] = [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}]
    return {"candidates": [candidate], **about}


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


Headers = tuple[tuple[str, str], ...]


class TroubleError(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, kind: str, message: str, *, parameter: str | None = None, wait_seconds: float | None = None) -> None:
        self.kind, self.message, self.parameter, self.wait_seconds = kind, message, parameter, wait_seconds
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Shape:
    """How one vendor tells of one kind of trouble."""

    status: int
    type: str
    code: str | None = None
    details: tuple[Mapping[str, Any], ...] = field(default=())


_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_QUOTA = "type.googleapis.com/google.rpc.QuotaFailure"
_METRIC = "generativelanguage.googleapis.com/generate_content_requests"


def _quota(identifier: str, value: str) -> Mapping[str, Any]:
    return {"@type": _QUOTA, "violations": [{"quotaMetric": _METRIC, "quotaId": identifier, "quotaValue": value}]}


_PER_MINUTE = _quota("GenerateRequestsPerMinutePerProjectPerModel", "60")
_PER_DAY = _quota("GenerateRequestsPerDayPerProjectPerModel", "1000")
_NO_QUOTA = _quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "0")
_KEY_INVALID = {"@type": _INFO, "reason": "API_KEY_INVALID", "domain": "googleapis.com"}

SHAPES: Mapping[WireFormat, Mapping[str, Shape]] = {
    "openai_chat": {
        "bad_request": Shape(400, "invalid_request_error"),
        "bad_key": Shape(401, "invalid_request_error", "invalid_api_key"),
        "no_credit": Shape(429, "insufficient_quota", "insufficient_quota"),
        "unknown_model": Shape(404, "invalid_request_error", "model_not_found"),
        "unknown_path": Shape(404, "invalid_request_error", "unknown_url"),
        "too_large": Shape(413, "invalid_request_error", "request_too_large"),
        "bad_image": Shape(400, "invalid_request_error", "invalid_image_format"),
        "no_images": Shape(400, "invalid_request_error"),
        "rate_limit": Shape(429, "requests", "rate_limit_exceeded"),
        "flex_refusal": Shape(429, "server_error", "resource_unavailable"),
        "error_500": Shape(500, "server_error"),
        "error_503": Shape(503, "server_error", "service_unavailable"),
        "overloaded_529": Shape(529, "server_error", "overloaded"),
        "prompt_blocked": Shape(400, "invalid_request_error", "invalid_prompt"),
        "too_long": Shape(400, "invalid_request_error", "context_length_exceeded"),
        "daily_quota": Shape(429, "requests", "rate_limit_exceeded"),
        "account_hold": Shape(401, "invalid_request_error", "account_deactivated"),
    },
    "anthropic_messages": {
        "bad_request": Shape(400, "invalid_request_error"),
        "bad_key": Shape(401, "authentication_error"),
        "no_credit": Shape(402, "billing_error"),
        "unknown_model": Shape(404, "not_found_error"),
        "unknown_path": Shape(404, "not_found_error"),
        "too_large": Shape(413, "request_too_large"),
        "bad_image": Shape(400, "invalid_request_error"),
        "no_images": Shape(400, "invalid_request_error"),
        "rate_limit": Shape(429, "rate_limit_error"),
        "error_500": Shape(500, "api_error"),
        "error_503": Shape(503, "api_error"),
        "overloaded_529": Shape(529, "overloaded_error"),
        "prompt_blocked": Shape(400, "invalid_request_error"),
        "too_long": Shape(400, "invalid_request_error"),
        "daily_quota": Shape(429, "rate_limit_error", "enforced_spend_limit_reached"),
        "account_hold": Shape(400, "invalid_request_error", "organization_on_hold"),
    },
    "google_genai": {
        "bad_request": Shape(400, "INVALID_ARGUMENT"),
        "bad_key": Shape(400, "INVALID_ARGUMENT", details=(_KEY_INVALID,)),
        "no_credit": Shape(429, "RESOURCE_EXHAUSTED", details=(_NO_QUOTA,)),
        "unknown_model": Shape(404, "NOT_FOUND"),
        "unknown_path": Shape(404, "NOT_FOUND"),
        "too_large": Shape(413, "INVALID_ARGUMENT"),
        "bad_image": Shape(400, "INVALID_ARGUMENT"),
        "no_images": Shape(400, "INVALID_ARGUMENT"),
        "rate_limit": Shape(429, "RESOURCE_EXHAUSTED", details=(_PER_MINUTE,)),
        "flex_refusal": Shape(503, "UNAVAILABLE"),
        "error_500": Shape(500, "INTERNAL"),
        "error_503": Shape(503, "UNAVAILABLE"),
        "overloaded_529": Shape(503, "UNAVAILABLE"),
        "prompt_blocked": Shape(400, "INVALID_ARGUMENT"),
        "too_long": Shape(400, "INVALID_ARGUMENT"),
        "daily_quota": Shape(429, "RESOURCE_EXHAUSTED", details=(_PER_DAY,)),
        "account_hold": Shape(403, "PERMISSION_DENIED"),
    },
}

ANTHROPIC_FILTER_MESSAGE = "Output blocked by content filtering policy"
"""Anthropic has no signal for a blocked prompt; these are the words by which its filter is known."""

MESSAGES: Mapping[str, str] = {
    "bad_key": "The API key is not valid.",
    "no_credit": "The current quota is used up; check the plan and billing details. (limit: 0)",
    "rate_limit": "Too many requests for this account; slow down.",
    "flex_refusal": "Resource unavailable: there is no room in this tier for the moment.",
    "error_500": "The simulated server had an error.",
    "error_503": "The simulated service is unavailable for the moment.",
    "overloaded_529": "The simulated model is overloaded.",
    "prompt_blocked": "Invalid prompt: it was flagged as potentially violating the usage policy.",
    "daily_quota": "The quota of requests per day (RPD) is used up.",
    "account_hold": "This account is on hold for trust and safety reasons.",
}


def trouble_body(wire_format: WireFormat, trouble: TroubleError, *, request_id: str) -> tuple[int, bytes, Headers]:
    """Status, JSON body and extra headers of the error answer."""
    shape = SHAPES[wire_format][trouble.kind]
    wait = None if trouble.wait_seconds is None else f"{trouble.wait_seconds:g}"
    headers: Headers = () if wait is None else (("retry-after", wait),)
    if wire_format == "openai_chat":
        told = {"message": trouble.message, "type": shape.type, "param": trouble.parameter, "code": shape.code}
        body: dict[str, Any] = {"error": told}
        headers += () if trouble.wait_seconds is None else (("retry-after-ms", f"{trouble.wait_seconds * 1000:.0f}"),)
    elif wire_format == "anthropic_messages":
        about = {"details": {"error_code": shape.code}} if shape.code else {}
        body = {"type": "error", "error": {"type": shape.type, "message": trouble.message, **about}, "request_id": request_id}
    else:
        # Google says how long to wait in the body alone.
        headers, details = (), list(shape.details)
        details += [] if wait is None else [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{wait}s"}]
        error = {"code": shape.status, "message": trouble.message, "status": shape.type}
        body = {"error": error | ({"details": details} if details else {})}
    return shape.status, orjson.dumps(body), headers
