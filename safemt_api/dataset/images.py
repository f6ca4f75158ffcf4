"""Pictures made ready for a vendor: read once and late, sent as they are where the vendor's rules allow, re-encoded only when needed."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from math import sqrt
from pathlib import Path

import PIL.Image
import PIL.ImageOps

from safemt_api.dataset.inspection import FORMATS, ImageError, Inspection, inspect_stream, open_image, open_picture, reason_of
from safemt_api.dataset.parsing import shown
from safemt_api.errors import DialogueError
from safemt_api.messages import Image
from safemt_api.profiles import ImageRules

JPEG_QUALITIES = (95, 90, 85, 75, 65, 50, 35, 20)
"""Tried in turn until the picture has few enough bytes."""

FIT_VERSION = 1
"""Enters the digest of a re-encoded picture; raised when the way of re-encoding changes."""

ENCODABLE = ("image/png", "image/jpeg", "image/webp")
ORIENTATION_TAG = 0x0112
ORIENTATIONS_ON_SIDE = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture ready to be sent; ``note`` says what was changed to fit the vendor's rules, ``None`` when it goes out as it is."""

    image: Image
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture must be re-encoded to suit a vendor, known before it is done. The sides are the most the result can have."""

    media_type: str
    width_pixels: int
    height_pixels: int
    max_bytes: int | None
    reasons: tuple[str, ...]

    @property
    def mark(self) -> str:
        """A short stable hash of what decides the result, beside the source bytes."""
        text = f"{FIT_VERSION},{self.media_type},{self.width_pixels},{self.height_pixels},{self.max_bytes}"
        return sha256(text.encode()).hexdigest()[:12]


def prepare_image(folder: Path, image_path: str, rules: ImageRules) -> Prepared:
    """Read a picture once and make it ready for a vendor.

    A picture that suits the rules goes out byte by byte as it is; its digest is ``sha256:<hex of the file>``. Another is re-encoded when
    its bytes are first needed (a reply from the store costs no encoding); its digest is ``sha256:<hex of the file>;fit:<mark>``, where
    the mark stands for target type, size and byte limit. Pillow's version is not in it: another one writes other bytes of the same picture.

    Raises:
        DialogueError: The picture is missing, outside the folder or unreadable now, or the vendor takes no type that can be written here.
            Also raised by ``image.data`` when the pixels turn out undecodable.
    """
    try:
        with open_image(folder, image_path) as stream:
            data = stream.read()
        inspection = inspect_stream(io.BytesIO(data))
        fit = plan_fit(data, inspection, rules)
    except ImageError as error:
        raise DialogueError(_sentence(image_path, str(error))) from error
    except Exception as error:  # a decoder may raise anything on a hostile file
        raise DialogueError(f"image {shown(image_path)} cannot be read: {reason_of(error)}") from error
    digest = f"sha256:{sha256(data).hexdigest()}"
    if fit is None:
        return Prepared(
            Image(
                data,
                digest=digest,
                media_type=inspection.media_type,
                width_pixels=inspection.width_pixels,
                height_pixels=inspection.height_pixels,
            )
        )
    image = Image(
        _encoder(image_path, data, inspection.media_type, fit),
        digest=f"{digest};fit:{fit.mark}",
        media_type=fit.media_type,
        width_pixels=fit.width_pixels,
        height_pixels=fit.height_pixels,
    )
    return Prepared(image, _note(inspection, fit))


def _sentence(image_path: str, problem: str) -> str:
    return problem if problem.startswith("image ") else f"image {shown(image_path)} {problem}"


def _note(inspection: Inspection, fit: Fit) -> str:
    sizes = f"from {inspection.width_pixels}x{inspection.height_pixels} to {fit.width_pixels}x{fit.height_pixels}"
    verb = "shrunk" if fit.width_pixels * fit.height_pixels < inspection.width_pixels * inspection.height_pixels else "re-encoded"
    return f"picture {verb} {sizes}, {inspection.media_type} → {fit.media_type}: {'; '.join(fit.reasons)}"


def plan_fit(data: bytes, inspection: Inspection, rules: ImageRules) -> Fit | None:
    """How the picture must change to suit the rules; ``None`` when it may go out as it is.

    Raises:
        ImageError: The rules name no media type that can be written here.
    """
    reasons = tuple(_reasons(inspection, rules))
    if not reasons:
        return None
    width, height = fitting_size(*_upright_size(data, inspection), rules)
    return Fit(_target_type(inspection, width * height, rules), width, height, rules.max_bytes, reasons)


def _reasons(inspection: Inspection, rules: ImageRules) -> list[str]:
    width, height = inspection.width_pixels, inspection.height_pixels
    reasons = []
    if inspection.media_type not in rules.media_types:
        reasons.append(f"{inspection.media_type} is not taken")
    if inspection.animated:
        reasons.append("only the first frame of an animation is sent")
    if rules.max_side_pixels is not None and max(width, height) > rules.max_side_pixels:
        reasons.append(f"a side over {rules.max_side_pixels:,} pixels")
    if rules.max_pixels is not None and width * height > rules.max_pixels:
        reasons.append(f"over {rules.max_pixels:,} pixels in all")
    if rules.max_bytes is not None and inspection.size_bytes > rules.max_bytes:
        reasons.append(f"{inspection.size_bytes:,} bytes, over {rules.max_bytes:,}")
    return reasons


def _upright_size(data: bytes, inspection: Inspection) -> tuple[int, int]:
    """The sides as a viewer shows them: a camera's orientation mark is applied when re-encoding, since the mark itself is lost."""
    orientation = open_picture(io.BytesIO(data), inspection.media_type).getexif().get(ORIENTATION_TAG)
    size = inspection.width_pixels, inspection.height_pixels
    return (size[1], size[0]) if orientation in ORIENTATIONS_ON_SIDE else size


