"""Lets a torchvision that was built for CUDA be imported beside a torch for the CPU; copied into the server's environment, never used here.

The torchvision that pip finds first is the CUDA build. Beside a torch without CUDA its compiled part does not load, and importing it ends
with "operator torchvision::nms does not exist", because its Python side describes operators that nobody declared. Declared first, they are
merely missing: the transforms that prepare pictures are plain PyTorch and need none of them.
"""

from __future__ import annotations

import importlib
import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType

BOX_OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class DeclareFirst(importlib.abc.MetaPathFinder):
    """Finds nothing; it declares the operators when somebody first looks for torchvision, so that nobody else pays for loading torch."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Always ``None``: the search goes on."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            declare()
        return None


def declare() -> None:
    """Declare the box operators, unless the two builds belong together and bring them."""
    torch = importlib.import_module("torch")
    if torch.version.cuda is None and not version("torchvision").endswith("+cpu"):
        for operator in BOX_OPERATORS:
            torch.library.define(f"torchvision::{operator}", SIGNATURE)


def install() -> None:
    """Watch this interpreter's imports; once, although Python reads the .pth files of some environments twice."""
    if not any(isinstance(finder, DeclareFirst) for finder in sys.meta_path):
        sys.meta_path.insert(0, DeclareFirst())
