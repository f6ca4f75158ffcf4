"""Rows out of files of other layouts, and each row as an element of our own form."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from safemt_api.dataset.elements import MAX_FILE_BYTES, UnreadableError, decode_value, json_kind, read_text, scan_array, shown
from safemt_api.dataset.layouts import Files, Layout, Pictures, Row, Turns, Variant, columns_named
from safemt_api.errors import UsageError

MAX_ROWS = 1_000_000
MAX_COLUMNS = 2000
ROWS_AT_A_TIME = 500
"""A table is read in parts of so many rows, so that a small file that unpacks to a huge one ends at the bound below."""

MAX_TABLE_BYTES = 2 * 1024**3
"""What all texts of one table may weigh in memory before it is refused."""


def files_of(folder: Path, layout: Layout) -> tuple[tuple[Path, Files], ...]:
    """The files of the first of a layout's forms that is in a folder; links that leave it and hidden files are passed over."""
    root = folder.resolve()
    for files in layout.files:
        found = {path for pattern in files.patterns for path in folder.glob(pattern)}
        seen = [
            path
            for path in sorted(found)
            if path.is_file()
            and path.resolve().is_relative_to(root)
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]
        if seen:
            return tuple((path, files) for path in seen)
    return ()


def rows_of(path: Path, files: Files, layout: Layout) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        UnreadableError: It is not of the form that the layout says, too large, or damaged; rows before the damage are given out by then.
    """
    readers = {"json-array": _array, "json-object": _object, "jsonl": _lines, "csv": _csv, "parquet": _parquet}
    for number, (key, value) in enumerate(readers[files.rows](path, layout, files)):
        if number >= MAX_ROWS:
            raise UnreadableError(f"has more than {MAX_ROWS:,} rows")
        if not isinstance(value, Mapping):
            raise UnreadableError(f"row {number} is not an object but {json_kind(value)}")
        if number == 0 and files.rows not in ("csv", "parquet"):
            _check_columns(value, layout, files)
        yield Row(value, file=path, number=number, key=key)


def _array(path: Path, _layout: Layout, _files: Files) -> Iterator[tuple[None, Any]]:
    for element in scan_array(read_text(path)[0]):
        yield None, element.value


def _object(path: Path, _layout: Layout, _files: Files) -> Iterator[tuple[str, Any]]:
    text, _ = read_text(path)
    value, end = decode_value(text.strip())
    if not isinstance(value, Mapping) or text.strip()[end:]:
        raise UnreadableError(f"is not one JSON object but {json_kind(value)}")
    yield from value.items()


def _lines(path: Path, _layout: Layout, _files: Files) -> Iterator[tuple[None, Any]]:
    for number, line in enumerate(read_text(path)[0].split("\n"), 1):
        if line.strip():
            try:
                value, end = decode_value(line.strip())
            except UnreadableError as error:
                raise UnreadableError(f"line {number} {error}") from error
            if line.strip()[end:]:
                raise UnreadableError(f"line {number} is not JSON: there is more after its value")
            yield None, value


def _csv(path: Path, layout: Layout, files: Files) -> Iterator[tuple[None, Any]]:
    import polars as pl  # noqa: PLC0415 (polars is imported late)

    if path.stat().st_size > MAX_FILE_BYTES:
        raise UnreadableError(f"has {path.stat().st_size:,} bytes, more than the {MAX_FILE_BYTES:,} allowed")
    try:
        table = pl.read_csv(path, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UnreadableError(f"cannot be read as CSV: {shown(str(error).splitlines()[0])}") from error
    if table.width > MAX_COLUMNS:
        raise UnreadableError(f"has {table.width:,} columns, more than the {MAX_COLUMNS:,} allowed")
    _check_columns(table.columns, layout, files)
    yield from ((None, row) for row in table.iter_rows(named=True))


def _parquet(path: Path, layout: Layout, files: Files) -> Iterator[tuple[None, Any]]:
    import polars as pl  # noqa: PLC0415 (polars is imported late)

    weight = 0
    try:
        table = pl.scan_parquet(path, glob=False)
        there = table.collect_schema().names()
        _check_columns(there, layout, files)
        wanted = {name.partition(".")[0] for name in columns_named(layout)}
        chosen = table.select([name for name in there if name in wanted])
        height = table.select(pl.len()).collect().item()
        for start in range(0, min(height, MAX_ROWS + 1), ROWS_AT_A_TIME):
            part = chosen.slice(start, ROWS_AT_A_TIME).collect()
            weight += int(part.estimated_size())
            if weight > MAX_TABLE_BYTES:
                raise UnreadableError(f"unpacks to more than the {MAX_TABLE_BYTES:,} bytes of text allowed")
            yield from ((None, row) for row in part.iter_rows(named=True))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UnreadableError(f"cannot be read as parquet: {shown(str(error).splitlines()[0])}") from error


def _check_columns(there: Collection[str], layout: Layout, files: Files) -> None:
    missing = [name for name in files.signature if name not in there]
    if missing:
        raise UnreadableError(
            f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)} of the layout {layout.name}; it has: "
            f"{shown(', '.join(sorted(there)))}"
        )


def fits(folder: Path, layout: Layout) -> bool:
    """Whether a folder is unmistakably of a layout: its first file can be read and has the columns of the signature."""
    found = files_of(folder, layout)
    if not found or not found[0][1].signature:
        return False
    path, files = found[0]
    try:
        row = next(rows_of(path, files, layout), None)
    except (UnreadableError, OSError):
        return False
    return row is not None


def wanted(row: Row, layout: Layout) -> bool:
    """Whether the layout takes the row."""
    return all(str(row.value(column)) in values for column, values in layout.only.items())


def root_of(folder: Path, pictures: Pictures | None) -> str:
    """Which of the roots of a layout's pictures is there; the first where none is."""
    roots = ("",) if pictures is None else pictures.roots
    for root in roots:
        parts = PurePosixPath(root).parts
        archive = next((at for at, part in enumerate(parts) if part.lower().endswith(".zip")), None)
        if folder.joinpath(*parts[: None if archive is None else archive + 1]).exists():
            return root
    return roots[0]


