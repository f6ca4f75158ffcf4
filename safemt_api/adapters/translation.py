"""The one door where a vendor's failure becomes ours: an SDK's exception, or an error that hides in an HTTP 200.

Three tables decide. ``KINDS`` says by the base classes of each SDK's exceptions what kind of thing happened. An error answer is either the
vendor's word that it declined (``declines``: that becomes a ``Reply``), or a failure with a meaning (``failures``).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import anyio

from safemt_api.adapters.base import Connection, Received
from safemt_api.adapters.bodies import Body, one_line, read_body, scrub
from safemt_api.adapters.declines import declined
from safemt_api.adapters.failures import Case, Failure, is_on_hold, meaning, read_failure, status_in_body
from safemt_api.adapters.headers import quota_hints
from safemt_api.adapters.http_client import OversizeError, room_for
from safemt_api.errors import (
    CallError,
    ConnectionFailedError,
    DialogueError,
    EndpointError,
    NoCapacityError,
    ServerError,
    StopRunError,
)
from safemt_api.messages import Call, Reply
from safemt_api.tokens import most_output_tokens

REQUEST_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id", "x-goog-request-id")

FLEX_SECONDS = 900.0
"""How long a reply in the flex tier is waited for: https://developers.openai.com/api/docs/guides/flex-processing advises 15 minutes, and
https://ai.google.dev/gemini-api/docs/flex-inference says that answers take 1 to 15."""

FLEX_REFUSALS = frozenset({498, 503})
"""By which a flex call without room is turned away beside a 429 that says so: Groq's (https://console.groq.com/docs/flex-processing) and
Google's status (https://asadani.github.io/gemini-flex-inference, 2nd-hand)."""

Kind = Literal["status", "network", "garbled", "address", "setup"]
"""``status``: an answer with a status; ``network``: no or half an answer; ``garbled``: an answer that cannot be read;
``address``: the URL cannot be used; ``setup``: raised by parts of the SDK that no adapter uses."""

_BASES: Mapping[Kind, str] = {
    "status": """
        openai.APIStatusError anthropic.APIStatusError httpx2.HTTPStatusError google.APIError google.APIStatusError google.GenAiError
    """,
    "network": "openai.APIError anthropic.APIError google.APIConnectionError google.NoResponseError httpx2.HTTPError",
    "garbled": """
        openai.APIResponseValidationError anthropic.APIResponseValidationError google.APIResponseValidationError
        google.ResponseValidationError google.UnknownApiResponseError google.ContinuationInterruptedError
        httpx2.DecodingError httpx2.StreamError httpx2.SSEError builtins.UnicodeDecodeError builtins.RecursionError
    """,
    "address": """
        httpx2.UnsupportedProtocol httpx2.InvalidURL httpx2.TooManyRedirects httpx2.LocalProtocolError httpx2.CookieConflict
    """,
}
"""By package and class, so that no SDK is imported to read it. Google's has a second client inside, with errors of its own."""

KINDS: Mapping[str, Kind] = {name: kind for kind, names in _BASES.items() for name in names.split()}

NOT_CONNECTED = frozenset({"ConnectError", "ConnectTimeout", "ProxyError", "PoolTimeout"})
"""httpx2 exceptions before the server had accepted the connection: nothing was sent, nothing can be billed."""

NETWORK_TROUBLES = {
    "ConnectError": "no connection (refused, unknown host or TLS)",
    "ConnectTimeout": "no connection in time",
    "ProxyError": "the proxy made no connection",
    "PoolTimeout": "no free connection in time",
    "ReadTimeout": "connected, but no reply in time",
    "APITimeoutError": "connected, but no reply in time",
    "WriteTimeout": "the request could not be sent in time",
}


def kind_of(error: BaseException) -> Kind:
    """What kind of thing happened, by the nearest class that ``KINDS`` lists; ``setup`` for strangers."""
    names = (f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(error).__mro__)
    return next((KINDS[name] for name in names if name in KINDS), "setup")


Answer = tuple[bytes, Mapping[str, str]] | Exception
"""Body and headers of a reply, or the SDK's exception: returned rather than raised, so that no exception of ours has it as its context.
SDK exceptions carry the request, and with it the key."""

Post = Callable[[Call], Awaitable[Answer]]
Read = Callable[[Body, Mapping[str, str], str], Reply]
"""From a body that is a JSON object without an error at its top, the headers and the model."""


