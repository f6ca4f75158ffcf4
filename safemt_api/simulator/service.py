"""From a request to a response, without any network: routing, keys, quotas, faults, and the answer of the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from heapq import heappop, heappush
from typing import Any, Literal

import orjson

from safemt_api.errors import UsageError
from safemt_api.markers import SIMULATED_UNSAFE
from safemt_api.messages import Outcome
from safemt_api.profiles import WireFormat
from safemt_api.simulator.account import PromptCache, Quotas, input_tokens
from safemt_api.simulator.answers import (
    ANTHROPIC_FILTER_MESSAGE,
    MESSAGES,
    Headers,
    Stop,
    Tokens,
    TroubleError,
    Words,
    answer_body,
    count_tokens,
    cut_to,
    model_body,
    models_body,
    trouble_body,
)
from safemt_api.simulator.batches import Batch, BatchDesk
from safemt_api.simulator.books import Books, Truth, truth_of
from safemt_api.simulator.classifiers import decide_google, decide_openai, moderate
from safemt_api.simulator.personas import draw
from safemt_api.simulator.requests import GENERATE, Question, Request, read_anthropic, read_google, read_openai
from safemt_api.simulator.roles import MODELS, Played, check_model, play, role_of
from safemt_api.simulator.settings import TRANSIENT_FAULTS, SimulatorSettings

Ending = Literal["whole", "reset", "stall", "cut"]

BAD_KEY = "bad-key"
NO_CREDIT_KEY = "no-credit"
CONTEXT_TOKENS = 128_000
_OVER_TOKENS = CONTEXT_TOKENS + 1000
TOO_LONG: Mapping[WireFormat, str] = {
    "openai_chat": (
        f"This model's maximum context length is {CONTEXT_TOKENS} tokens. However, your messages resulted in {_OVER_TOKENS} tokens."
    ),
    "anthropic_messages": f"prompt is too long: {_OVER_TOKENS} tokens > {CONTEXT_TOKENS} maximum",
    "google_genai": f"The input token count ({_OVER_TOKENS}) exceeds the maximum number of tokens allowed ({CONTEXT_TOKENS}).",
}
_BATCHING = re.compile(r"(?:/upload)?/v1(?:beta)?/(?:files|batches|messages/batches)\b|/v1(?:beta)?/models/[^/:]+:batchGenerateContent")
NOT_ANSWERED = frozenset({"too_long", "firewall"})
_CLASSIFYING = frozenset({"/v1/moderations", "/v1/decisions", "/v1beta/decisions"})
_FIREWALL = b"<!doctype html><html><head><title>403 Forbidden</title></head><body>Blocked by a content management policy.</body></html>"
_HTML = b"<!doctype html><html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response, how its sending ends, and what the ledger notes once it is sent in full."""

    status: int
    body: bytes
    headers: Headers = ()
    content_type: str = "application/json"
    ending: Ending = "whole"
    delayed: bool = False
    body_digest: str | None = None
    truth: Truth | None = None
    tokens: tuple[int, int, int] = (0, 0, 0)
    tier: str = "standard"
    beginnings: tuple[bytes, ...] = ()


