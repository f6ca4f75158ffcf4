"""Studies by name: what ships, the user's own before it, and sentences for names that nobody knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from safemt_api.dataset.layouts import demonstration_folder
from safemt_api.errors import UsageError
from safemt_api.evaluation import open_plan
from safemt_api.files import shipped_folder
from safemt_api.runs.estimate import estimate
from safemt_api.studies.file import find_study, read_study, shipped_names

OWN = "[[arm]]\nname = 'a'\n"


def test_a_shipped_study_is_found_by_name_from_anywhere() -> None:
    assert {"demo", "safemt-paper"} <= set(shipped_names())
    assert find_study("demo") == shipped_folder("studies") / "demo.toml"


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_study_can_be_read(name: str) -> None:
    assert read_study(find_study(name)).name == name


def test_the_users_own_stand_beside_and_before_those_that_ship(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    for name in ("demo", "mine"):
        (folder / f"{name}.toml").write_text(OWN)
    assert (find_study("demo"), find_study("mine")) == (folder / "demo.toml", folder / "mine.toml")
    assert find_study("safemt-paper").parent == shipped_folder("studies")
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


@pytest.mark.parametrize("name", shipped_names())
async def test_every_arm_of_a_shipped_study_plans_without_a_key(tmp_path: Path, name: str) -> None:
    study = read_study(find_study(name))
    given = study.settings(study.arms[0]).data
    if given is not None:
        (tmp_path / given).parent.mkdir(parents=True)
        (tmp_path / given).symlink_to(demonstration_folder())
    planned = {}
    for arm in study.arms:
        async with open_plan(study.settings(arm), dry_run=True) as plan:
            planned[arm.name] = plan
    assert {plan.dataset.lengths for plan in planned.values()} == {(1, 2, 4, 6, 8)}
    assert len({tuple(entry.id for entry in plan.entries) for plan in planned.values()}) == 1


PAPERS = {
    "gpt-4o": ["openai:gpt-4o", "openai:gpt-4o-mini"],
    "gemma-3-4b-it": ["vllm:google/gemma-3-4b-it", "openai:gpt-4o-mini"],
    "gemma-3-4b-it+chatshield": ["vllm:google/gemma-3-4b-it", "openai:gpt-4o-mini", "vllm:chatshield"],
    "gemma-3-4b-it+llama-guard-4": ["vllm:google/gemma-3-4b-it", "openai:gpt-4o-mini", "vllm:llama-guard-4"],
}


@pytest.mark.parametrize("name", PAPERS)
async def test_the_papers_settings_reach_its_models_and_its_judge(tmp_path: Path, name: str) -> None:
    study = read_study(find_study("safemt-paper"))
    assert {arm.name for arm in study.arms} == PAPERS.keys()
    settings = replace(study.settings(study.arm(name)), data=demonstration_folder(), sample=2)
    async with open_plan(settings, dry_run=True) as plan:
        found = await estimate(plan)
    asked = plan.target.parameters
    assert (asked.temperature, asked.max_output_tokens, settings.protocol) == (0, 1024, "scripted")
    assert (settings.judge_temperature, settings.judge_sees) == (0.6, "words")
    assert plan.rubrics is not None
    assert plan.rubrics.name == "safemt"
    assert [share.model for share in found.shares] == PAPERS[name]
    assert not found.unpriced
    alone = None if "+" not in name else "gemma-3-4b-it"
    assert study.arm(name).reference == alone
