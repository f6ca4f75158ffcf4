"""Decoding and re-encoding: within the memory that was foretold, and at an end as soon as nobody waits."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from PIL import ImageChops

from safemt_api.dataset import picture_files, pixels
from safemt_api.dataset.images import open_source
from safemt_api.dataset.picture_files import ImageError, inspect_image, open_picture
from safemt_api.dataset.pixels import Fit, StoppedError, render
from safemt_api.errors import DialogueError
from safemt_api.profiles import ImageRules

Save = Callable[..., Path]
SIDE = 3000

MEASURED = """
import sys
from safemt_api.dataset.images import open_source
from safemt_api.dataset.pixels import render
from safemt_api.profiles import ImageRules
def told(name): return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) * 1024
rules = ImageRules(media_types=("image/jpeg",), max_side_pixels=1000, source="t", checked="2026-11-21")
image = open_source(__import__("pathlib").Path(sys.argv[1]), sys.argv[2]).fitted(rules).image
before = told("VmRSS")
assert image.data
print(told("VmHWM") - before, image.memory_bytes)
"""


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a picture of many pixels and few bytes."""

    def to_file(kind: str, mode: str = "RGB", **options: Any) -> Path:
        picture = PIL.Image.linear_gradient("L").resize((SIDE, SIDE))
        picture = picture.convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
        file = tmp_path / f"a.{kind.lower()}"
        picture.save(file, kind, **options)
        return file

    return to_file


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "I;16", {}),
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "CMYK", {"progressive": True, "subsampling": 0}),
        ("WEBP", "RGB", {"method": 0}),
        ("WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
        ("GIF", "P", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("AVIF", "RGB", {"speed": 10}),
    ],
)  # fmt: skip (a table)
def test_no_kind_of_file_takes_more_memory_than_was_foretold(save: Save, kind: str, mode: str, options: dict[str, Any]) -> None:
    file = save(kind, mode, **options)
    ran = subprocess.run([sys.executable, "-c", MEASURED, file.parent, file.name], capture_output=True, text=True, check=True)
    held, foretold = (int(part) for part in ran.stdout.split())
    allowance = 20_000_000  # code and tables of the codec, which is loaded on first use
    assert held <= foretold + allowance


@pytest.mark.parametrize(("mode", "wanted"), [("RGB", (2000, 1500)), ("RGBA", (2000, 1500)), ("P", (700, 900)), ("I;16", (3000, 3000))])
def test_strips_meet_without_a_seam(save: Save, monkeypatch: pytest.MonkeyPatch, mode: str, wanted: tuple[int, int]) -> None:
    data = save("PNG", mode).read_bytes()
    fit = Fit("image/png", *wanted, 10**9, ())
    in_strips = PIL.Image.open(io.BytesIO(render(io.BytesIO(data), "image/png", fit, lambda: False)))
    monkeypatch.setattr(pixels, "STRIP_PIXELS", 10**9)
    whole = PIL.Image.open(io.BytesIO(render(io.BytesIO(data), "image/png", fit, lambda: False)))
    assert in_strips.size == whole.size == wanted
    assert in_strips.mode == whole.mode
    difference = ImageChops.difference(in_strips, whole).getextrema()
    assert max(high for _, high in (difference if isinstance(difference[0], tuple) else (difference,))) <= 1


@pytest.mark.parametrize("after", [0, 1, 3])
def test_work_ends_at_the_next_read_once_nobody_waits(save: Save, after: int) -> None:
    data = save("PNG", "RGB", compress_level=0).read_bytes()
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > after

    with pytest.raises(StoppedError):
        render(io.BytesIO(data), "image/png", Fit("image/jpeg", 100, 100, 10**6, ()), stopped)
    assert len(asked) == after + 1


def test_a_picture_whose_kind_takes_too_much_memory_to_decode_is_told_before(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save("WEBP", "RGB", method=0)
    with file.open("rb") as stream:
        needed = picture_files.decoding_bytes(open_picture(stream, "image/webp"), "image/webp")
    assert needed == SIDE * SIDE * 16
    monkeypatch.setattr(picture_files, "MAX_DECODING_BYTES", needed - 1)
    with pytest.raises(ImageError, match=r"image a\.webp would take 144 MB of memory to decode as image/webp, more than the 143 MB"):
        inspect_image(file.parent, file.name)
    with pytest.raises(DialogueError, match="store it smaller or as PNG"):
        open_source(file.parent, file.name)


def test_a_file_changed_between_the_look_at_it_and_its_sending_fails_its_dialogue(save: Save) -> None:
    file = save("PNG", "RGB", compress_level=0)
    rules = ImageRules(source="a test", checked=date(2026, 11, 21), max_side_pixels=500)
    source = open_source(file.parent, file.name)
    smaller = source.fitted(rules).image
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    for image in (source, smaller):
        with pytest.raises(DialogueError, match=r"image a\.png was changed while the run was under way"):
            _ = image.data
