"""How the package reads, in figures: `python -m benchmarks.house` (no figure depends on the machine).

Functions are counted without their docstrings, comments and blank lines; a *one-caller helper* is a private function or method
that just one place in the package names. A *late own import* is an import of the package's own modules inside a function.
"""

import ast
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "safemt_api"

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Helper:
    """A private function with one caller: where it stands and how many lines of code it has."""

    where: str
    lines: int


@dataclass(frozen=True, slots=True)
class House:
    """Files and lines of the package, and how its functions are cut."""

    files: int
    lines: int
    code_lines: int
    functions: int
    one_caller_helpers: int
    one_caller_share: float
    median_lines: float
    p99_lines: int
    late_own_imports: int
    lines_by_room: dict[str, int]


def measure(package: Path = PACKAGE) -> tuple[House, tuple[Helper, ...], tuple[str, ...]]:
    """The figures, the one-caller helpers and the places of late own imports, largest first."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))}
    trees = {path: ast.parse(source) for path, source in sources.items()}
    names = Counter(name for tree in trees.values() for name in _names_used(tree))
    functions = [(path, node) for path, tree in trees.items() for node in ast.walk(tree) if isinstance(node, FunctionNode)]
    lengths = sorted(len(_code_lines(node, sources[path])) for path, node in functions)
    helpers = sorted(
        (
            Helper(f"{path.relative_to(package)}:{node.lineno} {node.name}", len(_code_lines(node, sources[path])))
            for path, node in functions
            if node.name.startswith("_") and not node.name.startswith("__") and names[node.name] == 1 and not node.decorator_list
        ),
        key=lambda helper: helper.lines,
    )
    late = tuple(place for path, tree in trees.items() for place in _late_own_imports(path.relative_to(package), tree))
    rooms: Counter[str] = Counter()
    for path, source in sources.items():
        rooms[path.relative_to(package).parts[0] if len(path.relative_to(package).parts) > 1 else "."] += source.count("\n")
    house = House(
        files=len(sources),
        lines=sum(source.count("\n") for source in sources.values()),
        code_lines=sum(len(_code_lines(tree, sources[path])) for path, tree in trees.items()),
        functions=len(functions),
        one_caller_helpers=len(helpers),
        one_caller_share=round(len(helpers) / len(functions), 3),
        median_lines=statistics.median(lengths),
        p99_lines=lengths[int(len(lengths) * 0.99)],
        late_own_imports=len(late),
        lines_by_room=dict(rooms.most_common()),
    )
    return house, tuple(helpers), late


def _names_used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _code_lines(node: ast.AST, source: str) -> set[int]:
    """The numbers of a node's lines that hold code: no docstring, comment or blank line."""
    docstrings: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Module | ast.ClassDef | FunctionNode) and ast.get_docstring(inner, clean=False) is not None:
            first = inner.body[0]
            docstrings.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    text = source.splitlines()
    first_line, last_line = 1, len(text)
    if isinstance(node, FunctionNode):
        first_line, last_line = node.lineno, node.end_lineno or node.lineno
    return {
        number
        for number in range(first_line, last_line + 1)
        if number not in docstrings and (line := text[number - 1].strip()) and not line.startswith("#")
    }


def _late_own_imports(place: Path, tree: ast.AST) -> Iterator[str]:
    for function in ast.walk(tree):
        if isinstance(function, FunctionNode):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and (node.level > 0 or (node.module or "").split(".")[0] == "safemt_api"):
                    yield f"{place}:{node.lineno}"


def main() -> None:
    """Print the figures as JSON; with `--list`, also each one-caller helper and late own import."""
    house, helpers, late = measure()
    print(json.dumps(asdict(house), indent=2))
    if "--list" in sys.argv:
        print(*(f"{helper.lines:4} {helper.where}" for helper in helpers), *(f"late {place}" for place in late), sep="\n")


if __name__ == "__main__":
    main()
