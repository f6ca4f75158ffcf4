"""Builds small data folders in the official layout."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

Element = dict[str, Any]


def picture_bytes(kind: str = "PNG", *, size: tuple[int, int] = (8, 6), mode: str = "RGB", **options: Any) -> bytes:
    """A small picture in the given format."""
    target = io.BytesIO()
    picture = PIL.Image.linear_gradient("L").resize(size).convert(mode)
    picture.save(target, kind, **options)
    return target.getvalue()


def element_of(dialogue_id: str = "mm_a_1", length: int = 1, **changes: Any) -> Element:
    """A valid element; a change of ``...`` removes the key."""
    lines = [
        {"role": "assistant" if position % 2 else "user", "content": f"{dialogue_id} says {position}"} for position in range(2 * length - 1)
    ]
    element: Element = {
        "id": dialogue_id,
        "scenario": "Legal Opinion",
        "image_path": "images/a.png",
        "dialogue": lines,
        "question": f"what of {dialogue_id}?",
    }
    element.update(changes)
    return {key: value for key, value in element.items() if value is not ...}


@pytest.fixture
def element() -> Callable[..., Element]:
    """Makes a valid element with changes."""
    return element_of


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Makes a small picture."""
    return picture_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data folder: ``folder({1: [elements], 2: "text as it stands"})``, with one picture ``images/a.png``."""

    def write(files: dict[int, Any], *, name: str = "data") -> Path:
        root = tmp_path / name
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "images" / "a.png").write_bytes(picture_bytes())
        for length, content in files.items():
            raw = content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode()
            (root / f"{length}_turn.json").write_bytes(raw)
        return root

    return write


@pytest.fixture
def official_sample() -> Path:
    """Four real ids in the official layout, where they lie beside the checkout."""
    root = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "safemt-sample"
    if not root.is_dir():
        pytest.skip("the sample of the official data is not beside this checkout")
    return root
