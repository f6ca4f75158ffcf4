"""Requests in the three wire formats, read into one ``Question``; what a vendor would reject is rejected in its words.

Of a picture is told whether it is one and of which type, from its first bytes, and for a small one its colour.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from io import BytesIO
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs

from PIL import Image as Pictures

from safemt_api.markers import GUIDANCE_HEADER
from safemt_api.profiles import WireFormat
from safemt_api.simulator.answers import TroubleError

Json = Mapping[str, Any]

GENERATE = re.compile(r"/v1(?:beta)?/models/([^/:]+):generateContent")
OLD_ANTHROPIC_VERSION = "2023-06-01"
_SAMPLING = ("temperature", "top_p", "top_k")


TOKENS_A_PICTURE = 765
"""Every picture costs the same, as ``providers/simulator*.toml`` says; a vendor's own rule by size would serve no one here."""

_HEAD_CHARACTERS = 64
_SMALL_CHARACTERS = 10_000

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"red": (255, 0, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "black": (0, 0, 0)}
)
"""Colours that no one confuses, in words that every model knows."""
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a request: the type it claims and the one its bytes show (``None``: no picture at all).

    ``base64`` is the text as it was sent, for telling pictures apart.
    """

    claimed_type: str
    real_type: str | None
    base64: str = field(repr=False)

    @property
    def digest(self) -> str:
        """A hash of the picture as sent; only worked out where it is needed (the prompt cache)."""
        return blake2b(self.base64.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def look_at(claimed_type: str, base64_text: str) -> Picture:
    """Read a picture's head; the rest of its bytes is never decoded."""
    # google-genai writes the URL-safe alphabet, the other vendors' clients the plain one
    beginning = base64_text[:_HEAD_CHARACTERS].rstrip("=").replace("-", "+").replace("_", "/")
    try:
        head = b64decode(beginning[: len(beginning) // 4 * 4])
    except (Base64Error, ValueError):
        head = b""
    webp = "image/webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None
    real_type = next((kind for signature, kind in _SIGNATURES if head.startswith(signature)), webp)
    return Picture(claimed_type, real_type, base64_text)


def colour_in_the_middle(picture: Picture) -> str | None:
    """The name of the plain colour in the middle of a small picture; ``None`` for any other picture."""
    text = picture.base64.replace("-", "+").replace("_", "/")
    if len(text) > _SMALL_CHARACTERS:
        return None
    try:
        with Pictures.open(BytesIO(b64decode(text + "=" * (-len(text) % 4)))) as opened:
            middle = opened.convert("RGB").getpixel((opened.width // 2, opened.height // 2))
    except (Base64Error, ValueError, OSError, SyntaxError):
        return None
    return next((name for name, colour in COLOURS.items() if colour == middle), None)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def key(self) -> str:
        """The API key in whichever place the vendor's SDK puts it."""
        bearer = self.headers.get("authorization", "").partition(" ")[2]
        found = bearer or self.headers.get("x-api-key") or self.headers.get("x-goog-api-key")
        return (found or parse_qs(self.target.partition("?")[2]).get("key", [""])[0]).strip()

    @property
    def wire_format(self) -> WireFormat:
        """The wire format that the request speaks, by its path and else by its headers."""
        google = GENERATE.fullmatch(self.path) or self.path.startswith(("/upload/", "/v1beta/"))
        if google or "x-goog-api-key" in self.headers:
            return "google_genai"
        return "anthropic_messages" if self.path == "/v1/messages" or "anthropic-version" in self.headers else "openai_chat"


@dataclass(frozen=True, slots=True)
class Spoken:
    """One message of a request: who, the words, and whether the client marked the prefix up to it, or to its pictures, as cacheable."""

    role: str
    text: str
    pictures: tuple[Picture, ...] = ()
    cache_mark: bool = False
    picture_mark: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """One request, freed of its wire format. ``system`` joins all system messages; ``messages`` holds the others.

    ``marks_alone``: nothing is cached but what is marked, although the vendor caches by itself; ``batch`` is the id of the one it is in.
    """

    wire_format: WireFormat
    model: str
    system: str
    messages: tuple[Spoken, ...]
    schema: Json | None = None
    max_output_tokens: int | None = None
    cache_mark: bool = False
    system_mark: bool = False
    marks_alone: bool = False
    user_texts: tuple[str, ...] = field(default=())
    sampling_seed: int = 0
    tier: str = "standard"
    batch: str = ""

    @property
    def guided(self) -> bool:
        """Whether a moderator's guidance stands in a system message."""
        return GUIDANCE_HEADER in self.system

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All pictures of the request."""
        return tuple(picture for message in self.messages for picture in message.pictures)

    @property
    def last_text(self) -> str:
        """The words of the last message."""
        return self.messages[-1].text


def read_openai(body: Json) -> Question:
    """A chat completions request."""
    spoken = [_openai_message(message, at) for at, message in enumerate(_list(body, "messages"))]
    form = body.get("response_format")
    schema = form.get("json_schema", {}).get("schema") if isinstance(form, dict) and isinstance(form.get("json_schema"), dict) else None
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    question = _question("openai_chat", _text(body, "model"), "", spoken, schema=schema, limit=limit, sampling_seed=body.get("seed"))
    marked = any(message.cache_mark for message in spoken if message.role == "system")
    options = body.get("prompt_cache_options")
    explicit = isinstance(options, dict) and options.get("mode") == "explicit"
    tier = "flex" if body.get("service_tier") == "flex" else "standard"
    return replace(question, tier=tier, system_mark=marked, marks_alone=explicit)


def _openai_message(message: object, at: int) -> Spoken:
    if not isinstance(message, dict) or message.get("role") not in {"system", "developer", "user", "assistant"}:
        raise TroubleError(
            "bad_request", f"messages[{at}]: a role of system, developer, user or assistant is needed", parameter=f"messages[{at}].role"
        )
    role = "system" if message["role"] == "developer" else message["role"]
    content = message.get("content")
    if isinstance(content, str):
        return Spoken(role, content)
    words, pictures = [], []
    parts = _parts(content, f"messages[{at}].content")
    for part in parts:
        if part.get("type") == "text":
            words.append(_text(part, "text"))
        elif part.get("type") == "image_url" and isinstance(part.get("image_url"), dict):
            kind, comma, data = _text(part["image_url"], "url").partition(";base64,")
            if not comma or not kind.startswith("data:"):
                raise TroubleError("bad_request", "the simulator takes pictures as data: URLs with base64 only", parameter="url")
            pictures.append(look_at(kind.removeprefix("data:"), data))
        else:
            raise TroubleError(
                "bad_request", f"messages[{at}].content: a part is neither text nor image_url", parameter=f"messages[{at}].content"
            )
    return Spoken(role, "".join(words), tuple(pictures), *_marks(parts))


def _marks(parts: Sequence[Json]) -> tuple[bool, bool]:
    """Whether a mark stands behind the words, and whether one stands behind the pictures."""
    marked = [part.get("type") == "text" for part in parts if "cache_control" in part or "prompt_cache_breakpoint" in part]
    return any(marked), not all(marked)


def read_anthropic(body: Json, *, version: str) -> Question:
    """A messages request, under the rules of the API version that the client names."""
    if not isinstance(body.get("max_tokens"), int):
        raise TroubleError("bad_request", "max_tokens: Field required")
    if version != OLD_ANTHROPIC_VERSION:
        for name in _SAMPLING:
            if name in body:
                raise TroubleError("bad_request", f"{name}: Extra inputs are not permitted")
    spoken = [_anthropic_message(message, at) for at, message in enumerate(_list(body, "messages"))]
    system = _anthropic_message({"role": "system", "content": body["system"]}, -1) if body.get("system") else None
    config = body.get("output_config")
    form = config.get("format") if isinstance(config, dict) else None
    schema = form.get("schema") if isinstance(form, dict) else None
    words, marked = system.text if system else "", "cache_control" in body
    question = _question("anthropic_messages", _text(body, "model"), words, spoken, schema=schema, limit=body["max_tokens"], marked=marked)
    return replace(question, system_mark=system is not None and system.cache_mark)


def _anthropic_message(message: object, at: int) -> Spoken:
    place = "system" if at < 0 else f"messages.{at}"
    if not isinstance(message, dict) or message.get("role") not in {"user", "assistant", "system"}:
        raise TroubleError("bad_request", f"{place}.role: Input should be 'user' or 'assistant'")
    content = message.get("content")
    if isinstance(content, str):
        return Spoken(message["role"], _not_empty(content, place))
    words, pictures = [], []
    parts = _parts(content, f"{place}.content")
    for part in parts:
        if part.get("type") == "text":
            words.append(_not_empty(_text(part, "text"), place))
        elif part.get("type") == "image" and isinstance(part.get("source"), dict):
            pictures.append(look_at(_text(part["source"], "media_type"), _text(part["source"], "data")))
        else:
            raise TroubleError("bad_request", f"{place}.content: a block is neither text nor image")
    return Spoken(message["role"], "".join(words), tuple(pictures), *_marks(parts))


def _not_empty(text: str, place: str) -> str:
    if not text.strip():
        raise TroubleError("bad_request", f"{place}: text content blocks must contain non-whitespace text")
    return text


def read_google(body: Json, *, model: str) -> Question:
    """A generateContent request; the model stands in its path."""
    spoken = [_google_content(content, at) for at, content in enumerate(_list(body, "contents"))]
    instruction = _either(body, "systemInstruction", "system_instruction")
    system = _google_content(instruction, -1).text if isinstance(instruction, dict) else ""
    config = _either(body, "generationConfig", "generation_config")
    config = config if isinstance(config, dict) else {}
    schema = _either(config, "responseJsonSchema", "response_json_schema") or _either(config, "responseSchema", "response_schema")
    limit = _either(config, "maxOutputTokens", "max_output_tokens")
    question = _question("google_genai", model, system, spoken, schema=schema, limit=limit, sampling_seed=config.get("seed"))
    return replace(question, tier="flex") if str(_either(body, "serviceTier", "service_tier")).lower() == "flex" else question


def _google_content(content: object, at: int) -> Spoken:
    if not isinstance(content, dict) or content.get("role", "user") not in {"user", "model", "system"}:
        raise TroubleError("bad_request", f"contents[{at}]: please use a valid role: user, model.")
    words, pictures = [], []
    for part in _parts(content.get("parts"), f"contents[{at}].parts"):
        data = _either(part, "inlineData", "inline_data")
        if isinstance(data, dict):
            pictures.append(look_at(str(_either(data, "mimeType", "mime_type")), _text(data, "data")))
        else:
            words.append(_text(part, "text"))
    role = "assistant" if content.get("role") == "model" else "user"
    return Spoken(role, "".join(words), tuple(pictures))


def _question(
    wire_format: WireFormat,
    model: str,
    system: str,
    spoken: Sequence[Spoken],
    *,
    schema: object,
    limit: object,
    marked: bool = False,
    sampling_seed: object = None,
) -> Question:
    messages = tuple(message for message in spoken if message.role != "system")
    if not messages:
        raise TroubleError("bad_request", "at least one message is needed")
    return Question(
        wire_format,
        model,
        "\n".join(filter(None, (system, *(message.text for message in spoken if message.role == "system")))),
        messages,
        schema=schema if isinstance(schema, dict) else None,
        max_output_tokens=limit if isinstance(limit, int) and limit > 0 else None,
        cache_mark=marked,
        user_texts=tuple(message.text for message in messages if message.role == "user"),
        sampling_seed=sampling_seed if isinstance(sampling_seed, int) else 0,
    )


def _either(data: Json, camel: str, snake: str) -> Any:
    return data[camel] if camel in data else data.get(snake)


def _text(data: Json, name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str):
        raise TroubleError("bad_request", f"{name}: a string is needed", parameter=name)
    return value


def _list(data: Json, name: str) -> list[Any]:
    value = data.get(name)
    if not isinstance(value, list) or not value:
        raise TroubleError("bad_request", f"{name}: a list with at least one item is needed", parameter=name)
    return value


def _parts(content: object, place: str) -> list[dict[str, Any]]:
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise TroubleError("bad_request", f"{place}: a string or a list of parts is needed", parameter=place)
    return content
