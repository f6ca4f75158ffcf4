"""Pictures made ready for whoever gets them: read late, sent as they are where the receiver's rules allow, re-encoded once where not."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from math import ceil, sqrt
from pathlib import Path
from typing import IO, Any, NamedTuple
from weakref import WeakValueDictionary

from safemt_api.dataset.elements import shown
from safemt_api.dataset.picture_files import ImageError, Inspection, inspect_stream, open_image, open_picture, reason_of
from safemt_api.dataset.pixels import (
    GREY_LEVEL,
    MOST_BYTES,
    MOST_PIXELS,
    ON_SIDE,
    UPRIGHT,
    Fit,
    StoppedError,
    grey_png,
    render,
    rendering_bytes,
)
from safemt_api.errors import DialogueError
from safemt_api.messages import PURPOSES, Image, Purpose
from safemt_api.profiles import ImageRules

KEPT_BYTES = 1_000_000
"""A larger file is read again when it is sent, rather than held from the first look at it on."""

HASHED_AT_ONCE_BYTES = 1 << 20

MOST_LOOKED_AT = 5000
SETTLED_NS = 2_000_000_000
"""Clocks of file systems are coarse (FAT counts in two seconds): a file that was written a moment ago is looked through each time."""

ENCODABLE = ("image/png", "image/jpeg", "image/webp")
ORIENTATION_TAG = 0x0112


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture ready to be sent; ``note`` says what was changed to fit the receiver's rules, ``None`` when it goes out as it is."""

    image: Image
    note: str | None = None


@dataclass(frozen=True, slots=True)
class _File:
    """A picture file as it was when first looked at; ``kept`` holds its bytes where they are few."""

    folder: Path
    image_path: str
    sha256_hex: str
    inspection: Inspection
    kept: bytes | None

    @property
    def as_it_is(self) -> dict[str, Any]:
        """What an ``Image`` of the file's own bytes is made of."""
        return {
            "data": self.read if self.kept is None else self.kept,
            "digest": f"sha256:{self.sha256_hex}",
            "media_type": self.inspection.media_type,
            "width_pixels": self.inspection.width_pixels,
            "height_pixels": self.inspection.height_pixels,
            "file_bytes": self.inspection.size_bytes if self.kept is None else 0,
        }

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The bytes as they were; whatever goes wrong with them becomes a ``DialogueError`` that names the picture.

        Raises:
            DialogueError: The file is gone or another one now, or what is done with its bytes fails.
            StoppedError: Nobody waits any more.
        """
        kept = self.kept
        with _told(self.image_path, "decoded"), open_image(self.folder, self.image_path) if kept is None else io.BytesIO(kept) as stream:
            if kept is None:
                if _sha256_hex(stream) != self.sha256_hex:
                    raise ImageError("was changed while the run was under way")
                stream.seek(0)
            yield stream

    def read(self, _stopped: Callable[[], bool]) -> bytes:
        """All of them."""
        with self.opened() as stream:
            return stream.read()

    def rendered(self, fit: Fit, stopped: Callable[[], bool]) -> bytes:
        """The picture as ``fit`` wants it."""
        with self.opened() as stream:
            return render(stream, self.inspection.media_type, fit, stopped)


@contextmanager
def _told(image_path: str, what: str) -> Iterator[None]:
    try:
        yield
    except (DialogueError, StoppedError):
        raise
    except ImageError as error:
        problem = str(error)
        raise DialogueError(problem if problem.startswith("image ") else f"image {shown(image_path)} {problem}") from error
    except Exception as error:  # a decoder may raise anything on a hostile file
        raise DialogueError(f"image {shown(image_path)} cannot be {what}: {reason_of(error)}") from error


class SourceImage(Image):
    """A picture as its file holds it. What of it is sent is settled at the door, by the rules of whoever gets it.

    A picture that suits the rules goes out byte by byte as it is; its digest is ``sha256:<hex of the file>``. Another is re-encoded when
    its bytes are first needed (a reply from the store costs no encoding); its digest is ``sha256:<hex of the file>;fit:<mark>``, where
    the mark stands for target type, size and byte limit. Pillow's version is not in it: another one writes other bytes of the same picture.
    """

    __slots__ = ("_file", "_given")

    def __init__(self, file: _File) -> None:
        super().__init__(**file.as_it_is)
        self._file = file
        self._given: dict[Purpose, Prepared] = {}

    def fitted(self, rules: ImageRules) -> Prepared:
        """The picture as somebody with these rules takes it; nothing is decoded yet.

        Raises:
            DialogueError: The receiver takes no type that can be written here. Also raised by ``image.data`` when the file is another one
                by then, or its pixels turn out undecodable.
        """
        inspection = self._file.inspection
        reasons = tuple(_reasons(inspection, rules))
        if not reasons:
            return Prepared(_shared(Image(**self._file.as_it_is)))
        with self._file.opened() as stream:
            fit = plan_fit(stream, inspection, rules, reasons)
        changed = Image(
            partial(self._file.rendered, fit),
            digest=f"{self.digest};fit:{fit.mark}",
            media_type=fit.media_type,
            width_pixels=fit.width_pixels,
            height_pixels=fit.height_pixels,
            memory_bytes=fit.memory_bytes,
        )
        return Prepared(_shared(changed), _note(inspection, fit))

    def given_to(self, receiver: Purpose, rules: ImageRules) -> Image:
        """The same, remembered for ``digest_given`` and ``note``."""
        self._given[receiver] = self.fitted(rules)
        return self._given[receiver].image

    @property
    def digest_given(self) -> str:
        """The digest of what the target was sent; the file's own where it was sent nothing."""
        return self._given["target"].image.digest if "target" in self._given else self.digest

    @property
    def note(self) -> str | None:
        """What was changed for whom: the target's change as it is, those for others with their name before them."""
        notes = ((receiver, self._given[receiver].note) for receiver in PURPOSES if receiver in self._given)
        return "; ".join(note if receiver == "target" else f"for the {receiver}: {note}" for receiver, note in notes if note) or None


