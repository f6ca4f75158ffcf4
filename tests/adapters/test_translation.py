"""The one door: every exception class has a kind, every failure has a meaning, and nothing carries the key."""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anthropic
import anyio
import anyio.abc
import google.genai._gaos.errors
import google.genai._interactions
import google.genai.errors
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.adapters.base import Adapter, Timeouts, open_adapter
from safemt_api.adapters.bodies import Body, one_line, parse
from safemt_api.adapters.declines import declined
from safemt_api.adapters.failures import read_failure, status_in_body
from safemt_api.adapters.http_client import open_http_client
from safemt_api.adapters.translation import kind_of
from safemt_api.errors import (
    AccountError,
    ConnectionFailedError,
    DialogueError,
    EndpointError,
    RateLimitedError,
    SafeMTError,
    ServerError,
    StopRunError,
    TransientError,
)
from safemt_api.messages import Call, Outcome
from safemt_api.profiles import Profile, WireFormat, load_profiles

Connect = Callable[..., Adapter]
Serve = Callable[..., Any]
MakeCall = Callable[..., Call]

PROFILES = load_profiles(working_directory=Path(__file__).parent)
VENDORS = sorted(PROFILES)
FORMATS = ("openai_chat", "anthropic_messages", "google_genai", "google_decisions")


def subclasses(base: type[BaseException]) -> Iterator[type[BaseException]]:
    yield base
    for child in base.__subclasses__():
        yield from subclasses(child)


def exceptions_of(module: ModuleType) -> Iterator[type[BaseException]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, BaseException) and not issubclass(value, Warning):
            yield value


def import_all(package: ModuleType) -> None:
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not module.name.rpartition(".")[2].startswith("__"):
            importlib.import_module(module.name)


CLASSES = {
    "openai": {cls for cls in subclasses(openai.OpenAIError) if cls.__module__.startswith("openai")},
    "anthropic": {cls for cls in subclasses(anthropic.AnthropicError) if cls.__module__.startswith("anthropic")},
    "google": {
        *exceptions_of(google.genai.errors),
        *subclasses(google.genai._interactions.GeminiNextGenAPIClientError),
        *(getattr(google.genai._gaos.errors, name) for name in google.genai._gaos.errors.__all__ if not name.endswith("Data")),
    },
    "httpx2": set(exceptions_of(httpx2)),
}


INNER = google.genai._interactions
BY_BASE: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
    ("garbled", (openai.APIResponseValidationError, anthropic.APIResponseValidationError, INNER.APIResponseValidationError)),
    ("garbled", (google.genai._gaos.errors.ResponseValidationError, google.genai.errors.UnknownApiResponseError)),
    ("garbled", (google.genai.errors.ContinuationInterruptedError, httpx2.DecodingError, httpx2.StreamError, httpx2.SSEError)),
    ("address", (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.LocalProtocolError, httpx2.TooManyRedirects, httpx2.CookieConflict)),
    ("network", (INNER.APIConnectionError, google.genai._gaos.errors.NoResponseError)),
    ("status", (openai.APIStatusError, anthropic.APIStatusError, google.genai.errors.APIError, INNER.APIError)),
    ("status", (google.genai._gaos.errors.GenAiError, httpx2.HTTPStatusError)),
    ("network", (openai.APIError, anthropic.APIError, httpx2.HTTPError)),
)
"""What each family of exceptions stands for, the special before the general; all others are raised by parts that no adapter uses."""


@pytest.mark.parametrize("sdk", CLASSES)
def test_every_exception_class_of_the_sdk_counts_as_what_its_family_stands_for(sdk: str) -> None:
    assert len(CLASSES[sdk]) > 10
    for cls in CLASSES[sdk]:
        right = next((kind for kind, family in BY_BASE if issubclass(cls, family)), "setup")
        assert kind_of(cls.__new__(cls)) == right, cls


