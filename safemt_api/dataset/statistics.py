"""What is in a data set, as values to print: dialogues by scenario, method and length, sources, pictures, words, duplicates, gaps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import PurePosixPath
from statistics import fmean, median
from typing import TypeVar

from safemt_api.dataset.elements import shown
from safemt_api.dataset.entries import Dataset, Entry
from safemt_api.dataset.picture_files import ImageError, Inspection, inspect_image, open_image
from safemt_api.messages import Dialogue, Kind
from safemt_api.words import first_few

G = TypeVar("G")

MOST_NAMES_TOLD = 3
MOST_GROUPS_TOLD = 5
SIDES_PIXELS = (256, 512, 1024, 2048, 4096)

_TYPES_BY_ENDING = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".avif": "image/avif",
}


@dataclass(frozen=True, slots=True)
class ScenarioCount:
    """Dialogues of one scenario and kind; ``by_length`` runs along the data set's lengths."""

    scenario: str
    kind: Kind
    ids: int
    by_length: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MethodCount:
    """Dialogues of one method; ``by_length`` runs along the data set's lengths."""

    method: str
    ids: int
    by_length: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gap:
    """The ids that lack a length."""

    length: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WordCount:
    """Words of the dialogues of one length: mean per dialogue, user's and scripted assistant's."""

    length: int
    dialogues: int
    mean_user_words: float
    mean_assistant_words: float
    longest_words: int


@dataclass(frozen=True, slots=True)
class PictureCount:
    """The distinct pictures. ``mismatched`` are those whose ending names another type than their bytes are.

    ``sides`` counts them by their longer side; ``duplicates`` are files with the same bytes.
    """

    files: int
    total_bytes: int
    median_bytes: int
    largest_bytes: int
    widest_pixels: int
    tallest_pixels: int
    media_types: tuple[tuple[str, int], ...]
    mismatched: tuple[str, ...]
    sides: tuple[tuple[str, int], ...] = ()
    duplicates: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows to print under a title; all cells are text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class DatasetStatistics:
    """A data set in numbers. ``complete_ids`` have every length, ``gaps`` says which ids lack which.

    ``sources`` counts ids by their source, or by the prefix before their first underscore; ``duplicates`` are ids whose users say the same.
    """

    name: str
    fingerprint: str
    lengths: tuple[int, ...]
    dialogues: int
    ids: int
    complete_ids: int
    kinds: tuple[tuple[str, int], ...]
    sources: tuple[tuple[str, int], ...]
    scenarios: tuple[ScenarioCount, ...]
    words: tuple[WordCount, ...]
    pictures: PictureCount
    methods: tuple[MethodCount, ...] = ()
    languages: tuple[tuple[str, int], ...] = ()
    twins: int = 0
    without_picture: int = 0
    user_only: int = 0
    duplicates: tuple[tuple[str, ...], ...] = ()
    gaps: tuple[Gap, ...] = ()

    def tables(self) -> tuple[Table, ...]:
        """The numbers as tables of text."""
        by_method = [(shown(row.method), f"{row.ids:,}", *(f"{count:,}" for count in row.by_length)) for row in self.methods]
        methods = Table("Dialogues by method and length", ("method", "ids", *map(str, self.lengths)), tuple(by_method))
        same = [("ids with the same words", len(group), group) for group in self.duplicates]
        same += [("pictures with the same bytes", len(group), group) for group in self.pictures.duplicates]
        lacking = [(f"ids without length {gap.length}", len(gap.ids), gap.ids) for gap in self.gaps]
        odd = [
            (what, f"{count:,}", first_few(list(map(shown, names)), MOST_NAMES_TOLD))
            for what, count, names in [*same[:MOST_GROUPS_TOLD], *lacking]
        ]
        if len(same) > MOST_GROUPS_TOLD:
            odd.append(("more groups alike", f"{len(same) - MOST_GROUPS_TOLD:,}", "--json has all"))
        return (
            self._overview(),
            self._by_scenario(),
            *((methods,) if self.methods else ()),
            self._by_length(),
            self._pictures(),
            *((Table("Duplicates and gaps", ("what", "count", "which"), tuple(odd)),) if odd else ()),
        )

    def _overview(self) -> Table:
        rows = [
            ("dialogues", f"{self.dialogues:,}"),
            ("ids", f"{self.ids:,}"),
            ("ids with every length", f"{self.complete_ids:,}"),
            *((f"{kind} ids", f"{count:,}") for kind, count in self.kinds),
            *((f"ids from {shown(source)}", f"{count:,}") for source, count in self.sources),
            *((f"ids in {shown(language)}", f"{count:,}") for language, count in self.languages),
            *((("pairs of a harmful and a benign id", f"{self.twins:,}"),) if self.twins else ()),
            *((("dialogues without a picture", f"{self.without_picture:,}"),) if self.without_picture else ()),
            *((("dialogues of the user alone (live only)", f"{self.user_only:,}"),) if self.user_only else ()),
            ("fingerprint", self.fingerprint),
        ]
        return Table(self.name, ("what", "value"), tuple(rows))

    def _by_scenario(self) -> Table:
        rows = [(shown(row.scenario), row.kind, f"{row.ids:,}", *(f"{count:,}" for count in row.by_length)) for row in self.scenarios]
        totals = [sum(row.by_length[position] for row in self.scenarios) for position in range(len(self.lengths))]
        rows.append(("all", "", f"{self.ids:,}", *(f"{total:,}" for total in totals)))
        return Table("Dialogues by scenario and length", ("scenario", "kind", "ids", *map(str, self.lengths)), tuple(rows))

    def _by_length(self) -> Table:
        rows = tuple(
            (
                str(row.length),
                f"{row.dialogues:,}",
                f"{row.mean_user_words:.0f}",
                f"{row.mean_assistant_words:.0f}",
                f"{row.longest_words:,}",
            )
            for row in self.words
        )
        return Table("Words by length", ("length", "dialogues", "user words, mean", "assistant words, mean", "longest, words"), rows)

    def _pictures(self) -> Table:
        pictures = self.pictures
        rows = (
            ("files", f"{pictures.files:,}"),
            ("total", f"{pictures.total_bytes / 1e6:,.1f} MB"),
            ("median", f"{pictures.median_bytes / 1e3:,.0f} KB"),
            ("largest", f"{pictures.largest_bytes / 1e3:,.0f} KB"),
            ("widest, tallest", f"{pictures.widest_pixels:,} pixels, {pictures.tallest_pixels:,} pixels"),
            *((f"longer side {name}", f"{count:,}") for name, count in pictures.sides),
            *((media_type, f"{count:,}") for media_type, count in pictures.media_types),
            ("ending unlike the bytes", f"{len(pictures.mismatched):,}"),
        )
        return Table("Pictures", ("what", "value"), rows)


