"""Methods: how a query is spread over the turns of a dialogue, one Markdown file each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from safemt_api.errors import UsageError, did_you_mean
from safemt_api.foreign_text import unfit_in_name

MAX_METHOD_CHARACTERS = 20_000
OPTIONAL_FILTERS = frozenset({"not-obvious", "intent"})
"""Form and harmless assistant lines are asked of every method."""

WITHOUT = re.compile(r"\A<!-- without: ([a-z, -]+) -->\n")


@dataclass(frozen=True, slots=True)
class Method:
    """What the user's turns do, what the last looks like, and what the assistant's lines may hold; ``text`` goes to the generator whole.

    ``without``: filters that make no sense for it, named in a first line such as ``<!-- without: not-obvious -->``.
    """

    name: str
    text: str
    without: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return f"sha256:{sha256(self.text.encode()).hexdigest()}"


def shipped_methods() -> Path:
    """The folder of the methods that come with the package."""
    return Path(__file__).resolve().parent / "methods"


def load_methods(names: tuple[str, ...], folder: Path | None = None) -> tuple[Method, ...]:
    """The methods of those names: of the user's folder where it has them, else the shipped ones.

    Raises:
        UsageError: A name is unknown or stands twice, the folder does not exist, or a file cannot be used.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--methods-folder {folder}: no such folder; give one with a Markdown file for each method")
    files = {file.stem: file for place in (shipped_methods(), folder) if place is not None for file in sorted(place.glob("*.md"))}
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--methods must name each method once; there are: {', '.join(sorted(files))}")
    return tuple(_read(name, files) for name in names)


def _read(name: str, files: dict[str, Path]) -> Method:
    if name not in files:
        raise UsageError(f"--methods {name}: no such method{did_you_mean(name, files)}; there are: {', '.join(sorted(files))}")
    why = unfit_in_name(name)
    try:
        text = files[name].read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{files[name]} cannot be read as UTF-8 text: {error}") from error
    if why is not None or not text or len(text) > MAX_METHOD_CHARACTERS:
        raise UsageError(f"{files[name]}: a method needs a plain name and a text of 1 to {MAX_METHOD_CHARACTERS:,} characters")
    mark = WITHOUT.match(text)
    without = frozenset(part.strip() for part in mark[1].split(",")) if mark else frozenset()
    if without - OPTIONAL_FILTERS:
        raise UsageError(f"{files[name]}: a method can do without {', '.join(sorted(OPTIONAL_FILTERS))} alone")
    return Method(name, WITHOUT.sub("", text).strip(), without)
