"""What a vendor said about a call that went wrong, whatever the dialect of its body, and what that means to us: a table, read from the top,
first row that applies.

A code that names a reason decides before any words do, and words are read without what they quote, so that an error which echoes the
prompt means what its code says. What a vendor *declines* is no failure (``declines``) and never comes to the table.

Sources of the shapes: https://platform.openai.com/docs/guides/error-codes, https://platform.claude.com/docs/en/api/errors,
https://ai.google.dev/gemini-api/docs/troubleshooting, https://openrouter.ai/docs/api/reference/errors-and-debugging,
https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter, https://console.groq.com/docs/errors,
https://api-docs.deepseek.com/quick_start/error_codes, https://docs.x.ai/docs/key-information/debugging;
vLLM's bodies were seen on a 0.32 server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from safemt_api.adapters.bodies import Body, count, first, label, mapping, names, one_line, sequence, words
from safemt_api.adapters.headers import retry_after_seconds, unbelievable_wait
from safemt_api.errors import (
    AccountError,
    CallError,
    DialogueError,
    EndpointError,
    InterceptedError,
    NoCapacityError,
    PictureTooLargeError,
    RateLimitedError,
    ServerError,
    StopRunError,
)
from safemt_api.profiles import Profile
from safemt_api.words import duration

MAX_VENDOR_CHARACTERS = 300
MAX_MESSAGE_CHARACTERS = 2000
STOPPED_AFTER_WORDS = "stopped after these words"
_LONG_QUOTATION = re.compile(r"""(?<!\w)(['"`])(?!\1).{60,}?\1(?!\w)""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Failure:
    """The facts of an error answer.

    ``codes`` holds every machine-readable name found, lower-cased, the most specific first; ``own_codes`` those of them that stand in the
    vendor's ``error`` object, where no gateway writes; ``status`` is 0 when an error inside an HTTP 200 names none.
    """

    status: int
    message: str
    codes: tuple[str, ...]
    own_codes: tuple[str, ...]
    parameter: str
    body: Body
    headers: Mapping[str, str]

    @property
    def error(self) -> Mapping[str, Any]:
        """The ``error`` object of the body, or an empty one."""
        return mapping(_unwrapped(self.body.value).get("error"))

    @property
    def is_the_vendors(self) -> bool:
        """Whether the body has the shape of a model API's error, and not that of a firewall, a gateway or a web server on the way.

        That is an ``error`` object with a message, or xAI's pair of texts ``code`` and ``error``.
        """
        top = _unwrapped(self.body.value)
        return bool(words(self.error.get("message"))) or bool(words(top.get("error")) and words(top.get("code")))

    @property
    def unquoted(self) -> str:
        """The message without long quotations: what is quoted is the request's, and its words are not the vendor's."""
        return _LONG_QUOTATION.sub("…", self.message)

    def has(self, *codes: str) -> bool:
        """Whether one of the codes was named."""
        return not set(codes).isdisjoint(self.codes)

    def says(self, pattern: re.Pattern[str]) -> bool:
        """Whether the vendor's words match."""
        return pattern.search(self.unquoted) is not None


def stopped_detail(detail: str | None, *, words_before: bool) -> str | None:
    """Why the vendor stopped a reply, for people; says so where words had come before: they stand in the reply's text, to be judged."""
    if not words_before:
        return detail
    return one_line(f"{STOPPED_AFTER_WORDS}: {detail}" if detail else STOPPED_AFTER_WORDS, MAX_VENDOR_CHARACTERS)


def _unwrapped(value: object) -> Mapping[str, Any]:
    return first(value) if isinstance(value, list) else mapping(value)


def read_failure(*, status: int, headers: Mapping[str, str], body: Body) -> Failure:
    """The facts of an error body: OpenAI's, Anthropic's, Google's, OpenRouter's, vLLM's, FastAPI's and plain-text ones."""
    top = _unwrapped(body.value)
    error = mapping(top.get("error"))
    said = (error.get("message"), top.get("error"), top.get("message"), top.get("detail"), first(top.get("detail")).get("msg"))
    message = next((text for text in said if isinstance(text, str) and text), "")
    if not top and "<" not in body.text[:200]:
        message = body.text
    details, metadata = error.get("details"), mapping(error.get("metadata"))
    own = (
        label(mapping(details).get("error_code")),
        label(mapping(error.get("innererror")).get("code")),
        *(label(metadata.get(name)) for name in ("error_type", "reason", "limit_source", "provider_code")),
        "flagged_input" if words(metadata.get("flagged_input")) else "",  # OpenRouter's moderation names itself by this field
        *(label(mapping(detail).get("reason")) for detail in sequence(details)),
    )
    return Failure(
        status=status,
        message=message[:MAX_MESSAGE_CHARACTERS],
        codes=_distinct((*own, *_codes_of(error), *_codes_of(top))),
        own_codes=_distinct((*own, *_codes_of(error))),
        parameter=words(error.get("param")) or words(top.get("param")),
        body=body,
        headers=headers,
    )


def _distinct(codes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(code.lower() for code in codes if code))


def _codes_of(holder: Mapping[str, Any]) -> Iterator[str]:
    return (label(holder.get(name)) for name in ("code", "status", "type"))


def status_in_body(value: object) -> int:
    """The status that an error inside an HTTP 200 names as its code; 0 where it names none."""
    error = mapping(_unwrapped(value).get("error"))
    digits = (label(error.get("code")), label(error.get("status")), label(error.get("status_code")))
    return next((int(text) for text in digits if re.fullmatch("[3-5][0-9]{2}", text)), 0)


def status_of_type(value: object) -> int:
    """The status that an error of Anthropic's comes with alone, by its type; inside a batch there is none."""
    types = {
        "invalid_request_error": 400,
        "authentication_error": 401,
        "billing_error": 402,
        "permission_error": 403,
        "not_found_error": 404,
        "request_too_large": 413,
        "rate_limit_error": 429,
        "api_error": 500,
        "timeout_error": 504,
        "overloaded_error": 529,
    }
    return types.get(words(mapping(mapping(value).get("error")).get("type")), 0)


def filtered_categories(holder: Mapping[str, Any]) -> str | None:
    """The names of the categories that Azure's content filter reports as filtered, or OpenRouter's reasons."""
    found = mapping(mapping(holder.get("innererror")).get("content_filter_result")) or mapping(holder.get("content_filter_results"))
    names = [name for name, result in found.items() if mapping(result).get("filtered") is True]
    names += [words(reason) for reason in sequence(mapping(holder.get("metadata")).get("reasons"))]
    return one_line(", ".join(names), MAX_VENDOR_CHARACTERS) or None


LONG_QUOTA_WAIT_SECONDS = 60.0
"""A quota per day that refills sooner than this only slows a run down; one that takes longer ends it."""


@dataclass(frozen=True, slots=True)
class Case:
    """A failure with all that a sentence about it may name."""

    failure: Failure
    profile: Profile
    base_url: str
    model: str

    @property
    def who(self) -> str:
        return self.profile.name

    @property
    def where(self) -> str:
        return f"HTTP {self.failure.status}" if self.failure.status else "an error inside the reply"

    @property
    def code(self) -> str | None:
        return next((code for code in self.failure.codes if not code.isdigit()), None)

    @property
    def said(self) -> str:
        """The vendor's words for a sentence, beginning with a colon; empty where it said nothing."""
        shown = one_line(_hide_keys(self.failure.message), MAX_VENDOR_CHARACTERS)
        return f": {shown}" if shown else ""

    @property
    def wait_seconds(self) -> float | None:
        return retry_after_seconds(self.failure.headers, self._body, now_utc=datetime.now(UTC))

    @property
    def unbelievable_wait(self) -> str | None:
        """What the vendor asked for instead of a wait, shown safely."""
        written = unbelievable_wait(self.failure.headers, self._body, now_utc=datetime.now(UTC))
        return None if written is None else one_line(_hide_keys(written), MAX_WAIT_CHARACTERS)

    @property
    def _body(self) -> object:
        body = self.failure.body.value
        return next(iter(body), None) if isinstance(body, list) else body


MAX_WAIT_CHARACTERS = 40
_KEYLIKE = re.compile(r"\S*\*{3,}\S*|\b(?:sk|pk|gsk|xai|tgp|csk|AIza)[-_]?[A-Za-z0-9_-]{12,}")
_CHANGING = re.compile(
    r"\b(?:req|gen|chatcmpl|msg|cmpl)[-_][A-Za-z0-9_-]+|\b[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}\b|\b(?=\w*\d)[0-9a-fA-F]{12,}\b|\b\d{6,}\b"
)


def _hide_keys(text: str) -> str:
    """Vendors quote keys in part (``sk-ab***yz``); even a part of a key does not belong in an error."""
    return _KEYLIKE.sub("[key]", text)


def _words_like(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


# What vendors say where no code tells the cases apart. Each pattern is bounded, so that a hostile message costs no time.
_HELD = _words_like(
    r"\b(account|organi[sz]ation|project|consumer)\b.{0,60}\b(on hold|deactivated|terminated|suspended|banned)"
    r"|PUP_LIMITED_DISABLED|safety case"
)
_NO_CREDIT = _words_like(
    r"credit balance is too low|insufficient (balance|credits?|funds|quota)|exceeded your current quota, please check your plan and billing"
    r"|billing (hard limit|is not active|not active)|payment (required|method)|spend(ing)? limit|requires billing|enable billing|arrearage"
)
_NO_ROOM = _words_like(r"\bresources? unavailable\b|flex (tier|capacity|processing)\b.{0,40}(unavailable|exhausted|not available)")
_DAILY = _words_like(r"per day|\b[RT]PD\b|daily (limit|quota)")
_NO_QUOTA = _words_like(r"\blimit: 0\b")
_UNKNOWN_MODEL = _words_like(
    r"\b(model|deployment)s?\b.{0,150}(not found|not exist|not a valid|no longer|decommissioned|is not available)"
    r"|model not exist|not a valid model|invalid model|no endpoints found for|^model: \S+$|unknown model|models/\S+ is not found"
)
_NO_PICTURES = _words_like(
    r"no endpoints found that support image|at most 0 image|is not a multimodal model"
    r"|\b(model|endpoint|deployment)\b.{0,80}(not|n't|cannot) (support|accept|take|process)\w* .{0,30}(image|vision|multimodal)"
    r"|image (input|url|content)s? (is|are) (not supported|only supported)|image_url.{0,30}is only supported by"
)
_BAD_PARAMETER = _words_like(
    r"extra inputs are not permitted|unsupported (parameter|value)|unrecognized request argument|unknown (parameter|name|field)"
    r"|\b(temperature|top_p|top_k|seed|max_tokens|max_completion_tokens)\b.{0,60}"
    r"(deprecated|not supported|unsupported|cannot be greater|must be non-negative|too large)"
    r"|(response_format|json_schema|output_config|structured outputs?|response_?json_?schema|responseschema).{0,120}"
    r"(not supported|unsupported|invalid|not enabled|must)"
    r"|grammar error|developer instruction is not enabled"
)
_BAD_KEY = _words_like(r"api[ _-]?key not valid|incorrect api key|invalid api[ _-]?key|api key expired|invalid authentication")
_BAD_REGION = _words_like(r"(user )?location is not supported|(country|region).{0,40}not supported")
_PARAMETERS = frozenset({"temperature", "top_p", "top_k", "seed", "response_format", "max_completion_tokens", "reasoning_effort"})

_HELD_CODES = "organization_on_hold account_deactivated access_terminated organization_deactivated account_suspended consumer_suspended"
_HELD_STATUSES = (0, 400, 401, 403, 429)
_CREDIT_CODES = """
    insufficient_quota billing_hard_limit_reached billing_not_active billing_error billing_disabled arrearage
    enforced_spend_limit_reached contract_spend_limit_reached linked_organization_spend_limit_reached
    linked_organization_billing_unavailable openrouter_credits openrouter_key_limit user_profile_not_billable
"""
_PACE_CODES = "rate_limit_exceeded rate_limit_error resource_exhausted"
_TOO_LARGE_A_PICTURE = "image_dimensions_too_large"
"""Anthropic's code; its details name the largest side that fits (anthropic SDK, types/image_dimensions_too_large_error_details.py)."""

_DIALOGUE_CODES = f"context_length_exceeded string_above_max_length request_too_large {_TOO_LARGE_A_PICTURE} invalid_image"
_PARAMETER_CODES = "unsupported_value unsupported_parameter unknown_parameter invalid_json_schema"
_MODEL_CODES = """
    model_not_found deploymentnotfound model_decommissioned model_not_available invalid_model model_not_supported modelnotfound
    model_not_open
"""
_KEY_CODES = "invalid_api_key api_key_invalid authentication_error invalid_authentication unauthorized unauthenticated"
_MAYBE_BILLED = frozenset({0, 408, 499, 502, 504, 520, 524})


Failed = CallError | StopRunError
Make = Callable[[Case], Failed]


def _says(error: type[StopRunError], sentence: str) -> Make:
    return lambda case: error(sentence.format(case=case))


_held = _says(
    AccountError,
    "{case.who} has put the account on hold or limited it for safety reasons ({case.where}){case.said}; "
    "the run stops at once: settle this with the vendor before anything more is sent",
)
_no_credit = _says(
    AccountError,
    "{case.who}: no credit or spending limit reached ({case.where}){case.said}; add credit, then run the same command again",
)
_wrong_region = _says(AccountError, "{case.who} does not serve this location ({case.where}){case.said}")
_unknown_model = _says(AccountError, "{case.who} does not know the model {case.model!r} ({case.where}){case.said}; choose another --model")
_no_pictures = _says(
    StopRunError, "{case.model} at {case.who} takes no pictures ({case.where}){case.said}; choose a vision model with --model"
)


def _bad_key(case: Case) -> Failed:
    variables = " or ".join(case.profile.key_variables)
    cure = f"check {variables}" if variables else "this server wants a key, and the profile names no variable for one (key_variables)"
    denied = "refuses access" if case.failure.status == 403 else "does not accept the API key"
    return AccountError(f"{case.who} {denied} ({case.where}){case.said}; {cure}")


def _intercepted(case: Case) -> Failed:
    sentence = f"something before {case.who} refuses the request ({case.where}, and no error of a model API){case.said}"
    return InterceptedError(sentence, status=case.failure.status, code=case.code)


def _no_path(case: Case) -> Failed:
    hint = "; most OpenAI-compatible servers want an address that ends in /v1" if case.profile.wire_format == "openai_chat" else ""
    return EndpointError(f"{case.base_url} has no such path ({case.where}){case.said}; check --base-url{hint}")


def _bad_parameter(case: Case) -> Failed:
    return StopRunError(
        f"{case.who} does not take {case.failure.parameter or 'a parameter'} for {case.model} ({case.where}){case.said}; "
        "leave the option out, or set what the model takes in the profile ([[models]])"
    )


def _no_room(case: Case) -> Failed:
    return NoCapacityError(
        f"{case.who} has no room for this in the tier that was asked for ({case.where}){case.said}",
        status=case.failure.status or None,
        code=case.code,
        retry_after_seconds=case.wait_seconds,
    )


def _slow_down(case: Case) -> Failed:
    failure, wait_seconds = case.failure, case.wait_seconds
    long = wait_seconds is not None and wait_seconds > LONG_QUOTA_WAIT_SECONDS
    # Whether a quota per day is used up: Google names the quota and sends a short retryDelay even so; elsewhere the words name it, and a
    # short wait means that it refills all day long.
    details = sequence(failure.error.get("details"))
    quotas = (words(mapping(violation).get("quotaId")) for detail in details for violation in sequence(mapping(detail).get("violations")))
    named = any("PerDay" in quota for quota in quotas) or failure.says(_NO_QUOTA)
    if named or (failure.says(_DAILY) and (wait_seconds is None or long)):
        when = f"it frees up in {duration(wait_seconds or 0)}" if long else "it resets with the vendor's next day"
        return AccountError(f"{case.who}: the daily quota is used up ({case.where}){case.said}; {when}, then run the same command again")
    return RateLimitedError(
        f"{case.who} asks to slow down ({case.where}){case.said}",
        status=case.failure.status or 429,
        code=case.code,
        retry_after_seconds=wait_seconds,
        unbelievable_wait=case.unbelievable_wait,
    )


def _server_failed(case: Case) -> Failed:
    status = case.failure.status
    return ServerError(
        f"{case.who} failed ({case.where}){_CHANGING.sub('…', case.said)}",
        status=status or None,
        code=case.code,
        maybe_billed=status in _MAYBE_BILLED,
        retry_after_seconds=case.wait_seconds,
        unbelievable_wait=case.unbelievable_wait,
    )


def _rejected(case: Case) -> Failed:
    said = case.said or f": {case.failure.parameter or 'no reason given'}"
    sentence = f"{case.who} rejects the request ({case.where}){said}"
    side = count(mapping(case.failure.error.get("details")).get("max_side_length_pixels"))
    if side and case.failure.has(_TOO_LARGE_A_PICTURE):
        return PictureTooLargeError(sentence, max_side_pixels=side, status=case.failure.status or None, code=case.code)
    return DialogueError(sentence, status=case.failure.status or None, code=case.code)


def is_on_hold(failure: Failure) -> bool:
    """Whether the vendor has stopped the account itself; then nothing else that it says counts."""
    return failure.has(*names(_HELD_CODES)) or (failure.status in _HELD_STATUSES and failure.says(_HELD))


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: on these statuses (none: any), by one of these codes, these words, or this look at it; with none of the three, always."""

    make: Make
    statuses: tuple[int, ...] = ()
    codes: str = ""
    words: re.Pattern[str] | None = None
    look: Callable[[Failure], bool] | None = None

    def applies(self, failure: Failure) -> bool:
        """Whether the row is about this failure."""
        if self.statuses and failure.status not in self.statuses:
            return False
        by_code = bool(self.codes) and failure.has(*names(self.codes))
        by_words = self.words is not None and failure.says(self.words)
        by_look = self.look is not None and self.look(failure)
        return by_code or by_words or by_look or not (self.codes or self.words or self.look)


RULES: tuple[Rule, ...] = (
    # The vendor's code names the reason.
    Rule(_held, codes=_HELD_CODES),
    Rule(_slow_down, codes="in_flight_budget_exhausted"),
    Rule(_no_credit, codes=_CREDIT_CODES),
    Rule(_no_room, statuses=(0, 429, 498, 503), codes="resource_unavailable capacity_exceeded", words=_NO_ROOM),
    Rule(_slow_down, statuses=(0, 429), codes=_PACE_CODES),
    Rule(_server_failed, codes="json_validate_failed"),
    Rule(_rejected, codes=_DIALOGUE_CODES),
    Rule(_bad_parameter, statuses=(0, 400, 422), codes=_PARAMETER_CODES),
    Rule(_unknown_model, statuses=(0, 400, 403, 404, 410, 422), codes=_MODEL_CODES),
    # No code of ours: the vendor's words, where they can mean nothing else.
    Rule(_held, statuses=_HELD_STATUSES, words=_HELD),
    Rule(_no_credit, statuses=(402,)),
    Rule(_no_credit, statuses=(0, 400, 403, 429), words=_NO_CREDIT),
    Rule(_slow_down, statuses=(429,)),
    Rule(_wrong_region, statuses=(0, 400, 403), words=_BAD_REGION),
    Rule(_bad_parameter, statuses=(0, 400, 422), words=_BAD_PARAMETER, look=lambda failure: failure.parameter in _PARAMETERS),
    Rule(_no_pictures, statuses=(0, 400, 404, 422), words=_NO_PICTURES),
    Rule(_unknown_model, statuses=(0, 400, 403, 404, 410, 422), words=_UNKNOWN_MODEL),
    # The status alone.
    Rule(_bad_key, codes=_KEY_CODES),
    Rule(_bad_key, statuses=(400,), words=_BAD_KEY),
    Rule(_intercepted, statuses=(403,), look=lambda failure: not failure.is_the_vendors),
    Rule(_bad_key, statuses=(401, 403, 407)),
    Rule(_no_path, statuses=(404, 405, 410, 421)),
    Rule(_no_path, look=lambda failure: 300 <= failure.status < 400),
    Rule(_server_failed, statuses=(0, 408, 409, 425, 499)),
    Rule(_server_failed, look=lambda failure: failure.status >= 500),
    Rule(_rejected),
)
"""The last row takes whatever is left: the vendor rejects this one request."""


def meaning(case: Case) -> Failed:
    """Our exception for the failure."""
    return next(rule.make(case) for rule in RULES if rule.applies(case.failure))
