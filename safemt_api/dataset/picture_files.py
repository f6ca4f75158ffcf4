"""Pictures of a data set: found safely and looked at cheaply.

A picture leaves the machine, so only regular files inside the data folder are ever opened. What a file is, its bytes say, never its name.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import PIL.Image
import PIL.ImageFile
import PIL.TiffImagePlugin
import PIL.WebPImagePlugin

from safemt_api.dataset.elements import shown

MAX_PICTURE_PIXELS = 89_478_485
"""Pillow's own bound for suspected decompression bombs: a quarter of a gigabyte of RGB, and beyond what any vendor takes."""

MAX_DECODING_BYTES = 640_000_000
"""What decoding a picture may hold in memory. Met before the number of pixels by kinds of file whose decoders keep much beside them."""

MAX_PICTURE_BYTES = 100 * 1024 * 1024
"""A file above this is no picture of a data set; it is not read."""

MAX_CONTAINER_BYTES = 1 << 40
"""An archive is not read whole, so its size hardly matters."""

ANIMATED_TYPES = ("image/gif", "image/webp")

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/avif": "AVIF",
}
_HEAD_BYTES = 32
_TAIL_BYTES = 12
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_DRIVE = re.compile(r"[A-Za-z]:")


class ImageError(ValueError):
    """The picture cannot be used; the message is one sentence, without the place."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the head of a picture file says. ``animated`` is known for GIF and WebP only."""

    media_type: str
    width_pixels: int
    height_pixels: int
    size_bytes: int
    animated: bool = False


def normal_image_path(image_path: str) -> str:
    """The path as it stands under the data folder: without the leading slash that some copies write."""
    return str(PurePosixPath(image_path.removeprefix("/")))


def locate_image(folder: Path, image_path: str) -> Path:
    """The regular file that ``image_path`` names inside ``folder``.

    Raises:
        ImageError: It is missing, no regular file, or outside the folder (which would send a private file to a third party).
    """
    relative = image_path.removeprefix("/")
    _refuse_odd_path(image_path, relative)
    root = folder.resolve()
    try:
        found = (root / relative).resolve(strict=True)
        mode = found.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"image {shown(image_path)} {_ABSOLUTE if image_path.startswith('/') else 'is missing'}") from error
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "its links run in a circle"
        raise ImageError(f"image {shown(image_path)} cannot be read: {reason}") from error
    if not found.is_relative_to(root):
        raise ImageError(
            f"image {shown(image_path)} is a link that leaves the data folder; refused, since it would send a private file to a third "
            "party (put a copy of the picture in its place)"
        )
    if not stat.S_ISREG(mode):
        raise ImageError(f"image {shown(image_path)} is not a regular file")
    return found


def _refuse_odd_path(image_path: str, relative: str) -> None:
    why = None
    if "\\" in image_path or _DRIVE.match(relative):
        why = "is written the Windows way (backslash or drive letter); write it relative to the data folder with /"
    elif "\x00" in image_path:
        why = "holds a NUL character"
    elif ".." in PurePosixPath(relative).parts:
        why = "leaves the data folder with ..; refused, since it would send a private file to a third party"
    elif relative.startswith("/"):
        why = _ABSOLUTE
    if why is not None:
        raise ImageError(f"image {shown(image_path)} {why}")


_ABSOLUTE = "is an absolute path and no picture of the data folder; refused, since it would send a private file to a third party"


def open_image(folder: Path, image_path: str) -> IO[bytes]:
    """The picture, opened for reading; never a device, a pipe or a link swapped in after the look-up.

    A path may lead into an archive or a table of the folder: ``pictures.zip/a/1.jpg`` is a member of it, ``part.parquet/image/7`` the
    picture in column ``image`` of row 7.

    Raises:
        ImageError: See ``locate_image``; also when the file is empty, unreadable or far too large.
    """
    parts = PurePosixPath(image_path.removeprefix("/")).parts
    for depth in range(1, len(parts)):
        kind = parts[depth - 1].lower().rpartition(".")[2]
        if kind in ("zip", "parquet"):
            _refuse_odd_path(image_path, image_path.removeprefix("/"))
            container, inner = "/".join(parts[:depth]), parts[depth:]
            if not folder.joinpath(container).is_dir():
                data = _zipped(folder, container, "/".join(inner)) if kind == "zip" else _tabled(folder, container, inner)
                return io.BytesIO(data)
    return _open_file(folder, image_path, MAX_PICTURE_BYTES)