def test_a_class_of_a_coming_release_counts_as_its_base() -> None:
    class QuietHoursError(anthropic.RateLimitError):
        pass

    assert kind_of(QuietHoursError.__new__(QuietHoursError)) == "status"
    assert kind_of(KeyError("x")) == "setup"


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (401, {"error": "Unauthorized"}, AccountError, "does not accept the API key .HTTP 401.: Unauthorized; check ACME_API_KEY"),
        (401, {"error": {"message": "Incorrect API key provided: sk-ab****wxyz."}}, AccountError, r"provided: \[key\]; check ACME"),
        (403, {"error": {"message": "Project has no access"}}, AccountError, "refuses access"),
        (
            403,
            {"error": {"code": "unsupported_country_region_territory", "message": "Country, region, or territory not supported"}},
            AccountError,
            "location",
        ),
        (403, {"error": {"code": "account_deactivated", "message": "Your account has been deactivated"}}, AccountError, "stops at once"),
        (
            400,
            {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***p"},
            AccountError,
            "check ACME_API_KEY",
        ),
        (402, {"error": {"message": "Insufficient Balance"}}, AccountError, "no credit"),
        (
            402,
            {"error": {"code": 402, "message": "x", "metadata": {"reason": "in_flight_budget_exhausted"}}},
            RateLimitedError,
            "slow down",
        ),
        (429, {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}, AccountError, "no credit"),
        (429, {"error": {"message": "Rate limit reached on tokens per min (TPM): Limit 10"}}, RateLimitedError, "slow down"),
        (
            429,
            {"error": {"message": "Rate limit reached on requests per day (RPD): Limit 1000. Please try again in 1h26m."}},
            AccountError,
            "daily quota.*1 h 26 min",
        ),
        (429, {"error": {"message": "Limit on requests per day (RPD): 10000. Please try again in 8.64s."}}, RateLimitedError, "slow down"),
        (429, "Too many", RateLimitedError, "Too many"),
        (
            404,
            {"error": {"message": "The model `m-1` does not exist. Valid aliases: tiny.", "type": "NotFoundError", "code": 404}},
            AccountError,
            "does not know the model 'm-1'",
        ),
        (404, {"error": {"message": 'model "m-1" not found, try pulling it first', "type": "api_error"}}, AccountError, "try pulling"),
        (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist"}}, AccountError, "m-1"),
        (400, {"error": {"message": "m-1 is not a valid model ID", "code": 400}}, AccountError, "does not know"),
        (400, {"error": {"message": "Model Not Exist"}}, AccountError, "does not know"),
        (404, {"detail": "Not Found"}, EndpointError, "no such path .* ends in /v1"),
        (405, {"detail": "Method Not Allowed"}, EndpointError, "no such path"),
        (404, "<html><h1>404</h1></html>", EndpointError, "no such path"),
        (308, "", EndpointError, "no such path"),
        (
            400,
            {
                "error": {
                    "message": "This model's maximum context length is 2048 tokens. However, your prompt contains 2049",
                    "param": "input_tokens",
                    "code": 400,
                }
            },
            DialogueError,
            "maximum context length",
        ),
        (
            400,
            {
                "error": {
                    "message": "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
                    "param": "max_tokens",
                    "code": 400,
                }
            },
            DialogueError,
            "at least 1",
        ),
        (
            400,
            {"error": {"message": "max_tokens=5000 cannot be greater than max_model_len=2048.", "param": "max_tokens", "code": 400}},
            StopRunError,
            "does not take max_tokens",
        ),
        (
            400,
            {"error": {"message": "temperature must be non-negative, got -1.0.", "param": "temperature", "code": 400}},
            StopRunError,
            "temperature",
        ),
        (
            400,
            {"error": {"message": "Grammar error: Invalid type: nonsense", "type": "BadRequestError", "param": None, "code": 400}},
            StopRunError,
            "Grammar",
        ),
        (400, {"error": {"message": "Failed to load image: image file is truncated", "code": 400}}, DialogueError, "truncated"),
        (
            400,
            {"error": {"message": "At most 1 image(s) may be provided in one prompt.", "param": "image", "code": 400}},
            DialogueError,
            "At most 1",
        ),
        (400, {"error": {"message": "At most 0 image(s) may be provided in one prompt.", "code": 400}}, StopRunError, "takes no pictures"),
        (404, {"error": {"message": "No endpoints found that support image input", "code": 404}}, StopRunError, "takes no pictures"),
        (400, {"error": {"message": "Invalid content type. image_url is only supported by certain models."}}, StopRunError, "no pictures"),
        (
            400,
            {"error": {"message": "You uploaded an unsupported image. Please use one of: png, jpeg"}},
            DialogueError,
            "unsupported image",
        ),
        (400, {"error": {"message": "Conversation roles must alternate", "code": 400}}, DialogueError, "alternate"),
        (400, {"error": {"message": "Failed to generate JSON.", "code": "json_validate_failed"}}, ServerError, "JSON"),
        (
            413,
            {"error": {"message": "Request too large for model on tokens per minute (TPM)", "code": "rate_limit_exceeded"}},
            DialogueError,
            "too large",
        ),
        (422, {"detail": [{"loc": ["body"], "msg": "Field required"}]}, DialogueError, "Field required"),
        (408, {}, ServerError, "HTTP 408"),
        (409, {}, ServerError, "HTTP 409"),
        (499, {}, ServerError, "HTTP 499"),
        (500, {"error": {"message": "EngineCore encountered an issue.", "code": 500}}, ServerError, "EngineCore"),
        (503, {"error": {"message": "The engine is currently busy", "code": 503}}, ServerError, "busy"),
        (503, "<html><title>503</title></html>", ServerError, "acme failed .HTTP 503.$"),
    ],
)  # fmt: skip (a table)
async def test_answered_failures_are_told_apart(
    *, connect: Connect, serve: Serve, make_call: MakeCall, status: int, body: Any, kind: type[Exception], says: str
) -> None:
    with pytest.raises(SafeMTError, match=says) as caught:
        await connect("openai_chat", serve(body, status)).send(make_call())
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("status", "billed"),
    [(500, False), (503, False), (529, False), (425, False), (408, True), (499, True), (502, True), (504, True), (520, True), (524, True)],
)
async def test_a_gateways_failure_may_have_been_billed_and_a_vendors_own_was_not(
    *, connect: Connect, serve: Serve, make_call: MakeCall, status: int, billed: bool
) -> None:
    for wire_format in ("openai_chat", "anthropic_messages", "google_genai"):
        with pytest.raises(ServerError) as caught:
            await connect(wire_format, serve({"error": {"message": "x"}}, status)).send(make_call())
        assert caught.value.maybe_billed is billed


