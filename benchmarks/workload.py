"""Data sets for the benchmarks: pictures of about 150 KB or tiny ones, dialogues of one length, in the official layout."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

from PIL import Image

PICTURE_BYTES = 150_000
WORDS = ("garden", "letter", "harbour", "lamp", "river", "market", "window", "train")
SCENARIOS = ("Bias", "Fraud", "Legal Opinion", "Malware")


TINY_BYTES = 4000


def picture(seed: int, wanted_bytes: int = PICTURE_BYTES) -> bytes:
    """A JPEG of noise of about the wanted size; other bytes for each seed."""
    side = 270 if wanted_bytes >= PICTURE_BYTES else 32
    noise = random.Random(seed).randbytes(side * side * 3)
    stream = io.BytesIO()
    Image.frombytes("RGB", (side, side), noise).save(stream, "JPEG", quality=94, subsampling=0)
    data = stream.getvalue()
    # Bytes after the end marker are ignored by decoders: they bring the file to the exact size.
    return data + bytes(max(0, wanted_bytes - len(data) - 2)) + b"\xff\xd9"


def write_data(folder: Path, *, ids: int, length: int, pictures: int | None = None, picture_bytes: int = PICTURE_BYTES) -> Path:
    """An official folder with ``ids`` dialogues of one length; ``pictures`` different pictures are shared out over them."""
    images = folder / "images" / "bench"
    images.mkdir(parents=True, exist_ok=True)
    for number in range(pictures or ids):
        (images / f"bench_{number}.jpg").write_bytes(picture(number, picture_bytes))
    elements = [_element(number, length, number % (pictures or ids)) for number in range(ids)]
    (folder / f"{length}_turn.json").write_text(json.dumps(elements))
    return folder


def _element(number: int, length: int, picture_number: int) -> dict[str, object]:
    draws = random.Random(number)
    said = " ".join(draws.choice(WORDS) for _ in range(24))
    roles = ("user", "assistant")
    lines = [{"role": roles[index % 2], "content": f"{number}.{index}: {said}?"} for index in range(2 * length - 1)]
    return {
        "id": f"bench_{number}",
        "scenario": SCENARIOS[number % len(SCENARIOS)],
        "image_path": f"images/bench/bench_{picture_number}.jpg",
        "dialogue": lines,
        "question": lines[-1]["content"],
    }