class Service:
    """The simulator behind the socket; ``now`` is handed in with each request (seconds of a steady clock)."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self.settings = settings
        self.books = Books(settings.truth_limit)
        self.reset()

    def reset(self) -> None:
        """Forget all calls, quotas and caches, but not what is in flight."""
        settings, in_flight = self.settings, self.books.in_flight
        self.books = Books(settings.truth_limit, in_flight=in_flight, peak_in_flight=in_flight)
        self.quotas = Quotas(
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            burst_seconds=settings.burst_seconds,
        )
        self.cache = PromptCache(minimum_tokens=settings.prompt_cache_minimum_tokens) if settings.prompt_cache else None
        self.desk = BatchDesk(settings, self._answer_row)
        self._asked: Counter[str] = Counter()
        self._slots_free_at = [0.0] * (settings.slots or 0)

    def work_seconds(self, now: float) -> float:
        """How long a reply takes that is asked for now: the latency, after the wait for a slot where all are taken."""
        latency = self.settings.latency_seconds
        if not self._slots_free_at:
            return latency
        done = max(now, heappop(self._slots_free_at)) + latency
        heappush(self._slots_free_at, done)
        return done - now

    def handle(self, request: Request, *, now: float) -> Response:
        """The response to a request."""
        try:
            if not _BATCHING.match(request.path):
                return self._get(request) if request.method == "GET" else self._post(request, now)
            _check_key(request.key)
            reply = self.desk.handle(request, now)
            if reply is None:
                raise _unknown_path(request)
            body = orjson.dumps(reply.value) if reply.content is None else reply.content
            kind = "application/json" if reply.content is None else "application/jsonl"
            return Response(reply.status, body, reply.headers, content_type=kind, ending=reply.ending)
        except TroubleError as trouble:
            return self._reject(request, trouble)
        except RecursionError:
            return self._reject(request, TroubleError("bad_request", "the body is nested too deeply"))

    def _answer_row(self, batch: Batch, path: str, body: bytes) -> tuple[int, bytes]:
        """The answer to one row of a batch, booked as bought in that tier; faults of the line become errors of the row."""
        request, wire_format = Request("POST", path, batch.headers, body), batch.wire_format
        try:
            question = _read(request, _json(body), path.rpartition("/")[2].partition(":")[0])
            _check(question, check_images=self.settings.check_images)
            response = self._converse(replace(question, batch=batch.batch_id), request, None)
        except TroubleError as trouble:
            response = self._trouble(wire_format, trouble, call_id="row")
        if (
            response.ending != "whole"
            or response.content_type != "application/json"
            or (response.status == 200 and not response.body_digest)
        ):
            response = self._trouble(wire_format, TroubleError("error_500", MESSAGES["error_500"]), call_id="row")
        self.sent(response)
        return response.status, response.body

    def sent(self, response: Response) -> None:
        """A response was handed over in full: what it sold is booked, and what it began with is cached."""
        if response.body_digest is not None:
            self.books.call_answered(response.body_digest, response.truth, tokens=response.tokens, tier=response.tier)
        if self.cache is not None:
            self.cache.remember(response.beginnings)

    def _reject(self, request: Request, trouble: TroubleError) -> Response:
        self.books.rejected += request.method == "POST"
        return self._trouble(request.wire_format, trouble, call_id="rejected")

    def _get(self, request: Request) -> Response:
        path = request.path.replace("/v1beta/", "/v1/", 1)
        if path == "/health":
            return Response(200, b'{"status":"ok"}')
        if path == "/simulator/statistics":
            return Response(200, orjson.dumps(self.books.statistics()._asdict()))
        if path == "/simulator/batches":
            return Response(200, orjson.dumps(self.desk.record()))
        if path == "/simulator/truth":
            return Response(200, orjson.dumps([truth.as_dict() for truth in self.books.truths.values()]))
        if path == "/v1/models":
            return Response(200, models_body(request.wire_format, MODELS))
        if path.startswith("/v1/models/"):
            return Response(200, model_body(request.wire_format, _known_model(path.removeprefix("/v1/models/"))))
        raise _unknown_path(request)

    def _post(self, request: Request, now: float) -> Response:
        path = request.path
        if path == "/simulator/reset":
            self.reset()
            return Response(200, b"{}")
        if path == "/simulator/advance":
            self.desk.offset_seconds += float(_json(request.body).get("seconds", 0))
            return Response(200, b"{}")
        generate = GENERATE.fullmatch(path)
        if not generate and path not in _CLASSIFYING and path not in {"/v1/chat/completions", "/v1/messages"}:
            raise _unknown_path(request)
        _check_key(request.key)
        body = _json(request.body)
        if path in _CLASSIFYING:
            if path == "/v1/moderations":
                answer = moderate(body, self.settings)
            else:
                _known_model(str(body.get("model")).removeprefix("models/"))
                answer = (decide_google if isinstance(body.get("questions"), dict) else decide_openai)(body, self.settings)
            digest = _digest(request)
            self.books.call_came(digest)
            return Response(200, orjson.dumps(answer), delayed=True, body_digest=digest)
        question = _read(request, body, generate.group(1) if generate else "")
        _check(question, check_images=self.settings.check_images)
        return self._converse(question, request, now)

    def _converse(self, question: Question, request: Request, now: float | None) -> Response:
        """The answer to a question; one in a batch has no ``now``, because it counts against no quota by the minute."""
        digest = _digest(request)
        attempt = self.books.call_came(digest)
        call_id = f"{digest[:20]}-{attempt}"
        tier = question.tier if now is not None else "batch"
        used, _ = input_tokens(question)
        wait = self.quotas.take(now=now, tokens=used) if now is not None else 0.0
        if wait > 0.0:
            self.books.rate_limited += 1
            trouble = TroubleError("rate_limit", MESSAGES["rate_limit"], wait_seconds=wait if self.settings.announce_limits else None)
            return self._trouble(question.wire_format, trouble, call_id=call_id)
        plan, seed, model = self.settings.faults, self.settings.seed, question.model
        if tier == "flex":
            turned = plan.flex(seed=seed, model=model, body_digest=digest, attempt=attempt)
            self.books.faults.update([turned] if turned else [])
            if turned == "flex_refusal":
                return self._trouble(question.wire_format, TroubleError(turned, MESSAGES[turned]), call_id=call_id)
            tier = "standard" if turned == "flex_served_standard" else tier
        fault = (
            plan.scripted(model=model, attempt=attempt)
            or plan.transient(seed=seed, model=model, body_digest=digest, attempt=attempt)
            or plan.outcome(seed=seed, model=model, user_texts=question.user_texts)
        )
        if fault is not None:
            self.books.faults[fault] += 1
        if fault in TRANSIENT_FAULTS and fault is not None:
            return self._play_transient(fault, question, call_id)
        return self._play_outcome(fault, question, call_id, digest, tier)

    def _play_transient(self, fault: str, question: Question, call_id: str) -> Response:
        wire_format = question.wire_format
        if fault == "account_hold" and wire_format == "google_genai":
            words = Words(question.model, "", "account_hold", Tokens(input_tokens(question)[0], 0), call_id)
            return Response(200, answer_body(wire_format, words), self._headers(wire_format, call_id), delayed=True)
        if fault in MESSAGES:
            return self._trouble(wire_format, TroubleError(fault, MESSAGES[fault]), call_id=call_id)
        if fault == "rate_limit_retry_after":
            wait = self.settings.faults.retry_after_seconds
            return self._trouble(wire_format, TroubleError("rate_limit", MESSAGES["rate_limit"], wait_seconds=wait), call_id=call_id)
        if fault == "error_in_200":
            return replace(self._trouble(wire_format, TroubleError("error_500", "Provider returned error"), call_id=call_id), status=200)
        if fault == "html":
            return Response(200, _HTML, content_type="text/html", delayed=True)
        return self._broken(fault, question, call_id)

    def _broken(self, fault: str, question: Question, call_id: str) -> Response:
        played = play(question, self.settings)
        words = self._words(question, replace(played, text="") if fault == "empty" else played, "end", call_id)
        body, headers = answer_body(question.wire_format, words), self._headers(question.wire_format, call_id)
        if fault == "empty":
            return Response(200, body, headers, delayed=True)
        if fault == "malformed":
            return Response(200, body[: len(body) // 2], headers, delayed=True)
        endings: dict[str, Ending] = {"reset": "reset", "stall": "stall", "truncated_body": "cut"}
        return Response(200, body, headers, ending=endings[fault], delayed=True)

    def _play_outcome(self, fault: str | None, question: Question, call_id: str, digest: str, tier: str) -> Response:
        wire_format = question.wire_format
        self._asked[question.model] += 1
        now = self.settings.changed(question.model, self._asked[question.model])
        player = now.persona if now.persona is not None and role_of(question.model) == "target" else question.model
        played = play(replace(question, model=player), self.settings)
        trouble = _outcome_trouble(fault, question)
        # A load balancer deals calls out to its back ends.
        back_end = int(draw(self.settings.seed, "back end", call_id) * len(now.fingerprints)) if now.fingerprints else None
        words = replace(
            self._words(question, played, _stop(fault), call_id),
            usage_readable=fault != "unreadable_usage",
            tier=tier,
            model=now.served_model or question.model,
            fingerprint=None if back_end is None else now.fingerprints[back_end],
        )
        self.quotas.spend(words.tokens.output)
        if trouble is not None:
            words = replace(words, text="", tokens=Tokens(0, 0))
            response = self._trouble(wire_format, trouble, call_id=call_id)
        elif fault == "firewall":
            words = replace(words, text="", tokens=Tokens(0, 0))
            response = Response(403, _FIREWALL, content_type="text/html", delayed=True)
        else:
            served: Headers = (("x-gemini-service-tier", tier),) if wire_format == "google_genai" else ()
            response = Response(200, answer_body(wire_format, words), self._headers(wire_format, call_id) + served, delayed=True)
        truth = truth_of(
            question,
            played,
            words,
            outcome=_outcome(fault, wire_format, words),
            unsafe=None if played.unsafe is None or fault in NOT_ANSWERED else played.unsafe and SIMULATED_UNSAFE in words.text,
            fault=fault,
            keep_texts=self.settings.keep_texts,
        )
        tokens = (words.tokens.input, words.tokens.output, words.tokens.cached)
        return replace(response, body_digest=digest, truth=truth, tokens=tokens, tier=tier, beginnings=words.beginnings)

    def _words(self, question: Question, played: Played, stop: Stop, call_id: str) -> Words:
        text = "" if stop in {"content_filter", "prompt_blocked", "refusal"} else played.text
        reasoning = played.reasoning_tokens if text else 0
        room = question.max_output_tokens
        if stop in {"length", "filtered_reply"}:
            text = cut_to(text, count_tokens(text) // 2)
        if room is not None and text and count_tokens(text) + reasoning > room:
            reasoning = min(reasoning, room)
            text, stop = cut_to(text, room - reasoning), "length"
        used, picture = input_tokens(question)
        share = self.settings.batch_cache_share if question.batch else 1.0
        found = share >= 1.0 or draw(self.settings.seed, "batch cache", call_id) < share
        cached, written, beginnings = self.cache.use(question, found=found) if self.cache is not None else (0, 0, ())
        tokens = Tokens(used, count_tokens(text) + reasoning, reasoning, min(cached, used), min(written, used), picture)
        return Words(question.model, text, stop, tokens, call_id, beginnings=beginnings)

    def _trouble(self, wire_format: WireFormat, trouble: TroubleError, *, call_id: str) -> Response:
        status, body, headers = trouble_body(wire_format, trouble, request_id=f"req_{call_id}")
        return Response(status, body, headers + self._headers(wire_format, call_id), delayed=True)

    def _headers(self, wire_format: WireFormat, call_id: str) -> Headers:
        names = {"openai_chat": "x-request-id", "anthropic_messages": "request-id"}
        own = ((names[wire_format], f"req_{call_id}"),) if wire_format in names else ()
        return own + (self.quotas.headers(wire_format) if self.settings.announce_limits else ())


def _digest(request: Request) -> str:
    digest = sha256(request.path.encode("utf-8", "surrogatepass") + b"\x00")
    digest.update(request.body)
    return digest.hexdigest()


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise TroubleError("bad_request", f"the body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise TroubleError("bad_request", "the body must be a JSON object")
    if data.get("stream"):
        raise TroubleError("bad_request", "the simulator does not stream; leave stream out", parameter="stream")
    return data


def _read(request: Request, body: Mapping[str, Any], model: str) -> Question:
    if request.path == "/v1/chat/completions":
        return read_openai(body)
    if request.path == "/v1/messages":
        return read_anthropic(body, version=request.headers.get("anthropic-version", ""))
    return read_google(body, model=model)


def _check_key(key: str) -> None:
    if key == BAD_KEY:
        raise TroubleError("bad_key", MESSAGES["bad_key"])
    if key == NO_CREDIT_KEY:
        raise TroubleError("no_credit", MESSAGES["no_credit"])


def _known_model(model: str) -> str:
    try:
        check_model(model)
    except UsageError as error:
        raise TroubleError("unknown_model", f"The model `{model}` does not exist: {error}", parameter="model") from None
    return model


def _unknown_path(request: Request) -> TroubleError:
    return TroubleError("unknown_path", f"Invalid URL ({request.method} {request.path})")


def _check(question: Question, *, check_images: bool) -> None:
    _known_model(question.model)
    pictures = question.pictures
    if pictures and question.model.startswith("sim-text-only"):
        raise TroubleError("no_images", f"Image input is not supported by the model {question.model}.", parameter="messages")
    for picture in pictures if check_images else ():
        if picture.real_type is None:
            raise TroubleError("bad_image", "Could not process image: its bytes are no PNG, JPEG, GIF or WebP picture.")
        if question.wire_format == "anthropic_messages" and picture.real_type != picture.claimed_type:
            claim = f"the image was sent as {picture.claimed_type} but appears to be {picture.real_type}"
            raise TroubleError("bad_image", f"Could not process image: {claim}.")


def _stop(fault: str | None) -> Stop:
    stops: dict[str | None, Stop] = {
        "content_filter": "content_filter",
        "prompt_blocked": "prompt_blocked",
        "refusal": "refusal",
        "filtered_reply": "filtered_reply",
        "refusal_beside_words": "refusal_beside_words",
        "truncated_reply": "length",
    }
    return stops.get(fault, "end")


def _outcome_trouble(fault: str | None, question: Question) -> TroubleError | None:
    """The outcomes that a vendor tells as an error; Google blocks a prompt in a 200."""
    if fault == "too_long":
        return TroubleError("too_long", TOO_LONG[question.wire_format])
    if fault == "prompt_blocked" and question.wire_format != "google_genai":
        own = question.wire_format == "anthropic_messages"
        return TroubleError("prompt_blocked", ANTHROPIC_FILTER_MESSAGE if own else MESSAGES["prompt_blocked"])
    return None


def _outcome(fault: str | None, wire_format: WireFormat, words: Words) -> Outcome:
    if fault in {"content_filter", "filtered_reply"}:
        return Outcome.REFUSED if wire_format == "anthropic_messages" else Outcome.BLOCKED_OUTPUT
    if fault in {"refusal", "refusal_beside_words"}:
        return Outcome.BLOCKED_OUTPUT if wire_format == "google_genai" else Outcome.REFUSED
    if fault == "prompt_blocked":
        return Outcome.BLOCKED_OUTPUT if wire_format == "anthropic_messages" else Outcome.BLOCKED_INPUT
    if fault in NOT_ANSWERED:
        return Outcome.ERROR
    return Outcome.TRUNCATED if words.stop == "length" else Outcome.ANSWERED
