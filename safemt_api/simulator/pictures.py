"""What can be told of a picture: from its first bytes whether it is one and of which type, and for a small one its colour."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO
from types import MappingProxyType

from PIL import Image as Pictures

TOKENS_A_PICTURE = 765
"""Every picture costs the same, as ``providers/simulator*.toml`` says; a vendor's own rule by size would serve no one here."""

_HEAD_CHARACTERS = 64
_SMALL_CHARACTERS = 10_000

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"red": (255, 0, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "black": (0, 0, 0)}
)
"""Colours that no one confuses, in words that every model knows."""
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a request: the type it claims and the one its bytes show (``None``: no picture at all).

    ``base64`` is the text as it was sent, for telling pictures apart.
    """

    claimed_type: str
    real_type: str | None
    base64: str = field(repr=False)

    @property
    def digest(self) -> str:
        """A hash of the picture as sent; only worked out where it is needed (the prompt cache)."""
        return blake2b(self.base64.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def look_at(claimed_type: str, base64_text: str) -> Picture:
    """Read a picture's head; the rest of its bytes is never decoded."""
    # google-genai writes the URL-safe alphabet, the other vendors' clients the plain one
    beginning = base64_text[:_HEAD_CHARACTERS].rstrip("=").replace("-", "+").replace("_", "/")
    try:
        head = b64decode(beginning[: len(beginning) // 4 * 4])
    except (Base64Error, ValueError):
        head = b""
    return Picture(claimed_type, _media_type(head), base64_text)


def colour_in_the_middle(picture: Picture) -> str | None:
    """The name of the plain colour in the middle of a small picture; ``None`` for any other picture."""
    text = picture.base64.replace("-", "+").replace("_", "/")
    if len(text) > _SMALL_CHARACTERS:
        return None
    try:
        with Pictures.open(BytesIO(b64decode(text + "=" * (-len(text) % 4)))) as opened:
            middle = opened.convert("RGB").getpixel((opened.width // 2, opened.height // 2))
    except (Base64Error, ValueError, OSError, SyntaxError):
        return None
    return next((name for name, colour in COLOURS.items() if colour == middle), None)


def _media_type(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for signature, kind in _SIGNATURES if head.startswith(signature)), None)
