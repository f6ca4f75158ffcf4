"""The official layout: a folder with ``k_turn.json`` files and ``images/``, checked whole at the start and read late.

What stays in memory is one light row a dialogue; its words are read again from their place in the file when they are needed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import orjson

from safemt_api.dataset.elements import (
    Element,
    UnreadableError,
    decode_value,
    element_id,
    image_key,
    parse_dialogue,
    read_text,
    scan_array,
    shown,
)
from safemt_api.dataset.layouts import Files, Layout, Row, Variant, find_layout, load_layouts, own_form
from safemt_api.dataset.picture_files import ImageError, inspect_image, normal_image_path
from safemt_api.dataset.rows import check_is_folder, files_of, fits, in_own_form, rows_of, wanted
from safemt_api.errors import DatasetError, Problem, UsageError
from safemt_api.messages import Dialogue, Kind

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
    ``questions`` are those that stand in ``1_turn.json`` alone, by id: the hub's form has no field for them. ``kept`` are the dialogues
    of other layouts, by id and length: their words stay in memory.
    """

    folder: Path
    name: str
    entries: tuple[Entry, ...]
    lengths: tuple[int, ...]
    problems: tuple[Problem, ...]
    fingerprint: str
    questions: Mapping[str, str] = field(default_factory=dict)
    layout: Layout | None = None
    kept: Mapping[tuple[str, int], Dialogue] = field(default_factory=dict)

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
        if self.kept:
            return replace(self.kept[entry.id, entry.length], repeat=entry.repeat)
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
        return whole if (entry.repeat, entry.source) == (1, whole.source) else replace(whole, repeat=entry.repeat, source=entry.source)


def load_dataset(
    folder: Path, *, lengths: Collection[int] | None = None, skip_invalid: bool = False, layout: str | Layout | None = None
) -> Dataset:
    """Check a folder and index it.

    Args:
        folder: Holds ``k_turn.json`` files and ``images/``, or the files of another layout.
        lengths: The dialogue lengths wanted; ``None`` takes all that have a file.
        skip_invalid: Leave invalid dialogues out (``problems`` says which) instead of refusing to start.
        layout: A layout, or its name or file; ``None`` finds it.

    Raises:
        UsageError: No such folder, nothing in it that fits the layout, no layout that fits, or no dialogue of a length that is wanted.
        LayoutError: A layout file is wrong.
        DatasetError: Something is wrong with the data: all of it is listed. With ``skip_invalid`` only when nothing valid is left.
    """
    known = layout if isinstance(layout, Layout) else layout_of(folder, layout)
    if not known.is_own_form:
        return _load_other(folder, known, lengths=lengths, skip_invalid=skip_invalid)
    available = available_lengths(folder)
    wanted_lengths = sorted(set(available if lengths is None else lengths))
    missing = [f"{length}_turn.json" for length in wanted_lengths if length not in available]
    if missing or not wanted_lengths:
        what = f"no {', '.join(missing)} in {folder}" if missing else "no length is chosen"
        raise UsageError(f"{what}; lengths there: {', '.join(map(str, available))}")
    files = [(length, available[length]) for length in wanted_lengths]
    scan = _Scan(folder, available.get(1), known.values.get("source", {}))
    entries = tuple(entry for length, file in files for entry in scan.file(file, length))
    problems = tuple(scan.problems)
    if problems and (not skip_invalid or not entries):
        raise DatasetError(folder, problems)
    if not entries:
        raise DatasetError(folder, [Problem(file.name, "holds no dialogue") for _, file in files])
    return Dataset(folder, folder.resolve().name, entries, _lengths_of(entries), problems, _fingerprint(entries), scan.questions, known)


def layout_of(folder: Path, given: str | None) -> Layout:
    """The layout of a folder: the one given, else the one that it unmistakably has.

    Raises:
        UsageError: No such folder, no such layout, or none or several fit.
        LayoutError: A layout file is wrong.
    """
    check_is_folder(folder)
    if given is not None:
        return find_layout(given)
    if files_of(folder, own_form()):
        return own_form()
    fitting = [layout for layout in load_layouts().values() if fits(folder, layout)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"{folder} fits more than one layout: give --layout with one of {', '.join(layout.name for layout in fitting)}")
    raise UsageError(
        f"{folder} holds no 1_turn.json, 2_turn.json, …, and no other known layout fits; give the folder of a data set, or --layout with "
        f"a file of your own or one of {', '.join(load_layouts())}"
    )


def _load_other(folder: Path, layout: Layout, *, lengths: Collection[int] | None, skip_invalid: bool) -> Dataset:
    check_is_folder(folder)
    files = files_of(folder, layout)
    if not files:
        patterns = " or ".join(pattern for one in layout.files for pattern in one.patterns)
        raise UsageError(f"{folder} holds no {patterns}, where the layout {layout.name} has its dialogues")
    scan = _Scan(folder, None)
    kept = {key: dialogue for path, form in files for key, dialogue in scan.rows(path, form, layout)}
    there = _lengths_of(scan.entries)
    entries = tuple(entry for entry in scan.entries if lengths is None or entry.length in lengths)
    problems = tuple(scan.problems)
    if problems and (not skip_invalid or not scan.entries):
        raise DatasetError(folder, problems)
    if not entries:
        what = "holds no dialogue" if lengths is None else f"has no dialogue of length {', '.join(map(str, sorted(lengths)))}"
        raise UsageError(f"{folder} {what}; lengths there: {', '.join(map(str, there)) or 'none'}")
    name, mark = folder.resolve().name, _fingerprint(entries)
    return Dataset(folder, name, entries, _lengths_of(entries), problems, mark, layout=layout, kept=kept)


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


