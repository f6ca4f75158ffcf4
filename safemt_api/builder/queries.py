"""The user's own queries: what each dialogue is after, with its scenario and, where there is one, its picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safemt_api.dataset.elements import UnreadableError, shown
from safemt_api.dataset.layouts import Files, Layout, Row, own_form
from safemt_api.dataset.picture_files import ImageError, inspect_image
from safemt_api.dataset.rows import rows_of
from safemt_api.errors import DatasetError, Problem, UsageError
from safemt_api.foreign_text import unfit_in_name

FORMS: Mapping[str, str] = {".json": "json-array", ".jsonl": "jsonl", ".csv": "csv"}
GOAL = ("{goal}", "{question}", "{query}")
PICTURE = ("{image_path}", "{image}", "{picture}")


@dataclass(frozen=True, slots=True)
class Query:
    """One query; ``image_path`` is relative to the folder of pictures."""

    id: str
    scenario: str
    goal: str
    image_path: str | None = None


def read_queries(file: Path, images: Path | None) -> tuple[Query, ...]:
    """The queries of a JSON array, a JSONL or a CSV with ``id``, ``scenario``, ``goal`` and, if it likes, ``image_path``.

    Raises:
        UsageError: No such file, or of no known kind.
        DatasetError: Something is wrong with them: all of it is listed.
    """
    form = FORMS.get(file.suffix.lower())
    if form is None or not file.is_file():
        raise UsageError(f"--queries {file}: give a file that ends in .json (an array), .jsonl or .csv")
    layout: Layout = own_form()
    problems: list[Problem] = []
    queries: dict[str, Query] = {}
    try:
        for row in rows_of(file, Files.model_validate({"patterns": ("*",), "rows": form}), layout):
            query, found = _query(row, images)
            if query.id in queries:
                found.append("duplicate id")
            problems.extend(Problem(file.name, what, row.number, shown(query.id) or None) for what in found)
            queries.setdefault(query.id, query)
    except UnreadableError as error:
        problems.append(Problem(file.name, str(error)))
    if not queries and not problems:
        problems.append(Problem(file.name, "holds no query"))
    if problems:
        raise DatasetError(file, problems)
    return tuple(queries.values())


def _query(row: Row, images: Path | None) -> tuple[Query, list[str]]:
    found: list[str] = []
    values = {name: row.filled(templates) for name, templates in (("id", "{id}"), ("scenario", "{scenario}"), ("goal", GOAL))}
    found += [f'"{name}" is missing or empty' for name, value in values.items() if value is None]
    for name in ("id", "scenario"):
        why = unfit_in_name(values[name] or "")
        found += [] if why is None else [f'"{name}" {why}']
    path = row.filled(PICTURE)
    if path is not None and images is None:
        found.append("names a picture, but --images gives no folder")
    elif path is not None and images is not None:
        try:
            inspect_image(images, path)
        except ImageError as error:
            found.append(str(error))
    return Query(values["id"] or "", values["scenario"] or "", values["goal"] or "", path), found
