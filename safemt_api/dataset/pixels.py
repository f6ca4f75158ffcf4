"""Pixels made anew: decoded, shrunk, laid on white where need be and encoded, within a bound of memory that is known beforehand.

A picture is decoded once and then worked through in strips, so that beside the decoded picture only the small result is ever whole.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from typing import IO, cast

import PIL.Image
import PIL.ImageFile

from safemt_api.dataset.picture_files import FORMATS, MAX_PICTURE_PIXELS, ImageError, decoding_bytes, open_picture

FIT_VERSION = 2
"""Enters the digest of a re-encoded picture; raised when the way of re-encoding changes."""

JPEG_QUALITIES = (95, 90, 85, 75, 65, 50, 35, 20)
"""Tried in turn until the picture has few enough bytes."""

MOST_PIXELS = MAX_PICTURE_PIXELS // 4
"""A re-encoded picture has no more: beyond what any vendor looks at, and a quarter of what decoding may take."""

MOST_BYTES = 20_000_000
"""A re-encoded picture has no more where the vendor names no limit of its own."""

STRIP_PIXELS = 4_000_000
SHRINK_GAP = 3.0
LANCZOS_REACH = 3
"""How far the filter looks, in pixels of the smaller picture."""

STRIPS_BYTES = 64_000_000
"""Room for the strips in work."""

UPRIGHT = 1
ON_SIDE = (5, 6, 7, 8)
TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""What a camera's orientation mark asks of a viewer."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture must be re-encoded to suit a vendor, known before it is done. The sides are the most the result can have, upright."""

    media_type: str
    width_pixels: int
    height_pixels: int
    max_bytes: int
    reasons: tuple[str, ...]
    orientation: int = UPRIGHT
    memory_bytes: int = 0

    @property
    def mark(self) -> str:
        """A short stable hash of what decides the result, beside the source bytes."""
        text = f"{FIT_VERSION},{self.media_type},{self.width_pixels},{self.height_pixels},{self.max_bytes}"
        return sha256(text.encode()).hexdigest()[:12]

    @property
    def size_as_stored(self) -> tuple[int, int]:
        """The sides before the picture is turned upright."""
        size = self.width_pixels, self.height_pixels
        return (size[1], size[0]) if self.orientation in ON_SIDE else size


class StoppedError(Exception):
    """Nobody waits for the picture any more."""


