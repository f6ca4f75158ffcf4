"""The one door where a vendor's failure becomes ours: an SDK's exception, or an error that hides in an HTTP 200.

Three tables decide. ``sdk_errors.KINDS`` says for each exception class of each SDK what kind of thing happened. An error answer is either
the vendor's word that it declined (``declines``: that becomes a ``Reply``), or a failure with a meaning (``failure_rules``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import anyio

from safemt_api.adapters.base import QuotaHint, Received
from safemt_api.adapters.bounds import OversizeError, room_for
from safemt_api.adapters.declines import declined
from safemt_api.adapters.failure_rules import Case, is_on_hold, meaning
from safemt_api.adapters.failures import Failure, read_failure, status_in_body
from safemt_api.adapters.headers import quota_hints
from safemt_api.adapters.reading import Body, one_line, read_body
from safemt_api.adapters.sdk_errors import NOT_CONNECTED, Kind, kind_of
from safemt_api.adapters.secrets import scrub
from safemt_api.errors import ConnectionFailedError, DialogueError, EndpointError, SafeMTError, ServerError, StopRunError
from safemt_api.messages import Call, Reply
from safemt_api.profiles import Profile
from safemt_api.tokens import most_output_tokens

REQUEST_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id", "x-goog-request-id")

Answer = tuple[bytes, Mapping[str, str]] | Exception
"""Body and headers of a reply, or the SDK's exception: returned rather than raised, so that no exception of ours has it as its context.
SDK exceptions carry the request, and with it the key."""

Post = Callable[[Call], Awaitable[Answer]]
Read = Callable[[Body, Mapping[str, str], str], Reply]
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
        with room_for(most_output_tokens(call, self.profile.facts(model))):
            answer = await post(call)
        if isinstance(answer, Exception):
            reply, headers = self.declined_or_raise(answer, model=model)
        else:
            content, headers = answer
            reply = read(read_body(content, self.secret), headers, model)
        return self.received(reply, headers, started=started)

    def quotas(self, headers: Mapping[str, str]) -> tuple[QuotaHint, ...]:
        """The quota hints of a response's headers."""
        return quota_hints(headers, now_utc=_now_utc(), requests_window_seconds=float(self.profile.limits.requests_window_seconds))

    def declined_or_raise(self, error: Exception, *, model: str) -> tuple[Reply, Mapping[str, str]]:
        """The reply that an SDK's exception stands for, with the response's headers, where the vendor declined.

        Raises:
            CallError, StopRunError: In all other cases.
        """
        kind = kind_of(error)
        response = getattr(error, "response", None)
        if kind != "status" or response is None:
            raise self._without_status(kind, error)
        body = read_body(response.content, self.secret)
        failure = read_failure(status=response.status_code, headers=response.headers, body=body)
        return self.reply_or_raise(failure, model=model), response.headers

    def reply_or_raise(self, failure: Failure, *, model: str) -> Reply:
        """The reply where the vendor declined.

        Raises:
            CallError, StopRunError: In all other cases.
        """
        reply = None if is_on_hold(failure) else declined(failure, self.profile)
        if reply is not None:
            return reply
        raise meaning(Case(failure, self.profile, self.base_url, model))

    def failed_inside(self, body: Body, headers: Mapping[str, str], *, model: str) -> Reply:
        """The reply where an HTTP 200 holds an error by which the vendor declined (OpenRouter answers so).

        Raises:
            CallError, StopRunError: In all other cases, as if the code in the body were the status.
        """
        failure = read_failure(status=status_in_body(body.value), headers=headers, body=body)
        return self.reply_or_raise(failure, model=model)

    def received(self, reply: Reply, headers: Mapping[str, str], *, started: float) -> Received:
        """The reply with what the headers add to it; ``started`` is the loop's time before the call."""
        named = next((headers[name] for name in REQUEST_ID_HEADERS if name in headers), None)
        request_id = one_line(scrub(named, self.secret), 200) if named else reply.request_id
        latency_seconds = anyio.current_time() - started
        return Received(replace(reply, request_id=request_id, latency_seconds=latency_seconds), self.quotas(headers))

    def unusable(self, what: str) -> ServerError:
        """The failure of an HTTP 200 that is no answer; it may well have been billed."""
        return ServerError(f"{self.profile.name} sent no usable reply: {what}", status=200, code="unusable_reply", maybe_billed=True)

    def _oversize(self, error: OversizeError) -> DialogueError:
        # Not tried again: the same call would bring the same. What came with a 2xx was an answer, and will have been billed.
        sentence = f"{self.profile.name} sent {error.size} (HTTP {error.status}), far beyond what the reply can need; nothing of it is kept"
        return DialogueError(sentence, status=error.status, code="oversize", maybe_billed=error.status < 300)

    def _without_status(self, kind: Kind, error: Exception) -> SafeMTError:
        cause = _http_cause(error)
        name = type(cause).__name__
        if isinstance(cause, OversizeError):
            return self._oversize(cause)
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
        if isinstance(cause, OversizeError) or type(cause).__module__.partition(".")[0] == "httpx2":
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
