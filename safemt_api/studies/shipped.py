"""Studies by name: those that ship, and the user's own in ``./studies``; light, so that listing them is quick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safemt_api.errors import UsageError, did_you_mean

OWN_FOLDER = "studies"
ENDING = ".toml"


def shipped_folder() -> Path:
    """The folder of the shipped studies: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_studies"
    return installed if installed.is_dir() else package.parent / "studies"


def shipped_names() -> tuple[str, ...]:
    """What ships, by name."""
    return tuple(_files(shipped_folder()))


def study_names() -> tuple[str, ...]:
    """Every name that ``find_study`` knows here."""
    return tuple(sorted(_known()))


def find_study(name_or_path: str) -> Path:
    """The file of a study.

    Args:
        name_or_path: What ends in ``.toml`` or names a folder is a path. Anything else is a name: of a file in ``./studies``, which stands
            before one that ships, so that a study that was copied there and changed is the one that runs.

    Raises:
        UsageError: There is no such file or study; the sentence names what there is.
    """
    path, known = Path(name_or_path), _known()
    if not name_or_path.endswith(ENDING) and path.name == name_or_path:
        if name_or_path in known:
            return known[name_or_path]
        raise UsageError(
            f"no study {name_or_path!r}{did_you_mean(name_or_path, known)}; there are: {', '.join(sorted(known))}, or give a file"
        )
    if not _is_file(path):
        raise UsageError(f"no study file {name_or_path}{did_you_mean(path.stem, known)}; by name there are: {', '.join(sorted(known))}")
    return path


def _known() -> Mapping[str, Path]:
    return _files(shipped_folder()) | _files(Path.cwd() / OWN_FOLDER)


def _files(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.glob(f"*{ENDING}")) if file.is_file()}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for any file system
        return False
