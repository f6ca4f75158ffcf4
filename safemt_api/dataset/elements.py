"""From the text of one ``k_turn.json`` to its elements, and from one element to a dialogue or to sentences saying what is wrong."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, cast

from safemt_api.foreign_text import unfit_in_name
from safemt_api.messages import Dialogue, Kind, Line, Role

KINDS: tuple[Kind, ...] = ("harmful", "benign")
IMAGE_KEY, HUB_IMAGE_KEY = "image_path", "image_rel_path"
MAX_SHOWN_CHARACTERS = 80
MAX_FILE_BYTES = 512 * 1024 * 1024
"""A file of dialogues above this is none (the largest official one has a few megabytes); it is not read."""

_BLANKS = re.compile(r"[ \t\n\r]*")


class UnreadableError(ValueError):
    """A file is not of the form that it should be; the message is one sentence for the user, without the place."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element of the array: its value, and where its bytes stand in the file."""

    index: int
    offset_bytes: int
    size_bytes: int
    value: Any


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


class _Ambiguous(dict[str, Any]):
    """A JSON object in which a key stands twice: which of the two is meant, nobody can know."""

    repeated = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    ambiguous, keys = _Ambiguous(found), [key for key, _ in pairs]
    ambiguous.repeated = next(key for key in keys if keys.count(key) > 1)
    return ambiguous


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object)


def decode_value(text: str, position: int = 0) -> tuple[Any, int]:
    """One JSON value and the position after it.

    Raises:
        UnreadableError: There is no JSON value at that position, or it is nested too deep or a number too long to be read.
    """
    try:
        return _DECODER.raw_decode(text, position)
    except RecursionError as error:
        raise UnreadableError("is not JSON that can be read: nested too deep") from error
    except ValueError as error:
        raise UnreadableError(f"is not JSON: {error}") from error


def scan_array(text: str, *, base_bytes: int = 0) -> Iterator[Element]:
    """The elements of a JSON array one by one, so that only one is in memory as objects.

    Args:
        text: The file's text without a byte order mark.
        base_bytes: Bytes of the file before the text (3 with a byte order mark).

    Raises:
        UnreadableError: The text is not JSON or not an array; elements before the damage have been given out by then.
    """
    position = _skip_blanks(text, 0)
    if position == len(text):
        raise UnreadableError("is not JSON: the file is empty")
    if text[position] != "[":
        value, end = decode_value(text, position)
        _require_end(text, end)
        raise UnreadableError(f"is not an array but {json_kind(value)}; it must be a JSON array of dialogues")
    position = _skip_blanks(text, position + 1)
    if text[position : position + 1] == "]":
        _require_end(text, position + 1)
        return
    offset_bytes, index = base_bytes + position, 0
    while True:
        value, end = decode_value(text, position)
        size_bytes = len(text[position:end].encode())
        yield Element(index, offset_bytes, size_bytes, value)
        separator = _skip_blanks(text, end)
        mark = text[separator : separator + 1]
        if mark == "]":
            _require_end(text, separator + 1)
            return
        if mark != ",":
            raise UnreadableError(f"is not JSON: expected ',' or ']' at {_place(text, separator)}")
        position = _skip_blanks(text, separator + 1)
        offset_bytes, index = offset_bytes + size_bytes + position - end, index + 1


def read_text(path: Path) -> tuple[str, int]:
    """The text of a file, and how many bytes stand before it (3 with a byte order mark).

    Raises:
        UnreadableError: It is no file, too large, unreadable or not in UTF-8.
    """
    if not path.is_file():
        raise UnreadableError("is not a file")
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_FILE_BYTES:
            raise UnreadableError(f"has {size_bytes:,} bytes, more than the {MAX_FILE_BYTES:,} allowed")
        raw = path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    base_bytes = len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0
    try:
        return str(memoryview(raw)[base_bytes:], "utf-8"), base_bytes
    except UnicodeDecodeError as error:
        raise UnreadableError(f"is not JSON in UTF-8: byte {base_bytes + error.start} is no part of a character") from error


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return match.end() if match else position


