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


def load_methods(given: tuple[str, ...]) -> tuple[Method, ...]:
    """The methods that ``--methods`` names: shipped ones, Markdown files, and folders of such files.

    Raises:
        UsageError: A name is unknown or stands twice, or a file cannot be used.
    """
    shipped = {file.stem: file for file in sorted(shipped_methods().glob("*.md"))}
    files: list[Path] = []
    for one in given:
        path = Path(one)
        if path.is_dir():
            files.extend(sorted(path.glob("*.md")))
        elif one in shipped or path.suffix == ".md":
            files.append(shipped.get(one, path))
        else:
            known = ", ".join(shipped)
            raise UsageError(f"--methods {one}: no such method, file or folder{did_you_mean(one, shipped)}; there are: {known}")
    names = [file.stem for file in files]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--methods must name each method once; there are: {', '.join(shipped)}")
    return tuple(map(_read, files))


def _read(file: Path) -> Method:
    why = unfit_in_name(file.stem)
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--methods {file}: cannot be read as UTF-8 text ({error})") from error
    if why is not None or not text or len(text) > MAX_METHOD_CHARACTERS:
        raise UsageError(f"{file}: a method needs a plain name and a text of 1 to {MAX_METHOD_CHARACTERS:,} characters")
    mark = WITHOUT.match(text)
    without = frozenset(part.strip() for part in mark[1].split(",")) if mark else frozenset()
    if without - OPTIONAL_FILTERS:
        raise UsageError(f"{file}: a method can do without {', '.join(sorted(OPTIONAL_FILTERS))} alone")
    return Method(file.stem, WITHOUT.sub("", text).strip(), without)
