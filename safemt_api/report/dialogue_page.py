"""One dialogue of a data set as a page to look at: its words and its picture, escaped, in one file that asks nothing of the network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from io import BytesIO
from string import Template

import PIL.Image

from safemt_api.dataset.entries import Dataset
from safemt_api.dataset.picture_files import Inspection, open_image, open_picture
from safemt_api.messages import Dialogue, Line
from safemt_api.report.markup import safe_text

SHOWN_BY_BROWSERS = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/avif"})
MAX_AS_IT_IS_BYTES = 4 * 1024 * 1024
SIDE_PIXELS = 1600
"""A picture that is larger, or that browsers cannot show, is drawn anew at no more than this a side."""

_STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1d1d1b, #ecebe5); --paper: light-dark(#fbfaf7, #151513);
  --muted: light-dark(#5b5953, #b0aea4); --well: light-dark(#f0eee7, #26261f); --line: light-dark(#d5d1c6, #43423a); }
body { margin: 0 auto; max-width: 46rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .75rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0 0 1.5rem; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--muted); }
img { display: block; max-width: 100%; height: auto; margin-top: .75rem; border: 1px solid var(--line); }
article { margin: 0 0 .75rem; padding: .6rem .9rem; border-left: 3px solid var(--line); white-space: pre-wrap; overflow-wrap: anywhere; }
article.user { background: var(--well); border-color: var(--ink); }
article b { display: block; font-size: .85rem; font-weight: 600; color: var(--muted); }
"""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
<dl>$facts</dl>
$pictures
$dialogues
</main>
</body>
</html>
""")


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
    first = dialogues[0]
    numbers = {path: number for number, path in enumerate(pictures, 1)} if len(pictures) > 1 else {}
    style_hash = b64encode(sha256(_STYLE.encode()).digest()).decode("ascii")
    return _PAGE.substitute(
        policy=escape(f"default-src 'none'; style-src 'sha256-{style_hash}'; img-src data:; base-uri 'none'; form-action 'none'"),
        title=safe_text(first.id),
        style=_STYLE,
        facts="".join(f"<dt>{safe_text(name)}</dt><dd>{safe_text(value)}</dd>" for name, value in facts),
        pictures="\n".join(_picture(dataset, first.id, path, found, numbers.get(path)) for path, found in pictures.items()),
        dialogues="\n".join(_dialogue(dialogue, numbers) for dialogue in dialogues),
    )


def _picture(dataset: Dataset, dialogue_id: str, path: str, inspection: Inspection, number: int | None) -> str:
    source, wide, tall = _source(dataset, path, inspection)
    name = "the picture" if number is None else f"picture {number}"
    image = f'<img src="{source}" width="{wide}" height="{tall}" alt="{name.capitalize()} of {safe_text(dialogue_id)}">'
    return f"<details><summary>Show {name}</summary>{image}</details>"


def _dialogue(dialogue: Dialogue, numbers: Mapping[str, int]) -> str:
    said = "".join(
        f'<article class="{line.role}"><b>{who_with_pictures(line, numbers)}</b>{safe_text(line.text)}</article>' for line in dialogue.lines
    )
    turns = f"{dialogue.length} user turn{'s' if dialogue.length > 1 else ''}"
    return f'<section aria-labelledby="l{dialogue.length}"><h2 id="l{dialogue.length}">{turns}</h2>{said}</section>'


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
