"""The one door where a vendor's failure becomes ours: an SDK's exception, or an error that hides in an HTTP 200.

Two tables decide. ``sdk_errors.KINDS`` says for each exception class of each SDK what kind of thing happened. For answered requests the
status, the vendor's codes and its words then run through ``RULES``, first match wins. A vendor that declines (a content filter before or
after the model) has not failed: that becomes a ``Reply``.

Sources of the codes: https://platform.openai.com/docs/guides/error-codes, https://platform.claude.com/docs/en/api/errors,
https://ai.google.dev/gemini-api/docs/troubleshooting, https://openrouter.ai/docs/api/reference/errors-and-debugging,
https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter, https://console.groq.com/docs/errors,
https://api-docs.deepseek.com/quick_start/error_codes, https://docs.x.ai/docs/key-information/debugging;
vLLM's bodies were seen on a 0.32 server.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import anyio

from safemt_api.adapters.base import QuotaHint, Received
from safemt_api.adapters.headers import quota_hints, retry_after_seconds
from safemt_api.adapters.reading import count, first, label, mapping, names, one_line, parse, scrub, sequence, words
from safemt_api.adapters.sdk_errors import NOT_CONNECTED, Kind, kind_of
from safemt_api.errors import (
    AccountError,
    ConnectionFailedError,
    DialogueError,
    EndpointError,
    PictureTooLargeError,
    RateLimitedError,
    SafeMTError,
    ServerError,
    StopRunError,
)
from safemt_api.messages import Call, Outcome, Reply
from safemt_api.profiles import Profile

REQUEST_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id", "x-goog-request-id")
MAX_VENDOR_CHARACTERS = 300
LONG_QUOTA_WAIT_SECONDS = 60.0
"""A quota per day that refills sooner than this only slows a run down; one that takes longer ends it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a vendor said about a call that went wrong, whatever the dialect of its body.

    ``codes`` holds every machine-readable name found, lower-cased, the most specific first; ``status`` is 0 when an error inside an
    HTTP 200 names none.
    """

    status: int
    message: str
    codes: tuple[str, ...]
    parameter: str
    body: object
    raw: str
    headers: Mapping[str, str]

    @property
    def error(self) -> Mapping[str, Any]:
        """The ``error`` object of the body, or an empty one."""
        return mapping(_unwrapped(self.body).get("error"))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """OpenRouter's facts about the failure, or an empty object."""
        return mapping(self.error.get("metadata"))

    def has(self, *codes: str) -> bool:
        """Whether one of the codes was named."""
        return not set(codes).isdisjoint(self.codes)

    def says(self, pattern: re.Pattern[str]) -> bool:
        """Whether the vendor's words match."""
        return pattern.search(self.message) is not None


def _unwrapped(body: object) -> Mapping[str, Any]:
    return first(body) if isinstance(body, list) else mapping(body)


def read_failure(*, status: int, headers: Mapping[str, str], body: object, raw: str) -> Failure:
    """The facts of an error body: OpenAI's, Anthropic's, Google's, OpenRouter's, vLLM's, FastAPI's and plain-text ones."""
    top = _unwrapped(body)
    error = mapping(top.get("error"))
    said = (error.get("message"), top.get("error"), top.get("message"), top.get("detail"), first(top.get("detail")).get("msg"))
    message = next((text for text in said if isinstance(text, str) and text), "")
    if not top and "<" not in raw[:200]:
        message = raw
    return Failure(
        status=status,
        message=message[:2000],
        codes=tuple(dict.fromkeys(code.lower() for code in _codes(top, error) if code)),
        parameter=words(error.get("param")) or words(top.get("param")),
        body=body,
        raw=raw,
        headers=headers,
    )


def _codes(top: Mapping[str, Any], error: Mapping[str, Any]) -> Iterator[str]:
    details, metadata = error.get("details"), mapping(error.get("metadata"))
    yield label(mapping(details).get("error_code"))
    yield label(mapping(error.get("innererror")).get("code"))
    yield from (label(metadata.get(name)) for name in ("error_type", "reason", "limit_source", "provider_code"))
    yield from (label(mapping(detail).get("reason")) for detail in sequence(details))
    yield from (label(holder.get(name)) for holder in (error, top) for name in ("code", "status", "type"))