class _Scan:
    """Goes through the files and keeps what outlives them: the problems, one copy of each repeated text, and one look at each picture."""

    def __init__(self, folder: Path, bare_file: Path | None, sources: Mapping[str, str] = MappingProxyType({})) -> None:
        self.folder = folder
        self._sources = sources
        self.questions: Mapping[str, str] = {}
        self._bare_file: Path | None = bare_file
        self.problems: list[Problem] = []
        self.entries: list[Entry] = []
        self._first_places: dict[tuple[str, int], str] = {}
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
        except UnreadableError as error:
            self.problems.append(Problem(path.name, str(error)))
            return []
        return entries

    def rows(self, path: Path, form: Files, layout: Layout) -> Iterator[tuple[tuple[str, int], Dialogue]]:
        """The valid dialogues of a file of another layout, by id and length; their entries are noted."""
        file = path.relative_to(self.folder).as_posix()
        try:
            for row in rows_of(path, form, layout):
                if wanted(row, layout):
                    for variant in layout.variants_of(path.name):
                        yield from self._row_of(row, layout, variant, file)
        except UnreadableError as error:
            self.problems.append(Problem(file, str(error)))

    def _row_of(self, row: Row, layout: Layout, variant: Variant | None, file: str) -> Iterator[tuple[tuple[str, int], Dialogue]]:
        value, problems = in_own_form(row, layout, variant, folder=self.folder, file=file)
        dialogue, sentences = parse_dialogue(value, length=None) if not problems else (None, ())
        found = [*problems, *sentences]
        if dialogue is not None:
            first = self._first_places.setdefault((dialogue.id, dialogue.length), f"{file}[{row.number}]")
            if first != f"{file}[{row.number}]":
                found.append(f"duplicate id: it stands at {first} already")
            found.extend(self._missing(dialogue.image_paths))
        if found or dialogue is None:
            self.problems.extend(Problem(file, what, row.number, element_id(value)) for what in found)
            return
        whole = _normal(dialogue, {})
        self.entries.append(self._row(whole, Element(row.number, 0, 0, None), file))
        yield (whole.id, whole.length), whole

    def _entry(self, element: Element, file: str, length: int, first_index: dict[str, int]) -> Entry | None:
        value = element.value if isinstance(element.value, dict) else {}
        dialogue, sentences = parse_dialogue(element.value, length=length)
        found = list(sentences)
        # Id and picture are looked at however wrong the rest of the element is.
        own_id, path = value.get("id"), value.get(image_key(value))
        if isinstance(own_id, str) and own_id and (first := first_index.setdefault(own_id, element.index)) != element.index:
            found.append(f"duplicate id: it stands at index {first} already")
        named = (path,) if isinstance(path, str) and path.strip() else ()
        found.extend(self._missing(dialogue.image_paths if dialogue is not None and dialogue.image_paths else named))
        if found or dialogue is None:
            self.problems.extend(Problem(file, what, element.index, element_id(element.value)) for what in found)
            return None
        if not dialogue.goal and self._bare_file is not None:
            # What is asked at length 1, by id; what is wrong with that file is said where it is loaded.
            bare_file, self._bare_file, self.questions = self._bare_file, None, {}
            with suppress(UnreadableError):
                for bare in _elements(bare_file):
                    asked, _ = parse_dialogue(bare.value, length=1)
                    if asked is not None:
                        self.questions[asked.id] = asked.user_texts[0]
        return self._row(_normal(dialogue, self.questions), element, file)

    def _missing(self, image_paths: Iterable[str]) -> Iterator[str]:
        for image_path in image_paths:
            if image_path not in self._pictures:
                try:
                    inspect_image(self.folder, image_path)
                    self._pictures[image_path] = None
                except ImageError as error:
                    self._pictures[image_path] = str(error)
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
            # What the prefix of an id stands for is no part of the digest: it is the layout's word, not the data's.
            source=self._once_or_none(dialogue.source or self._sources.get(dialogue.id.partition("_")[0])),
            language=self._once_or_none(dialogue.language),
            pair=self._once_or_none(dialogue.pair),
            user_only=dialogue.user_only,
        )

    def _once(self, text: str) -> str:
        return self._texts.setdefault(text, text)

    def _once_or_none(self, text: str | None) -> str | None:
        return None if text is None else self._once(text)


def _elements(path: Path) -> Iterator[Element]:
    text, base_bytes = read_text(path)
    yield from scan_array(text, base_bytes=base_bytes)


def _normal(dialogue: Dialogue, questions: Mapping[str, str]) -> Dialogue:
    """The dialogue as it is the same in every copy.

    Some write a slash before the picture's path. Where no question is given it is what the same id asks at length 1, and failing that the
    last message, which may be a veiled form of it.
    """
    goal = dialogue.goal or questions.get(dialogue.id) or dialogue.user_texts[-1]
    # Most lines have no picture, and a copy of each is a fifth of the time that a folder takes to load.
    lines = tuple(
        replace(line, image_paths=tuple(map(normal_image_path, line.image_paths))) if line.image_paths else line for line in dialogue.lines
    )
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