def dataset_statistics(dataset: Dataset) -> DatasetStatistics:
    """The numbers of a data set; reads every dialogue once, one at a time, and the head of every picture.

    Raises:
        DatasetError: A file changed since it was checked.
    """
    id_kinds = {entry.id: entry.kind for entry in reversed(dataset.entries)}
    lengths_per_id = Counter(entry.id for entry in dataset.entries)
    id_sources = {entry.id: entry.source or _source(entry.id) for entry in reversed(dataset.entries)}
    pairs = {frozenset((entry.id, entry.pair)) for entry in dataset.entries if entry.pair in id_kinds}
    languages = Counter({entry.id: entry.language for entry in dataset.entries if entry.language}.values())
    words, duplicates = _words_of(dataset)
    by_scenario = _counted(dataset, lambda entry: (entry.kind, entry.scenario))
    scenarios = sorted(by_scenario.items(), key=lambda one: (one[0][0] != "harmful", one[0][1]))
    methods = _counted(dataset, lambda entry: entry.method)
    return DatasetStatistics(
        name=dataset.name,
        fingerprint=dataset.fingerprint,
        lengths=dataset.lengths,
        dialogues=len(dataset.entries),
        ids=len(id_kinds),
        complete_ids=sum(count == len(dataset.lengths) for count in lengths_per_id.values()),
        kinds=_most_first(Counter(id_kinds.values())),
        sources=_most_first(Counter(id_sources.values())),
        scenarios=tuple(ScenarioCount(scenario, kind, *counts) for (kind, scenario), counts in scenarios),
        words=words,
        pictures=_picture_count(dataset),
        methods=tuple(MethodCount(method, *counts) for method, counts in sorted(methods.items())),
        languages=_most_first({str(language): count for language, count in languages.items()}),
        twins=len(pairs),
        without_picture=sum(not entry.image_paths for entry in dataset.entries),
        user_only=sum(entry.user_only for entry in dataset.entries),
        duplicates=duplicates,
        gaps=tuple(_gaps(dataset)),
    )