async def test_the_wait_that_the_vendor_asks_for_is_carried(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    for status in (429, 503):
        with pytest.raises(TransientError) as caught:
            await connect("openai_chat", serve({"error": {"message": "x"}}, status, {"retry-after": "7"})).send(make_call())
        assert (caught.value.retry_after_seconds, caught.value.status) == (7.0, status)


async def test_the_same_server_failure_reads_the_same_each_time(connect: Connect, serve: Serve, make_call: MakeCall) -> None:
    sentences = set()
    for number in ("req_0a1b2c", "req_9z8y7x"):
        body = {"error": {"message": f"Failed, quote {number} and 1f0e3dad-9990-4345-a9a0-{number[4:]}123456.", "code": "server_error"}}
        with pytest.raises(ServerError) as caught:
            await connect("openai_chat", serve(body, 500)).send(make_call())
        sentences.add((str(caught.value).replace(number[4:], ""), caught.value.code))
    assert len({code for _, code in sentences}) == 1
    assert all("req_" not in sentence for sentence, _ in sentences)


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize(
    ("raised", "connected", "billed"),
    [
        (httpx2.ConnectError("refused"), False, False),
        (httpx2.ConnectTimeout("late"), False, False),
        (httpx2.ReadTimeout("late"), True, True),
        (httpx2.ReadError("reset"), True, True),
        (httpx2.WriteError("reset"), True, True),
        (httpx2.RemoteProtocolError("closed"), True, True),
    ],
)
async def test_broken_connections_say_how_far_they_came(
    *, connect: Connect, make_call: MakeCall, wire_format: WireFormat, raised: Exception, connected: bool, billed: bool
) -> None:
    def handler(_request: httpx2.Request) -> httpx2.Response:
        raise raised

    with pytest.raises(ConnectionFailedError) as caught:
        await connect(wire_format, handler).send(make_call())
    assert (caught.value.connected, caught.value.maybe_billed) == (connected, billed)


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500])
async def test_the_key_is_in_no_error_nor_in_what_led_to_it(
    *, connect: Connect, serve: Serve, make_call: MakeCall, key: str, wire_format: WireFormat, status: int
) -> None:
    body = {"error": {"message": f"Bad request with key {key} and {key}", "code": key, "status": key, "type": key}}
    with pytest.raises(SafeMTError) as caught:
        await connect(wire_format, serve(body, status)).send(make_call())
    assert key not in "".join(traceback.format_exception(caught.value))
    assert key not in repr(vars(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_an_undecodable_compression_is_a_server_failure(connect: Connect, make_call: MakeCall, wire_format: WireFormat) -> None:
    class Raw(httpx2.AsyncByteStream):
        async def __aiter__(self) -> Any:
            yield b"not gzip at all"

    def handler(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-encoding": "gzip"}, stream=Raw())

    with pytest.raises(ServerError, match="could not be read"):
        await connect(wire_format, handler).send(make_call())


async def _hang_up(stream: anyio.abc.SocketStream, answer: bytes) -> None:
    async with stream:
        await stream.receive()
        if answer:
            await stream.send(answer)


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize("answer", [b"", b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"choices"'])
async def test_a_real_connection_that_breaks_may_have_been_billed(
    *, make_profile: Callable[..., Profile], make_call: MakeCall, wire_format: WireFormat, answer: bytes
) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 (anyio's typed attribute, not Django's)
    timeouts = Timeouts(connect_seconds=2, idle_seconds=2, total_seconds=4)
    async with listener, open_http_client(connections=1, timeouts=timeouts) as client, anyio.create_task_group() as group:
        group.start_soon(listener.serve, lambda stream: _hang_up(stream, answer))
        adapter = open_adapter(
            profile=make_profile(wire_format),
            wire_format=wire_format,
            base_url=f"http://127.0.0.1:{port}",
            api_key=None,
            client=client,
            timeouts=timeouts,
        )  # fmt: skip (one call)
        with pytest.raises(ConnectionFailedError) as caught:
            await adapter.send(make_call())
        group.cancel_scope.cancel()
    assert (caught.value.connected, caught.value.maybe_billed) == (True, True)


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_a_closed_port_is_no_connection(make_profile: Callable[..., Profile], make_call: MakeCall, wire_format: WireFormat) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 (anyio's typed attribute, not Django's)
    await listener.aclose()
    timeouts = Timeouts(connect_seconds=2, idle_seconds=2, total_seconds=4)
    async with open_http_client(connections=1, timeouts=timeouts) as client:
        adapter = open_adapter(
            profile=make_profile(wire_format),
            wire_format=wire_format,
            base_url=f"http://127.0.0.1:{port}",
            api_key=None,
            client=client,
            timeouts=timeouts,
        )  # fmt: skip (one call)
        with pytest.raises(ConnectionFailedError) as caught:
            await adapter.send(make_call())
    assert (caught.value.connected, caught.value.maybe_billed) == (False, False)


ERROR_FIELDS = [
    "error",
    "message",
    "code",
    "type",
    "param",
    "status",
    "details",
    "detail",
    "metadata",
    "innererror",
    "reasons",
    "violations",
]
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ERROR_FIELDS), inner, max_size=5),
    max_leaves=15,
)


@given(body=JSON, status=st.sampled_from([0, 200, 301, 400, 401, 403, 404, 418, 429, 500, 599]), vendor=st.sampled_from(VENDORS))
def test_no_body_breaks_the_reading_of_a_failure(body: Any, status: int, vendor: str) -> None:
    failure = read_failure(status=status, headers={}, body=Body("", body))
    reply = declined(failure, PROFILES[vendor])
    assert reply is None or reply.outcome in (Outcome.BLOCKED_INPUT, Outcome.BLOCKED_OUTPUT, Outcome.REFUSED, Outcome.TRUNCATED)
    assert status_in_body(body) in range(600)


@pytest.mark.parametrize("status", [401, 402, 404, 429, 500, 503])
def test_no_failure_of_account_pace_or_server_is_taken_for_a_decline(status: int) -> None:
    body = {"error": {"code": "content_filter", "message": "content policy"}}
    assert declined(read_failure(status=status, headers={}, body=Body("", body)), PROFILES["openai"]) is None


def test_invalid_prompt_alone_is_no_decline() -> None:
    body = {"error": {"code": "invalid_prompt", "message": "Invalid prompt: messages do not conform to the schema."}}
    assert declined(read_failure(status=400, headers={}, body=Body("", body)), PROFILES["openai"]) is None


def test_vendor_words_are_shown_on_one_clean_line() -> None:
    assert one_line("a\x1b[31m\n\tb\x00c", 300) == "a [31m b c"
    assert len(one_line("x" * 10_000, 300)) == 300


def test_a_deeply_nested_body_is_no_json() -> None:
    assert parse("[" * 200_000) is None
