"""Dialogues written in our own form: a file a length, pictures beside them by their content, and where all of it comes from."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from safemt_api.dataset.entries import Dataset
from safemt_api.dataset.picture_files import FORMATS, inspect_image, open_image
from safemt_api.dataset.rows import files_of
from safemt_api.errors import StoreError, UsageError
from safemt_api.files import private_folder, write_bytes, write_json
from safemt_api.messages import Dialogue

PROVENANCE_FILE = "provenance.json"
PROVENANCE_SCHEMA = 1
TERMS_FOLDER = "terms"
"""Where the licence and the card of converted data are kept."""

MAX_TERMS_BYTES = 2_000_000
ENDINGS = {"image/jpeg": ".jpg", "image/tiff": ".tif"}
DIGEST_CHARACTERS = 20


def element_of(dialogue: Dialogue, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A dialogue as an element of a ``k_turn.json``; ``names``: what its pictures are called there."""

    def named(paths: Iterable[str]) -> list[str]:
        return [path if names is None else names[path] for path in paths]

    first = dialogue.lines[0].image_paths
    messages: list[dict[str, Any]] = []
    for place, line in enumerate(dialogue.lines):
        own = named(line.image_paths[1:] if place == 0 else line.image_paths)
        messages.append({"role": line.role, "content": line.text, **({"image_paths": own} if own else {})})
    optional = {"source": dialogue.source, "language": dialogue.language, "pair": dialogue.pair}
    return {
        "id": dialogue.id,
        "scenario": dialogue.scenario,
        "image_path": named(first[:1])[0] if first else None,
        "dialogue": messages,
        "question": dialogue.goal,
        "kind": dialogue.kind,
        "method": dialogue.method,
        **{name: value for name, value in optional.items() if value is not None},
    }


def write_dialogues(target: Path, dialogues: Iterable[Dialogue], names: Mapping[str, str] | None = None) -> None:
    """Write ``k_turn.json`` for each length.

    Raises:
        StoreError: The folder cannot be written.
    """
    by_length: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for dialogue in dialogues:
        by_length[dialogue.length].append(element_of(dialogue, names))
    for length, elements in sorted(by_length.items()):
        write_bytes(target / f"{length}_turn.json", orjson.dumps(elements, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def copy_picture(folder: Path, image_path: str, target: Path) -> str:
    """Copy a picture to ``images/`` under a name made of its content, ending as its bytes say; returns its path there.

    Raises:
        ImageError: It cannot be read.
        StoreError: It cannot be written.
    """
    found = inspect_image(folder, image_path)
    with open_image(folder, image_path) as stream:
        data = stream.read()
    ending = ENDINGS.get(found.media_type, f".{FORMATS[found.media_type].lower()}")
    name = f"images/{sha256(data).hexdigest()[:DIGEST_CHARACTERS]}{ending}"
    if not (target / name).exists():
        private_folder((target / name).parent)
        write_bytes(target / name, data)
    return name


def new_folder(target: Path) -> None:
    """Make a folder to write into.

    Raises:
        UsageError: There is something in it already.
        StoreError: It cannot be made.
    """
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{target} is not empty; give a folder that is not there yet")
        private_folder(target)
    except OSError as error:
        raise StoreError(target, f"cannot be written ({error.strerror})", "give another folder") from error


def convert(dataset: Dataset, target: Path) -> None:
    """Write a data set of any layout in our own form, with its licence, its citation and the digests of what it was read from.

    Raises:
        UsageError: The folder is not empty.
        ImageError: A picture cannot be read.
        StoreError: The folder cannot be written.
    """
    new_folder(target)
    paths = dict.fromkeys(path for entry in dataset.entries for path in entry.image_paths)
    names = {path: copy_picture(dataset.folder, path, target) for path in paths}
    write_dialogues(target, map(dataset.read, dataset.entries), names)
    assert dataset.layout is not None  # noqa: S101 (whatever was loaded has one)
    files = (path for path, _ in files_of(dataset.folder, dataset.layout))
    told = {path.relative_to(dataset.folder).as_posix(): _file_digest(path) for path in files}
    record = {"schema": PROVENANCE_SCHEMA, **dataset.layout.record, "read_from": dataset.name, "files": told, "left_out": dataset.left_out}
    write_json(target / PROVENANCE_FILE, record)
    kept = ("LICENSE", "LICENCE", "README", "NOTICE", "CITATION", PROVENANCE_FILE.upper())
    for file in sorted(dataset.folder.iterdir()):
        known = file.name.upper().startswith(kept)
        if known and file.is_file() and not file.is_symlink() and file.stat().st_size <= MAX_TERMS_BYTES:
            private_folder(target / TERMS_FOLDER)
            shutil.copyfile(file, target / TERMS_FOLDER / file.name)


def _file_digest(file: Path) -> str:
    whole = sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            whole.update(part)
    return f"sha256:{whole.hexdigest()}"