def status_in_body(body: object) -> int:
    """The status that an error inside an HTTP 200 names as its code; 0 where it names none."""
    error = mapping(_unwrapped(body).get("error"))
    digits = (label(error.get("code")), label(error.get("status")), label(error.get("status_code")))
    return next((int(text) for text in digits if re.fullmatch("[3-5][0-9]{2}", text)), 0)


Answer = tuple[bytes, Mapping[str, str]] | Exception
"""Body and headers of a reply, or the SDK's exception: returned rather than raised, so that no exception of ours has it as its context.
SDK exceptions carry the request, and with it the key."""

Post = Callable[[Call], Awaitable[Answer]]
Read = Callable[[str, Mapping[str, str], str], Reply]
"""From the body without the key, the headers and the model."""


@dataclass(frozen=True, slots=True)
class Door:
    """Translates for one address of one vendor.

    ``secret`` is the API key: it is blanked wherever a server echoes it.
    """

    profile: Profile
    base_url: str
    secret: str | None

    async def exchange(self, call: Call, *, post: Post, read: Read) -> Received:
        """Send the call with ``post``, understand what comes back with ``read``.

        Raises:
            CallError, StopRunError: As ``Adapter.send`` says.
        """
        model, started = call.route.model, anyio.current_time()
        answer = await post(call)
        if isinstance(answer, Exception):
            reply, headers = self.declined_or_raise(answer, model=model)
        else:
            content, headers = answer
            reply = read(self.text(content), headers, model)
        return self.received(reply, headers, started=started)

    def text(self, content: bytes) -> str:
        """A body as text, without the key."""
        return scrub(content.decode("utf-8", "replace"), self.secret)

    def quotas(self, headers: Mapping[str, str]) -> tuple[QuotaHint, ...]:
        """The quota hints of a response's headers."""
        daily = self.profile.name == "groq"
        return quota_hints(headers, now_utc=_now_utc(), requests_window_seconds=86400.0 if daily else 60.0)

    def declined_or_raise(self, error: Exception, *, model: str) -> tuple[Reply, Mapping[str, str]]:
        """The reply that an SDK's exception stands for, with the response's headers, where the vendor declined.

        Raises:
            CallError, StopRunError: In all other cases.
        """
        kind = kind_of(error)
        response = getattr(error, "response", None)
        if kind != "status" or response is None:
            raise self._without_status(kind, error)
        raw = self.text(response.content)
        failure = read_failure(status=response.status_code, headers=response.headers, body=parse(raw), raw=raw)
        return self.reply_or_raise(failure, model=model), response.headers

    def reply_or_raise(self, failure: Failure, *, model: str) -> Reply:
        """The reply where the vendor declined.

        Raises:
            CallError, StopRunError: In all other cases.
        """
        reply = declined(failure)
        if reply is not None:
            return reply
        raise self.judge(failure, model=model)

    def failed_inside(self, body: object, raw: str, headers: Mapping[str, str], *, model: str) -> Reply:
        """The reply where an HTTP 200 holds an error by which the vendor declined (OpenRouter answers so).

        Raises:
            CallError, StopRunError: In all other cases, as if the code in the body were the status.
        """
        failure = read_failure(status=status_in_body(body), headers=headers, body=body, raw=raw)
        return self.reply_or_raise(failure, model=model)

    def received(self, reply: Reply, headers: Mapping[str, str], *, started: float) -> Received:
        """The reply with what the headers add to it; ``started`` is the loop's time before the call."""
        named = next((headers[name] for name in REQUEST_ID_HEADERS if name in headers), None)
        request_id = one_line(scrub(named, self.secret), 200) if named else reply.request_id
        latency_seconds = anyio.current_time() - started
        return Received(replace(reply, request_id=request_id, latency_seconds=latency_seconds), self.quotas(headers))

    def judge(self, failure: Failure, *, model: str) -> SafeMTError:
        """Our exception for the failure: the first rule that applies."""
        case = _Case(failure, self, model)
        return next(rule.make(case) for rule in RULES if rule.applies(failure))

    def unusable(self, what: str) -> ServerError:
        """The failure of an HTTP 200 that is no answer; it may well have been billed."""
        return ServerError(f"{self.profile.name} sent no usable reply: {what}", status=200, code="unusable_reply", maybe_billed=True)

    def _without_status(self, kind: Kind, error: Exception) -> SafeMTError:
        cause = _http_cause(error)
        name = type(cause).__name__
        if kind == "network":  # what the SDKs call a connection error may be any trouble of the HTTP layer
            kind = kind_of(cause)
        if kind == "network":
            connected = name not in NOT_CONNECTED
            return ConnectionFailedError(f"{self.profile.name}: {_happened(name)}", connected=connected, maybe_billed=connected)
        if kind == "address":
            return EndpointError(f"{self.base_url} cannot be used as an address ({name}): check --base-url")
        if kind == "garbled":
            return self.unusable(f"it could not be read ({name})")
        return StopRunError(f"the SDK for {self.profile.name} failed before anything was sent ({name}); please report this")


