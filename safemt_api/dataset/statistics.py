"""What is in a data set, as values to print: dialogues by scenario and length, sources, pictures, words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from statistics import median

from safemt_api.dataset.elements import shown
from safemt_api.dataset.entries import Dataset
from safemt_api.dataset.picture_files import ImageError, Inspection, inspect_image
from safemt_api.messages import Dialogue, Kind

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
class WordCount:
    """Words of the dialogues of one length: mean per dialogue, user's and scripted assistant's."""

    length: int
    dialogues: int
    mean_user_words: float
    mean_assistant_words: float
    longest_words: int


@dataclass(frozen=True, slots=True)
class PictureCount:
    """The distinct pictures. ``mismatched`` are those whose ending names another type than their bytes are."""

    files: int
    total_bytes: int
    median_bytes: int
    largest_bytes: int
    widest_pixels: int
    tallest_pixels: int
    media_types: tuple[tuple[str, int], ...]
    mismatched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows to print under a title; all cells are text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class DatasetStatistics:
    """A data set in numbers. ``complete_ids`` have every length; ``sources`` counts ids by the prefix before their first underscore."""

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

    def tables(self) -> tuple[Table, ...]:
        """The numbers as tables of text."""
        return (self._overview(), self._by_scenario(), self._by_length(), self._pictures())

    def _overview(self) -> Table:
        rows = [
            ("dialogues", f"{self.dialogues:,}"),
            ("ids", f"{self.ids:,}"),
            ("ids with every length", f"{self.complete_ids:,}"),
            *((f"{kind} ids", f"{count:,}") for kind, count in self.kinds),
            *((f"ids from {shown(source)}", f"{count:,}") for source, count in self.sources),
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
    return DatasetStatistics(
        name=dataset.name,
        fingerprint=dataset.fingerprint,
        lengths=dataset.lengths,
        dialogues=len(dataset.entries),
        ids=len(id_kinds),
        complete_ids=sum(count == len(dataset.lengths) for count in lengths_per_id.values()),
        kinds=_most_first(Counter(id_kinds.values())),
        sources=_most_first(Counter(_source(one) for one in id_kinds)),
        scenarios=_scenario_counts(dataset),
        words=_word_counts(dataset),
        pictures=_picture_count(dataset),
    )


def mismatched_ending(image_path: str, media_type: str) -> bool:
    """Whether a file's ending names another type than its bytes are."""
    return _TYPES_BY_ENDING.get(PurePosixPath(image_path).suffix.lower(), media_type) != media_type


def _most_first(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _source(dialogue_id: str) -> str:
    prefix, separator, _ = dialogue_id.partition("_")
    return f"{prefix}_" if separator else "(no prefix)"


def _scenario_counts(dataset: Dataset) -> tuple[ScenarioCount, ...]:
    cells = Counter((entry.kind, entry.scenario, entry.length) for entry in dataset.entries)
    ids = Counter((kind, scenario) for kind, scenario, _ in {(entry.kind, entry.scenario, entry.id) for entry in dataset.entries})
    order = sorted(ids, key=lambda key: (key[0] != "harmful", key[1]))
    return tuple(
        ScenarioCount(scenario, kind, ids[kind, scenario], tuple(cells[kind, scenario, length] for length in dataset.lengths))
        for kind, scenario in order
    )


def _word_counts(dataset: Dataset) -> tuple[WordCount, ...]:
    counts: dict[int, list[tuple[int, int]]] = {length: [] for length in dataset.lengths}
    for entry in dataset.entries:
        counts[entry.length].append(_words(dataset.read(entry)))
    return tuple(_word_count(length, pairs) for length, pairs in counts.items())


def _words(dialogue: Dialogue) -> tuple[int, int]:
    of_user = sum(len(line.text.split()) for line in dialogue.lines if line.role == "user")
    return of_user, sum(len(line.text.split()) for line in dialogue.lines) - of_user


def _word_count(length: int, pairs: Sequence[tuple[int, int]]) -> WordCount:
    number = len(pairs)
    return WordCount(length, number, sum(own for own, _ in pairs) / number, sum(other for _, other in pairs) / number, max(map(sum, pairs)))


def _picture_count(dataset: Dataset) -> PictureCount:
    paths = sorted({path for entry in dataset.entries for path in entry.image_paths})
    found = dict(_inspected(dataset, paths))
    sizes = [inspection.size_bytes for inspection in found.values()] or [0]
    return PictureCount(
        files=len(found),
        total_bytes=sum(sizes),
        median_bytes=int(median(sizes)),
        largest_bytes=max(sizes),
        widest_pixels=max((inspection.width_pixels for inspection in found.values()), default=0),
        tallest_pixels=max((inspection.height_pixels for inspection in found.values()), default=0),
        media_types=_most_first(Counter(inspection.media_type for inspection in found.values())),
        mismatched=tuple(path for path, inspection in found.items() if mismatched_ending(path, inspection.media_type)),
    )


def _inspected(dataset: Dataset, paths: Iterable[str]) -> Iterable[tuple[str, Inspection]]:
    for path in paths:
        try:
            yield path, inspect_image(dataset.folder, path)
        except ImageError:
            continue  # it was checked when the data set was loaded; what has gone since is not counted