@dataclass(frozen=True, slots=True)
class Translator:
    """Translates for one address of one vendor; the API key is blanked wherever a server echoes it."""

    connection: Connection

    @property
    def vendor(self) -> str:
        """The vendor's name."""
        return self.connection.profile.name

    async def exchange(self, call: Call, *, post: Post, read: Read) -> Received:
        """Send the call with ``post``, understand what comes back with ``read``.

        Raises:
            CallError, StopRunError: As ``Adapter.send`` says.
        """
        model, started = call.route.model, anyio.current_time()
        profile, secret, flex = self.connection.profile, self.connection.api_key, call.service_tier == "flex"
        with room_for(most_output_tokens(call, profile.facts(model)), patience_seconds=FLEX_SECONDS if flex else 0.0):
            answer = await post(call)
        if isinstance(answer, Exception):
            try:
                reply, headers = self.declined_or_raise(answer, model=model)
            except ServerError as error:
                if not flex or error.status not in FLEX_REFUSALS:
                    raise
                raise NoCapacityError(str(error), status=error.status, code=error.code) from None
        else:
            content, headers = answer
            reply = self.read(read_body(content, secret), headers, model, read)
        named = next((headers[name] for name in REQUEST_ID_HEADERS if name in headers), None)
        request_id = one_line(scrub(named, secret), 200) if named else reply.request_id
        now_utc = datetime.now(UTC)
        quotas = quota_hints(headers, now_utc=now_utc, requests_window_seconds=float(profile.limits.requests_window_seconds))
        told = replace(
            reply,
            request_id=request_id,
            latency_seconds=anyio.current_time() - started,
            received_utc=now_utc.isoformat(timespec="milliseconds"),
        )
        return Received(told, quotas)

    def read(self, body: Body, headers: Mapping[str, str], model: str, read: Read) -> Reply:
        """The reply in an answer that came with HTTP 200, which may hold an error all the same (OpenRouter answers so).

        Raises:
            CallError, StopRunError: It holds a failure, or is no answer.
        """
        if body.fields.get("error"):
            return self.failed_inside(body, headers, model=model)
        if not body.fields:
            raise self.unusable("it is not a JSON object")
        return read(body, headers, model)

    def declined_or_raise(self, error: Exception, *, model: str) -> tuple[Reply, Mapping[str, str]]:
        """The reply that an SDK's exception stands for, with the response's headers, where the vendor declined.

        Raises:
            CallError, StopRunError: In all other cases.
        """
        kind = kind_of(error)
        response = getattr(error, "response", None)
        if kind != "status" or response is None:
            raise self._without_status(kind, error)
        body = read_body(response.content, self.connection.api_key)
        failure = read_failure(status=response.status_code, headers=response.headers, body=body)
        return self.reply_or_raise(failure, model=model), response.headers

    def failure(self, error: Exception, *, model: str = "") -> CallError | StopRunError:
        """Our exception for an SDK's that ended something else than a call (a batch's upload, a look at its state)."""
        try:
            reply, _ = self.declined_or_raise(error, model=model)
        except (CallError, StopRunError) as ours:
            return ours.with_traceback(None)
        return DialogueError(f"{self.vendor} rejects the request: {reply.detail or reply.finish_reason}")

    def row(self, value: object, *, status: int, model: str, read: Read) -> Reply | CallError | StopRunError:
        """What became of a row of a batch, whose ``value`` is what the call alone would have been answered with under ``status``."""
        body = Body(json.dumps(value), value)
        try:
            if status == 200:
                reply = self.read(body, {}, model, read)
            else:
                reply = self.reply_or_raise(read_failure(status=status, headers={}, body=body), model=model)
        except (CallError, StopRunError) as error:
            return error.with_traceback(None)
        return replace(reply, served_tier="batch", received_utc=datetime.now(UTC).isoformat(timespec="milliseconds"))

    def reply_or_raise(self, failure: Failure, *, model: str) -> Reply:
        """The reply where the vendor declined.

        Raises:
            CallError, StopRunError: In all other cases.
        """
        profile = self.connection.profile
        reply = None if is_on_hold(failure) else declined(failure, profile)
        if reply is not None:
            return reply
        raise meaning(Case(failure, profile, self.connection.base_url, model))

    def failed_inside(self, body: Body, headers: Mapping[str, str], *, model: str) -> Reply:
        """The reply where an HTTP 200 holds an error by which the vendor declined.

        Raises:
            CallError, StopRunError: In all other cases, as if the code in the body were the status.
        """
        failure = read_failure(status=status_in_body(body.value), headers=headers, body=body)
        return self.reply_or_raise(failure, model=model)

    def unusable(self, what: str) -> ServerError:
        """The failure of an HTTP 200 that is no answer; it may well have been billed."""
        return ServerError(f"{self.vendor} sent no usable reply: {what}", status=200, code="unusable_reply", maybe_billed=True)

    def _without_status(self, kind: Kind, error: Exception) -> CallError | StopRunError:
        # The error of the HTTP layer that the SDK's own stands for.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OversizeError) and type(cause).__module__.partition(".")[0] != "httpx2":
            cause = cause.__cause__
        cause = error if cause is None else cause
        name = type(cause).__name__
        if isinstance(cause, OversizeError):
            # Not tried again: the same call would bring the same. What came with a 2xx was an answer, and will have been billed.
            sentence = f"{self.vendor} sent {cause.size} (HTTP {cause.status}), far beyond what the reply can need; nothing of it is kept"
            return DialogueError(sentence, status=cause.status, code="oversize", maybe_billed=cause.status < 300)
        if kind == "network":  # what the SDKs call a connection error may be any trouble of the HTTP layer
            kind = kind_of(cause)
        if kind == "network":
            connected = name not in NOT_CONNECTED
            happened = NETWORK_TROUBLES.get(name, f"the connection broke before the reply was complete ({name})")
            return ConnectionFailedError(f"{self.vendor}: {happened}", connected=connected, maybe_billed=connected)
        if kind == "address":
            return EndpointError(f"{self.connection.base_url} cannot be used as an address ({name}): check --base-url")
        if kind == "garbled":
            return self.unusable(f"it could not be read ({name})")
        return StopRunError(f"the SDK for {self.vendor} failed before anything was sent ({name}); please report this")