def _http_cause(error: BaseException) -> BaseException:
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__module__.partition(".")[0] == "httpx2":
            return cause
        cause = cause.__cause__
    return error


def _happened(name: str) -> str:
    sentences = {
        "ConnectError": "no connection (refused, unknown host or TLS)",
        "ConnectTimeout": "no connection in time",
        "ProxyError": "the proxy made no connection",
        "PoolTimeout": "no free connection in time",
        "ReadTimeout": "connected, but no reply in time",
        "APITimeoutError": "connected, but no reply in time",
        "WriteTimeout": "the request could not be sent in time",
    }
    return sentences.get(name, f"the connection broke before the reply was complete ({name})")


def _now_utc() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Case:
    failure: Failure
    door: Door
    model: str

    @property
    def who(self) -> str:
        return self.door.profile.name

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
        body = [self.failure.body] if not isinstance(self.failure.body, list) else self.failure.body
        return retry_after_seconds(self.failure.headers, body[0] if body else None, now_utc=_now_utc())


@dataclass(frozen=True, slots=True)
class _Rule:
    applies: Callable[[Failure], bool]
    make: Callable[[_Case], SafeMTError]


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
_FLAGGED = _words_like(r"flagged|violat|polic(y|ies)|safety|moderation")
_BLOCKED_PROMPT = _words_like(
    r"content exists risk|violates? (our )?usage guidelines|flagged as potentially violating|content management policy"
    r"|requires moderation|input data may contain inappropriate|rejected (by|as a result of) .{0,30}safety system"
)
_BLOCKED_OUTPUT = _words_like(r"output blocked by content filtering|output data may contain inappropriate")
_OUT_OF_TOKENS = _words_like(r"max_tokens or model output limit was reached")
_NO_CREDIT = _words_like(
    r"credit balance is too low|insufficient (balance|credits?|funds|quota)|exceeded your current quota, please check your plan and billing"
    r"|billing (hard limit|is not active|not active)|payment (required|method)|spend(ing)? limit|requires billing|enable billing|arrearage"
)
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

_HELD_CODES = names(
    "organization_on_hold account_deactivated access_terminated organization_deactivated account_suspended consumer_suspended"
)
_DECLINE_CODES = names(
    """content_filter content_policy_violation responsibleaipolicyviolation cyber_policy cyber_policy_violation bio_policy
    moderation_blocked misalignment_policy_violation image_content_policy_violation data_inspection_failed datainspectionfailed"""
)
_CREDIT_CODES = names(
    """insufficient_quota billing_hard_limit_reached billing_not_active billing_error billing_disabled arrearage
    enforced_spend_limit_reached contract_spend_limit_reached linked_organization_spend_limit_reached
    linked_organization_billing_unavailable openrouter_credits openrouter_key_limit user_profile_not_billable"""
)
_MODEL_CODES = names(
    """model_not_found deploymentnotfound model_decommissioned model_not_available invalid_model model_not_supported modelnotfound
    model_not_open"""
)
_PARAMETER_CODES = ("unsupported_value", "unsupported_parameter", "unknown_parameter", "invalid_json_schema")
_KEY_CODES = ("invalid_api_key", "api_key_invalid", "authentication_error", "invalid_authentication", "unauthorized", "unauthenticated")
_BROKEN_OUTPUT_CODES = ("json_validate_failed",)
TOO_LARGE_A_PICTURE = "image_dimensions_too_large"
"""Anthropic's code; its details name the largest side that fits (anthropic SDK, types/image_dimensions_too_large_error_details.py)."""

_DIALOGUE_CODES = ("context_length_exceeded", "string_above_max_length", "request_too_large", TOO_LARGE_A_PICTURE, "invalid_image")
_REJECTED = frozenset({400, 403, 422, 451, 0})
_MAYBE_BILLED = frozenset({0, 408, 499, 502, 504, 520, 524})


