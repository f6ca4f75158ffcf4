"""Ways of making arms: a sweep over models, an ablation of what one model is shown; and any study as a file that reads back."""

from __future__ import annotations

from pathlib import Path

import pytest

from safemt_api.errors import UsageError
from safemt_api.studies.ablate import ablate
from safemt_api.studies.arms import Study
from safemt_api.studies.file import read_study, study_text
from safemt_api.studies.sweep import sweep


def test_a_sweep_compares_with_its_first_model() -> None:
    study = sweep(["openai:a", "anthropic:b"], {"sample": "5"}, name="s", max_usd=3.0)
    assert {arm.name: arm.reference for arm in study.arms} == {"a": None, "b": "a"}
    assert {study.settings(arm).sample for arm in study.arms} == {5}


@pytest.mark.parametrize(("targets", "shared"), [(["a:b"], {}), (["a:b", "a:b"], {}), (["a:b", "c:d"], {"model": "x"})])
def test_a_sweep_that_says_too_little_or_too_much_is_refused(targets: list[str], shared: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        sweep(targets, shared)


def test_an_ablation_compares_with_the_whole() -> None:
    study = ablate({"provider": "simulator"}, name="s")
    assert {arm.name: arm.reference for arm in study.arms} == {
        "whole": None,
        "no-picture": "whole",
        "blank-picture": "whole",
        "no-history": "whole",
        "no-replies": "whole",
    }
    assert [arm.name for arm in ablate({"protocol": "live"}, name="s").arms] == ["whole", "no-picture", "blank-picture"]
    assert [arm.name for arm in ablate({}, without=["no-history"], name="s").arms] == ["whole", "no-history"]


@pytest.mark.parametrize(("shared", "without"), [({"show": "whole"}, []), ({}, ["no-words"]), ({}, ["no-picture", "no-picture"])])
def test_an_ablation_that_makes_no_sense_is_refused(shared: dict[str, str], without: list[str]) -> None:
    with pytest.raises(UsageError):
        ablate(shared, without=without)


@pytest.mark.parametrize(
    "study",
    [
        sweep(["openai:a", 'anthropic:"b\\ \x7f'], {"system": 'Say "no"\n\tto [all] \u2028 £', "judges": ["rules"]}, name="s", max_usd=2.5),
        ablate({"provider": "simulator", "scenarios": ("Fraud", "Sex"), "data": Path("x/y")}, name="a"),
    ],
)
def test_a_study_kept_as_a_file_is_the_same_study(tmp_path: Path, study: Study) -> None:
    file = tmp_path / "kept.toml"
    file.write_text(study_text(study), encoding="utf-8")
    again = read_study(file)
    assert (again.name, again.max_usd) == (study.name, study.max_usd)
    assert [(arm.name, arm.reference) for arm in again.arms] == [(arm.name, arm.reference) for arm in study.arms]
    assert [again.settings(arm) for arm in again.arms] == [study.settings(arm) for arm in study.arms]
