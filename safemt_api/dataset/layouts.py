"""What is known of a data set's files, one TOML a layout: where it is published, on what terms, and how its rows become dialogues.

A row (one element of JSON, one line, one record of a table) becomes an *element of our own form*, the one that ``elements`` checks, so that
every set is held to the same rules. Most fields are templates: ``"{category}"`` is a column, ``"{turn.text}"`` a part of one, and there are
``{row.number}`` (from 0), ``{row.key}`` (where rows are the values of one JSON object), ``{file.stem}`` and ``{file.folder}``. Of several
templates the first counts whose columns are all there and not empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from safemt_api.dataset.elements import shown
from safemt_api.errors import LayoutError, UsageError, did_you_mean
from safemt_api.files import read_toml, shipped_folder

OWN_FOLDER = "layouts"
OWN_FORM = "safemt"
"""The layout whose rows are of our own form already; also what ``data convert`` and ``data build`` write."""

Templates = str | tuple[str, ...]
Rows = Literal["json-array", "json-object", "jsonl", "csv", "parquet"]

_PLACE = re.compile(r"\{([^{}]+)\}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Files(_Strict):
    """One form in which the set is published; of several the first that is there counts. ``patterns`` are globs below the data folder.

    ``signature`` are columns that the first row has: by them the layout is found where none is named.
    """

    patterns: tuple[str, ...] = Field(min_length=1)
    rows: Rows
    signature: tuple[str, ...] = ()

    @field_validator("patterns")
    @classmethod
    def _stay_inside(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if not pattern or pattern.startswith("/") or ".." in pattern.split("/") or "\\" in pattern:
                raise ValueError(f"{pattern!r} must be a pattern below the data folder, with / and without ..")
        return value


class Fields(_Strict):
    """Where the facts of a dialogue are. ``harmful_if``: a dialogue is harmful where this template is filled, else benign."""

    id: Templates = "{id}"
    scenario: Templates = "{scenario}"
    goal: Templates = ()
    kind: Templates = ()
    harmful_if: Templates = ()
    method: Templates = ()
    source: Templates = ()
    language: Templates = ()
    pair: Templates = ()


class Turns(_Strict):
    """Where the messages are, in one of four ways.

    ``messages``: a column with a list of messages, or with the JSON text of one; ``numbered``: columns such as ``message_{n}``, each with
    one message as JSON text; ``users``: the user's messages as templates, empty ones left out; ``user_list``: a column with a list of them.
    """

    messages: str | None = None
    numbered: str | None = None
    users: tuple[Templates, ...] = ()
    user_list: str | None = None
    role: str = "role"
    text: str = "content"
    image_list: str | None = Field(None, description="key of a message with the paths of its pictures")
    roles: dict[str, Literal["user", "assistant"]] = Field(default_factory=dict, description="other names for user and assistant")
    leave_out: tuple[str, ...] = Field((), description="roles whose messages are left out")
    answered: bool = Field(False, description="dialogues may end with the assistant's answer, which is left out")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(map(bool, (self.messages, self.numbered, self.users, self.user_list))) != 1:
            raise ValueError("must have exactly one of messages, numbered, users, user_list")
        return self


class Pictures(_Strict):
    """Where the pictures are: a path by template, relative to the first of ``roots`` that is there, or a column of a parquet file.

    A root may be, or lead into, a ``.zip``. ``required``: a dialogue without its picture is wrong.
    """

    path: Templates = ()
    column: str | None = Field(None, description="column of a parquet file that holds the picture: its bytes, or a struct with them")
    roots: tuple[str, ...] = ("",)
    required: bool = True
    unpack_to: str = Field("images", description="where `data fetch` puts the pictures that come in archives")


class Variant(_Strict):
    """One of several dialogues that each row holds: what differs from the layout. ``files``: only rows of files of that name."""

    files: str = "*"
    fields: dict[str, Templates] = Field(default_factory=dict)
    turns: dict[str, Any] | None = None
    pictures: dict[str, Any] | None = None


class Hub(_Strict):
    """Where ``data fetch`` finds it. ``patterns`` is what is asked for; they cross slashes."""

    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    patterns: tuple[str, ...] = Field(min_length=1)
    size_mb: int | None = None
    gated: bool = False


class Layout(_Strict):
    """One layout file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    licence: str = Field(description="as the publisher names it; 'not found' where we could not find it")
    licence_url: str | None = None
    citation: str
    sources: tuple[str, ...] = Field(min_length=1, description="where the facts below were read")
    checked: date
    unknown: tuple[str, ...] = Field((), description="what could not be found out, a sentence each")
    notes: str = ""
    rubric: str | None = Field(None, description="rubric set for it where --rubric names none")
    hub: Hub | None = None
    files: tuple[Files, ...] = Field(min_length=1)
    only: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="rows whose column has another value are left out")
    values: dict[str, dict[str, str]] = Field(default_factory=dict, description="other names for the values of a field; * for the rest")
    fields: Fields = Fields()
    turns: Turns | None = None
    pictures: Pictures | None = None
    variants: tuple[Variant, ...] = ()
    digest: str = Field("", description="of the file; set when it is read")

    @property
    def is_own_form(self) -> bool:
        """Whether rows are elements of our own form already, one file a length."""
        return self.turns is None and not any(variant.turns for variant in self.variants)

    @model_validator(mode="after")
    def _variants_fit(self) -> Self:
        for variant in self.variants:
            self.of(variant)
        for field in self.values:
            if field not in Fields.model_fields:
                raise ValueError(f"values.{field}: there is no such field; there are: {', '.join(Fields.model_fields)}")
        return self

    def of(self, variant: Variant | None) -> tuple[Fields, Turns | None, Pictures | None]:
        """Fields, turns and pictures of a variant."""
        if variant is None:
            return self.fields, self.turns, self.pictures
        turns = Turns.model_validate(variant.turns, strict=False) if variant.turns is not None else self.turns
        pictures = self.pictures
        if variant.pictures is not None:
            own = {} if pictures is None else pictures.model_dump()
            pictures = Pictures.model_validate({**own, **variant.pictures}, strict=False)
        return Fields.model_validate({**self.fields.model_dump(), **variant.fields}, strict=False), turns, pictures

    def variants_of(self, file: str) -> tuple[Variant | None, ...]:
        """The variants that rows of a file of that name hold; ``(None,)`` where the layout knows none."""
        own = tuple(variant for variant in self.variants if fnmatchcase(file, variant.files))
        return own if self.variants else (None,)

    @property
    def record(self) -> dict[str, Any]:
        """What is kept with data that were read by it: what it is called, where it is from, and on what terms."""
        return {
            "layout": self.name,
            "layout_digest": self.digest,
            "title": self.title,
            "licence": self.licence,
            "licence_url": self.licence_url,
            "citation": self.citation,
            "repository": None if self.hub is None else self.hub.repository,
            "sources": list(self.sources),
            "rubric": self.rubric,
        }


