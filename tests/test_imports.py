"""The house stands: imports point down from floor to roof, no module waits for itself, and late imports are few and explained."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import safemt_api

ROOT = Path(safemt_api.__file__).parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "foreign_text", "messages", "markers", "frames"),
    ("files", "specs", "words"),
    ("profiles", "shown"),
    ("tokens", "prices", "routes", "telemetry"),
    ("otel",),
    ("dataset", "adapters", "store", "asking"),
    ("limits", "judges", "moderators"),
    ("batches",),
    ("gateway", "dialogues", "metrics", "simulator"),
    ("runs",),
    ("evaluation",),
    ("studies",),
    ("calibration",),
    ("report", "builder"),
    ("view", "loaded"),
    ("cli",),
    ("__main__",),
)
LEVELS = {room: level for level, floor in enumerate(FLOORS) for room in floor}

HEAVY = frozenset(
    {
        "openai",
        "anthropic",
        "google",
        "genai_prices",
        "polars",
        "altair",
        "vl_convert",
        "PIL",
        "dotenv",
        "importlib",
        "opentelemetry",
        "ray",
    }
)
"""What may be imported late beside our own: loading it takes long, or it is an optional extra."""


class Import(NamedTuple):
    """One import statement; ``late`` when it stands inside a function."""

    importer: str
    imported: str
    line: int
    late: bool


def _modules() -> Iterator[tuple[str, Path]]:
    for file in sorted(ROOT.rglob("*.py")):
        parts = ("safemt_api", *file.relative_to(ROOT).with_suffix("").parts)
        yield ".".join(parts).removesuffix(".__init__"), file


MODULES = frozenset(name for name, _ in _modules())


def _imports() -> Iterator[Import]:
    for module, file in _modules():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        yield from _of(tree, module, late=False)


def _of(node: ast.AST, module: str, *, late: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom):
            # ``from safemt_api import words`` imports the module, not the root.
            rooms = [alias.name for alias in child.names if child.module == "safemt_api" and alias.name in LEVELS]
            names = [f"safemt_api.{room}" for room in rooms] or [child.module or ""]
            yield from (Import(module, name, child.lineno, late) for name in names)
        elif isinstance(child, ast.Import):
            yield from (Import(module, alias.name, child.lineno, late) for alias in child.names)
        else:
            yield from _of(child, module, late=late or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))


IMPORTS = tuple(_imports())
OWN = tuple(one for one in IMPORTS if one.imported.split(".")[0] == "safemt_api")


def _room(module: str) -> str:
    return [*module.split("."), ""][1]


def test_every_module_has_its_floor() -> None:
    rooms = {_room(module) for module, _ in _modules() if module != "safemt_api"}
    assert rooms == set(LEVELS)


def test_the_documented_rooms_are_these_floors() -> None:
    text = (ROOT.parent / "docs" / "how-it-is-built.md").read_text(encoding="utf-8").partition("From the floor to the roof")[2]
    rows = [re.split(r"\s{2,}", line.strip())[0] for line in re.findall(r"^ {4}(.+)$", text, re.MULTILINE)]
    rooms = [room.rstrip("/") for row in rows for room in row.split()]
    assert set(rooms) == set(LEVELS) - {"__main__"}
    assert [LEVELS[room] for room in rooms] == sorted(LEVELS[room] for room in rooms)
    assert all((ROOT / room.rstrip("/")).is_dir() == room.endswith("/") for row in rows for room in row.split())


def test_imports_only_ever_point_down() -> None:
    # The package's own face holds lazy names and the version; only the roof may look at it.
    wrong = [
        one
        for one in OWN
        if one.importer != "safemt_api"
        and not (one.imported == "safemt_api" and _room(one.importer) == "cli")
        and _room(one.importer) != _room(one.imported)
        and LEVELS[_room(one.importer)] <= LEVELS.get(_room(one.imported), 99)
    ]
    assert wrong == []


def test_the_packages_face_imports_nothing_of_ours_at_once() -> None:
    assert [one for one in OWN if one.importer == "safemt_api" and not one.late] == []


def test_no_module_waits_for_itself() -> None:
    graph: dict[str, set[str]] = {}
    for one in OWN:
        if not one.late and one.imported != one.importer:
            graph.setdefault(one.importer, set()).add(one.imported)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path, module))
        if module not in done:
            for imported in graph.get(module, ()):
                visit(imported, (*path, module))
            done.add(module)

    for module in list(graph):
        visit(module, ())


@pytest.mark.parametrize("one", [one for one in IMPORTS if one.late], ids=lambda one: f"{one.importer}-{one.imported}-{one.line}")
def test_late_imports_are_of_what_is_heavy_and_say_why(one: Import) -> None:
    top = one.imported.split(".")[0]
    assert top == "safemt_api" or top in HEAVY
    file = dict(_modules())[one.importer]
    line = file.read_text(encoding="utf-8").splitlines()[one.line - 1]
    assert re.search(r"# noqa: PLC0415 \(.{4,}\)", line), line