_IN_USE: WeakValueDictionary[str, Image] = WeakValueDictionary()
"""Pictures that somebody holds now, by digest: the lengths of one id have the same picture, and re-encode it once."""


def _shared(image: Image) -> Image:
    return _IN_USE.setdefault(image.digest, image)


class BlankImage(SourceImage):
    """A grey picture of the size that the file's would be sent in: words such as "in the picture" still point at something."""

    __slots__ = ()

    def fitted(self, rules: ImageRules) -> Prepared:
        """See ``SourceImage``; the bytes are a PNG, which every vendor takes."""
        size = super().fitted(rules).image
        width, height = size.width_pixels, size.height_pixels
        grey = Image(
            lambda _: grey_png(width, height),
            digest=f"grey:{GREY_LEVEL}:{width}x{height}",
            media_type="image/png",
            width_pixels=width,
            height_pixels=height,
            memory_bytes=width * height,
        )
        return Prepared(_shared(grey), f"grey picture of {width}x{height} in its place")


def open_source(folder: Path, image_path: str, *, blank: bool = False, held: bool = True) -> SourceImage:
    """Look at a picture of the data: what it is, and which bytes it has; ``blank``: only its size will be shown.

    ``held``: a small file's bytes are kept from this look on; not where thousands of dialogues wait at the same time.

    Raises:
        DialogueError: It is missing, outside the folder or unreadable now.
    """
    with _told(image_path, "read"), open_image(folder, image_path) as stream:
        before = _state(stream)
        look = _LOOKED_AT.get(before) or _look(stream)
        stream.seek(0)
        kept = stream.read() if held and look.inspection.size_bytes <= KEPT_BYTES else None
        if before != _state(stream):  # somebody is writing it
            before, look = None, _look(stream if kept is None else io.BytesIO(kept))
        if before is not None and before not in _LOOKED_AT:
            while len(_LOOKED_AT) >= MOST_LOOKED_AT:
                del _LOOKED_AT[next(iter(_LOOKED_AT))]
            _LOOKED_AT[before] = look
    return (BlankImage if blank else SourceImage)(_File(folder, image_path, look.sha256_hex, look.inspection, kept))


class _Look(NamedTuple):
    """What was found in a picture file."""

    inspection: Inspection
    sha256_hex: str


_LOOKED_AT: dict[tuple[int, ...] | None, _Look] = {}
"""By the file's state: the dialogues that share a picture have its bytes looked through once."""


def _look(stream: IO[bytes]) -> _Look:
    stream.seek(0)
    inspection = inspect_stream(stream)
    stream.seek(0)
    return _Look(inspection, _sha256_hex(stream))


def _state(stream: IO[bytes]) -> tuple[int, ...] | None:
    """What changes whenever the file is written; ``None`` where that is unknown, or so recent that the next change could look the same."""
    if isinstance(stream, io.BytesIO):
        return None
    status = os.fstat(stream.fileno())
    if time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns) < SETTLED_NS:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _sha256_hex(stream: IO[bytes]) -> str:
    whole = sha256()
    while part := stream.read(HASHED_AT_ONCE_BYTES):
        whole.update(part)
    return whole.hexdigest()


def fitted(image: Image, receiver: Purpose, rules: ImageRules) -> Image:
    """The picture as its receiver takes it; one that is no picture of the data goes out as it is.

    Raises:
        DialogueError: See ``SourceImage.fitted``.
    """
    return image.given_to(receiver, rules) if isinstance(image, SourceImage) else image


