"""Arms: a product with its references, names that tell the arms apart, and options in their places."""

from __future__ import annotations

from pathlib import Path

import pytest

from safemt_api.errors import UsageError
from safemt_api.studies.arms import Arm, Axis, Study, options_from, product_arms
from safemt_api.studies.file import read_study, study_from

NOTHING: frozenset[str] = frozenset()


def _product(**axes: tuple[object, ...]) -> dict[str, str | None]:
    made = product_arms([Axis(key, values) for key, values in axes.items()], lambda given: options_from(given, refuse=NOTHING, why=""))
    return {arm.name: arm.reference for arm in made}


def test_targets_are_compared_with_the_first() -> None:
    assert _product(target=("openai:gpt-6-luna", "anthropic:claude-haiku-5-5")) == {"gpt-6-luna": None, "claude-haiku-5-5": "gpt-6-luna"}


def test_a_defence_is_compared_with_its_own_undefended_target() -> None:
    arms = _product(target=("openai:a", "anthropic:b"), moderator=("none", "policy:openai:a"))
    assert arms == {"a": None, "a+policy-openai-a": "a", "b": "a", "b+policy-openai-a": "b"}


def test_an_axis_alone_names_its_arms_by_its_values() -> None:
    assert _product(moderator=("none", "raw:vllm:chatshield")) == {"none": None, "raw-vllm-chatshield": "none"}


def test_models_of_one_name_at_two_vendors_keep_their_vendors_in_the_name() -> None:
    assert set(_product(target=("openai:gpt-6", "azure-openai:gpt-6"))) == {"openai-gpt-6", "azure-openai-gpt-6"}


@pytest.mark.parametrize(("axes", "problem"), [({"target": ()}, "no values"), ({"target": ("a:b", "a:b")}, "twice")])
def test_an_axis_needs_different_values(axes: dict[str, tuple[object, ...]], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        _product(**axes)


def test_a_target_is_provider_and_model_and_a_flag_is_its_field() -> None:
    given = options_from({"target": "vllm:Qwen/Qwen2.5:7b", "judge": ["rules"], "base-url": ["http://x"]}, refuse=NOTHING, why="")
    assert given == {"provider": "vllm", "model": "Qwen/Qwen2.5:7b", "judges": ["rules"], "base_urls": ["http://x"]}


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"temprature": 0}, "did you mean"),
        ({"seed": 1}, "no place"),
        ({"until_ci": 0.1}, "different ids"),
        ({"target": "a:b", "model": "c"}, "says again"),
        ({"target": 3}, "PROVIDER:MODEL"),
    ],
)
def test_a_key_that_does_not_belong_is_named(written: dict[str, object], problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        options_from(written, refuse=frozenset({"seed"}), why="has no place here")
    assert any(key in str(caught.value) for key in written)


@pytest.mark.parametrize(
    ("arms", "problem"),
    [
        ((), "no arm"),
        ((Arm("a"), Arm("A")), "two arms"),
        ((Arm("a", reference="b"), Arm("b", reference="a")), "circle"),
        ((Arm("a", reference="a"),), "circle"),
        ((Arm("first"), Arm("b", reference="frist")), "did you mean"),
        ((Arm("../a"),), "reserved|leads elsewhere"),
    ],
)
def test_a_study_that_cannot_be_is_refused(arms: tuple[Arm, ...], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Study("s", arms)


def test_an_arms_settings_stand_over_the_shared_ones() -> None:
    study = Study("s", (Arm("a", {"model": "x"}),), {"model": "y", "seed": 3}, max_usd=5.0)
    settings = study.settings(study.arm("a"))
    assert (settings.model, settings.seed, settings.run, settings.max_usd) == ("x", 3, "s/a", 5.0)


WHOLE = """
max_usd = 300
[settings]
sample = 5
judge = ["rules"]
[vary]
target = ["simulator:sim-safe", "simulator:sim-average"]
moderator = ["none", "policy:simulator:sim-moderator"]
[[arm]]
name = "brittle"
target = "simulator:sim-brittle"
[[arm]]
name = "brittle, careful"
target = "simulator:sim-brittle"
reference = "brittle"
system = "Be careful."
"""


def test_a_file_becomes_a_study_called_after_it(tmp_path: Path) -> None:
    file = tmp_path / "paper.toml"
    file.write_text(WHOLE)
    study = read_study(file)
    assert (study.name, study.max_usd, len(study.arms)) == ("paper", 300, 6)
    assert study.arm("brittle, careful").reference == "brittle"
    assert study.settings(study.arm("sim-average+policy-simulator-sim-moderator")).moderator == "policy:simulator:sim-moderator"
    assert {study.settings(arm).sample for arm in study.arms} == {5}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[setings]\n", r"no such key: setings.*did you mean"),
        ("[settings]\nmodle = 'x'\n", r"\[settings\]: no such option: modle"),
        ("[settings]\nmax_usd = 3\n", r"\[settings\]: max_usd belongs to the whole study"),
        ("[vary]\nseed = [1, 2]\n", r"\[vary\]: seed is the same in all arms"),
        ("[vary]\ntarget = 'a:b'\n", r"\[vary\]: target: give a list"),
        ("[[arm]]\nmodel = 'x'\n", r"\[\[arm\]\] 1: it has no name"),
        ("[[arm]]\nname = 'x'\ntemperature = 'hot'\n", r"arm x: --temperature 'hot' is not a number"),
        ("[arm]\nname = 'x'\n", r"\[\[arm\]\], with two brackets"),
        ("max_usd = 'much'\n", r"max_usd 'much': give dollars"),
        ("name = 'a/../b'\n[[arm]]\nname = 'x'\n", "leads elsewhere"),
        ("a = \n", "cannot be read as TOML"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "study.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=problem) as caught:
        read_study(file)
    assert str(file) in str(caught.value)


def test_a_document_without_arms_is_refused() -> None:
    with pytest.raises(UsageError, match="no arm"):
        study_from({"settings": {"sample": 3}}, name="s")
