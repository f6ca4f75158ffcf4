"""From settings to a plan: defaults resolved, and everything refused that cannot work."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import MissingKeyError, SettingsChangedError, UsageError
from safemt_api.files import shipped_folder, write_json
from safemt_api.profiles import load_profiles
from safemt_api.routes import Router
from safemt_api.runs.folder import MANIFEST_FILE, SCHEMA
from safemt_api.runs.names import slug
from safemt_api.runs.plan import Plan, default_name, make_plan
from safemt_api.runs.settings import EvalSettings


def plan(tmp_path: Path, environ: dict[str, str] | None = None, **options: Any) -> Plan:
    router = Router(load_profiles(), base_urls={"simulator": ("http://127.0.0.1:1/v1",)})
    return make_plan(EvalSettings(results=tmp_path / "results", **options), router=router, environ=environ or {})


def test_nothing_at_all_plans_the_demonstration_on_the_simulator_with_the_rules_judge(tmp_path: Path) -> None:
    planned = plan(tmp_path)
    assert (planned.target.route.profile, planned.target.route.model) == ("simulator", "sim-average")
    assert (planned.bench.name, planned.moderator, planned.resumed) == ("rules", None, False)
    assert {entry.kind for entry in planned.entries} == {"harmful"}
    assert planned.run.startswith(f"{date.today().isoformat()}-simulator-sim-average-scripted-")  # noqa: DTZ011 (the user's own date)
    assert any("demonstration set" in remark for remark in planned.remarks)


def test_planning_alone_leaves_no_file(tmp_path: Path) -> None:
    plan(tmp_path)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"provider": "nobody"}, "no provider called 'nobody'"),
        ({"judges": ("openai",)}, "'openai' is of no known form"),
        ({"judges": ("guard:llama-guard",)}, "write it as guard:PROVIDER:MODEL"),
        ({"provider": "groq", "model": "x", "base_urls": (), "max_usd": 1.0, "judges": ("rules",)}, "no price is known for groq:x"),
        ({"judges": ("groq:qwen-unpriced",), "max_usd": 1.0}, "no price is known for groq:qwen-unpriced"),
        ({"provider": "anthropic", "base_urls": (), "judges": ("rules",), "tier": "flex"}, "Anthropic offers no --tier flex for claude"),
        ({"provider": "anthropic", "base_urls": (), "judges": ("rules",), "tier": "flex,standard"}, "offers no --tier flex for claude"),
        ({"judges": ("moderation:groq",)}, "names no model"),
        ({"lengths": (3,)}, "3"),
        ({"scenarios": ("Nonsense",)}, "no such scenario"),
        ({"rubric": Path("missing"), "judges": ("simulator:sim-judge",)}, "--rubric missing: no such set, folder or file"),
        ({"rubric": Path("careful")}, r"no judge here reads a rubric \(rules\)"),
        ({"moderator": "simulator:sim-moderator", "policies": Path("missing")}, "--policies missing: no such folder"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    keys = {"OPENAI_API_KEY": "k", "GROQ_API_KEY": "k"}
    with pytest.raises(Exception, match=sentence) as caught:
        plan(tmp_path, keys, **options)
    assert getattr(caught.value, "exit_code", None) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"provider": "openai", "model": "gpt-x"},
        {"judges": ("openai:gpt-x",)},
        {"judges": ("rules", "guard:openai:llama-guard")},
        {"judges": ("moderation:openai",)},
        {"judges": ("decisions:openai",)},
        {"judge_fallback": "openai:gpt-x"},
        {"moderator": "policy:openai:gpt-x"},
        {"moderator": "moderation:openai"},
    ],
)
def test_every_vendor_that_will_be_asked_needs_its_key_at_once(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        plan(tmp_path, **options)
    assert plan(tmp_path, {"OPENAI_API_KEY": "k"}, **options).run


def test_a_parameter_that_the_model_does_not_take_is_refused(tmp_path: Path) -> None:
    router = Router(load_profiles(), base_urls={"simulator-anthropic": ("http://127.0.0.1:1",)})
    settings = EvalSettings(provider="anthropic", model="claude-opus-5", temperature=0.5, results=tmp_path, judges=("rules",))
    with pytest.raises(UsageError, match="does not take --temperature"):
        make_plan(settings, router=router, environ={"ANTHROPIC_API_KEY": "k"})


def test_the_data_folder_may_come_from_the_environment(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="nowhere"):
        plan(tmp_path, {"SAFEMT_DATA": str(tmp_path / "nowhere")})


def test_a_run_that_exists_goes_on_only_with_the_same_settings(tmp_path: Path) -> None:
    first = plan(tmp_path, run="r")
    write_json(tmp_path / "results" / "r" / MANIFEST_FILE, {"schema": SCHEMA, "identity": dict(first.identity)})
    assert plan(tmp_path, run="r").resumed
    assert plan(tmp_path, run="r", concurrency=3, max_usd=1.0, max_failures=0.5).resumed
    with pytest.raises(SettingsChangedError, match=r"seed: 0 → 1"):
        plan(tmp_path, run="r", seed=1)


@pytest.mark.parametrize(
    ("text", "name"),
    [("org/model:7b", "org-model-7b"), ("../../etc", "etc"), ("…", "run"), ("", "run"), (".hidden", "hidden"), ("a  b", "a-b")],
)
def test_a_name_becomes_part_of_a_file_name(text: str, name: str) -> None:
    assert slug(text) == name


def test_the_usual_name_holds_no_folder_separators() -> None:
    assert "/" not in default_name("together", "org/model", EvalSettings(), {})


@pytest.mark.parametrize("judges", [("rules",), ("guard:simulator:llama-guard",), ("moderation:simulator:m",)])
def test_judges_that_read_no_rubric_have_none(tmp_path: Path, judges: tuple[str, ...]) -> None:
    planned = plan(tmp_path, judges=judges)
    assert planned.rubrics is None
    assert planned.identity["rubric"] is None


def test_the_rubric_decides_which_run_it_is(tmp_path: Path) -> None:
    by_name = {name: plan(tmp_path, judges=("simulator:sim-judge",), rubric=name and Path(name)) for name in (None, "safemt", "careful")}
    digests = [by_name[name].identity["rubric"] for name in (None, "safemt", "careful")]
    assert digests[0] == digests[1] != digests[2]
    usual = by_name[None].rubrics
    assert usual is not None
    assert usual.name == "safemt"


@pytest.mark.parametrize(("protocol", "calls"), [("scripted", 34), ("live", 136)])
def test_a_run_larger_than_a_published_day_is_told_so(tmp_path: Path, protocol: str, calls: int) -> None:
    profile = (
        (shipped_folder("providers") / "simulator.toml")
        .read_text(encoding="utf-8")
        .replace("[limits]\n", "[limits]\nrequests_per_day = 33\n")
    )
    (tmp_path / "simulator.toml").write_text(profile, encoding="utf-8")
    router = Router(load_profiles(tmp_path), base_urls={"simulator": ("http://127.0.0.1:1",)})
    settings = EvalSettings(protocol=protocol, lengths=(4,), results=tmp_path / "r", judges=("rules",))  # type: ignore[arg-type] # one of two
    remarks = " ".join(make_plan(settings, router=router, environ={}).remarks)
    assert f"publishes 33 requests a day and the target alone needs {calls}:" in remarks


VENDORS = {"OPENAI_API_KEY": "k", "GEMINI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"effort": "max"}, "openai:gpt-6-luna does not take --effort max: it takes low, medium, high"),
        ({"model": "gpt-4o", "effort": "low"}, "gpt-4o does not take --effort low: it is not known to take any"),
        ({"safety_threshold": "off"}, "openai has no filters that --safety-threshold could adjust"),
        ({"seed_sampling": 1}, "does not take --seed-sampling"),
        ({"judges": ("openai:gpt-6-luna",), "judge_temperature": 0.0}, "openai:gpt-6-luna does not take --judge-temperature"),
        ({"judges": ("guard:openai:llama-guard3:8b",), "judge_sees": "picture"}, "guard:openai:llama-guard3:8b is not known to see"),
        ({"judges": ("simulator:sim-judge", "deepseek:deepseek-v4-pro"), "judge_sees": "picture"}, "deepseek-v4-pro is not known to see"),
    ],
)
def test_what_a_model_is_not_known_to_take_is_refused_before_the_run(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        plan(tmp_path, VENDORS, **{"provider": "openai", "judges": ("rules",), **options})


def test_what_was_asked_of_the_model_decides_which_run_it_is(tmp_path: Path) -> None:
    given = {"provider": "google", "model": "gemini-3.8-flash", "judges": ("openai:gpt-4o",)}
    asked = {"effort": "low", "safety_threshold": "block_none"}
    planned = plan(tmp_path, VENDORS, **given, **asked, judge_temperature=0.0, judge_sees="words")
    assert {name: planned.identity["parameters"][name] for name in asked} == asked
    assert (planned.identity["judge_temperature"], planned.identity["judge_sees"]) == (0.0, "words")
    assert planned.target.parameters.effort == "low"
    assert plan(tmp_path, VENDORS, **given).identity["parameters"].keys() == {"max_output_tokens"}


@pytest.mark.parametrize(
    "other",
    [{"sample": 3}, {"seed": 1}, {"judges": ("simulator:sim-judge",)}, {"system": "Be kind."}, {"lengths": (1,)}, {"kinds": ("benign",)}],
)
def test_other_settings_get_another_default_name(other: dict[str, Any], tmp_path: Path) -> None:
    usual = plan(tmp_path)
    assert plan(tmp_path).run == usual.run
    assert plan(tmp_path, max_usd=3.0, concurrency=2).run == usual.run
    assert plan(tmp_path, **other).run != usual.run


def test_dialogues_of_the_user_alone_are_for_the_live_protocol(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    element = {"id": "a", "scenario": "Fraud", "image_path": None, "dialogue": lines, "goal": "goal"}
    (folder / "2_turn.json").write_text(json.dumps([element]), encoding="utf-8")
    with pytest.raises(UsageError, match=r"1 of the 1 dialogues hold the user's messages alone, .* give --protocol live"):
        plan(tmp_path, data=folder)
    assert len(plan(tmp_path, data=folder, protocol="live").entries) == 1


def test_a_layouts_own_rubric_set_judges_where_none_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    row = {"query_id": 1, "category": "Fraud", "plain_query": "[PLACEHOLDER]", "multi_turn_queries": ["[PLACEHOLDER]", "[PLACEHOLDER]"]}
    (folder / "Attack_600.json").write_text(json.dumps([row]), encoding="utf-8")
    options: dict[str, Any] = {"data": folder, "protocol": "live", "judges": ("simulator:sim-judge",)}
    rubrics = [plan(tmp_path, **{**options, "rubric": named}).rubrics for named in (None, "careful")]
    assert [one.record["name"] for one in rubrics if one is not None] == ["safemt-general", "careful"]
    assert plan(tmp_path, **{**options, "judges": ("rules",)}).rubrics is None
