"""What counts as the vendor's word that it declined, and what only looks like it: a decline is safe, a failure is missing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safemt_api.adapters.base import Adapter
from safemt_api.adapters.bodies import Body
from safemt_api.adapters.declines import DECLINES, declined
from safemt_api.adapters.failures import read_failure
from safemt_api.errors import AccountError, CallError, DialogueError, EndpointError, InterceptedError, SafeMTError
from safemt_api.messages import Call, Outcome
from safemt_api.profiles import Decline, Profile, WireFormat, load_profiles

Connect = Callable[..., Adapter]
Serve = Callable[..., Any]
MakeCall = Callable[..., Call]

PROFILES = load_profiles(working_directory=Path(__file__).parent)
FORMATS: tuple[WireFormat, ...] = ("openai_chat", "anthropic_messages", "google_genai")
VENDOR_OF: dict[str, str] = {"openai_chat": "openai", "anthropic_messages": "anthropic", "google_genai": "google"}
CONTEXT = "This model's maximum context length is 128000 tokens"


def outcome(status: int, body: Any, vendor: str) -> Outcome | None:
    reply = declined(read_failure(status=status, headers={}, body=Body("", body)), PROFILES[vendor])
    return None if reply is None else reply.outcome


def error(message: str, code: str | None = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code, **more}}


@pytest.mark.parametrize(
    ("vendor", "status", "body", "expected"),
    [
        ("azure-openai", 400, error("Filtered.", "content_filter"), Outcome.BLOCKED_INPUT),
        ("azure-openai", 400, error("x", None, innererror={"code": "ResponsibleAIPolicyViolation"}), Outcome.BLOCKED_INPUT),
        (
            "openai",
            400,
            error("Invalid prompt: your prompt was flagged as potentially …", "invalid_prompt"),
            Outcome.BLOCKED_INPUT,
        ),
        ("openai", 400, error("Invalid prompt: we’ve limited access to this content for …", "invalid_prompt"), Outcome.BLOCKED_INPUT),
        ("openai", 400, error("No.", "bio_policy"), Outcome.BLOCKED_INPUT),
        ("xai", 403, {"code": "permission-denied", "error": "Content violates usage guidelines. Failed check: X"}, Outcome.BLOCKED_INPUT),
        ("deepseek", 400, error("Content Exists Risk", "invalid_request_error"), Outcome.BLOCKED_INPUT),
        ("dashscope", 400, error("Input text data may …", "data_inspection_failed"), Outcome.BLOCKED_INPUT),
        ("dashscope", 400, error("Output data may contain inappropriate content.", "data_inspection_failed"), Outcome.BLOCKED_OUTPUT),
        ("openrouter", 403, error("Flagged", metadata={"reasons": ["x"], "flagged_input": "…"}), Outcome.BLOCKED_INPUT),
        ("openrouter", 403, error("The provider declined.", metadata={"error_type": "refusal"}), Outcome.REFUSED),
        ("anthropic", 400, error("Output blocked by content filtering policy", None), Outcome.BLOCKED_OUTPUT),
    ],
)  # fmt: skip (a table)
def test_each_vendors_own_sign_is_known(vendor: str, status: int, body: Any, expected: Outcome) -> None:
    assert outcome(status, body, vendor) is expected


SENTENCES = (
    "Content Exists Risk",
    "Content violates usage guidelines. Failed check: X",
    "Output blocked by content filtering policy",
    "The response was filtered due to the prompt triggering the content management policy.",
    "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
    "Input data may contain inappropriate content.",
    "Output data may contain inappropriate content.",
    "Your request was rejected as a result of our safety system.",
    "requires moderation and your input was flagged",
)  # fmt: skip (a table)


@pytest.mark.parametrize(("sentence", "vendor"), list(itertools.product(SENTENCES, sorted(PROFILES))))
def test_no_sentence_counts_beside_a_code_that_says_otherwise(sentence: str, vendor: str) -> None:
    for body in (
        error(f"{CONTEXT}: {sentence}", "context_length_exceeded"),
        error(sentence, "context_length_exceeded"),
        error(sentence, "string_above_max_length"),
        error(sentence, "invalid_image_format"),
    ):
        assert outcome(400, body, vendor) is None


@pytest.mark.parametrize(("sentence", "vendor", "status"), list(itertools.product(SENTENCES, sorted(PROFILES), (400, 403, 422))))
def test_an_error_that_quotes_the_prompt_is_no_decline(sentence: str, vendor: str, status: int) -> None:
    for body in (
        error(f"Invalid value for 'messages[0].content': '{sentence}'. Expected something shorter."),
        {"detail": [{"type": "string_too_long", "loc": ["body", "messages"], "msg": "String too long", "input": sentence}]},
        {"detail": [{"msg": sentence, "input": sentence}]},
        {"detail": sentence},
        {"message": sentence},
    ):
        assert outcome(status, body, vendor) is None


@pytest.mark.parametrize(("sentence", "vendor"), list(itertools.product(SENTENCES, sorted(PROFILES))))
def test_a_firewalls_page_or_json_is_no_decline(sentence: str, vendor: str) -> None:
    page = f"<html><head><title>403 Forbidden</title></head><body>{sentence}</body></html>"
    for body in (
        Body(page, None),
        Body(sentence, None),
        Body("", {"error": sentence}),
        Body("", {"code": "content_filter", "message": "x"}),
    ):
        failure = read_failure(status=403, headers={}, body=body)
        assert declined(failure, PROFILES[vendor]) is None
        assert not failure.is_the_vendors


def test_a_sentence_of_one_vendor_says_nothing_from_another() -> None:
    assert outcome(400, error("Content Exists Risk"), "openai") is None
    assert outcome(403, {"code": "permission-denied", "error": "Content violates usage guidelines."}, "openai") is None
    assert outcome(400, error("Output blocked by content filtering policy"), "openai") is None


@pytest.mark.parametrize("row", [row for rows in DECLINES.values() for row in rows], ids=lambda row: " ".join(row.codes) or row.sentence)
def test_every_row_has_a_source_and_codes_in_lower_case(row: Decline) -> None:
    assert row.source
    assert all(code == code.lower() for code in row.codes)


def test_a_row_without_any_sign_is_refused() -> None:
    with pytest.raises(ValueError, match="codes or a sentence"):
        Decline.model_validate({"outcome": "refused", "statuses": [400], "source": "x", "checked": "2026-11-21"})


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, "<html><h1>Access denied</h1>This request violates our content management policy.</html>"),
        (403, "Request blocked: content exists risk"),
        (403, {"message": "Forbidden"}),
        (403, {"error": "Forbidden", "policy": "safety"}),
        (403, {"detail": "content_filter"}),
        (403, ""),
    ],
)
async def test_a_403_of_something_on_the_way_fails_one_dialogue(
    *, connect: Connect, serve: Serve, make_call: MakeCall, wire_format: WireFormat, status: int, body: Any
) -> None:
    with pytest.raises(
        InterceptedError, match=r"something before acme refuses the request \(HTTP 403, and no error of a model API\)"
    ) as caught:
        await connect(wire_format, serve(body, status)).send(make_call())
    assert not caught.value.maybe_billed


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize("body", [error("Project has no access"), {"code": "permission-denied", "error": "Access denied"}])
async def test_a_403_of_the_vendor_still_ends_the_run(
    *, connect: Connect, serve: Serve, make_call: MakeCall, wire_format: WireFormat, body: Any
) -> None:
    with pytest.raises(AccountError, match="refuses access"):
        await connect(wire_format, serve(body, 403)).send(make_call())


LONG = "my account was suspended and my credit balance is too low, the model does not exist and the API key not valid, what now?"


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("quote", ["'", '"', "`"])
async def test_words_that_are_only_quoted_do_not_end_the_run(
    *, connect: Connect, serve: Serve, make_call: MakeCall, wire_format: WireFormat, status: int, quote: str
) -> None:
    body = error(f"Invalid value for messages[1].content: {quote}Hello, {LONG}{quote} must not end with a question.")
    with pytest.raises(DialogueError) as caught:
        await connect(wire_format, serve(body, status)).send(make_call())
    assert type(caught.value) is DialogueError


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("context_length_exceeded", "maximum context length; your organization's account is suspended"),
        ("context_length_exceeded", "the model gpt-9 does not exist in your prompt, credit balance is too low"),
        ("string_above_max_length", "temperature is not supported"),
    ],
)
async def test_a_code_decides_before_words(connect: Connect, serve: Serve, make_call: MakeCall, code: str, message: str) -> None:
    with pytest.raises(DialogueError):
        await connect("openai_chat", serve(error(message, code), 400)).send(make_call())


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_an_account_on_hold_is_never_a_decline(connect: Connect, serve: Serve, make_call: MakeCall, wire_format: WireFormat) -> None:
    for body in (
        error("Held.", "account_deactivated", innererror={"code": "content_filter"}),
        error("Your account was suspended", "content_filter"),
    ):
        with pytest.raises(AccountError, match="stops at once"):
            await connect(wire_format, serve(body, 400)).send(make_call())


async def test_a_profile_of_ones_own_can_name_its_signs(
    connect: Connect, serve: Serve, make_call: MakeCall, make_profile: Callable[..., Profile]
) -> None:
    seen = {"source": "made up", "checked": "2026-11-21"}
    rows = ({"outcome": "blocked_input", "statuses": [418], "codes": ["1301"], **seen},)
    server = serve({"error": {"code": "1301", "message": "…"}}, 418)
    adapter = connect("openai_chat", server, declines=tuple(Decline.model_validate(row) for row in rows))
    assert (await adapter.send(make_call())).reply.outcome is Outcome.BLOCKED_INPUT
    with pytest.raises(CallError):
        await connect("openai_chat", server).send(make_call())


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_a_404_page_is_still_a_wrong_address(connect: Connect, serve: Serve, make_call: MakeCall, wire_format: WireFormat) -> None:
    with pytest.raises(EndpointError):
        await connect(wire_format, serve("<html>404</html>", 404)).send(make_call())


@pytest.mark.parametrize("wire_format", FORMATS)
async def test_a_content_filters_code_is_a_decline_wherever_the_format_knows_it(
    connect: Connect, serve: Serve, make_call: MakeCall, wire_format: WireFormat
) -> None:
    body = error("Filtered.", "content_filter")
    adapter = connect(wire_format, serve(body, 400))
    if wire_format == "openai_chat":
        assert (await adapter.send(make_call())).reply.outcome is Outcome.BLOCKED_INPUT
    else:
        with pytest.raises(SafeMTError):
            await adapter.send(make_call())
