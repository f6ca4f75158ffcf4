"""Rubrics, and sets of them: a folder of Markdown files, and a table that says which of them judges which scenario.

Shipped are ``safemt`` (the paper's criteria and nothing else), ``safemt-general`` (its general rubric for every scenario: the authors'
published evaluator chooses by a field that the published data do not have, so their figures may rest on that rubric alone) and ``careful``
(stricter: help is judged by what the user would gain, and disclaimers do not undo it). One's own set is a folder of the same form:

    general.md          for every scenario that the table does not name
    scenarios.toml      "Legal Opinion" = "law.md"; may be missing where general.md is all
    law.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from safemt_api.asking.material import digest_of
from safemt_api.errors import UsageError
from safemt_api.files import read_page, read_toml
from safemt_api.messages import Dialogue, Label

RUBRICS_FOLDER = Path(__file__).resolve().parent / "rubrics"
DEFAULT_SET: Final = "safemt"
SHIPPED_SETS: Final = ("safemt", "safemt-general", "careful")
GENERAL: Final = "general"
TABLE_FILE: Final = "scenarios.toml"

OVER_REFUSAL: Final = "over_refusal"
"""The rubric of benign dialogues."""

SAFETY_WORDS: Mapping[str, Label] = MappingProxyType({"safe": "safe", "unsafe": "unsafe"})
HELP_WORDS: Mapping[str, Label] = MappingProxyType({"refused": "safe", "helped": "unsafe"})
"""The words of the over-refusal rubric and the labels they stand for on a benign dialogue (see ``judges.base``)."""


@dataclass(frozen=True, slots=True)
class Rubric:
    """One set of criteria, and the words in which it wants its verdict."""

    name: str
    text: str
    words: Mapping[str, Label]


@dataclass(frozen=True, slots=True)
class Rubrics:
    """A set of rubrics: ``by_scenario`` says which judges a scenario (as ``plain_scenario`` writes it), ``general`` judges all others.

    ``shipped``: it is one of ours, so that what it calls safe and unsafe is known.
    """

    name: str
    by_name: Mapping[str, Rubric]
    by_scenario: Mapping[str, str]
    general: str
    shipped: bool = False

    def choose(self, dialogue: Dialogue) -> Rubric:
        """The rubric of the dialogue's scenario; benign dialogues are asked about over-refusal."""
        if dialogue.kind == "benign":
            return self.by_name[OVER_REFUSAL]
        return self.by_name[self.by_scenario.get(plain_scenario(dialogue.scenario), self.general)]

    @property
    def digest(self) -> str:
        """Over every rubric, and over which of them judges what; the set's name is no part of it."""
        texts = (part for name in sorted(self.by_name) for part in (name, self.by_name[name].text.strip()))
        return digest_of(self.general, *texts, *(part for pair in sorted(self.by_scenario.items()) for part in pair))

    @property
    def record(self) -> dict[str, str]:
        """The set as run files and summaries name it."""
        return {"name": self.name, "digest": self.digest}


def plain_scenario(name: str) -> str:
    """A scenario's name in lower-case letters and digits alone, by which it is matched."""
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def load_rubrics(given: str | Path | None = None) -> Rubrics:
    """The set that ``--rubric`` names; benign dialogues are judged by the shipped over-refusal rubric whatever the set.

    Args:
        given: Name of a shipped set (the default is ``safemt``), a folder with a set, or one file that judges every harmful dialogue.

    Raises:
        UsageError: There is no such set, or a file of it cannot be read, is empty, far too large, or not named by the table.
    """
    name = str(given or DEFAULT_SET)
    place = RUBRICS_FOLDER / name if name in SHIPPED_SETS else Path(name)
    if place.is_dir():
        texts, table = _read_folder(place)
    elif place.is_file() or place.suffix == ".md":
        texts, table = {GENERAL: _read_text(place)}, {}
    else:
        raise UsageError(f"--rubric {name}: no such set, folder or file; the shipped sets are {', '.join(SHIPPED_SETS)}")
    rubrics = {stem: Rubric(stem, text, SAFETY_WORDS) for stem, text in texts.items()}
    rubrics[OVER_REFUSAL] = Rubric(OVER_REFUSAL, _read_text(RUBRICS_FOLDER / f"{OVER_REFUSAL}.md"), HELP_WORDS)
    shipped = name in SHIPPED_SETS
    return Rubrics(place.stem or name, MappingProxyType(rubrics), MappingProxyType(table), GENERAL, shipped)


def folder_of(given: str | Path) -> Path:
    """The folder that a shipped set, a folder of one's own or a single file stands in."""
    place = RUBRICS_FOLDER / given if str(given) in SHIPPED_SETS else Path(given)
    return place.parent if place.suffix == ".md" else place


def rubric_record(given: str | Path | None) -> str | None:
    """What the run file keeps of ``--rubric``: a shipped set's name, or a path that holds from every working directory."""
    if given is None:
        return None
    return str(given) if str(given) in SHIPPED_SETS else str(Path(given).absolute())


def _read_folder(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    table = _read_table(folder / TABLE_FILE)
    files = {file.name: file for file in sorted(folder.glob("*.md")) if file.name != "README.md"}
    wanted = {f"{GENERAL}.md", *table.values()}
    if f"{GENERAL}.md" not in files:
        raise UsageError(f"--rubric {folder}: {GENERAL}.md is missing; it judges every scenario that {TABLE_FILE} does not name")
    missing, unnamed = sorted(wanted - files.keys()), sorted(files.keys() - wanted)
    if missing:
        raise UsageError(f"--rubric {folder}: {TABLE_FILE} names {missing[0]}, which is not in the folder")
    if unnamed:
        raise UsageError(f"--rubric {folder}: no scenario of {TABLE_FILE} is judged by {unnamed[0]}; name it there or take it away")
    if f"{OVER_REFUSAL}.md" in files:
        raise UsageError(f"--rubric {folder}: {OVER_REFUSAL}.md is the name of the rubric for benign dialogues; choose another")
    texts = {file.stem: _read_text(file) for file in files.values()}
    return texts, {scenario: Path(name).stem for scenario, name in table.items()}


def _read_table(file: Path) -> Mapping[str, str]:
    """File name by scenario in plain letters and digits; empty where there is no table."""
    if not file.exists():
        return {}
    table = read_toml(file, failed=lambda file, why: UsageError(f"--rubric {file}: {why}"))
    found: dict[str, str] = {}
    for scenario, name in table.tables.items():
        if not isinstance(name, str) or not name.endswith(".md") or Path(name).name != name:
            raise UsageError(f'--rubric {file}: {scenario!r}: write it as "Legal Opinion" = "law.md", with a file of the same folder')
        if found.setdefault(plain_scenario(scenario), name) != name:
            raise UsageError(f"--rubric {file}: {scenario!r} is judged by two files; keep one")
    return found


def _read_text(file: Path) -> str:
    return read_page(file, option="--rubric", write="the criteria for safe and unsafe")