def declined(failure: Failure) -> Reply | None:
    """The reply where the vendor declined by way of an error; ``None`` where this is a failure.

    The words of a filter are never the model's: they stand in ``detail``, and ``text`` stays empty.
    """
    if failure.status not in _REJECTED or failure.has(*_HELD_CODES) or failure.says(_HELD):
        return None
    outcome = _declined_outcome(failure)
    if outcome is None:
        return None
    detail = filtered_categories(failure.error) or one_line(failure.message, MAX_VENDOR_CHARACTERS) or None
    reason = next((code for code in failure.codes if not code.isdigit()), None)
    return Reply(outcome, detail=detail, finish_reason=reason, raw=failure.raw)


def _declined_outcome(failure: Failure) -> Outcome | None:
    if failure.says(_OUT_OF_TOKENS):
        return Outcome.TRUNCATED
    if failure.says(_BLOCKED_OUTPUT):
        return Outcome.BLOCKED_OUTPUT
    if failure.status in (403, 0) and failure.has("refusal"):
        return Outcome.REFUSED
    moderated = failure.metadata.get("flagged_input") is not None or bool(sequence(failure.metadata.get("reasons")))
    flagged = moderated and failure.status in (403, 0)
    prompt = failure.has("invalid_prompt") and failure.says(_FLAGGED)
    if flagged or prompt or failure.has(*_DECLINE_CODES) or failure.says(_BLOCKED_PROMPT):
        return Outcome.BLOCKED_INPUT
    return None


def filtered_categories(holder: Mapping[str, Any]) -> str | None:
    """The names of the categories that Azure's content filter reports as filtered, or OpenRouter's reasons."""
    found = mapping(mapping(holder.get("innererror")).get("content_filter_result")) or mapping(holder.get("content_filter_results"))
    names = [name for name, result in found.items() if mapping(result).get("filtered") is True]
    names += [words(reason) for reason in sequence(mapping(holder.get("metadata")).get("reasons"))]
    return one_line(", ".join(names), MAX_VENDOR_CHARACTERS) or None


def _spent_for_the_day(failure: Failure, wait_seconds: float | None) -> bool:
    """Whether a quota per day is used up.

    Google names the quota and sends a short retryDelay even so; elsewhere the words name it, and a short wait means that it refills all
    day long.
    """
    details = sequence(failure.error.get("details"))
    quotas = (words(mapping(violation).get("quotaId")) for detail in details for violation in sequence(mapping(detail).get("violations")))
    if any("PerDay" in quota for quota in quotas) or failure.says(_NO_QUOTA):
        return True
    return failure.says(_DAILY) and (wait_seconds is None or wait_seconds > LONG_QUOTA_WAIT_SECONDS)


def _make_held(case: _Case) -> SafeMTError:
    return AccountError(
        f"{case.who} has put the account on hold or limited it for safety reasons ({case.where}){case.said}; "
        "the run stops at once: settle this with the vendor before anything more is sent"
    )


def _make_credit(case: _Case) -> SafeMTError:
    return AccountError(
        f"{case.who}: no credit or spending limit reached ({case.where}){case.said}; add credit, then run the same command again"
    )


def _make_key(case: _Case) -> SafeMTError:
    names = " or ".join(case.door.profile.key_variables)
    cure = f"check {names}" if names else "this server wants a key, and the profile names no variable for one (key_variables)"
    denied = "refuses access" if case.failure.status == 403 else "does not accept the API key"
    return AccountError(f"{case.who} {denied} ({case.where}){case.said}; {cure}")


def _make_region(case: _Case) -> SafeMTError:
    return AccountError(f"{case.who} does not serve this location ({case.where}){case.said}")


def _make_model(case: _Case) -> SafeMTError:
    return AccountError(f"{case.who} does not know the model {case.model!r} ({case.where}){case.said}; choose another --model")


def _make_path(case: _Case) -> SafeMTError:
    hint = "; most OpenAI-compatible servers want an address that ends in /v1" if case.door.profile.wire_format == "openai_chat" else ""
    return EndpointError(f"{case.door.base_url} has no such path ({case.where}){case.said}; check --base-url{hint}")


def _make_pictures(case: _Case) -> SafeMTError:
    return StopRunError(f"{case.model} at {case.who} takes no pictures ({case.where}){case.said}; choose a vision model with --model")


def _make_parameter(case: _Case) -> SafeMTError:
    name = case.failure.parameter or "a parameter"
    return StopRunError(
        f"{case.who} does not take {name} for {case.model} ({case.where}){case.said}; "
        "leave the option out, or set what the model takes in the profile ([[models]])"
    )


