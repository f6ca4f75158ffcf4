"""Where vendor files lie, and which of them replace shipped ones; light, so that listing them is quick."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

OWN_FOLDER = "providers"


def shipped_folder() -> Path:
    """The folder of the shipped TOML files: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_providers"
    return installed if installed.is_dir() else package.parent / "providers"


def own_folders(folder: Path | None = None, *, working_directory: Path | None = None) -> tuple[Path, ...]:
    """The user's folders that exist, the one that wins last: ``./providers``, then ``--providers``."""
    beside = (working_directory or Path.cwd()) / OWN_FOLDER
    shipped = shipped_folder().resolve()
    return tuple(one for one in (beside, folder) if one is not None and one.is_dir() and one.resolve() != shipped)


def profile_files(folder: Path) -> list[Path]:
    """The vendor files of a folder, by name."""
    return sorted(folder.glob("*.toml"))


def replacements(folder: Path | None = None, *, working_directory: Path | None = None) -> tuple[str, ...]:
    """A sentence for each shipped vendor that a file of the user's replaces: it could send a key to another address."""
    return tuple(_replacements(own_folders(folder, working_directory=working_directory)))


def _replacements(folders: tuple[Path, ...]) -> Iterator[str]:
    shipped = {file.stem for file in profile_files(shipped_folder())}
    for own in folders:
        for file in profile_files(own):
            if file.stem in shipped:
                yield f"{file} replaces the shipped profile {file.stem!r}: its key goes to the address in that file"