def _zipped(folder: Path, archive: str, member: str) -> bytes:
    """A member of a zip, never more of it than a picture may have, whatever its head claims."""
    try:
        with _open_file(folder, archive, MAX_CONTAINER_BYTES) as stream, zipfile.ZipFile(stream) as opened, opened.open(member) as source:
            data = source.read(MAX_PICTURE_BYTES + 1)
    except KeyError:
        raise ImageError(f"image {shown(f'{archive}/{member}')} is missing: there is no such file in the archive") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"image {shown(f'{archive}/{member}')} cannot be read from the archive: {reason_of(error)}") from error
    return _of_fitting_size(data, f"{archive}/{member}")


def _tabled(folder: Path, table: str, inner: tuple[str, ...]) -> bytes:
    """The picture in a cell of a parquet file: its bytes, or a struct with them as the hub writes it."""
    import polars as pl  # noqa: PLC0415 (polars is imported late)

    name = "/".join((table, *inner))
    column, row = "/".join(inner[:-1]), inner[-1]
    if not column or not row.isdecimal():
        raise ImageError(f"image {shown(name)} names no column and row of the table")
    file = locate_image(folder, table)
    try:
        cells = pl.scan_parquet(file, glob=False).select(column).slice(int(row), 1).collect().to_series().to_list()
    except (pl.exceptions.PolarsError, OSError, OverflowError) as error:
        raise ImageError(f"image {shown(name)} cannot be read from the table: {shown(str(error).splitlines()[0])}") from error
    cell = cells[0].get("bytes") if cells and isinstance(cells[0], dict) else cells[0] if cells else None
    if not isinstance(cell, bytes):
        raise ImageError(f"image {shown(name)} is missing: the table has no bytes there")
    return _of_fitting_size(cell, name)


def _of_fitting_size(data: bytes, name: str) -> bytes:
    if not data:
        raise ImageError(f"image {shown(name)} is an empty file")
    if len(data) > MAX_PICTURE_BYTES:
        raise ImageError(f"image {shown(name)} has more than the {MAX_PICTURE_BYTES:,} bytes allowed")
    return data


def _open_file(folder: Path, image_path: str, most_bytes: int) -> IO[bytes]:
    path = locate_image(folder, image_path)
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        stream = os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        raise ImageError(f"image {shown(image_path)} cannot be read: {error.strerror}") from error
    status = os.fstat(stream.fileno())
    if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= most_bytes:
        return stream
    stream.close()
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"image {shown(image_path)} is not a regular file")
    why = "is an empty file" if status.st_size == 0 else f"has {status.st_size:,} bytes, more than the {most_bytes:,} allowed"
    raise ImageError(f"image {shown(image_path)} {why}")


def inspect_image(folder: Path, image_path: str, *, decode: bool = False) -> Inspection:
    """What a picture is, from its first bytes; its pixels are decoded only when ``decode`` or when its end looks cut off.

    Raises:
        ImageError: Missing, outside the folder, unreadable, no picture of a known kind, truncated, or a decompression bomb.
    """
    with open_image(folder, image_path) as stream:
        try:
            inspection = inspect_stream(stream)
            if decode or not _ends_well(stream, inspection):
                stream.seek(0)
                open_picture(stream, inspection.media_type).load()
        except ImageError as error:
            raise ImageError(f"image {shown(image_path)} {error}") from error
        except Exception as error:  # a decoder may raise anything on a hostile file
            raise ImageError(f"image {shown(image_path)} cannot be decoded: {reason_of(error)}") from error
    return inspection


def reason_of(error: Exception) -> str:
    return shown(str(error)) or type(error).__name__


