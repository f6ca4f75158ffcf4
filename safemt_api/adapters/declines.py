"""By what a vendor that answers with an error shows that it declined, which is an outcome and no failure.

Every row is a fact with its source. A row counts by the vendor's *code*; by the beginning of the vendor's *sentence* only where it has no
code, or one code for two things. A sentence counts only in the vendor's own error object, and never beside a code that says something else:
an error that merely quotes the prompt, or a firewall's page, is a failure, and the verdict is missing.

What holds for a wire format stands here (gateways hand these codes on, so they are not tied to one vendor); what only one vendor says,
and has no code for, stands in its profile (``[[declines]]``). Filters that answer with HTTP 200 (``finish_reason``, ``stop_reason``,
``promptFeedback``) are read by the adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from safemt_api.adapters.bodies import names, one_line
from safemt_api.adapters.failures import MAX_VENDOR_CHARACTERS, Failure, filtered_categories
from safemt_api.messages import Outcome, Reply
from safemt_api.profiles import Decline, Profile, WireFormat

_CHECKED = date(2026, 11, 21)
_REJECTED = (0, 400, 403, 422, 451)
"""Statuses by which a request is rejected for its content; 0 is an error inside an HTTP 200 that names no status."""


def _row(outcome: Outcome, source: str, *, codes: str = "", sentence: str | None = None, statuses: tuple[int, ...] = _REJECTED) -> Decline:
    known = outcome.value
    return Decline.model_validate(
        {"outcome": known, "codes": tuple(codes.split()), "sentence": sentence, "statuses": statuses, "source": source, "checked": _CHECKED}
    )


_OPENAI_ERRORS = "https://platform.openai.com/docs/guides/error-codes"
_OPENAI_SDK = "openai 3.52 SDK, types/responses/response_error.py"
_OPENROUTER = "https://openrouter.ai/docs/api/reference/errors-and-debugging"
_DASHSCOPE = "https://www.alibabacloud.com/help/en/model-studio/error-code; https://github.com/camel-ai/owl/issues/432 (spelling)"

DECLINES: Mapping[WireFormat, tuple[Decline, ...]] = {
    "openai_chat": (
        _row(
            Outcome.BLOCKED_INPUT,
            "https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter (Azure; other gateways use its code)",
            codes="content_filter responsibleaipolicyviolation",
        ),
        _row(Outcome.BLOCKED_INPUT, f"{_OPENAI_ERRORS}; litellm hands it on", codes="content_policy_violation moderation_blocked"),
        _row(
            Outcome.BLOCKED_INPUT,
            _OPENAI_SDK,
            codes="bio_policy cyber_policy cyber_policy_violation misalignment_policy_violation image_content_policy_violation",
        ),
        _row(
            Outcome.BLOCKED_INPUT,
            "https://github.com/alan-turing-institute/t0-1/issues/69; the code alone also means a malformed prompt",
            codes="invalid_prompt",
            sentence="invalid prompt: your prompt was flagged",
        ),
        _row(
            Outcome.BLOCKED_INPUT,
            "https://github.com/microsoft/PyRIT/pull/1463; the code alone also means a malformed prompt",
            codes="invalid_prompt",
            sentence="invalid prompt: we've limited access to this content",
        ),
        _row(
            Outcome.BLOCKED_OUTPUT,
            f"{_DASHSCOPE}; one code for input and output",
            codes="data_inspection_failed datainspectionfailed",
            sentence="output data may contain inappropriate content",
        ),
        _row(Outcome.BLOCKED_INPUT, _DASHSCOPE, codes="data_inspection_failed datainspectionfailed"),
        _row(Outcome.BLOCKED_INPUT, f"{_OPENROUTER} (its moderation)", codes="flagged_input", statuses=(0, 403)),
        _row(Outcome.REFUSED, f"{_OPENROUTER} (a host's refusal as an error)", codes="refusal", statuses=(0, 403)),
        _row(
            Outcome.TRUNCATED,
            "OpenAI's reasoning models, out of tokens before the first word (2nd-hand: the sentence is in many clients); no code",
            sentence="could not finish the message because max_tokens or model output limit was reached",
            statuses=(0, 400),
        ),
    ),
    "anthropic_messages": (
        _row(
            Outcome.BLOCKED_OUTPUT,
            "https://github.com/anthropics/claude-code/issues/58367 (type invalid_request_error, details null: no code)",
            sentence="output blocked by content filtering policy",
            statuses=(0, 400),
        ),
    ),
    "google_genai": (),  # blocks come with HTTP 200; a 400 or 403 is never one
}

UNSPECIFIC = names(
    "invalid_request_error badrequesterror bad_request bad_request_error invalid_argument forbidden permission-denied permission_denied"
)
"""Codes that only say that the request was rejected; any other is the vendor's reason, and no sentence is read beside it."""


def declined(failure: Failure, profile: Profile) -> Reply | None:
    """The reply where the vendor declined by way of an error; ``None`` where this is a failure.

    The words of a filter are never the model's: they stand in ``detail``, and ``text`` stays empty.
    """
    rows = (*DECLINES[profile.wire_format], *profile.declines)
    row = next((row for row in rows if _shows(row, failure)), None)
    if row is None:
        return None
    detail = filtered_categories(failure.error) or one_line(failure.message, MAX_VENDOR_CHARACTERS) or None
    reason = next((code for code in failure.codes if not code.isdigit()), None)
    return Reply(Outcome(row.outcome), detail=detail, finish_reason=reason, raw=failure.body.text)


def _shows(row: Decline, failure: Failure) -> bool:
    if failure.status not in row.statuses or not failure.is_the_vendors:
        return False
    if row.codes:
        return not set(row.codes).isdisjoint(failure.own_codes) and _begins(failure, row.sentence or "")
    specific = [code for code in failure.own_codes if not code.isdigit() and code not in UNSPECIFIC]
    return not specific and _begins(failure, row.sentence or "")


def _begins(failure: Failure, sentence: str) -> bool:
    return " ".join(failure.message.replace("’", "'").split()).casefold().startswith(sentence.casefold())
