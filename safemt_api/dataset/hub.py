"""Downloads published data sets from Hugging Face, on request only: they have licences of their own and are never shipped."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import IO

from safemt_api.dataset.layouts import Hub, Layout
from safemt_api.dataset.rows import files_of
from safemt_api.errors import UsageError

MAX_UNPACKED_BYTES = 4 * 1024**3
"""Several times the real copy (about 540 MB); an archive that unpacks to more is refused."""

MAX_MEMBERS = 100_000
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_COPY_BYTES = 1024 * 1024

Download = Callable[..., str]
"""Called like ``huggingface_hub.snapshot_download``."""


def describe_source(layout: Layout) -> str:
    """Where a set comes from, how large it is and on what terms: what to tell the user before the download starts.

    Raises:
        UsageError: It is not on the hub.
    """
    hub = _hub_of(layout)
    size = "of a size that we do not know" if hub.size_mb is None else f"about {hub.size_mb:,} MB, mostly pictures"
    licence = f"licence {layout.licence}" if layout.licence != "not found" else "its licence we could not find: read its card"
    link = f" ({layout.licence_url})" if layout.licence_url else ""
    consent = "; it asks for consent on its page, and HF_TOKEN must be set" if hub.gated else ""
    return (
        f"{hub.repository} (https://huggingface.co/datasets/{hub.repository}): {size}; {licence}{link}{consent}. Cite {layout.citation}. "
        "It holds harmful requests by design."
    )


def _hub_of(layout: Layout) -> Hub:
    if layout.hub is None:
        raise UsageError(f"the layout {layout.name} is that of no data set on the hub; copy the data by hand")
    return layout.hub


def fetch_dataset(target: Path, layout: Layout, *, revision: str | None = None, download: Download | None = None) -> Path:
    """Download a data set and unpack its pictures where they come in archives.

    Args:
        target: The folder to fill; what is there already is not downloaded again.
        layout: Says where it is and what of it is wanted.
        revision: Branch, tag or commit; ``None`` takes the newest.
        download: Stands in for ``huggingface_hub.snapshot_download``.

    Returns:
        The folder with the data: ``target``, or the one below it that holds the ``k_turn.json`` files.

    Raises:
        UsageError: The extra is not installed, the download failed, or what came is not of the layout or not safe to unpack.
    """
    hub = _hub_of(layout)
    if download is None:
        try:
            download = import_module("huggingface_hub").snapshot_download
        except ImportError as error:
            raise UsageError("downloading needs one more package: pip install 'safemt-api[data]'") from error
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; give a folder to download into")
    try:
        download(repo_id=hub.repository, repo_type="dataset", revision=revision, local_dir=str(target), allow_patterns=list(hub.patterns))
    except Exception as error:  # the hub's exceptions differ between its versions; whatever it is, the user gets one sentence
        raise UsageError(_failure(hub.repository, revision, error)) from error
    # Our own form may lie deeper; of several folders that hold it the outermost is taken.
    folders = {path.parent for path in _visible_files(target, "[1-9]*_turn.json")} if layout.is_own_form else {target}
    if not folders or (not layout.is_own_form and not files_of(target, layout)):
        wanted = "1_turn.json, 2_turn.json, …" if layout.is_own_form else " or ".join(layout.files[0].patterns)
        raise UsageError(f"what was downloaded into {target} holds no {wanted}; the repository may have a new layout")
    folder = min(folders, key=lambda folder: (len(folder.parts), str(folder)))
    under = "images" if layout.pictures is None else layout.pictures.unpack_to
    for archive in sorted(file for pattern in ("*.zip", "*.tar", "*.tar.gz", "*.tgz") for file in _visible_files(target, pattern)):
        unpack_pictures(archive, folder, under)
    return folder


def _failure(repository: str, revision: str | None, error: Exception) -> str:
    names = {cls.__name__ for cls in type(error).__mro__}
    where = f"{repository}{f' at {revision}' if revision else ''}"
    if "GatedRepoError" in names:
        return f"{where} asks for consent: accept its terms on its page at huggingface.co, set HF_TOKEN, and run the same command again"
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError"}:
        return f"there is no data set {where} on huggingface.co (or it is private: set HF_TOKEN)"
    if isinstance(error, OSError) and error.filename is not None:
        return f"the download cannot be written: {error.filename}: {error.strerror}"
    reason = next(iter(str(error).strip().splitlines()), "")[:200]
    return (
        f"the download of {where} failed ({type(error).__name__}{f': {reason}' if reason else ''}); check the network and run the same "
        "command again (it goes on where it stopped), or copy the data by hand and give its folder with --data"
    )


def _visible_files(target: Path, pattern: str) -> Iterator[Path]:
    for path in target.rglob(pattern):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(target).parts):
            yield path


def unpack_pictures(archive: Path, folder: Path, under: str = "images") -> int:
    """Unpack the pictures of an archive to where ``image_path`` expects them: below ``folder/images``, or another name.

    Other files in it are passed over. Returns the number of pictures written; those there already in the right size are kept.

    Raises:
        UsageError: The archive is damaged, unpacks to too much, or holds a link or a path that would leave the folder.
    """
    members = _zip_members if archive.suffix == ".zip" else _tar_members
    written, budget = 0, MAX_UNPACKED_BYTES
    try:
        for count, member in enumerate(members(archive)):
            budget -= member.size_bytes
            if budget < 0 or count >= MAX_MEMBERS:
                raise UsageError(
                    f"{archive}: unpacks to more than {MAX_UNPACKED_BYTES:,} bytes or {MAX_MEMBERS:,} files; not unpacked further"
                )
            written += _write_member(member, _destination(archive, folder, member.name, under))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise UsageError(f"{archive} cannot be unpacked ({error}); delete it and run the same command again") from error
    return written


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size_bytes: int
    open: Callable[[], IO[bytes]]


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if stat.S_ISLNK(info.external_attr >> 16):
                raise ValueError(f"it holds the link {info.filename!r}")
            if _is_picture(info.filename):
                yield _Member(info.filename, info.file_size, lambda info=info: opened.open(info))  # type: ignore[misc] # default binds the loop's value


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as opened:
        for info in opened:
            if info.issym() or info.islnk():
                raise ValueError(f"it holds the link {info.name!r}")
            stream = opened.extractfile(info) if info.isreg() and _is_picture(info.name) else None
            if stream is not None:
                yield _Member(info.name, info.size, lambda stream=stream: stream)  # type: ignore[misc] # default binds the loop's value


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in PICTURE_ENDINGS and "__MACOSX" not in path.parts and not path.name.startswith(".")


def _destination(archive: Path, folder: Path, name: str, under: str) -> Path:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name or "\x00" in name:
        raise UsageError(f"{archive}: {name!r} would be written outside the folder; not unpacked")
    below = parts[parts.index(under) + 1 :] if under in parts[:-1] else parts
    destination = folder.joinpath(under, *below)
    if not destination.parent.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{archive}: {name!r} would be written outside the folder (a link in it leads away); not unpacked")
    return destination


def _write_member(member: _Member, destination: Path) -> int:
    if destination.is_file() and destination.stat().st_size == member.size_bytes:
        return 0
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = destination.with_name(destination.name + ".part")
    with member.open() as source, part.open("wb") as target:
        left_bytes = member.size_bytes
        # The announced size is not trusted: never more than it is written.
        while left_bytes >= 0 and (piece := source.read(min(_COPY_BYTES, left_bytes + 1))):
            left_bytes -= len(piece)
            target.write(piece)
    if left_bytes != 0:
        part.unlink()
        raise ValueError(f"{member.name!r} has another size than announced")
    part.replace(destination)
    return 1
