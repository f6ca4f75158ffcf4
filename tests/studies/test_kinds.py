"""Ways of making arms: models, what one model is shown, moderators; and any study as a file that reads back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from safemt_api.errors import UsageError
from safemt_api.studies.ablate import ablate
from safemt_api.studies.arms import Study
from safemt_api.studies.defend import defend
from safemt_api.studies.file import read_study, study_text
from safemt_api.studies.sweep import sweep

POLICY, GUARD = "policy:vllm:org/Chat-Model", "guard:vllm:org/Llama-Guard"


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


def test_a_defence_compares_each_moderator_with_none_and_plays_both_kinds() -> None:
    study = defend([POLICY, GUARD], {"model": "m", "policies": "own"}, name="d", max_usd=3.0)
    assert [(arm.name, arm.reference) for arm in study.arms] == [
        ("none", None),
        ("policy-vllm-org-Chat-Model", "none"),
        ("guard-vllm-org-Llama-Guard", "none"),
    ]
    settings = [study.settings(arm) for arm in study.arms]
    assert {one.kinds for one in settings} == {("harmful", "benign")}
    assert {(one.model, one.max_usd) for one in settings} == {("m", 3.0)}
    # A guard reads no policy, so that only the policy moderator's arm is told of them.
    assert [one.policies and str(one.policies) for one in settings] == [None, "own", None]


@pytest.mark.parametrize(
    ("urls", "expected"),
    [((), [None] * 3), (("http://m/v1",), [None, "http://m/v1", "http://m/v1"]), (("http://m/v1", "-"), [None, "http://m/v1", None])],
)
def test_moderators_share_an_address_or_have_one_each(urls: Sequence[str], expected: list[str | None]) -> None:
    study = defend([POLICY, GUARD], {}, base_urls=urls, name="d")
    assert [study.settings(arm).moderator_base_url for arm in study.arms] == expected


@pytest.mark.parametrize(
    ("moderators", "shared", "urls", "said"),
    [
        ((), {}, (), "say what to measure"),
        (("none",), {}, (), "runs by itself"),
        ((GUARD, GUARD), {}, (), "given twice"),
        ((GUARD,), {"moderator": POLICY}, (), "what the arms of a defence differ in"),
        ((GUARD,), {"policies": "own"}, (), "uses no policy library"),
        ((POLICY, GUARD, "moderation:openai"), {}, ("http://a/v1", "http://b/v1"), "given 2 times for 3 moderators"),
    ],
)
def test_a_defence_that_makes_no_sense_is_refused(
    moderators: Sequence[str], shared: dict[str, str], urls: Sequence[str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        defend(moderators, shared, base_urls=urls)


def test_moderators_whose_names_would_be_one_arm_get_two() -> None:
    assert len({arm.name for arm in defend(["policy:a:b/c", "policy:a:b:c"], {}, name="d").arms}) == 3


def test_without_a_name_the_same_command_goes_on_and_another_one_is_another_study() -> None:
    first = defend([GUARD], {"model": "m"})
    assert first.name == defend([GUARD], {"model": "m", "concurrency": "2"}, max_usd=4.0).name
    assert len({first.name, defend([GUARD], {"model": "n"}).name, defend([POLICY], {"model": "m"}).name, ablate({"model": "m"}).name}) == 4


@pytest.mark.parametrize(
    "study",
    [
        defend([POLICY, GUARD], {"model": "m", "policies": Path("x/y")}, base_urls=("http://m/v1", "-"), name="d"),
        sweep(["openai:a", 'anthropic:"b\\ £'], {"system": 'Say "no"\n\tto [all] \u2028 £', "judges": ["rules"]}, name="s", max_usd=2.5),
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