def in_own_form(row: Row, layout: Layout, variant: Variant | None, *, folder: Path, file: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A row as an element of our own form, and what keeps it from being one, a sentence each.

    Args:
        row: The row.
        layout: How to read it.
        variant: Which of the dialogues that it holds.
        folder: The data folder, in which the roots of the pictures are looked for.
        file: The row's file, relative to the folder.
    """
    fields, turns, pictures = layout.of(variant)
    assert turns is not None  # noqa: S101 (a layout without turns is read as our own form)
    problems: list[str] = []
    element: dict[str, Any] = {}
    for name in ("id", "scenario", "goal", "method", "source", "language", "pair", "kind"):
        templates = getattr(fields, name)
        found = row.filled(templates)
        if found is not None:
            names = layout.values.get(name, {})
            element[name] = names.get(found, names.get("*", found))
        elif name in ("id", "scenario"):
            problems.append(f'has no "{name}": the layout {layout.name} takes it from {_told(templates)}, and nothing is there')
    if fields.harmful_if:
        element["kind"] = "benign" if row.filled(fields.harmful_if) is None else "harmful"
    reader = _Messages(row, turns, problems)
    element["dialogue"] = reader.all()
    path = _picture(row, pictures, root=root_of(folder, pictures), file=file)
    if path is None and pictures is not None and pictures.required and not reader.has_pictures:
        problems.append(f"has no picture: the layout {layout.name} takes it from {_told(pictures.path)}, and nothing is there")
    element["image_path"] = path
    return element, tuple(problems)


def _told(templates: str | tuple[str, ...]) -> str:
    return " or ".join((templates,) if isinstance(templates, str) else templates) or "no column"


def _picture(row: Row, pictures: Pictures | None, *, root: str, file: str) -> str | None:
    if pictures is None:
        return None
    if pictures.column:
        return f"{file}/{pictures.column}/{row.number}"
    path = row.filled(pictures.path)
    return None if path is None else str(PurePosixPath(root) / path.removeprefix("/"))


class _Messages:
    """Takes the messages out of one row and notes what is wrong with them."""

    def __init__(self, row: Row, turns: Turns, problems: list[str]) -> None:
        self._row, self._turns, self._problems = row, turns, problems
        self.has_pictures = False

    def all(self) -> list[dict[str, Any]]:
        """The messages as our own form has them."""
        turns = self._turns
        if turns.users:
            texts = (self._row.filled(templates) for templates in turns.users)
            return [{"role": "user", "content": text} for text in texts if text is not None]
        if turns.user_list:
            return [{"role": "user", "content": text} for text in self._list(turns.user_list)]
        raw = self._list(turns.messages) if turns.messages else list(self._numbered(turns.numbered or ""))
        messages = [
            self._message(one, place)
            for place, one in enumerate(raw)
            if not (isinstance(one, Mapping) and one.get(turns.role) in turns.leave_out)
        ]
        while turns.answered and messages and messages[-1]["role"] == "assistant":
            messages.pop()
        return messages

    def _list(self, column: str) -> list[Any]:
        value = self._row.value(column)
        if isinstance(value, str):
            try:
                value = decode_value(value.strip())[0]
            except UnreadableError as error:
                self._problems.append(f'column "{column}" {error}')
                return []
        if not isinstance(value, list):
            self._problems.append(f'column "{column}" must be an array, not {json_kind(value)}')
            return []
        return value

    def _numbered(self, pattern: str) -> Iterator[Any]:
        for number in range(MAX_COLUMNS):
            column = pattern.replace("{n}", str(number))
            if column not in self._row.columns:
                return
            cell = self._row.columns[column]
            if isinstance(cell, str) and cell.strip():
                try:
                    yield orjson.loads(cell)
                except orjson.JSONDecodeError:
                    self._problems.append(f'column "{column}" is not JSON')

    def _message(self, message: object, place: int) -> dict[str, Any]:
        if not isinstance(message, Mapping):
            self._problems.append(f"message {place} is not an object but {json_kind(message)}")
            return {"role": "user", "content": ""}
        role, content = message.get(self._turns.role), message.get(self._turns.text)
        paths = message.get(self._turns.image_list) if self._turns.image_list else None
        if isinstance(content, list):
            content, paths = self._parts(content, place)
        self.has_pictures = self.has_pictures or bool(paths)
        known = self._turns.roles.get(role, role) if isinstance(role, str) else role
        return {"role": known, "content": content, **({"image_paths": paths} if paths else {})}

    def _parts(self, parts: list[Any], place: int) -> tuple[str, list[str]]:
        """Words and pictures of a message whose content is a list of parts."""
        texts, paths = [], []
        for part in parts:
            kind = part.get("type") if isinstance(part, Mapping) else None
            url = part.get("image_url") if kind == "image_url" else None
            url = url.get("url") if isinstance(url, Mapping) else url
            if kind == "text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif isinstance(url, str) and "://" not in url and not url.startswith("data:"):
                paths.append(url)
            elif isinstance(url, str):
                self._problems.append(f"message {place}: a picture must be a path below the data folder, not an address; save it there")
            else:
                self._problems.append(f"message {place}: a part is neither text nor image_url")
        return "\n".join(texts), paths


def check_is_folder(folder: Path) -> None:
    """Refuse what is no folder that can be read.

    Raises:
        UsageError: It is none.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the one that holds 1_turn.json and images/, or the files of a known layout")
