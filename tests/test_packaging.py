"""What an installation must hold: the tree is checked, or with SAFEMT_TEST_WHEEL=1 the installed wheel (which must be what is imported)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import safemt_api
from safemt_api.dataset.entries import load_dataset
from safemt_api.dataset.layouts import demonstration_folder, load_layouts
from safemt_api.files import shipped_folder
from safemt_api.judges.rubric import SHIPPED_SETS, load_rubrics
from safemt_api.moderators.chat import load_policies
from safemt_api.profiles import load_profiles
from safemt_api.report.page import render_page
from safemt_api.studies import file as studies
from safemt_api.view.pages import asset

PACKAGE = Path(safemt_api.__file__).parent
TREE = Path(__file__).resolve().parents[1]
FROM_WHEEL = os.environ.get("SAFEMT_TEST_WHEEL") == "1"
only_wheel = pytest.mark.skipif(not FROM_WHEEL, reason="only where the built wheel is under test")


@only_wheel
def test_the_installed_package_is_under_test_and_not_the_tree() -> None:
    assert not PACKAGE.is_relative_to(TREE)
    assert PACKAGE.parent.name == "site-packages"
    assert shipped_folder("providers").parent == PACKAGE
    assert shipped_folder("studies").parent == PACKAGE


@only_wheel
def test_the_metadata_says_what_it_should() -> None:
    found = metadata.metadata("safemt-api")
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Requires-Python"] == ">=3.11"
    files = [str(file) for file in metadata.files("safemt-api") or ()]
    assert any(file.endswith("licenses/LICENSE") for file in files)
    assert not [file for file in files if file.startswith(("tests/", "benchmarks/", "results/", "providers/", "studies/"))]


@only_wheel
def test_the_command_runs_the_demonstration() -> None:
    command = Path(sys.executable).with_name("safemt-api")
    done = subprocess.run([command, "eval", "--sample", "2", "--json"], capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert summary["status"] == "complete"
    assert Path("results", summary["run"], "report.html").stat().st_size > 0


def test_the_viewers_page_ships() -> None:
    script = re.compile(r'(?:from "\./|src="assets/|href="assets/)([a-z.]+)"')
    wanted, seen = {"index.html"}, set[str]()
    while wanted - seen:
        name = min(wanted - seen)
        text = asset(name)
        assert text, name
        seen.add(name)
        wanted |= set(script.findall(text)) if name.endswith((".js", ".html")) else set()
    assert len(seen) > 12


def test_vendors_ship() -> None:
    assert {"openai", "anthropic", "google", "vllm", "simulator"} <= load_profiles().keys()
    assert (shipped_folder("providers") / "profile.schema.json").is_file()


def test_studies_ship() -> None:
    assert {"demo", "safemt-paper"} <= set(studies.shipped_names())


def test_layouts_ship() -> None:
    assert {"safemt", "mmds", "openai"} <= load_layouts().keys()


def test_the_demonstration_ships_whole() -> None:
    dataset = load_dataset(demonstration_folder())
    assert dataset.lengths == (1, 2, 4, 6, 8)
    assert {entry.kind for entry in dataset.entries} == {"harmful", "benign"}


def test_rubrics_policies_and_page_parts_ship() -> None:
    assert all(load_rubrics(name).by_name for name in SHIPPED_SETS)
    assert len(load_rubrics().by_name) == 4
    assert load_policies is not None
    assert len(list((PACKAGE / "moderators" / "policies").glob("*.md"))) == 18
    assert render_page is not None
    for name in ("style.css", "transcripts.js", "page.html"):
        assert (PACKAGE / "report" / "web" / name).stat().st_size > 0
    assert (PACKAGE / "py.typed").is_file()


def test_constraints_pin_versions_and_nothing_else() -> None:
    lines = (TREE / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    assert names == sorted(set(names))


def test_every_dependency_has_a_pin_and_a_lower_bound_only() -> None:
    project = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = {line.partition("==")[0] for line in (TREE / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    for requirement in wanted:
        if requirement in project["optional-dependencies"]["interop"]:
            continue  # Inspect is another tool's world, installed apart from ours; only what we install together is pinned together
        if requirement.startswith("safemt-api["):
            continue  # our own extras together
        match = re.fullmatch(r"([A-Za-z0-9_-]+)(?:\[[a-z]+\])?>=[0-9.]+(; .*)?", requirement)
        assert match is not None, requirement
        assert match[1].replace("_", "-").lower() in pins, requirement
