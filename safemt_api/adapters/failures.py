"""What a vendor said about a call that went wrong, whatever the dialect of its body.

Sources of the shapes: https://platform.openai.com/docs/guides/error-codes, https://platform.claude.com/docs/en/api/errors,
https://ai.google.dev/gemini-api/docs/troubleshooting, https://openrouter.ai/docs/api/reference/errors-and-debugging,
https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter, https://console.groq.com/docs/errors,
https://api-docs.deepseek.com/quick_start/error_codes, https://docs.x.ai/docs/key-information/debugging;
vLLM's bodies were seen on a 0.32 server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from safemt_api.adapters.reading import Body, first, label, mapping, one_line, sequence, words

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
    own = tuple(_codes_inside(error))
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


def _codes_inside(error: Mapping[str, Any]) -> Iterator[str]:
    details, metadata = error.get("details"), mapping(error.get("metadata"))
    yield label(mapping(details).get("error_code"))
    yield label(mapping(error.get("innererror")).get("code"))
    yield from (label(metadata.get(name)) for name in ("error_type", "reason", "limit_source", "provider_code"))
    yield "flagged_input" if words(metadata.get("flagged_input")) else ""  # OpenRouter's moderation names itself by this field
    yield from (label(mapping(detail).get("reason")) for detail in sequence(details))


def _codes_of(holder: Mapping[str, Any]) -> Iterator[str]:
    return (label(holder.get(name)) for name in ("code", "status", "type"))


def status_in_body(value: object) -> int:
    """The status that an error inside an HTTP 200 names as its code; 0 where it names none."""
    error = mapping(_unwrapped(value).get("error"))
    digits = (label(error.get("code")), label(error.get("status")), label(error.get("status_code")))
    return next((int(text) for text in digits if re.fullmatch("[3-5][0-9]{2}", text)), 0)


def filtered_categories(holder: Mapping[str, Any]) -> str | None:
    """The names of the categories that Azure's content filter reports as filtered, or OpenRouter's reasons."""
    found = mapping(mapping(holder.get("innererror")).get("content_filter_result")) or mapping(holder.get("content_filter_results"))
    names = [name for name, result in found.items() if mapping(result).get("filtered") is True]
    names += [words(reason) for reason in sequence(mapping(holder.get("metadata")).get("reasons"))]
    return one_line(", ".join(names), MAX_VENDOR_CHARACTERS) or None
