"""The transcripts of one page, packed: every text once, small pictures, deflated and in base64.

The page decodes it with the browser's own DecompressionStream. Texts stay data all the way: the page only ever sets them as text content.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import orjson
import polars as pl
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from safemt_api.runs.record import RunData, judge_title

MAX_DIALOGUES = 20_000
"""More make a page that browsers open slowly and mail programs refuse; ``safemt-api view`` shows all there are."""
KEY_COLUMNS = ("dialogue_id", "length", "repeat")
MAX_THUMBNAILS = 300
MAX_THUMBNAIL_BYTES = 6_000_000
THUMBNAIL_SIDE_PIXELS = 160
MAX_SOURCE_PIXELS = 60_000_000
"""Larger pictures are left out rather than decoded: a small file can unfold into gigabytes."""
WEBP_EFFORT = 1
"""Half the time of the usual 4, and a tenth to a third more bytes."""
DRAFT_SHARE = {"WEBP": 1.0, "JPEG": 0.8}
"""Of the side that was asked for: a JPEG is halved while it is read as long as so much is left."""
COMPRESSION_LEVEL = 6
NONE = -1

DialogueKey = tuple[str, int, int]
"""Id, length and repeat."""
Row = Mapping[str, Any]


@dataclass(slots=True)
class _Strings:
    """Each text once; the page refers to it by number."""

    texts: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str | None) -> int:
        if text is None:
            return NONE
        whole = text.encode("utf-8", "replace").decode("utf-8")
        found = self.places.setdefault(whole, len(self.texts))
        if found == len(self.texts):
            self.texts.append(whole)
        return found


@dataclass(slots=True)
class _Thumbnails:
    """Small pictures by number, bounded in count and in bytes; each file is read once."""

    enabled: bool
    urls: list[str | None] = field(default_factory=list)
    places: dict[tuple[Path | None, str], int] = field(default_factory=dict)
    used_count: int = 0
    used_bytes: int = 0

    def place(self, folder: Path | None, path: str | None) -> int:
        if path is None:
            return NONE
        key = (folder, path)
        if key not in self.places:
            self.places[key] = len(self.urls)
            self.urls.append(self._url(folder, path))
        return self.places[key]

    def _url(self, folder: Path | None, path: str) -> str | None:
        if not self.enabled or folder is None or self.used_count >= MAX_THUMBNAILS:
            return None
        data = thumbnail(folder, path, kind="JPEG")
        if data is None or self.used_bytes + len(data) > MAX_THUMBNAIL_BYTES:
            return None
        self.used_count, self.used_bytes = self.used_count + 1, self.used_bytes + len(data)
        return f"data:image/jpeg;base64,{b64encode(data).decode('ascii')}"


def thumbnail(folder: Path, path: str, *, side_pixels: int = THUMBNAIL_SIDE_PIXELS, kind: Literal["WEBP", "JPEG"] = "WEBP") -> bytes | None:
    """The picture, at most ``side_pixels`` a side; ``None`` when the file is missing, no picture, too large, or outside ``folder``.

    As a JPEG it is quickly made, and a fifth smaller where that lets a large JPEG be halved once more while it is read.
    """
    try:
        root = folder.resolve()
        file = (root / PurePosixPath(path.lstrip("/"))).resolve()
        if not file.is_relative_to(root) or not file.is_file():
            return None
        with Pictures.open(file) as picture:
            if picture.width * picture.height > MAX_SOURCE_PIXELS:
                return None
            # Small first, plain afterwards: a JPEG is halved while it is read, and no other picture is converted at its full size, but for
            # those whose pixels cannot be averaged as they are (palettes) or would be converted to be averaged (alpha).
            picture.draft("RGB", (round(side_pixels * DRAFT_SHARE[kind]),) * 2)
            small = picture.convert("RGB") if picture.mode in ("1", "P", "LA", "RGBA") else picture
            small.thumbnail((side_pixels, side_pixels), reducing_gap=2.0)
            small = small.convert("RGB")
        target = BytesIO()
        small.save(target, kind, quality=70, **({"method": WEBP_EFFORT} if kind == "WEBP" else {}))
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Pictures.DecompressionBombError, Pictures.DecompressionBombWarning):
        return None
    return target.getvalue()


@dataclass(frozen=True, slots=True)
class Payload:
    """What the page embeds: ``transcripts`` is base64 of deflated JSON; names are what its filters show."""

    transcripts: str
    judges: tuple[str, ...]
    dialogue_count: int
    picture_count: int
    pictures_left_out: int
    dialogues_left_out: int


def pack(runs: Sequence[RunData], *, images: bool, data_folder: Path | None) -> Payload:
    """The dialogues of all runs, or as many as a page can hold, those with an unsafe or missing verdict before all others.

    ``data_folder`` overrides the folder that the run files name; ``images=False`` leaves pictures out.
    """
    strings, thumbnails, judges = _Strings(), _Thumbnails(images), _Strings()
    into: dict[str, Any] = {"strings": strings, "thumbnails": thumbnails, "judges": judges, "data_folder": data_folder}
    there = [run.transcripts.select(KEY_COLUMNS).n_unique() for run in runs]
    share = min(1.0, MAX_DIALOGUES / max(1, sum(there)))
    dialogues: list[Any] = []
    for number, (run, count) in enumerate(zip(runs, there, strict=True)):
        part = run
        if share < 1.0:
            counted = run.verdicts.filter("counts").group_by(KEY_COLUMNS)
            telling = counted.agg(telling=(pl.col("label") != "safe").fill_null(value=True).any())
            keys = run.transcripts.select(KEY_COLUMNS).unique(maintain_order=True)
            ranked = keys.join(telling, on=KEY_COLUMNS, how="left", maintain_order="left")
            ranked = ranked.sort(pl.col("telling").fill_null(value=True), descending=True, maintain_order=True)
            kept = ranked.head(int(share * count)).select(KEY_COLUMNS)
            transcripts, verdicts = (
                frame.join(kept, on=KEY_COLUMNS, how="semi", maintain_order="left") for frame in (run.transcripts, run.verdicts)
            )
            part = replace(run, transcripts=transcripts, verdicts=verdicts)
        dialogues += _dialogues(number, part, **into)
    body = orjson.dumps({"strings": strings.texts, "images": thumbnails.urls, "dialogues": dialogues})
    shown = sum(url is not None for url in thumbnails.urls)
    return Payload(
        b64encode(zlib.compress(body, COMPRESSION_LEVEL)).decode("ascii"),
        tuple(judges.texts),
        len(dialogues),
        shown,
        len(thumbnails.urls) - shown,
        sum(there) - len(dialogues),
    )


def _dialogues(
    number: int, run: RunData, *, strings: _Strings, thumbnails: _Thumbnails, judges: _Strings, data_folder: Path | None
) -> Iterable[list[Any]]:
    folder = data_folder or run.data_folder
    verdicts: dict[tuple[DialogueKey, int], list[list[Any]]] = defaultdict(list)
    costs_usd: dict[DialogueKey, list[float]] = defaultdict(list)
    for row in run.verdicts.sort("counts", descending=True, maintain_order=True).iter_rows(named=True):
        verdicts[_key(row), row["turn"]].append(_verdict(row, strings, judges))
        costs_usd[_key(row)] += [row["cost_usd"]] if row["cost_usd"] is not None else []
    turns: dict[DialogueKey, list[Row]] = defaultdict(list)
    for row in run.transcripts.iter_rows(named=True):
        turns[_key(row)].append(row)
        costs_usd[_key(row)] += [usd for name in ("cost_usd", "moderator_cost_usd") if (usd := row[name]) is not None]
    repeated = run.transcripts["repeat"].n_unique() > 1
    for key, unordered in sorted(turns.items(), key=_reading_order):
        dialogue_id, length, repeat = key
        rows = sorted(unordered, key=itemgetter("turn"))
        last = rows[-1]
        yield [
            number,
            strings.place(dialogue_id),
            strings.place(last["scenario"]),
            strings.place(last["kind"]),
            length,
            strings.place(last["method"]),
            thumbnails.place(folder, last["image_path"]),
            _messages(last, strings),
            [_turn(row, strings, verdicts.get((key, row["turn"]), [])) for row in rows],
            strings.place(last["failure"]),
            strings.place(last["note"]),
            strings.place(last["protocol"]),
            repeat if repeated else 0,
            sum(costs_usd[key]) if costs_usd[key] else None,
        ]


def _key(row: Row) -> DialogueKey:
    return row["dialogue_id"], row["length"], row["repeat"]


def _reading_order(item: tuple[DialogueKey, list[Row]]) -> tuple[str, list[str | int], int, int]:
    """By scenario, then id with its numbers as numbers, then length and repeat: the lengths of an id stand together."""
    (dialogue_id, length, repeat), rows = item
    parts = re.split(r"([0-9]+)", dialogue_id)
    return rows[0]["scenario"] or "", [int(part) if place % 2 else part for place, part in enumerate(parts)], length, repeat


def _verdict(row: Row, strings: _Strings, judges: _Strings) -> list[Any]:
    return [
        judges.place(judge_title(row["judge"])),
        strings.place(row["label"]),
        strings.place(row["source"]),
        strings.place(row["reason"]),
        row["probability_unsafe"],
        bool(row["counts"]),
    ]


def _turn(row: Row, strings: _Strings, verdicts: list[list[Any]]) -> list[Any]:
    return [
        row["turn"],
        strings.place(row["outcome"]),
        strings.place(row["reply_text"]),
        strings.place(row["detail"]),
        strings.place(row["finish_reason"]),
        row["latency_seconds"],
        row["cost_usd"],
        row["input_tokens"],
        row["output_tokens"],
        bool(row["from_store"]),
        row["moderator_flagged"],
        strings.place(row["moderator_policy"] or None),
        strings.place(row["moderator_text"] or None),
        verdicts,
    ]


def messages_of(row: Row) -> list[tuple[str, str]]:
    """The conversation of one transcript row as (role, words) pairs; its last user message alone where the JSON is unreadable."""
    try:
        parsed = json.loads(row["messages"])
        return [(str(message["role"]), str(message["content"])) for message in parsed]
    except (TypeError, ValueError, KeyError, RecursionError):
        return [("user", row["user_text"] or "")]


def _messages(row: Row, strings: _Strings) -> list[int]:
    return [part for role, words in messages_of(row) for part in (int(role != "user"), strings.place(words))]
