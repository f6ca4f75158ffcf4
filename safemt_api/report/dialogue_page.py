"""One dialogue of a data set as a page to look at: its words and its pictures, escaped, in one file that asks nothing of the network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import PIL.Image

from safemt_api.dataset.entries import Dataset
from safemt_api.dataset.picture_files import Inspection, open_image, open_picture
from safemt_api.messages import Dialogue, Line
from safemt_api.report.web import render

SHOWN_BY_BROWSERS = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/avif"})
MAX_AS_IT_IS_BYTES = 4 * 1024 * 1024
SIDE_PIXELS = 1600
"""A picture that is larger, or that browsers cannot show, is drawn anew at no more than this a side."""


def dialogue_page(
    dataset: Dataset, dialogues: Sequence[Dialogue], facts: Sequence[tuple[str, str]], pictures: Mapping[str, Inspection]
) -> str:
    """The page of one id.

    Args:
        dataset: Where the pictures lie.
        dialogues: The id's dialogues, shortest first.
        facts: What stands above them, as name and value.
        pictures: What each picture is, by path.

    Raises:
        ImageError: A picture cannot be read any more.
    """
    numbers = {path: number for number, path in enumerate(pictures, 1)} if len(pictures) > 1 else {}
    shown = [_picture(dataset, path, found, numbers.get(path)) for path, found in pictures.items()]
    lengths = {one.length: [(line.role, who_with_pictures(line, numbers), line.text) for line in one.lines] for one in dialogues}
    return render("dialogue.html", title=dialogues[0].id, facts=facts, pictures=shown, lengths=lengths)


def _picture(dataset: Dataset, path: str, inspection: Inspection, number: int | None) -> dict[str, Any]:
    address, wide, tall = _source(dataset, path, inspection)
    return {"name": "the picture" if number is None else f"picture {number}", "address": address, "wide": wide, "tall": tall}


def who_with_pictures(line: Line, numbers: Mapping[str, int]) -> str:
    """Who speaks, with the numbers of the pictures that belong to the message."""
    own = [str(numbers[path]) for path in line.image_paths if path in numbers]
    return f"{line.role}, with picture {' and '.join(own)}" if own else line.role


def _source(dataset: Dataset, image_path: str, inspection: Inspection) -> tuple[str, int, int]:
    """The picture as a ``data:`` address, with the size it is shown in."""
    with open_image(dataset.folder, image_path) as stream:
        if inspection.media_type in SHOWN_BY_BROWSERS and inspection.size_bytes <= MAX_AS_IT_IS_BYTES:
            return _address(inspection.media_type, stream.read()), inspection.width_pixels, inspection.height_pixels
        picture = open_picture(stream, inspection.media_type)
        picture.draft("RGB", (SIDE_PIXELS, SIDE_PIXELS))
        small: PIL.Image.Image = picture.convert("RGB")
    small.thumbnail((SIDE_PIXELS, SIDE_PIXELS))
    target = BytesIO()
    small.save(target, "WEBP", quality=85)
    return _address("image/webp", target.getvalue()), small.width, small.height


def _address(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(data).decode('ascii')}"