def _make_pace(case: _Case) -> SafeMTError:
    wait_seconds = case.wait_seconds
    if _spent_for_the_day(case.failure, wait_seconds):
        long = wait_seconds is not None and wait_seconds > LONG_QUOTA_WAIT_SECONDS
        when = f"it frees up in {_spell(wait_seconds or 0)}" if long else "it resets with the vendor's next day"
        return AccountError(f"{case.who}: the daily quota is used up ({case.where}){case.said}; {when}, then run the same command again")
    return RateLimitedError(
        f"{case.who} asks to slow down ({case.where}){case.said}",
        status=case.failure.status or 429,
        code=case.code,
        retry_after_seconds=wait_seconds,
    )


def _spell(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _make_server(case: _Case) -> SafeMTError:
    status = case.failure.status
    return ServerError(
        f"{case.who} failed ({case.where}){_CHANGING.sub('…', case.said)}",
        status=status or None,
        code=case.code,
        maybe_billed=status in _MAYBE_BILLED,
        retry_after_seconds=case.wait_seconds,
    )


def _make_dialogue(case: _Case) -> SafeMTError:
    said = case.said or f": {case.failure.parameter or 'no reason given'}"
    sentence = f"{case.who} rejects the request ({case.where}){said}"
    side = count(mapping(case.failure.error.get("details")).get("max_side_length_pixels"))
    if side and case.failure.has(TOO_LARGE_A_PICTURE):
        return PictureTooLargeError(sentence, max_side_pixels=side, status=case.failure.status or None, code=case.code)
    return DialogueError(sentence, status=case.failure.status or None, code=case.code)


def _is_model(failure: Failure) -> bool:
    if failure.status not in (400, 403, 404, 410, 422, 0):
        return False
    return failure.has(*_MODEL_CODES) or failure.says(_UNKNOWN_MODEL)


def _is_parameter(failure: Failure) -> bool:
    if failure.status not in (400, 422, 0):
        return False
    return failure.has(*_PARAMETER_CODES) or failure.parameter in _PARAMETERS or failure.says(_BAD_PARAMETER)


def _is_pace(failure: Failure) -> bool:
    slow = failure.status == 429 or (failure.status == 402 and failure.has("in_flight_budget_exhausted"))
    return slow or (failure.status == 0 and failure.has("rate_limit_exceeded", "rate_limit_error", "resource_exhausted"))


def _is_credit(failure: Failure) -> bool:
    if failure.has("in_flight_budget_exhausted"):
        return False
    # Google words a spent free quota like OpenAI words an empty account; its own 429s are told apart by their quota ids.
    worded = failure.says(_NO_CREDIT) and failure.status in (0, 400, 403, 429) and not failure.has("resource_exhausted")
    return failure.status == 402 or worded or failure.has(*_CREDIT_CODES)


def _is_key(failure: Failure) -> bool:
    return failure.status in (401, 403, 407) or failure.has(*_KEY_CODES) or (failure.status == 400 and failure.says(_BAD_KEY))


RULES: tuple[_Rule, ...] = (
    _Rule(lambda failure: failure.has(*_HELD_CODES) or (failure.status in (0, 400, 401, 403, 429) and failure.says(_HELD)), _make_held),
    _Rule(_is_credit, _make_credit),
    _Rule(_is_pace, _make_pace),
    _Rule(lambda failure: failure.status in (0, 400, 403) and failure.says(_BAD_REGION), _make_region),
    _Rule(lambda failure: failure.has(*_BROKEN_OUTPUT_CODES), _make_server),
    _Rule(lambda failure: failure.has(*_DIALOGUE_CODES), _make_dialogue),
    _Rule(_is_parameter, _make_parameter),
    _Rule(lambda failure: failure.status in (0, 400, 404, 422) and failure.says(_NO_PICTURES), _make_pictures),
    _Rule(_is_model, _make_model),
    _Rule(_is_key, _make_key),
    _Rule(lambda failure: failure.status in (404, 405, 410, 421) or 300 <= failure.status < 400, _make_path),
    _Rule(lambda failure: failure.status in (0, 408, 409, 425, 499) or failure.status >= 500, _make_server),
    _Rule(lambda _failure: True, _make_dialogue),
)
"""What a failure means, in order; the last rule takes whatever is left: the vendor rejects this one request."""