def _place(text: str, position: int) -> str:
    return f"line {text.count(chr(10), 0, position) + 1}, character {position - text.rfind(chr(10), 0, position)}"


def _require_end(text: str, position: int) -> None:
    end = _skip_blanks(text, position)
    if end != len(text):
        raise UnreadableError(f"is not JSON: there is more after the array at {_place(text, end)}")


def json_kind(value: object) -> str:
    """What a decoded JSON value is, in words."""
    names: tuple[tuple[type, str], ...] = ((bool, "true or false"), (dict, "an object"), (list, "an array"), (str, "text"))
    return "null" if value is None else next((name for kind, name in names if isinstance(value, kind)), "a number")


def shown(text: str) -> str:
    """Text of the data made safe for a terminal: no control characters, no lone surrogates, not too long."""
    cut = text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)


def element_id(value: object) -> str | None:
    """The id of an element for messages, however wrong the rest of it is."""
    found = value.get("id") if isinstance(value, dict) else None
    return shown(found) if isinstance(found, str) and found else None


def parse_dialogue(value: object, *, length: int | None) -> tuple[Dialogue | None, tuple[str, ...]]:
    """One element as a dialogue, or every sentence that says why it is none (the picture itself is looked at elsewhere).

    Both published forms are taken, field by field: ``image_path`` or ``image_rel_path``, ``dialogue`` as an array or as the JSON text of
    one, with or without ``question`` (which is empty then). A picture of the element belongs to the first message; ``null`` says that there
    is none, and a message may have pictures of its own (``image_paths``). ``goal`` is another name for ``question``. Texts stay as they
    are: leading blanks and newlines belong to them. Unknown keys are ignored.

    Args:
        value: The decoded JSON element.
        length: The number of user messages that the file is for; ``None`` takes any.
    """
    if not isinstance(value, dict):
        return None, (f"is not an object but {json_kind(value)}",)
    reader = _ElementReader(value)
    dialogue_id, scenario, kind = reader.name("id"), reader.name("scenario"), reader.kind()
    goal = reader.optional("question") or reader.optional("goal") or ""
    method, source, language, pair = (reader.optional_name(key) for key in ("method", "source", "language", "pair"))
    lines = reader.with_picture(reader.lines(length))
    reader.found.extend(_repeated_keys(value))
    if reader.found:
        return None, tuple(reader.found)
    turns = sum(line.role == "user" for line in lines)
    return Dialogue(dialogue_id, scenario, turns, lines, goal, kind, method, source=source, language=language, pair=pair), ()


def image_key(element: dict[str, Any]) -> str:
    """The key under which an element names its picture: as on GitHub, or as the hub declares it."""
    return HUB_IMAGE_KEY if element.get(IMAGE_KEY) is None and element.get(HUB_IMAGE_KEY) is not None else IMAGE_KEY


def _repeated_keys(value: object) -> Iterator[str]:
    if isinstance(value, _Ambiguous):
        yield f'key "{shown(value.repeated)}" stands twice in one object; keep the one that is meant'
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from _repeated_keys(one)