def media_type_of(head: bytes) -> str | None:
    """The media type that the first bytes of a file announce; ``None`` when it is no picture kind known here."""
    if head.startswith(b"RIFF"):
        return "image/webp" if head[8:12] == b"WEBP" else None
    if head[4:8] == b"ftyp":
        return "image/avif" if b"avif" in head[8:_HEAD_BYTES] or b"avis" in head[8:12] else None
    marks = {
        b"\x89PNG\r\n\x1a\n": "image/png",
        b"\xff\xd8\xff": "image/jpeg",
        b"GIF87a": "image/gif",
        b"GIF89a": "image/gif",
        b"BM": "image/bmp",
        b"II*\x00": "image/tiff",
        b"MM\x00*": "image/tiff",
    }
    return next((media_type for mark, media_type in marks.items() if head.startswith(mark)), None)


def inspect_stream(stream: IO[bytes]) -> Inspection:
    head = stream.read(_HEAD_BYTES)
    size_bytes = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    media_type = media_type_of(head)
    if media_type is None:
        raise ImageError("is no picture of a known kind (PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF)")
    picture = open_picture(stream, media_type)
    animated = media_type in ANIMATED_TYPES and bool(getattr(picture, "is_animated", False))
    return Inspection(media_type, picture.width, picture.height, size_bytes, animated)


def open_picture(stream: IO[bytes], media_type: str) -> PIL.ImageFile.ImageFile:
    """The picture with its head read and no pixel decoded.

    Pillow's plugins are called directly: ``PIL.Image.open`` warns or raises by size through global state, and would guess the kind anew.
    """
    name = FORMATS[media_type]
    PIL.Image.preinit()
    if name not in PIL.Image.OPEN:
        PIL.Image.init()
    if name not in PIL.Image.OPEN:
        raise ImageError(f"is {media_type}, which the Pillow installed here cannot read")
    picture = PIL.Image.OPEN[name][0](stream, "")
    if picture.width * picture.height > MAX_PICTURE_PIXELS:
        raise ImageError(
            f"claims {picture.width}x{picture.height} pixels, more than the {MAX_PICTURE_PIXELS:,} allowed; it may be a decompression bomb"
        )
    if decoding_bytes(picture, media_type) > MAX_DECODING_BYTES:
        raise ImageError(
            f"would take {decoding_bytes(picture, media_type) // 1_000_000:,} MB of memory to decode as {media_type}, more than the "
            f"{MAX_DECODING_BYTES // 1_000_000:,} MB allowed; store it smaller or as PNG"
        )
    return picture


def decoding_bytes(picture: PIL.ImageFile.ImageFile, media_type: str) -> int:
    """The most that decoding a picture, its head read, holds in memory; measured by kind of file on 9,400 by 9,400 pixels.

    Pillow keeps four bytes a pixel but for grey and palettes. Beside them libwebp keeps three canvases, dav1d its planes, and libjpeg all
    coefficients of a progressive picture, which is why the draft mode does not help there.
    """
    wide = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}.get(picture.mode, 4)
    beside = {"image/webp": 12, "image/avif": 6, "image/tiff": 4, "image/gif": 1}.get(media_type, 0)
    if media_type == "image/jpeg" and "progression" in picture.info:
        wide, beside = 0, 2 * len(picture.getbands())
    return picture.width * picture.height * (wide + beside)


def _ends_well(stream: IO[bytes], inspection: Inspection) -> bool:
    """Whether the file's end is one that whole files have; when it is not, only decoding can tell."""
    stream.seek(0)
    head = stream.read(_HEAD_BYTES)
    stream.seek(-min(_TAIL_BYTES, inspection.size_bytes), os.SEEK_END)
    tail = stream.read()
    match inspection.media_type:
        case "image/png":
            return tail == _PNG_END
        case "image/jpeg":
            return tail.endswith(b"\xff\xd9")
        case "image/gif":
            return tail.endswith(b";")
        case "image/webp":
            return int.from_bytes(head[4:8], "little") + 8 <= inspection.size_bytes
    return False