class _Watched(io.BufferedIOBase):
    """A stream that ends the work of whoever reads or writes it as soon as the result is no longer wanted.

    Pillow has no other place to ask: a PNG of many megapixels is decoded, and encoded, in one call that takes seconds.
    """

    def __init__(self, inner: IO[bytes], stopped: Callable[[], bool]) -> None:
        self._inner, self._stopped = inner, stopped

    def read(self, size: int | None = -1, /) -> bytes:
        self._check()
        return self._inner.read(-1 if size is None else size)

    def write(self, data: bytes, /) -> int:  # type: ignore[override] # Pillow writes bytes alone
        self._check()
        return self._inner.write(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._inner.seek(offset, whence)

    def tell(self) -> int:
        return self._inner.tell()

    def _check(self) -> None:
        if self._stopped():
            raise StoppedError


def _watched(inner: IO[bytes], stopped: Callable[[], bool]) -> IO[bytes]:
    return cast("IO[bytes]", _Watched(inner, stopped))


def rendering_bytes(picture: PIL.ImageFile.ImageFile, media_type: str, pixels: int) -> int:
    """The most that ``render`` holds in memory for a picture, its head read, that becomes one of so many pixels."""
    return decoding_bytes(picture, media_type) + 8 * pixels + min(STRIPS_BYTES, 8 * picture.width * picture.height)


def render(stream: IO[bytes], media_type: str, fit: Fit, stopped: Callable[[], bool]) -> bytes:
    """The picture as ``fit`` wants it.

    Raises:
        ImageError: Not even one pixel fits the byte limit.
        StoppedError: ``stopped`` said so.
        Exception: Whatever Pillow raises on undecodable bytes.
    """
    picture = open_picture(_watched(stream, stopped), media_type)
    if media_type == "image/jpeg":
        # Lets the decoder halve the picture while reading it: a fraction of the memory for photographs of many megapixels.
        picture.draft(None, fit.size_as_stored)
    picture.load()
    icc_profile = picture.info.get("icc_profile") if picture.mode in ("RGB", "RGBA") else None
    small = _shrunk(picture, fit.size_as_stored, stopped)
    del picture
    plain = small
    if small.mode == "RGBA" and (fit.media_type == "image/jpeg" or small.getchannel("A").getextrema() == (255, 255)):
        plain = PIL.Image.new("RGB", small.size, "white")
        plain.paste(small, mask=small.getchannel("A"))
    if fit.orientation in TURNS:
        plain = plain.transpose(TURNS[fit.orientation])
    # In the best quality that fits the byte limit; where none does, smaller.
    qualities: tuple[dict[str, int], ...] = ({},) if fit.media_type == "image/png" else tuple({"quality": one} for one in JPEG_QUALITIES)
    while True:
        for quality in qualities:
            target = io.BytesIO()
            plain.save(_watched(target, stopped), FORMATS[fit.media_type], icc_profile=icc_profile, **quality)
            if target.tell() <= fit.max_bytes:
                return target.getvalue()
        if plain.size == (1, 1):
            raise ImageError(f"cannot be made to fit {fit.max_bytes} bytes")
        plain = plain.resize((max(1, plain.width * 7 // 10), max(1, plain.height * 7 // 10)), PIL.Image.Resampling.LANCZOS)


def _shrunk(picture: PIL.Image.Image, size: tuple[int, int], stopped: Callable[[], bool]) -> PIL.Image.Image:
    """The picture in a plain mode at that size, strip by strip."""
    plain = _plainer(picture)
    rows = max(1, ceil(size[1] * STRIP_PIXELS / (picture.width * picture.height)))
    if rows >= size[1]:
        whole = plain(picture)
        return whole if whole.size == size else whole.resize(size, PIL.Image.Resampling.LANCZOS, reducing_gap=SHRINK_GAP)
    scale = picture.height / size[1]
    reach = ceil((LANCZOS_REACH + 1) * max(scale, 1.0))
    result: PIL.Image.Image | None = None
    for top in range(0, size[1], rows):
        if stopped():
            raise StoppedError
        # Some rows of the small picture, from the rows of the large one that the filter looks at.
        bottom = min(top + rows, size[1])
        first, last = top * scale, bottom * scale
        above, below = max(0, int(first) - reach), min(picture.height, ceil(last) + reach)
        part = plain(picture.crop((0, above, picture.width, below)))
        box = (0.0, first - above, float(picture.width), min(last - above, float(part.height)))
        strip = part.resize((size[0], bottom - top), PIL.Image.Resampling.LANCZOS, box=box, reducing_gap=SHRINK_GAP)
        result = result or PIL.Image.new(strip.mode, size)
        result.paste(strip, (0, top))
    assert result is not None  # noqa: S101 (a picture has at least one row)
    return result


def _plainer(picture: PIL.Image.Image) -> Callable[[PIL.Image.Image], PIL.Image.Image]:
    """What makes parts of the picture plain: 8 bits a channel, as L, RGB or, where something may show through, RGBA."""
    if picture.mode.startswith("I"):
        return lambda part: part.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if picture.mode == "F":
        low, high = (float(end) for end in picture.getextrema() if isinstance(end, (int, float)))
        factor = 255 / (high - low) if high > low else 0.0
        return lambda part: part.point(lambda value: value * factor - low * factor).convert("L")
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        return lambda part: part if part.mode == "RGBA" else part.convert("RGBA")
    mode = "L" if picture.mode in ("1", "L") else "RGB"
    return lambda part: part if part.mode == mode else part.convert(mode)


GREY_LEVEL = 128


def grey_png(width_pixels: int, height_pixels: int) -> bytes:
    """A picture without content, as PNG."""
    target = io.BytesIO()
    PIL.Image.new("L", (width_pixels, height_pixels), GREY_LEVEL).save(target, "PNG")
    return target.getvalue()