class _ElementReader:
    """Takes the fields out of one element and notes what is wrong with each."""

    def __init__(self, element: dict[str, Any]) -> None:
        self.element = element
        self.found: list[str] = []

    def text(self, key: str) -> str:
        if self.element.get(key) is None:
            self.found.append(f'key "{key}" is {"null" if key in self.element else "missing"}')
            return ""
        return self._checked(self.element[key], f'"{key}"')

    def name(self, key: str) -> str:
        value = self.text(key)
        if isinstance(self.element.get(key), str) and not value.strip():
            self.found.append(f'"{key}" is empty')
        why = unfit_in_name(value)
        if why is not None:
            self.found.append(f'"{key}" {why}')
        return value

    def with_picture(self, lines: tuple[Line, ...]) -> tuple[Line, ...]:
        """The lines with the element's picture in the first; an element whose messages have their own need not name any."""
        key = image_key(self.element)
        own = any(line.image_paths for line in lines)
        if self.element.get(key) is None and (own or key in self.element):
            return lines
        if key not in self.element:
            self.found.append(f'key "{key}" is missing; null says that there is no picture')
            return lines
        path = self.picture(self.text(key), f'"{key}"') if isinstance(self.element.get(key), str) else self.text(key)
        return lines and (replace(lines[0], image_paths=(path, *lines[0].image_paths)), *lines[1:])

    def picture(self, path: str, where: str) -> str:
        if not path.strip():
            self.found.append(f"{where} is empty")
        return self._checked(path, where)

    def optional_name(self, key: str) -> str | None:
        return None if self.element.get(key) is None else self.name(key)

    def optional(self, key: str) -> str | None:
        return None if self.element.get(key) is None else self.text(key)

    def kind(self) -> Kind:
        value = self.element.get("kind")
        if value is None or value in KINDS:
            return cast("Kind", value or "harmful")
        self.found.append(f'"kind" is {_quoted(value)}; it must be "harmful" or "benign"')
        return "harmful"

    def lines(self, length: int | None) -> tuple[Line, ...]:
        messages = self.element.get("dialogue")
        if messages is None:
            self.text("dialogue")
            return ()
        if isinstance(messages, str):
            # Some sets hold the messages as the text of a JSON array.
            try:
                messages, end = decode_value(text := messages, _skip_blanks(messages, 0))
                _require_end(text, end)
            except UnreadableError as error:
                self.found.append(f'"dialogue" is text that {error}')
                return ()
            self.found.extend(_repeated_keys(messages))
        if not isinstance(messages, list) or not messages:
            self.found.append(f'"dialogue" must be an array of messages, not {"empty" if messages == [] else json_kind(messages)}')
            return ()
        before = len(self.found)
        lines = tuple(self._line(message, f"dialogue[{position}]") for position, message in enumerate(messages))
        if len(self.found) == before:
            self.found.extend(_order_problems(lines, length))
        return lines

    def _line(self, message: object, where: str) -> Line:
        if not isinstance(message, dict):
            self.found.append(f"{where} is not an object but {json_kind(message)}")
            return Line("user", "")
        role = message.get("role")
        if role not in ("user", "assistant"):
            problem = f'role is {_quoted(role)}, neither "user" nor "assistant"' if "role" in message else 'key "role" is missing'
            self.found.append(f"{where}: {problem}")
        if "content" not in message:
            self.found.append(f'{where}: key "content" is missing')
            return Line("user", "")
        text = self._checked(message["content"], f'{where}: "content"')
        return Line(cast("Role", role), text, self._pictures(message, where))

    def _pictures(self, message: dict[str, Any], where: str) -> tuple[str, ...]:
        """The pictures of a message."""
        paths = message.get("image_paths")
        if paths is None or paths == []:
            return ()
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            self.found.append(f'{where}: "image_paths" must be an array of paths')
            return ()
        if message.get("role") == "assistant":
            self.found.append(f"{where}: only the user's messages can have pictures")
        return tuple(self.picture(path, f'{where}: "image_paths"') for path in paths)

    def _checked(self, value: object, where: str) -> str:
        if not isinstance(value, str):
            self.found.append(f"{where} must be text, not {json_kind(value)}")
            return ""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.found.append(f"{where} holds half a character (a lone surrogate such as \\ud800) and cannot be sent")
            return ""
        return value


def _quoted(value: object) -> str:
    return f'"{shown(value)}"' if isinstance(value, str) else json_kind(value)


def _order_problems(lines: tuple[Line, ...], length: int | None) -> Iterator[str]:
    """What is wrong with who speaks when; where only the user speaks, the assistant's side is left to the model."""
    user_only = all(line.role == "user" for line in lines)
    if lines[0].role != "user":
        yield "the first message is the assistant's; it must be the user's"
    for position in range(1, len(lines)):
        if lines[position].role == lines[position - 1].role and not user_only:
            yield f"dialogue[{position - 1}] and dialogue[{position}] are both the {lines[position].role}'s; roles must take turns"
    if lines[-1].role != "user":
        yield "the last message is the assistant's; it must be the user's"
    turns = sum(line.role == "user" for line in lines)
    if length is not None and turns != length:
        yield f"holds {turns} user message{'s' if turns != 1 else ''}, but a file of this name is for {length}"
