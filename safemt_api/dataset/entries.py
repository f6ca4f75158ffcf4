"""The official layout: a folder with ``k_turn.json`` files and ``images/``, checked whole at the start and read late.

What stays in memory is one light row a dialogue; its words are read again from their place in the file when they are needed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import orjson

from safemt_api.dataset.elements import (
    Element,
    NotAnArrayError,
    decode_value,
    element_id,
    image_key,
    parse_dialogue,
    scan_array,
    shown,
)
from safemt_api.dataset.picture_files import ImageError, inspect_image, normal_image_path
from safemt_api.errors import DatasetError, Problem, UsageError
from safemt_api.messages import Dialogue, Kind

MAX_FILE_BYTES = 512 * 1024 * 1024
"""A ``k_turn.json`` above this is no such file (the largest official one has a few megabytes); it is not read."""

_FILE_NAME = re.compile(r"([1-9][0-9]?)_turn\.json")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one dialogue stands. ``index`` is its place in the array; ``digest`` is the SHA-256 of its canonical content.

    A dialogue that is asked several times has one entry for each ``repeat``, counted from 1.
    """

    id: str
    scenario: str
    kind: Kind
    length: int
    image_paths: tuple[str, ...]
    file: str
    index: int
    offset_bytes: int
    size_bytes: int
    digest: bytes
    repeat: int = 1
    method: str | None = None
    source: str | None = None
    language: str | None = None
    pair: str | None = None
    user_only: bool = False


@dataclass(frozen=True, slots=True)
class Dataset:
    """A checked data set: light rows, no words, no pictures.

    ``lengths`` are those with at least one entry. ``problems`` is empty unless invalid dialogues were left out on request.
    ``fingerprint`` changes with the id, length or content of any entry, not with their order, the files' layout or the pictures' bytes
    (pictures are identified in the key of each call; reading half a gigabyte of them at every start would be waste).
    ``questions`` are those that stand in ``1_turn.json`` alone, by id: the hub's form has no field for them.
    """

    folder: Path
    name: str
    entries: tuple[Entry, ...]
    lengths: tuple[int, ...]
    problems: tuple[Problem, ...]
    fingerprint: str
    questions: Mapping[str, str] = field(default_factory=dict)

    @property
    def left_out(self) -> int:
        """How many dialogues were left out as invalid (a file that is not JSON counts as one: what it held cannot be known)."""
        return len({(problem.file, problem.index) for problem in self.problems})

    @property
    def ids(self) -> tuple[str, ...]:
        """The distinct ids, in the order in which they are first met."""
        return tuple(dict.fromkeys(entry.id for entry in self.entries))

    def with_entries(self, entries: Iterable[Entry]) -> Dataset:
        """The same data set with only these entries, and the lengths and fingerprint that follow from them."""
        kept = tuple(entries)
        return replace(self, entries=kept, lengths=_lengths_of(kept), fingerprint=_fingerprint(kept))

    def repeated(self, repeats: int, *, after: int = 0) -> Dataset:
        """The same data set with every entry so many times, its repeats numbered from ``after`` + 1; the fingerprint stays."""
        if (repeats, after) == (1, 0):
            return self
        numbers = range(after + 1, after + repeats + 1)
        return replace(self, entries=tuple(replace(entry, repeat=number) for entry in self.entries for number in numbers))

    def read(self, entry: Entry) -> Dialogue:
        """The dialogue of an entry, read from its place in the file.

        Raises:
            DatasetError: The file changed while in use: what stands there is no longer what was checked.
        """
        dialogue = None
        try:
            with (self.folder / entry.file).open("rb") as stream:
                stream.seek(entry.offset_bytes)
                text = stream.read(entry.size_bytes).decode()
            dialogue, _ = parse_dialogue(decode_value(text)[0], length=entry.length)
        except (OSError, ValueError):
            pass  # the sentence below says the same for every way in which the place may have changed
        whole = None if dialogue is None else _normal(dialogue, self.questions)
        if whole is None or _digest(whole) != entry.digest:
            problem = Problem(entry.file, "changed while in use; start again with the file as it is now", entry.index, shown(entry.id))
            raise DatasetError(self.folder, [problem])
        return whole if entry.repeat == 1 else replace(whole, repeat=entry.repeat)


