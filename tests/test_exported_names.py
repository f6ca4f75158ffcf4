"""``safemt_api.__all__`` is what users may rely on: every name is there, typed, documented, and costs nothing until it is used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import safemt_api

SOURCE = ast.parse(Path(safemt_api.__file__).read_text(encoding="utf-8"))


def _typed_names() -> dict[str, str]:
    """Name and module of each import under TYPE_CHECKING."""
    guard = next(node for node in SOURCE.body if isinstance(node, ast.If))
    imports = [node for node in guard.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_all_is_sorted_and_without_repeats() -> None:
    assert list(safemt_api.__all__) == sorted(set(safemt_api.__all__))


@pytest.mark.parametrize("name", safemt_api.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    found = getattr(safemt_api, name)
    assert isinstance(found, str) or inspect.getdoc(found)
    assert name in dir(safemt_api)


def test_type_checkers_see_the_same_names_from_the_same_places() -> None:
    typed = _typed_names()
    assert {*typed, "__version__"} == set(safemt_api.__all__)
    for name, module in typed.items():
        assert getattr(safemt_api, name) is getattr(import_module(module), name)


def test_other_names_are_an_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = safemt_api.no_such_name


def test_star_import_works() -> None:
    code = "from safemt_api import *\nassert callable(evaluate) and callable(asr_by_turn) and callable(safety_index)"
    path = str(Path(safemt_api.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": path})
