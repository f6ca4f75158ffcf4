"""A study as a TOML file, and the ones that ship.

max_usd = 300                        # one ceiling over all arms, judges and moderators included

[settings]                           # options of eval, the same in all arms
data = "data/safemt"

[vary]                               # one arm for each combination; the first value of each list is the reference
target = ["openai:gpt-6-luna", "anthropic:claude-haiku-5-5"]
moderator = ["none", "policy:openai:gpt-6-luna"]

[[arm]]                              # single arms beside them
name = "qwen"
target = "vllm:Qwen/Qwen2.5-VL-7B-Instruct"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w

from safemt_api.errors import UsageError, did_you_mean
from safemt_api.files import read_toml, shipped_folder
from safemt_api.runs.names import slug
from safemt_api.studies.arms import OF_THE_STUDY, SAME_IN_ALL_ARMS, Arm, Axis, Study, options_from, product_arms

OWN_FOLDER = "studies"
ENDING = ".toml"
TOP_KEYS = ("name", "max_usd", "settings", "vary", "arm")
ARM_KEYS = ("name", "reference")
ONCE = "belongs to the whole study, not to an arm"
SAME = "is the same in all arms: it stands in [settings]"


def shipped_names() -> tuple[str, ...]:
    """The studies that ship, by name."""
    return tuple(_files(shipped_folder(OWN_FOLDER)))


def find_study(name_or_path: str) -> Path:
    """The file of a study.

    Args:
        name_or_path: What ends in ``.toml`` or names a folder is a path. Anything else is a name: of a file in ``./studies``, which stands
            before one that ships, so that a study that was copied there and changed is the one that runs.

    Raises:
        UsageError: There is no such file or study; the sentence names what there is.
    """
    path, known = Path(name_or_path), _files(shipped_folder(OWN_FOLDER)) | _files(Path.cwd() / OWN_FOLDER)
    there = ", ".join(sorted(known))
    if not name_or_path.endswith(ENDING) and path.name == name_or_path:
        if name_or_path in known:
            return known[name_or_path]
        raise UsageError(f"no study {name_or_path!r}{did_you_mean(name_or_path, known)}; there are: {there}, or give a file")
    try:
        is_file = path.is_file()
    except OSError:  # a name too long for any file system
        is_file = False
    if not is_file:
        raise UsageError(f"no study file {name_or_path}{did_you_mean(path.stem, known)}; by name there are: {there}")
    return path


def _files(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.glob(f"*{ENDING}")) if file.is_file()}


def read_study(file: Path) -> Study:
    """The study that a file describes; without ``name`` it is called after the file.

    Raises:
        UsageError: Names file and key, and says what would be right.
    """
    written = read_toml(file, cure="a study is a page of text").tables
    try:
        return study_from(written, name=slug(file.stem))
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def study_from(written: Mapping[str, Any], *, name: str) -> Study:
    """The study in the tables of a TOML document.

    Raises:
        UsageError: Names the key, and says what would be right.
    """
    for key in written:
        if key not in TOP_KEYS:
            raise UsageError(f"no such key: {key}{did_you_mean(key, TOP_KEYS)}; there are: {', '.join(TOP_KEYS)}")
    own = OF_THE_STUDY | SAME_IN_ALL_ARMS
    with _at("[settings]"):
        shared = options_from(_table(written, "settings"), refuse=OF_THE_STUDY, why=ONCE)
    with _at("[vary]"):
        vary = _table(written, "vary")
        for key, values in vary.items():
            if not isinstance(values, list):
                raise UsageError(f"{key}: give a list of values, the reference first")
        axes = [Axis(key, tuple(values)) for key, values in vary.items()]
        varied = product_arms(axes, lambda given: options_from(given, refuse=own, why=SAME)) if axes else ()
    tables = written.get("arm", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError("arm is no list of tables: write [[arm]], with two brackets, above each")
    singles = tuple(_arm(number, table) for number, table in enumerate(tables, start=1))
    max_usd = written.get("max_usd")
    if isinstance(max_usd, bool) or not isinstance(max_usd, (int, float, type(None))):
        raise UsageError(f"max_usd {max_usd!r}: give dollars as a number")
    study = Study(_text(written, "name", name), (*varied, *singles), MappingProxyType(shared), max_usd)
    for arm in study.arms:
        # What is wrong with a value shows before anything is asked of anyone.
        study.settings(arm)
    return study


def _arm(number: int, written: Mapping[str, Any]) -> Arm:
    name = _text(written, "name", "")
    with _at(f"[[arm]] {name or number}"):
        if not name:
            raise UsageError("it has no name")
        options = {key: value for key, value in written.items() if key not in ARM_KEYS}
        given = options_from(options, refuse=OF_THE_STUDY | SAME_IN_ALL_ARMS, why=SAME)
        return Arm(name, MappingProxyType(given), _text(written, "reference", "") or None)


def _table(written: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = written.get(key, {})
    if not isinstance(table, dict):
        raise UsageError(f"{key} is no table: write [{key}] and one option a line below it")
    return table


def _text(written: Mapping[str, Any], key: str, default: str) -> str:
    value = written.get(key, default)
    if not isinstance(value, str):
        raise UsageError(f"{key} {value!r}: give text in quotes")
    return value


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Names the place in the file that an error is about."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error


def study_text(study: Study) -> str:
    """The study as TOML, which ``read_study`` reads back: every arm by itself, with its reference."""
    settings = _plain(study.shared)
    arms = [{"name": arm.name, **({"reference": arm.reference} if arm.reference else {}), **_plain(arm.given)} for arm in study.arms]
    ceiling = {} if study.max_usd is None else {"max_usd": study.max_usd}
    return tomli_w.dumps({"name": study.name, **ceiling, **({"settings": settings} if settings else {}), "arm": arms})


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as TOML can hold them."""
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value for name, value in given.items()
    }