def load_dataset(folder: Path, *, lengths: Collection[int] | None = None, skip_invalid: bool = False) -> Dataset:
    """Check a folder in the official layout and index it.

    Args:
        folder: Holds ``k_turn.json`` files and ``images/``.
        lengths: The dialogue lengths wanted; ``None`` takes all that have a file.
        skip_invalid: Leave invalid dialogues out (``problems`` says which) instead of refusing to start.

    Raises:
        UsageError: No such folder, no ``k_turn.json`` in it, or none for a length that is wanted.
        DatasetError: Something is wrong with the data: all of it is listed. With ``skip_invalid`` only when nothing valid is left.
    """
    files = _chosen_files(folder, lengths)
    scan = _Scan(folder, available_lengths(folder).get(1))
    entries = tuple(entry for length, file in files for entry in scan.file(file, length))
    problems = tuple(scan.problems)
    if problems and (not skip_invalid or not entries):
        raise DatasetError(folder, problems)
    if not entries:
        raise DatasetError(folder, [Problem(file.name, "holds no dialogue") for _, file in files])
    return Dataset(folder, folder.resolve().name, entries, _lengths_of(entries), problems, _fingerprint(entries), scan.questions)


def available_lengths(folder: Path) -> dict[int, Path]:
    """The files of the official layout by dialogue length.

    Raises:
        UsageError: No such folder, or no ``k_turn.json`` in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the one that holds 1_turn.json and images/")
    try:
        found = {int(match[1]): path for path in folder.iterdir() if (match := _FILE_NAME.fullmatch(path.name))}
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error
    if not found:
        raise UsageError(f"{folder} holds no 1_turn.json, 2_turn.json, …: give the folder of the official layout")
    return dict(sorted(found.items()))


def _chosen_files(folder: Path, lengths: Collection[int] | None) -> list[tuple[int, Path]]:
    available = available_lengths(folder)
    wanted = sorted(set(available if lengths is None else lengths))
    missing = [length for length in wanted if length not in available]
    if missing or not wanted:
        there = ", ".join(map(str, available))
        what = f"no {', '.join(f'{length}_turn.json' for length in missing)} in {folder}" if missing else "no length is chosen"
        raise UsageError(f"{what}; lengths there: {there}")
    return [(length, available[length]) for length in wanted]


class _Scan:
    """Goes through the files and keeps what outlives them: the problems, one copy of each repeated text, and one look at each picture."""

    def __init__(self, folder: Path, bare_file: Path | None) -> None:
        self.folder = folder
        self.questions: Mapping[str, str] = {}
        self._bare_file: Path | None = bare_file
        self.problems: list[Problem] = []
        self._texts: dict[str, str] = {}
        self._pictures: dict[str, str | None] = {}

    def file(self, path: Path, length: int) -> list[Entry]:
        """The valid entries of a file; none when the file as a whole cannot be trusted."""
        entries: list[Entry] = []
        first_index: dict[str, int] = {}
        try:
            for element in _elements(path):
                entry = self._entry(element, path.name, length, first_index)
                if entry is not None:
                    entries.append(entry)
        except NotAnArrayError as error:
            self.problems.append(Problem(path.name, str(error)))
            return []
        return entries

    def _entry(self, element: Element, file: str, length: int, first_index: dict[str, int]) -> Entry | None:
        dialogue, sentences = parse_dialogue(element.value, length=length)
        pictures = () if dialogue is None else dialogue.image_paths
        found = [*sentences, *self._repeated(element, first_index), *self._missing(pictures or _named_pictures(element.value))]
        if found or dialogue is None:
            self.problems.extend(Problem(file, what, element.index, element_id(element.value)) for what in found)
            return None
        if not dialogue.goal and self._bare_file is not None:
            self.questions, self._bare_file = _bare_questions(self._bare_file), None
        return self._row(_normal(dialogue, self.questions), element, file)

    def _repeated(self, element: Element, first_index: dict[str, int]) -> Iterator[str]:
        found = element.value.get("id") if isinstance(element.value, dict) else None
        if isinstance(found, str) and found:
            first = first_index.setdefault(found, element.index)
            if first != element.index:
                yield f"duplicate id: it stands at index {first} already"

    def _missing(self, image_paths: Iterable[str]) -> Iterator[str]:
        for image_path in image_paths:
            if image_path not in self._pictures:
                self._pictures[image_path] = _picture_problem(self.folder, image_path)
            problem = self._pictures[image_path]
            if problem is not None:
                yield problem

    def _row(self, dialogue: Dialogue, element: Element, file: str) -> Entry:
        return Entry(
            id=self._once(dialogue.id),
            scenario=self._once(dialogue.scenario),
            kind=dialogue.kind,
            length=dialogue.length,
            image_paths=tuple(map(self._once, dialogue.image_paths)),
            file=self._once(file),
            index=element.index,
            offset_bytes=element.offset_bytes,
            size_bytes=element.size_bytes,
            digest=_digest(dialogue),
            method=self._once_or_none(dialogue.method),
            source=self._once_or_none(dialogue.source),
            language=self._once_or_none(dialogue.language),
            pair=self._once_or_none(dialogue.pair),
            user_only=dialogue.user_only,
        )

    def _once(self, text: str) -> str:
        return self._texts.setdefault(text, text)

    def _once_or_none(self, text: str | None) -> str | None:
        return None if text is None else self._once(text)


def _named_pictures(value: object) -> tuple[str, ...]:
    """The picture that an element names, however wrong the rest of it is."""
    path = value.get(image_key(value)) if isinstance(value, dict) else None
    return (path,) if isinstance(path, str) and path.strip() else ()


def _picture_problem(folder: Path, image_path: str) -> str | None:
    try:
        inspect_image(folder, image_path)
    except ImageError as error:
        return str(error)
    return None


def _elements(path: Path) -> Iterator[Element]:
    if not path.is_file():
        raise NotAnArrayError("is not a file")
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_FILE_BYTES:
            raise NotAnArrayError(f"has {size_bytes:,} bytes, more than the {MAX_FILE_BYTES:,} allowed")
        raw = path.read_bytes()
    except OSError as error:
        raise NotAnArrayError(f"cannot be read: {error.strerror}") from error
    base_bytes = len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0
    try:
        text = str(memoryview(raw)[base_bytes:], "utf-8")
    except UnicodeDecodeError as error:
        raise NotAnArrayError(f"is not JSON in UTF-8: byte {base_bytes + error.start} is no part of a character") from error
    del raw
    yield from scan_array(text, base_bytes=base_bytes)


def _bare_questions(file: Path) -> dict[str, str]:
    """What is asked at length 1, by id; what is wrong with that file is said where it is loaded."""
    questions = {}
    try:
        for element in _elements(file):
            dialogue, _ = parse_dialogue(element.value, length=1)
            if dialogue is not None:
                questions[dialogue.id] = dialogue.user_texts[0]
    except NotAnArrayError:
        pass
    return questions


def _normal(dialogue: Dialogue, questions: Mapping[str, str]) -> Dialogue:
    """The dialogue as it is the same in every copy.

    Some write a slash before the picture's path. Where no question is given it is what the same id asks at length 1, and failing that the
    last message, which may be a veiled form of it.
    """
    goal = dialogue.goal or questions.get(dialogue.id) or dialogue.user_texts[-1]
    lines = tuple(replace(line, image_paths=tuple(map(normal_image_path, line.image_paths))) for line in dialogue.lines)
    return replace(dialogue, lines=lines, goal=goal)


def _digest(dialogue: Dialogue) -> bytes:
    # Fields are listed one by one, and those that came later only where they are given: no old run may look like one on other data.
    paths = dialogue.image_paths
    usual = len(paths) == len(dialogue.lines[0].image_paths) == 1
    head = [dialogue.id, dialogue.scenario, dialogue.kind, dialogue.length, paths[0] if usual else None, dialogue.goal, dialogue.method]
    pictures = [] if usual else [list(line.image_paths) for line in dialogue.lines]
    more = {"source": dialogue.source, "language": dialogue.language, "pair": dialogue.pair, "pictures": pictures}
    given = {name: value for name, value in more.items() if value}
    lines = ([line.role, line.text] for line in dialogue.lines)
    return sha256(orjson.dumps([*head, *lines, *([given] if given else [])], option=orjson.OPT_SORT_KEYS)).digest()


def _fingerprint(entries: Iterable[Entry]) -> str:
    whole = sha256()
    for entry in sorted(entries, key=lambda entry: (entry.length, entry.id)):
        whole.update(entry.digest)
    return f"sha256:{whole.hexdigest()}"


def _lengths_of(entries: Iterable[Entry]) -> tuple[int, ...]:
    return tuple(sorted({entry.length for entry in entries}))
