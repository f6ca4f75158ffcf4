"""Own modules that load when they are first used, so that a command may name at its top what it needs and ``--help`` costs none of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

OWN = __name__.partition(".")[0] + "."


class _OnUse(PathFinder):
    """Finds modules of this package that load when they are first used."""

    @classmethod
    def find_spec(cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module's spec, with a lazy loader around its own."""
        spec = super().find_spec(fullname, path, target) if fullname.startswith(OWN) else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


@contextmanager
def imported_on_use() -> Iterator[None]:
    """Own modules that are imported in the block load when something of theirs is first used.

    A command's module names at its top what the command needs, and its ``--help`` still costs none of it: SDKs, polars and rich are loaded
    when the command runs.
    """
    sys.meta_path.insert(0, _OnUse)
    try:
        yield
    finally:
        sys.meta_path.remove(_OnUse)