def mismatched_ending(image_path: str, media_type: str) -> bool:
    """Whether a file's ending names another type than its bytes are."""
    return _TYPES_BY_ENDING.get(PurePosixPath(image_path).suffix.lower(), media_type) != media_type


def _most_first(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _source(dialogue_id: str) -> str:
    prefix, separator, _ = dialogue_id.partition("_")
    return f"{prefix}_" if separator else "(no prefix)"


def _counted(dataset: Dataset, group_of: Callable[[Entry], G | None]) -> dict[G, tuple[int, tuple[int, ...]]]:
    """The ids of each group, and its dialogues of each length; what is of no group is left out."""
    grouped = [(group, entry) for entry in dataset.entries if (group := group_of(entry)) is not None]
    cells = Counter((group, entry.length) for group, entry in grouped)
    ids = Counter(group for group, _ in {(group, entry.id) for group, entry in grouped})
    return {group: (count, tuple(cells[group, length] for length in dataset.lengths)) for group, count in ids.items()}


def _gaps(dataset: Dataset) -> Iterator[Gap]:
    """Which ids lack a length; only our own form has each id in all of them."""
    if dataset.layout is not None and not dataset.layout.is_own_form:
        return
    there = {(entry.id, entry.length) for entry in dataset.entries}
    for length in dataset.lengths:
        lacking = tuple(one for one in dataset.ids if (one, length) not in there)
        if lacking:
            yield Gap(length, lacking)


def _words_of(dataset: Dataset) -> tuple[tuple[WordCount, ...], tuple[tuple[str, ...], ...]]:
    """Words by length, and the ids whose users say the same, blanks and capitals aside; each dialogue is read once."""
    counts: dict[int, list[tuple[int, int]]] = {length: [] for length in dataset.lengths}
    same: dict[bytes, dict[str, None]] = {}
    for entry in dataset.entries:
        dialogue = dataset.read(entry)
        counts[entry.length].append(_words(dialogue))
        plain = "\0".join(" ".join(text.casefold().split()) for text in dialogue.user_texts)
        same.setdefault(sha256(plain.encode()).digest(), {})[entry.id] = None
    words = tuple(
        WordCount(length, len(pairs), fmean(own for own, _ in pairs), fmean(other for _, other in pairs), max(map(sum, pairs)))
        for length, pairs in counts.items()
    )
    return words, tuple(dict.fromkeys(tuple(ids) for ids in same.values() if len(ids) > 1))


def _words(dialogue: Dialogue) -> tuple[int, int]:
    of_user = sum(len(line.text.split()) for line in dialogue.lines if line.role == "user")
    return of_user, sum(len(line.text.split()) for line in dialogue.lines) - of_user


def _picture_count(dataset: Dataset) -> PictureCount:
    paths = sorted({path for entry in dataset.entries for path in entry.image_paths})
    found: dict[str, Inspection] = {}
    for path in paths:
        # It was checked when the data set was loaded; what has gone since is not counted.
        with suppress(ImageError):
            found[path] = inspect_image(dataset.folder, path)
    sides = [max(inspection.width_pixels, inspection.height_pixels) for inspection in found.values()]
    classes = [(f"up to {most:,} pixels", low, most) for low, most in pairwise((0, *SIDES_PIXELS))]
    classes.append((f"above {SIDES_PIXELS[-1]:,} pixels", SIDES_PIXELS[-1], 10**9))
    by_side = ((name, sum(low < side <= most for side in sides)) for name, low, most in classes)
    sizes = [inspection.size_bytes for inspection in found.values()] or [0]
    # Pictures with the same bytes; only those of the same size are read.
    of_size, same = Counter(sizes), defaultdict[bytes, list[str]](list)
    for path in (path for path, inspection in found.items() if of_size[inspection.size_bytes] > 1):
        with suppress(ImageError), open_image(dataset.folder, path) as stream:
            same[sha256(stream.read()).digest()].append(path)
    return PictureCount(
        files=len(found),
        total_bytes=sum(sizes),
        median_bytes=int(median(sizes)),
        largest_bytes=max(sizes),
        widest_pixels=max((inspection.width_pixels for inspection in found.values()), default=0),
        tallest_pixels=max((inspection.height_pixels for inspection in found.values()), default=0),
        media_types=_most_first(Counter(inspection.media_type for inspection in found.values())),
        mismatched=tuple(path for path, inspection in found.items() if mismatched_ending(path, inspection.media_type)),
        sides=tuple((name, count) for name, count in by_side if count),
        duplicates=tuple(tuple(paths) for paths in same.values() if len(paths) > 1),
    )