def fitting_size(width: int, height: int, rules: ImageRules) -> tuple[int, int]:
    """The sides after shrinking to the rules, proportions kept; unchanged where the rules allow them."""
    scale = 1.0
    if rules.max_side_pixels is not None:
        scale = min(scale, rules.max_side_pixels / max(width, height))
    if rules.max_pixels is not None:
        scale = min(scale, sqrt(rules.max_pixels / (width * height)))
    new_width, new_height = max(1, int(width * scale)), max(1, int(height * scale))
    if rules.max_pixels is not None and new_width * new_height > rules.max_pixels:
        # Only when the short side was lifted to one pixel.
        new_width, new_height = min(new_width, rules.max_pixels), min(new_height, rules.max_pixels)
    return new_width, new_height


def _target_type(inspection: Inspection, pixels: int, rules: ImageRules) -> str:
    """JPEG stays JPEG; anything else becomes PNG, without loss, where even the worst case fits the byte limit; then JPEG, then WebP."""
    taken = [media_type for media_type in ENCODABLE if media_type in rules.media_types]
    if not taken:
        raise ImageError(f"cannot be sent: the vendor takes only {', '.join(rules.media_types)}, and none of these can be written here")
    if inspection.media_type == "image/jpeg" and "image/jpeg" in taken:
        return "image/jpeg"
    worst_png_bytes = pixels * 4 * 1.01 + 65_536
    if "image/png" in taken and (rules.max_bytes is None or worst_png_bytes <= rules.max_bytes):
        return "image/png"
    return next((media_type for media_type in ("image/jpeg", "image/webp") if media_type in taken), "image/png")


def _encoder(image_path: str, data: bytes, media_type: str, fit: Fit) -> Callable[[], bytes]:
    def encode() -> bytes:
        try:
            return reencode(data, media_type, fit)
        except ImageError as error:
            raise DialogueError(f"image {shown(image_path)} {error}") from error
        except Exception as error:  # a decoder may raise anything on a hostile file
            raise DialogueError(f"image {shown(image_path)} cannot be decoded: {reason_of(error)}") from error

    return encode


def reencode(data: bytes, media_type: str, fit: Fit) -> bytes:
    """The picture as ``fit`` wants it.

    Raises:
        ImageError: Not even one pixel fits the byte limit.
        Exception: Whatever Pillow raises on undecodable bytes.
    """
    picture = open_picture(io.BytesIO(data), media_type)
    if media_type == "image/jpeg":
        # Lets the decoder halve the picture while reading it: a fraction of the memory for photographs of many megapixels.
        longest = max(fit.width_pixels, fit.height_pixels)
        picture.draft(None, (longest, longest))
    icc_profile = picture.info.get("icc_profile") if picture.mode in ("RGB", "RGBA") else None
    plain = _plain(PIL.ImageOps.exif_transpose(picture), keep_alpha=fit.media_type != "image/jpeg")
    width, height = fit.width_pixels, fit.height_pixels
    if plain.size != (width, height):
        plain = plain.resize((width, height), PIL.Image.Resampling.LANCZOS, reducing_gap=3.0)
    while True:
        encoded = _smallest_needed(plain, fit, icc_profile)
        if encoded is not None:
            return encoded
        if plain.size == (1, 1):
            raise ImageError(f"cannot be made to fit {fit.max_bytes} bytes")
        plain = plain.resize((max(1, plain.width * 7 // 10), max(1, plain.height * 7 // 10)), PIL.Image.Resampling.LANCZOS)


def _plain(picture: PIL.Image.Image, *, keep_alpha: bool) -> PIL.Image.Image:
    """The first frame in 8 bits a channel: L, RGB or, where something shows through and may, RGBA (else laid on white)."""
    if picture.mode.startswith("I"):
        return picture.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if picture.mode == "F":
        return _stretched(picture)
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        return _without_needless_alpha(picture.convert("RGBA"), keep_alpha=keep_alpha)
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _stretched(picture: PIL.Image.Image) -> PIL.Image.Image:
    low, high = (float(end) for end in picture.getextrema() if isinstance(end, (int, float)))
    factor = 255 / (high - low) if high > low else 0.0
    return picture.point(lambda value: value * factor - low * factor).convert("L")


def _without_needless_alpha(picture: PIL.Image.Image, *, keep_alpha: bool) -> PIL.Image.Image:
    if keep_alpha and picture.getchannel("A").getextrema() != (255, 255):
        return picture
    ground = PIL.Image.new("RGB", picture.size, "white")
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground


def _smallest_needed(picture: PIL.Image.Image, fit: Fit, icc_profile: bytes | None) -> bytes | None:
    """The best quality that fits the byte limit; ``None`` when none does."""
    for quality in JPEG_QUALITIES if fit.media_type != "image/png" else (100,):
        target = io.BytesIO()
        options = {} if fit.media_type == "image/png" else {"quality": quality}
        picture.save(target, FORMATS[fit.media_type], icc_profile=icc_profile, **options)
        if fit.max_bytes is None or target.tell() <= fit.max_bytes:
            return target.getvalue()
    return None