def read_layout(file: Path) -> Layout:
    """Read one TOML file.

    Raises:
        LayoutError: Unreadable, not TOML, or a field is unknown, missing or of the wrong kind.
    """
    written = read_toml(file, failed=lambda file, why: LayoutError(file, None, why))
    try:
        # TOML has arrays where we have tuples; nothing else is bent.
        return Layout.model_validate({**written.tables, "digest": written.digest}, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        unknown = "no such field" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise LayoutError(file, field, unknown) from error


def demonstration_folder() -> Path:
    """The folder of the demonstration set: mild dialogues in our own form that come with the package.

    Raises:
        UsageError: This installation lacks it.
    """
    folder = Path(__file__).resolve().parent / "demonstration"
    if not folder.is_dir():
        raise UsageError("the demonstration set is missing from this installation: install safemt-api again, or give --data DIR")
    return folder


def load_layouts() -> dict[str, Layout]:
    """All layouts by name: shipped, then those of ``./layouts``, which win.

    Raises:
        LayoutError: A file is wrong, or its name differs from the ``name`` inside it.
    """
    own = Path(OWN_FOLDER)
    shipped = shipped_folder(OWN_FOLDER)
    layouts = dict(_folder(shipped))
    if own.is_dir() and own.resolve() != shipped.resolve():
        layouts.update(_folder.__wrapped__(own))
    return dict(sorted(layouts.items()))


@cache
def _folder(folder: Path) -> Mapping[str, Layout]:
    layouts = {}
    for file in sorted(folder.glob("*.toml")):
        layout = read_layout(file)
        if layout.name != file.stem:
            raise LayoutError(file, "name", f"is {layout.name!r} but the file is called {file.name}; they must agree")
        layouts[layout.name] = layout
    return layouts


def find_layout(given: str) -> Layout:
    """The layout that ``--layout`` names: one of ``load_layouts``, or a file.

    Raises:
        UsageError: There is neither.
        LayoutError: The file is wrong.
    """
    if given.endswith(".toml") or "/" in given:
        return read_layout(Path(given))
    layouts = load_layouts()
    if given not in layouts:
        raise UsageError(f"--layout {given}: no such layout or file{did_you_mean(given, layouts)}; there are: {', '.join(layouts)}")
    return layouts[given]


def own_form() -> Layout:
    """The layout of our own form."""
    return _folder(shipped_folder(OWN_FOLDER))[OWN_FORM]


class Row:
    """One row, for templates to be filled from: its columns, and where it stands."""

    def __init__(self, columns: Mapping[str, Any], *, file: Path, number: int, key: str | None = None) -> None:
        self.columns, self.number, self.key = columns, number, key
        self._file = file

    def value(self, name: str) -> Any:
        """A column, a part of one, or a fact about the row; ``None`` where there is none."""
        if name in self.columns:
            return self.columns[name]
        facts = {"row.number": self.number, "row.key": self.key, "file.stem": self._file.stem, "file.folder": self._file.parent.name}
        if name in facts:
            return facts[name]
        found: Any = self.columns
        for part in name.split("."):
            if isinstance(found, Mapping):
                found = found.get(part)
            elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            else:
                return None
        return found

    def filled(self, templates: Templates) -> str | None:
        """The first template whose columns are all there and not empty, filled in; ``None`` where there is none."""
        for template in (templates,) if isinstance(templates, str) else templates:
            values = {name: self.value(name) for name in _PLACE.findall(template)}
            # Text that is not blank, or a whole number (a bool is an int too, but says nothing in a template).
            if all(bool(value.strip()) if isinstance(value, str) else type(value) is int for value in values.values()):
                return _PLACE.sub(lambda place, values=values: str(values[place[1]]), template)  # type: ignore[misc] # binds the loop's value
        return None


def columns_named(layout: Layout) -> Iterator[str]:
    """The columns that a layout needs, so that no other is read: in a table of pictures the rest may be gigabytes."""
    for variant in layout.variants or (None,):
        fields, turns, pictures = layout.of(variant)
        templates = [getattr(fields, name) for name in Fields.model_fields]
        if turns is not None:
            templates.extend(turns.users)
            yield from (name for name in (turns.messages, turns.user_list) if name)
        if pictures is not None:
            templates.append(pictures.path)
        for template in templates:
            for one in (template,) if isinstance(template, str) else template:
                yield from _PLACE.findall(one)
    yield from layout.only


def described(layout: Layout) -> str:
    """The layout in one line, for lists of them."""
    return f"{layout.name}: {shown(layout.title)}, {layout.licence}"
