"""Studies by name: what ships, the user's own before it, and sentences for names that nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from safemt_api.errors import UsageError
from safemt_api.studies.file import read_study
from safemt_api.studies.shipped import find_study, shipped_folder, shipped_names, study_names

OWN = "[[arm]]\nname = 'a'\n"


def test_a_shipped_study_is_found_by_name_from_anywhere() -> None:
    assert "demo" in shipped_names()
    assert find_study("demo") == shipped_folder() / "demo.toml"


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_study_can_be_read(name: str) -> None:
    assert read_study(find_study(name)).name == name


def test_the_users_own_stand_beside_and_before_those_that_ship(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    for name in ("demo", "mine"):
        (folder / f"{name}.toml").write_text(OWN)
    assert (find_study("demo"), find_study("mine")) == (folder / "demo.toml", folder / "mine.toml")
    assert set(study_names()) == {"mine", *shipped_names()}
    assert "mine" not in shipped_names()


@pytest.mark.parametrize("given", ["mine.toml", "./mine.toml", "sub/mine", "sub/mine.toml"])
def test_a_path_is_taken_as_it_stands(tmp_path: Path, given: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / given).write_text(OWN)
    assert find_study(given) == Path(given)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("dmeo", r"no study 'dmeo' \(did you mean 'demo'\?\); there are: .*demo"),
        ("dmeo.toml", r"no study file dmeo\.toml \(did you mean 'demo'\?\)"),
        ("demo.toml", r"no study file demo\.toml \(did you mean 'demo'\?\)"),
        ("../demo", r"no study file \.\./demo"),
        ("", "no study ''"),
        ("..", "no study"),
        ("x" * 5000 + ".toml", "no study file"),
        ("a\0.toml", "no study file"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(given: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        find_study(given)


def test_a_folder_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "studies" / "folder.toml").mkdir(parents=True)
    with pytest.raises(UsageError, match="no study 'folder'"):
        find_study("folder")
    with pytest.raises(UsageError, match="no study file"):
        find_study("studies/folder.toml")
