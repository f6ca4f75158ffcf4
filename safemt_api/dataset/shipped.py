"""Where the demonstration set lies: mild dialogues in the official layout that come with the package."""

from __future__ import annotations

from pathlib import Path

from safemt_api.errors import UsageError


def demonstration_folder() -> Path:
    """The folder of the demonstration set.

    Raises:
        UsageError: This installation lacks it.
    """
    folder = Path(__file__).resolve().parent / "demonstration"
    if not folder.is_dir():
        raise UsageError("the demonstration set is missing from this installation: install safemt-api again, or give --data DIR")
    return folder