def _note(inspection: Inspection, fit: Fit) -> str:
    sizes = f"from {inspection.width_pixels}x{inspection.height_pixels} to {fit.width_pixels}x{fit.height_pixels}"
    verb = "shrunk" if fit.width_pixels * fit.height_pixels < inspection.width_pixels * inspection.height_pixels else "re-encoded"
    return f"picture {verb} {sizes}, {inspection.media_type} → {fit.media_type}: {'; '.join(fit.reasons)}"


def plan_fit(stream: IO[bytes], inspection: Inspection, rules: ImageRules, reasons: tuple[str, ...]) -> Fit:
    """How the picture is changed to suit the rules.

    Raises:
        ImageError: The rules name no media type that can be written here.
    """
    picture = open_picture(stream, inspection.media_type)
    # A PNG that does not name its orientation at once would be decoded to its end in search of it.
    named = inspection.media_type != "image/png" or "exif" in picture.info
    orientation = picture.getexif().get(ORIENTATION_TAG, UPRIGHT) if named else UPRIGHT
    width, height = inspection.width_pixels, inspection.height_pixels
    width, height = fitting_size(*((height, width) if orientation in ON_SIDE else (width, height)), rules)
    if width * height > MOST_PIXELS:
        scale = sqrt(MOST_PIXELS / (width * height))
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
    max_bytes = rules.max_bytes or MOST_BYTES
    media_type = _target_type(inspection, width * height, max_bytes, rules)
    memory_bytes = rendering_bytes(picture, inspection.media_type, width * height)
    return Fit(media_type, width, height, max_bytes, reasons, orientation, memory_bytes)


def _reasons(inspection: Inspection, rules: ImageRules) -> Iterator[str]:
    width, height = inspection.width_pixels, inspection.height_pixels
    if inspection.media_type not in rules.media_types:
        yield f"{inspection.media_type} is not taken"
    if inspection.animated:
        yield "only the first frame of an animation is sent"
    if rules.max_side_pixels is not None and max(width, height) > rules.max_side_pixels:
        yield f"a side over {rules.max_side_pixels:,} pixels"
    if rules.max_pixels is not None and width * height > rules.max_pixels:
        yield f"over {rules.max_pixels:,} pixels in all"
    if rules.max_patches is not None and _patches(width, height, rules) > rules.max_patches:
        yield f"over {rules.max_patches:,} patches of {rules.patch_pixels} by {rules.patch_pixels} pixels"
    if rules.max_bytes is not None and inspection.size_bytes > rules.max_bytes:
        yield f"{inspection.size_bytes:,} bytes, over {rules.max_bytes:,}"


def _patches(width: float, height: float, rules: ImageRules) -> int:
    return ceil(width / rules.patch_pixels) * ceil(height / rules.patch_pixels)


def fitting_size(width: int, height: int, rules: ImageRules) -> tuple[int, int]:
    """The sides after shrinking to the rules, proportions kept; unchanged where the rules allow them."""
    scale = 1.0
    if rules.max_side_pixels is not None:
        scale = min(scale, rules.max_side_pixels / max(width, height))
    if rules.max_pixels is not None:
        scale = min(scale, sqrt(rules.max_pixels / (width * height)))
    if rules.max_patches is not None and _patches(max(1, width * scale), max(1, height * scale), rules) > rules.max_patches:
        # The count changes only where a side passes a multiple of the patch, so the largest scale that suits is one of these.
        across = (columns * rules.patch_pixels / width for columns in range(1, rules.max_patches + 1))
        down = (rows * rules.patch_pixels / height for rows in range(1, rules.max_patches + 1))
        scale = max(
            scale
            for scale in (*across, *down)
            if _patches(max(1, int(width * scale)), max(1, int(height * scale)), rules) <= rules.max_patches
        )
    new_width, new_height = max(1, int(width * scale)), max(1, int(height * scale))
    if rules.max_pixels is not None and new_width * new_height > rules.max_pixels:
        # Only when the short side was lifted to one pixel.
        new_width, new_height = min(new_width, rules.max_pixels), min(new_height, rules.max_pixels)
    return new_width, new_height


def _target_type(inspection: Inspection, pixels: int, max_bytes: int, rules: ImageRules) -> str:
    """JPEG stays JPEG; anything else becomes PNG, without loss, where even the worst case fits the byte limit; then JPEG, then WebP."""
    taken = [media_type for media_type in ENCODABLE if media_type in rules.media_types]
    if not taken:
        raise ImageError(f"cannot be sent: the vendor takes only {', '.join(rules.media_types)}, and none of these can be written here")
    if inspection.media_type == "image/jpeg" and "image/jpeg" in taken:
        return "image/jpeg"
    worst_png_bytes = pixels * 4 * 1.01 + 65_536
    if "image/png" in taken and worst_png_bytes <= max_bytes:
        return "image/png"
    return next((media_type for media_type in ("image/jpeg", "image/webp") if media_type in taken), "image/png")
